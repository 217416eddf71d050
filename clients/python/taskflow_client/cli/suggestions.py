"""taskflow suggestions …"""

from typing import TYPE_CHECKING, Annotated

import typer

from taskflow_client.cli.choices import Priority, SuggestionState
from taskflow_client.cli.command import Cli, connected, group, missing, usage

if TYPE_CHECKING:
    from taskflow.task.v1.suggestion_pb2 import Suggestion, SuggestionEdit

app = group("Changes that TaskFlow proposes.")


@app.command("list")
@connected()
async def list_suggestions(
    cli: Cli,
    task: Annotated[str, typer.Option(help="Only for this task; key or id.")] = "",
    state: Annotated[
        list[SuggestionState] | None,
        typer.Option(case_sensitive=False, help="Default: pending. Can be repeated."),
    ] = None,
    all_states: Annotated[bool, typer.Option("--all", help="Include all states.")] = False,
    limit: Annotated[int, typer.Option(min=0, help="0 shows all.")] = 0,
) -> None:
    """Lists suggestions, newest first."""
    from taskflow.task.v1.suggestion_service_pb2 import ListSuggestionsRequest
    from taskflow_client.cli import enums, lookup, tables

    states = [] if all_states else state or [SuggestionState.PENDING]
    request = ListSuggestionsRequest(
        workspace_id=await lookup.workspace_id(cli),
        task_id=await lookup.task_id(cli, task) if task else "",
        states=[enums.suggestion_state(each) for each in states],
    )
    found = await lookup.everything(
        cli.client.suggestions.ListSuggestions, request, "suggestions", limit
    )
    cli.output.many(found, tables.suggestions(await lookup.tasks_of(cli, found)))


@app.command()
@connected()
async def accept(
    cli: Cli,
    suggestion: Annotated[str, typer.Argument(metavar="ID")],
    edit: Annotated[str, typer.Option(help="Accept this priority or description instead.")] = "",
) -> None:
    """Accepts a suggestion, as proposed or edited, and changes the task."""
    from taskflow.task.v1.suggestion_service_pb2 import AcceptSuggestionRequest
    from taskflow_client.cli import tables

    request = AcceptSuggestionRequest(id=suggestion)
    if edit:
        request.edit.CopyFrom(_edit(await _find(cli, suggestion), edit))
    response = await cli.client.suggestions.AcceptSuggestion(request)
    what = "an edited proposal" if edit else tables.proposal(response.suggestion)
    cli.output.done(response, f"Accepted for {response.task.key}: {what}")


@app.command()
@connected()
async def reject(
    cli: Cli,
    suggestion: Annotated[str, typer.Argument(metavar="ID")],
    reason: Annotated[str, typer.Option(help="Why, as text.")] = "",
) -> None:
    """Rejects a suggestion. The task doesn't change."""
    from taskflow.task.v1.suggestion_service_pb2 import RejectSuggestionRequest
    from taskflow_client.cli import tables

    request = RejectSuggestionRequest(id=suggestion, reason=reason)
    response = await cli.client.suggestions.RejectSuggestion(request)
    cli.output.done(response, f"Rejected: {tables.proposal(response.suggestion)}")


@app.command()
@connected()
async def request(
    cli: Cli, task: Annotated[str, typer.Argument(metavar="TASK", help="Key or id.")]
) -> None:
    """Requests suggestions for a task. They are made in the background."""
    from taskflow.task.v1.suggestion_service_pb2 import RequestSuggestionsRequest
    from taskflow_client.cli import lookup

    wanted = RequestSuggestionsRequest(task_id=await lookup.task_id(cli, task))
    response = await cli.client.suggestions.RequestSuggestions(wanted)
    cli.output.done(response, "Requested. See `taskflow suggestions list` in a moment.")


async def _find(cli: Cli, suggestion_id: str) -> "Suggestion":
    from taskflow.task.v1.suggestion_service_pb2 import ListSuggestionsRequest
    from taskflow_client.cli import lookup

    wanted = ListSuggestionsRequest(workspace_id=await lookup.workspace_id(cli))
    found = await lookup.everything(cli.client.suggestions.ListSuggestions, wanted, "suggestions")
    for each in found:
        if each.id == suggestion_id.lower():
            matching: Suggestion = each
            return matching
    raise missing(
        f"no suggestion {suggestion_id} in this workspace", "see `taskflow suggestions list`"
    )


def _edit(suggestion: "Suggestion", text: str) -> "SuggestionEdit":
    from taskflow.task.v1.suggestion_pb2 import SUGGESTION_KIND_PRIORITY, SuggestionEdit
    from taskflow_client.cli import enums

    if suggestion.kind != SUGGESTION_KIND_PRIORITY:
        return SuggestionEdit(description=text)
    if text.lower() not in list(Priority):
        raise usage(f"{text!r} isn't a priority", f"write one of {', '.join(Priority)}")
    return SuggestionEdit(priority=enums.priority(Priority(text.lower())))
