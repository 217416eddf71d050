"""taskflow import"""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taskflow_client.cli.command import Cli, Problem, connected, usage

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskflow.task.v1.task_pb2 import Task
    from taskflow_client import TaskFlowError
    from taskflow_client.cli.import_rows import Context, Import

# Concurrent calls: enough to hide network latency, few enough not to load the server.
_AT_ONCE = 8
# How long (seconds) a call is retried: long enough for an import to continue after a restart of the server.
_PATIENT = 25.0
# The most invalid cells that an error lists.
_SHOWN = 50


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
) -> None:
    """Creates a task for each row of a file.

    Columns: title, description, project (key), assignee (e-mail), priority, status, labels
    (separated by commas, semicolons or bars) and due (2026-12-01, '2026-12-01T09:00 Europe/Berlin',
    or +2h from now). Only title is required. A JSON file is an array of objects with these names.

    All rows are checked first; if one is invalid, nothing is imported. Within 24 hours, importing
    the same file again creates no task twice, so an interrupted import can be repeated.
    """
    from taskflow_client.cli import import_rows

    digest, found = import_rows.read(file)
    context = await _context(cli, project)
    imports = import_rows.check(digest, found, context)
    if context.bad:
        _refuse(file, context)
    if check:
        summary = {"rows": len(imports)}
        cli.output.done(summary, f"{file}: {len(imports)} tasks can be imported.")
        return
    made = await _create(cli, imports)
    _report(cli, file, imports, made)


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


def _refuse(file: Path, context: "Context") -> None:
    count = len(context.bad)
    cells = "1 cell is" if count == 1 else f"{count} cells are"
    hint = f"these are the first {_SHOWN}" if count > _SHOWN else ""
    shown = [cell._asdict() for cell in context.bad[:_SHOWN]]
    raise usage(f"{file}: {cells} invalid, nothing was imported", hint, rows=shown)


async def _create(cli: Cli, imports: "list[Import]") -> "dict[int, Task | None]":
    """Returns the tasks by row; None where an earlier import created the task with another deadline."""
    from taskflow_client import TaskFlowError

    made: dict[int, Task | None] = {}
    failures: list[tuple[Import, TaskFlowError]] = []
    waiting = iter(imports)

    async def work(step: "Callable[[], None]") -> None:
        for each in waiting:
            try:
                made[each.row] = (await cli.client.tasks.CreateTask(each.request)).task
            except TaskFlowError as error:
                # The request_id is derived from this row, so an earlier import created the task. Only the deadline
                # differs, because "+2h" counts from the time of the import.
                if error.reason != "REQUEST_ID_REUSED":
                    failures.append((each, error))
                    return
                made[each.row] = None
            if failures:
                return
            step()

    with _progress(cli, len(imports)) as step:
        await asyncio.gather(*(work(step) for _ in range(_AT_ONCE)))
    if failures:
        _broken_off(cli, *failures[0], len(made), len(imports))
    return made


def _broken_off(cli: Cli, at: "Import", error: "TaskFlowError", done: int, total: int) -> None:
    from taskflow_client.cli import failures

    facts = failures.describe(error, cli.options.server)
    raise Problem(
        f"row {at.row}: {facts['message']}; {done} of {total} tasks are imported",
        "run it again: it creates no task twice",
        facts["exit_code"],
        code=facts["code"],
        reason=facts["reason"],
        imported=done,
        field_violations=facts.get("field_violations", []),
    ) from error


def _report(cli: Cli, file: Path, imports: "list[Import]", made: "dict[int, Task | None]") -> None:
    from taskflow_client.cli.output import as_dict

    # The count includes tasks that an earlier import created: the server answers a repeated create like the first.
    tasks = [as_dict(task) for each in imports if (task := made[each.row]) is not None]
    summary = {"imported": len(imports), "tasks": tasks}
    cli.output.done(summary, f"{file}: {len(imports)} tasks are imported.")


def _progress(cli: Cli, total: int) -> Any:
    """Returns a context manager that shows a progress bar and yields the function to advance it."""
    from contextlib import contextmanager

    from rich.console import Console
    from rich.progress import Progress

    @contextmanager
    def shown() -> Any:
        console = Console(stderr=True)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            rows = bar.add_task("Importing", total=total)
            yield lambda: bar.advance(rows)

    @contextmanager
    def silent() -> Any:
        yield lambda: None

    return silent() if cli.output.as_json else shown()
