"""taskflow task …"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, ParamSpec, TypeVar

import typer

from taskflow_client.cli.choices import Order, Priority, Status
from taskflow_client.cli.command import Cli, connected, group, usage

if TYPE_CHECKING:
    from taskflow.task.v1.task_pb2 import Due, Task, TaskFilter

P = ParamSpec("P")
V = TypeVar("V")

app = group("Tasks, by key (OPS-12) or id.")

Reference = Annotated[str, typer.Argument(metavar="TASK", help="Key or id.")]
References = Annotated[list[str], typer.Argument(metavar="TASK...", help="Keys or ids.")]
DueText = Annotated[
    str, typer.Option(help="2026-12-01, '2026-12-01T09:00 Europe/Berlin', or +2h (s, m, h, d, w).")
]
Payload = Annotated[
    str, typer.Option(help="JSON object for a worker to process; @FILE reads it from a file.")
]
Labels = Annotated[list[str] | None, typer.Option("--label", help="Can be repeated.")]
PriorityOption = Annotated[Priority | None, typer.Option(case_sensitive=False)]
StatusOption = Annotated[Status | None, typer.Option(case_sensitive=False)]


@app.command()
@connected()
async def create(
    cli: Cli,
    title: str,
    project: Annotated[
        str, typer.Option("--project", "-p", help="Key. Default: the only project.")
    ] = "",
    description: str = "",
    assignee: Annotated[str, typer.Option(help="E-mail, or me.")] = "",
    priority: PriorityOption = None,
    status: StatusOption = None,
    due: DueText = "",
    label: Labels = None,
    parent: Annotated[str, typer.Option(help="Key or id of the parent task.")] = "",
    payload: Payload = "",
) -> None:
    """Creates a task."""
    from taskflow.task.v1.task_pb2 import Task
    from taskflow.task.v1.task_service_pb2 import CreateTaskRequest
    from taskflow_client.cli import enums, lookup, payloads

    task = Task(title=title, description=description, labels=label)
    if status:
        task.status = enums.status(status)
    if priority:
        task.priority = enums.priority(priority)
    if due:
        task.due.CopyFrom(await _due(cli, due))
    if payload:
        task.payload.CopyFrom(payloads.parse(payload))
    if assignee:
        task.assignee_id = await lookup.member_id(cli, assignee)
    if parent:
        task.parent_id = await lookup.task_id(cli, parent)
    request = CreateTaskRequest(project_id=await lookup.project_id(cli, project), task=task)
    made = (await cli.client.tasks.CreateTask(request)).task
    cli.output.done(made, f"Created {made.key}: {made.title}")


@app.command("list")
@connected()
async def list_tasks(
    cli: Cli,
    project: Annotated[
        list[str] | None, typer.Option("--project", "-p", help="Key; can be repeated.")
    ] = None,
    status: Annotated[
        list[Status] | None, typer.Option(case_sensitive=False, help="Can be repeated.")
    ] = None,
    priority: Annotated[
        list[Priority] | None, typer.Option(case_sensitive=False, help="Can be repeated.")
    ] = None,
    assignee: Annotated[
        list[str] | None, typer.Option(help="E-mail, me, or nobody; can be repeated.")
    ] = None,
    label: Labels = None,
    text: Annotated[str, typer.Option(help="Text in the title or description.")] = "",
    due_before: Annotated[str, typer.Option(help="Same forms as --due of create.")] = "",
    due_after: Annotated[str, typer.Option(help="Same forms as --due of create.")] = "",
    deleted: Annotated[bool, typer.Option("--deleted", help="Include deleted ones.")] = False,
    order: Annotated[Order, typer.Option(case_sensitive=False)] = Order.CREATED,
    descending: Annotated[bool, typer.Option("--descending")] = False,
    limit: Annotated[int, typer.Option(min=0, help="0 shows all.")] = 0,
) -> None:
    """Lists tasks that match all options. Values of a repeated option are alternatives."""
    from taskflow.task.v1.task_service_pb2 import ListTasksRequest, TaskOrder
    from taskflow_client.cli import deadlines, enums, lookup, tables

    workspace = await lookup.workspace_id(cli)
    wanted = await task_filter(cli, project or [], status or [], assignee or [])
    wanted.priorities.extend(enums.priority(each) for each in priority or [])
    wanted.labels.extend(label or [])
    wanted.text = text
    wanted.include_deleted = deleted
    for option, instant in ((due_before, wanted.due_before), (due_after, wanted.due_after)):
        if option:
            instant.CopyFrom(_checked(deadlines.parse_instant, option, await _zone(cli)))
    request = ListTasksRequest(
        workspace_id=workspace,
        filter=wanted,
        order_by=TaskOrder(field=enums.order(order), descending=descending),
    )
    found = await lookup.everything(cli.client.tasks.ListTasks, request, "tasks", limit)
    cli.output.many(found, tables.tasks(await _names(cli, found, workspace)))


@app.command()
@connected()
async def show(cli: Cli, reference: Reference) -> None:
    """Shows all fields of a task."""
    from taskflow_client.cli import lookup, tables

    task = await lookup.task(cli, reference)
    cli.output.one(task, tables.task(await _names(cli, [task], task.workspace_id)))


@app.command()
@connected()
async def edit(
    cli: Cli,
    reference: Reference,
    title: str | None = None,
    description: str | None = None,
    priority: PriorityOption = None,
    status: StatusOption = None,
    due: Annotated[str | None, typer.Option(help="As in create; none removes it.")] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", help="Replaces the labels; can be repeated; '' removes them."),
    ] = None,
    parent: Annotated[
        str | None, typer.Option(help="Key or id of the parent task; none removes it.")
    ] = None,
    payload: Annotated[str | None, typer.Option(help="As in create; none removes it.")] = None,
    etag: Annotated[
        str, typer.Option(help="Fail if the task's etag isn't this one any more.")
    ] = "",
) -> None:
    """Changes the given fields of a task; others stay as they are."""
    from google.protobuf.field_mask_pb2 import FieldMask

    from taskflow.task.v1.task_pb2 import Task
    from taskflow.task.v1.task_service_pb2 import UpdateTaskRequest
    from taskflow_client.cli import enums, lookup, payloads

    for name, text in (("due", due), ("parent", parent), ("payload", payload)):
        if text == "":
            raise usage(f"--{name} is empty", "write none to remove it")
    changed = Task(title=title or "", description=description or "", etag=etag)
    if priority:
        changed.priority = enums.priority(priority)
    if status:
        changed.status = enums.status(status)
    if due and due != "none":
        changed.due.CopyFrom(await _due(cli, due))
    if payload and payload != "none":
        changed.payload.CopyFrom(payloads.parse(payload))
    if parent and parent != "none":
        changed.parent_id = await lookup.task_id(cli, parent)
    changed.labels.extend(each for each in label or [] if each)
    given = {
        "title": title,
        "description": description,
        "priority": priority,
        "status": status,
        "due": due,
        "labels": label or None,
        "parent_id": parent,
        "payload": payload,
    }
    mask = FieldMask(paths=[path for path, value in given.items() if value is not None])
    if not mask.paths:
        raise usage("nothing to change", "see `taskflow task edit --help`")
    changed.id = await lookup.task_id(cli, reference)
    request = UpdateTaskRequest(task=changed, update_mask=mask)
    task = (await cli.client.tasks.UpdateTask(request)).task
    cli.output.done(task, f"Changed {task.key}: {task.title}")


@app.command()
@connected()
async def assign(
    cli: Cli,
    reference: Reference,
    person: Annotated[str, typer.Argument(help="E-mail, me, or nobody.")],
) -> None:
    """Assigns a task to a member, or unassigns it."""
    from taskflow.task.v1.task_service_pb2 import AssignTaskRequest
    from taskflow_client.cli import lookup

    before = await lookup.task(cli, reference)
    user_id = "" if person == "nobody" else await lookup.member_id(cli, person, before.workspace_id)
    request = AssignTaskRequest(id=before.id, assignee_id=user_id)
    task = (await cli.client.tasks.AssignTask(request)).task
    cli.output.done(task, f"{task.key} is assigned to {person}.")


@app.command()
@connected()
async def start(cli: Cli, references: References) -> None:
    """Sets the status to in progress."""
    await _set_status(cli, references, Status.IN_PROGRESS)


@app.command()
@connected()
async def done(cli: Cli, references: References) -> None:
    """Sets the status to done."""
    await _set_status(cli, references, Status.DONE)


@app.command()
@connected()
async def cancel(cli: Cli, references: References) -> None:
    """Sets the status to canceled."""
    await _set_status(cli, references, Status.CANCELED)


@app.command()
@connected()
async def reopen(cli: Cli, references: References) -> None:
    """Sets the status back to todo."""
    await _set_status(cli, references, Status.TODO)


@app.command()
@connected()
async def delete(cli: Cli, references: References) -> None:
    """Deletes tasks. `undelete` brings them back."""
    from taskflow.task.v1.task_service_pb2 import DeleteTaskRequest

    async def delete(task_id: str) -> "Task":
        return (await cli.client.tasks.DeleteTask(DeleteTaskRequest(id=task_id))).task

    await _each(cli, references, delete, lambda task: f"Deleted {task.key}: {task.title}")


@app.command()
@connected()
async def undelete(cli: Cli, references: References) -> None:
    """Brings deleted tasks back."""
    from taskflow.task.v1.task_service_pb2 import UndeleteTaskRequest

    async def undelete(task_id: str) -> "Task":
        return (await cli.client.tasks.UndeleteTask(UndeleteTaskRequest(id=task_id))).task

    await _each(cli, references, undelete, lambda task: f"{task.key} is back: {task.title}")


async def task_filter(
    cli: Cli, projects: list[str], statuses: list[Status], assignees: list[str]
) -> "TaskFilter":
    from taskflow.task.v1.task_pb2 import TaskFilter
    from taskflow_client.cli import enums, lookup

    return TaskFilter(
        project_ids=[await lookup.project_id(cli, key) for key in projects],
        statuses=[enums.status(each) for each in statuses],
        assignee_ids=[
            "" if person == "nobody" else await lookup.member_id(cli, person)
            for person in assignees
        ],
    )


async def _set_status(cli: Cli, references: list[str], status: Status) -> None:
    from taskflow.task.v1.task_service_pb2 import ChangeTaskStatusRequest
    from taskflow_client.cli import enums

    async def change(task_id: str) -> "Task":
        request = ChangeTaskStatusRequest(id=task_id, status=enums.status(status))
        return (await cli.client.tasks.ChangeTaskStatus(request)).task

    await _each(
        cli,
        references,
        change,
        lambda task: f"{task.key} is {enums.status_word(task.status)}: {task.title}",
    )


async def _each(
    cli: Cli,
    references: list[str],
    change: "Callable[[str], Awaitable[Task]]",
    sentence: "Callable[[Task], str]",
) -> None:
    """Changes the tasks in order, up to the first error. JSON output has one task, or a list of several."""
    from taskflow_client.cli import lookup

    ids = [await lookup.task_id(cli, reference) for reference in references]
    changed = []
    try:
        for task_id in ids:
            changed.append(await change(task_id))
            if len(ids) > 1 and not cli.output.as_json:
                cli.output.line(sentence(changed[-1]))
    finally:
        if len(ids) == 1 and changed:
            cli.output.done(changed[0], sentence(changed[0]))
        elif cli.output.as_json and changed:
            cli.output.many(changed, [])


async def _due(cli: Cli, text: str) -> "Due":
    from datetime import UTC, datetime

    from taskflow_client.cli import deadlines

    # Only a day has the same meaning in every zone.
    zone = await _zone(cli) if set(text) & set("T:+") else ""
    return _checked(deadlines.parse_due, text, datetime.now(UTC), zone)


async def _zone(cli: Cli) -> str:
    """Returns the user's time zone, which applies to local times that name no zone."""
    from taskflow.auth.v1.user_service_pb2 import GetCurrentUserRequest

    return (await cli.client.users.GetCurrentUser(GetCurrentUserRequest())).user.time_zone


def _checked(parse: Callable[P, V], *args: P.args, **kwargs: P.kwargs) -> V:
    try:
        return parse(*args, **kwargs)
    except ValueError as error:
        raise usage(str(error)) from None


async def _names(cli: Cli, tasks: "list[Task]", workspace: str) -> dict[str, str]:
    """Returns the names of members by id for table output."""
    from taskflow_client.cli import lookup

    if cli.output.as_json or not any(task.assignee_id or task.creator_id for task in tasks):
        return {}
    return {each.user_id: each.display_name for each in await lookup.members(cli, workspace)}
