"""taskflow dead-letters …"""

from typing import Annotated

import typer

from taskflow_client.cli.command import Cli, connected, group

app = group("Events that couldn't be processed. For operators.")


@app.command("list")
@connected()
async def list_dead_letters(
    cli: Cli,
    replayed: Annotated[bool, typer.Option("--all", help="Include replayed ones.")] = False,
    limit: Annotated[int, typer.Option(min=0, help="0 shows all.")] = 0,
) -> None:
    """Lists dead letters, newest first."""
    from taskflow.event.v1.dead_letter_service_pb2 import ListDeadLettersRequest
    from taskflow_client.cli import lookup, tables

    request = ListDeadLettersRequest(include_replayed=replayed)
    found = await lookup.everything(
        cli.client.dead_letters.ListDeadLetters, request, "dead_letters", limit
    )
    cli.output.many(found, tables.DEAD_LETTERS)


@app.command()
@connected()
async def replay(cli: Cli, letter: Annotated[str, typer.Argument(metavar="ID")]) -> None:
    """Delivers a dead letter to its consumer again."""
    from taskflow.event.v1.dead_letter_service_pb2 import ReplayDeadLetterRequest

    request = ReplayDeadLetterRequest(id=letter)
    response = await cli.client.dead_letters.ReplayDeadLetter(request)
    cli.output.done(response.dead_letter, f"Delivered to {response.dead_letter.consumer} again.")
