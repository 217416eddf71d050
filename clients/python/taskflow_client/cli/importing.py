"""taskflow import"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taskflow_client.cli.command import Cli, Problem, connected, counted, usage

if TYPE_CHECKING:
    from taskflow.task.v1.task_pb2 import Task
    from taskflow_client import TaskFlowError
    from taskflow_client.cli.import_rows import BadCell, Context, Import

# Concurrent calls: enough to hide network latency, few enough not to load the server.
_AT_ONCE = 8
# An import retries calls for this long (seconds), so that it continues after a restart of the server.
_PATIENT = 25.0
# The most invalid cells that an error lists.
_SHOWN = 50
# Reason of an error → column of the cell that caused it.
_CULPRITS = {"PROJECT_ARCHIVED": "project", "ASSIGNEE_NOT_MEMBER": "assignee"}
_COLUMNS = {"assignee_id": "assignee", "project_id": "project"}
# Exit codes after which the same import may succeed.
_PASSING = {6, 130}


@dataclass
class Progress:
    """What an import has found and done, by row number."""

    # Tasks of an earlier import. None: the task's deadline counts from now, so its request looks different.
    before: "dict[int, Task | None]" = field(default_factory=dict)
    made: "dict[int, Task]" = field(default_factory=dict)


@connected(retry_for=_PATIENT)
async def import_tasks(
    cli: Cli,
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="CSV or JSON, in UTF-8.")
    ],
    project: Annotated[
        str, typer.Option("--project", "-p", help="Key of the project for rows without one.")
    ] = "",
    check: Annotated[bool, typer.Option("--check", help="Only check the file.")] = False,
    ignore_unknown: Annotated[
        bool, typer.Option("--ignore-unknown", help="Leave out columns that aren't listed here.")
    ] = False,
) -> None:
    """Creates a task for each row of a file.

    Columns: title, description, project (key), assignee (e-mail), priority, status, labels
    (separated by commas, semicolons or bars), due (2026-12-01, '2026-12-01T09:00 Europe/Berlin',
    or +2h from now) and payload (a JSON object). Only title is required. A JSON file is an array of
    objects with these names, or the output of `taskflow task list -o json`.

    The server checks all rows first; if one is invalid, nothing is imported. Within 24 hours, a row
    with the same cells creates no second task. So you can repeat an interrupted import, or mend a
    file and import it again.
    """
    from taskflow_client.cli import import_rows

    context = await _context(cli, project)
    imports = import_rows.check(import_rows.read(file, ignore_unknown), context)
    progress = Progress()
    if not context.bad:
        await _validate(cli, imports, progress, context.bad)
    if context.bad:
        _refuse(file, context.bad)
    new = [each for each in imports if each.row not in progress.before]
    if not check:
        await _create(cli, new, progress)
    await _report(cli, file, progress, len(new), check)


async def _context(cli: Cli, project: str) -> "Context":
    from taskflow.auth.v1.user_service_pb2 import GetCurrentUserRequest
    from taskflow_client.cli import lookup
    from taskflow_client.cli.import_rows import Context

    me = (await cli.client.users.GetCurrentUser(GetCurrentUserRequest())).user
    workspace = await lookup.workspace_id(cli)
    members = {each.email.casefold(): each.user_id for each in await lookup.members(cli, workspace)}
    projects = {each.key: each for each in await lookup.projects(cli, workspace)}
    if not project:
        live = [key for key, each in projects.items() if not each.HasField("archive_time")]
        project = live[0] if len(live) == 1 else ""
    now = datetime.now(UTC)
    return Context(workspace, projects, {**members, "me": me.id}, project, now, me.time_zone)


async def _validate(
    cli: Cli, imports: "Sequence[Import]", progress: Progress, bad: "list[BadCell]"
) -> None:
    """Has the server check every row, and finds the tasks of an earlier import."""
    from taskflow.task.v1.task_service_pb2 import CreateTaskRequest
    from taskflow_client import TaskFlowError

    async def validate(each: "Import") -> None:
        request = CreateTaskRequest(validate_only=True)
        request.MergeFrom(each.request)
        try:
            response = await cli.client.tasks.CreateTask(request)
        except TaskFlowError as error:
            if error.reason == "REQUEST_ID_REUSED":
                progress.before[each.row] = None
            elif cells := _bad_cells(each.row, error):
                bad.extend(cells)
            else:
                raise _broken_off(cli, each, error, progress, len(imports)) from error
            return
        if response.HasField("task"):
            progress.before[each.row] = response.task

    await _for_each(cli, imports, "Checking", validate)
    bad.sort()


async def _create(cli: Cli, imports: "Sequence[Import]", progress: Progress) -> None:
    from taskflow_client import TaskFlowError

    async def create(each: "Import") -> None:
        try:
            progress.made[each.row] = (await cli.client.tasks.CreateTask(each.request)).task
        except TaskFlowError as error:
            raise _broken_off(cli, each, error, progress, len(imports)) from error

    try:
        await _for_each(cli, imports, "Importing", create)
    except asyncio.CancelledError:  # Ctrl-C
        raise Problem(
            f"canceled; {len(progress.made)} of {counted(len(imports), 'task')} are imported",
            "run it again: it creates no task twice",
            130,
            imported=len(progress.made),
        ) from None


async def _for_each(
    cli: Cli,
    imports: "Sequence[Import]",
    title: str,
    act: "Callable[[Import], Awaitable[None]]",
) -> None:
    """Acts on all rows, some of them concurrently. After an error no other row begins."""
    waiting = iter(imports)
    failures: list[Exception] = []

    async def work(step: Callable[[], None]) -> None:
        for each in waiting:
            try:
                await act(each)
            except Exception as error:
                failures.append(error)
            if failures:
                return
            step()

    with _bar(cli, title, len(imports)) as step:
        await asyncio.gather(*(work(step) for _ in range(_AT_ONCE)))
    if failures:
        raise failures[0]


def _bad_cells(row: int, error: "TaskFlowError") -> "list[BadCell]":
    """The cells that the server refused; empty for an error that isn't about the row."""
    from taskflow_client.cli.import_rows import BadCell

    if column := _CULPRITS.get(error.reason):
        return [BadCell(row, column, error.message)]
    cells = []
    for violation in error.field_violations:
        name = violation.field.removeprefix("task.").partition(".")[0].partition("[")[0]
        # A violation of the whole task is about its title.
        name = "title" if name == "task" else name
        cells.append(BadCell(row, _COLUMNS.get(name, name), violation.description))
    return cells


def _refuse(file: Path, bad: "list[BadCell]") -> None:
    cells = f"{counted(len(bad), 'cell')} {'is' if len(bad) == 1 else 'are'}"
    hint = f"these are the first {_SHOWN}" if len(bad) > _SHOWN else ""
    shown = [cell._asdict() for cell in bad[:_SHOWN]]
    raise usage(f"{file}: {cells} invalid, nothing was imported", hint, rows=shown)


def _broken_off(
    cli: Cli, at: "Import", error: "TaskFlowError", progress: Progress, total: int
) -> Problem:
    from taskflow_client.cli import failures

    facts = failures.describe(error, cli.options.server)
    passing = facts["exit_code"] in _PASSING
    return Problem(
        f"row {at.row}: {facts['message']}; "
        f"{len(progress.made)} of {counted(total, 'task')} are imported",
        "run it again: it creates no task twice" if passing else facts["hint"],
        facts["exit_code"],
        code=facts["code"],
        reason=facts["reason"],
        imported=len(progress.made),
        field_violations=facts.get("field_violations", []),
    )


async def _report(cli: Cli, file: Path, progress: Progress, new: int, check: bool) -> None:
    from taskflow_client.cli.output import as_dict

    before = len(progress.before)
    deleted = await _deleted(cli, progress)
    if check:
        sentence = f"{file}: {counted(new, 'task')} can be imported"
    else:
        sentence = f"{file}: {counted(new, 'task')} {'is' if new == 1 else 'are'} imported"
    if before:
        sentence += f", {before} {'was' if before == 1 else 'were'} imported before"
    if deleted:
        sentence += f", of which {deleted} {'is' if deleted == 1 else 'are'} deleted now"
    tasks = [as_dict(task) for _, task in sorted(progress.made.items())]
    summary: dict[str, Any] = {"rows": new + before} if check else {"imported": new}
    summary |= {"imported_before": before, "deleted_since": deleted}
    cli.output.done(summary if check else summary | {"tasks": tasks}, f"{sentence}.")


async def _deleted(cli: Cli, progress: Progress) -> int:
    """How many tasks of an earlier import are deleted now."""
    from taskflow.task.v1.task_service_pb2 import GetTaskRequest
    from taskflow_client import TaskFlowError

    deleted = 0
    for task in progress.before.values():
        if task is None:
            continue
        try:
            found = (await cli.client.tasks.GetTask(GetTaskRequest(id=task.id))).task
        except TaskFlowError as error:
            if error.reason != "RESOURCE_NOT_FOUND":
                raise
            deleted += 1
        else:
            deleted += found.HasField("delete_time")
    return deleted


def _bar(cli: Cli, title: str, total: int) -> Any:
    """Returns a context manager that shows a progress bar and yields the function to advance it."""
    from contextlib import contextmanager

    from rich.console import Console
    from rich.progress import Progress as Bar

    @contextmanager
    def shown() -> Any:
        console = Console(stderr=True)
        with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
            rows = bar.add_task(title, total=total)
            yield lambda: bar.advance(rows)

    @contextmanager
    def silent() -> Any:
        yield lambda: None

    return silent() if cli.output.as_json else shown()
