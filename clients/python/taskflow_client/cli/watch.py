"""taskflow watch"""

from typing import Annotated

import typer

from taskflow_client.cli.choices import Status
from taskflow_client.cli.running import Cli, connected


@connected()
async def watch(
    cli: Cli,
    project: Annotated[
        list[str] | None, typer.Option("--project", "-p", help="Key; can be repeated.")
    ] = None,
    status: Annotated[
        list[Status] | None, typer.Option(case_sensitive=False, help="Can be repeated.")
    ] = None,
    assignee: Annotated[
        list[str] | None, typer.Option(help="E-mail, me, or nobody; can be repeated.")
    ] = None,
    cursor: Annotated[
        str, typer.Option(help="Go on from here instead of showing the tasks there are.")
    ] = "",
) -> None:
    """Shows the board live, until Ctrl-C: its tasks, then each change.

    As JSON: one message of the stream a line; each carries a cursor to go on from.
    """
    from taskflow_client.cli import lookup, watching
    from taskflow_client.cli.task import task_filter

    workspace = await lookup.workspace_id(cli)
    wanted = await task_filter(cli, project or [], status or [], assignee or [])
    await watching.board(cli, workspace, wanted, cursor)
