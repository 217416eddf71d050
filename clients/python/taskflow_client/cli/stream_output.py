"""Prints streams: the live board, and notifications."""

import asyncio
from contextlib import aclosing
from typing import Any

from taskflow.notification.v1.notification_service_pb2 import WatchNotificationsResponse
from taskflow.task.v1.task_pb2 import Task, TaskFilter
from taskflow.task.v1.task_service_pb2 import TaskChange, TaskChangeKind, WatchTasksResponse
from taskflow_client import TaskFlowError
from taskflow_client.cli import enums, lookup, tables
from taskflow_client.cli.command import Cli
from taskflow_client.cli.deadlines import format_due, format_time


async def notifications(cli: Cli, cursor: str) -> None:
    """Prints notifications until Ctrl-C."""
    position = cursor
    messages = cli.client.watch_notifications(cursor, on_reconnect=_reconnecting(cli))
    try:
        async with aclosing(messages) as stream:
            async for message in stream:
                position = message.cursor
                cli.output.event(message, _notification_line(message))
    except asyncio.CancelledError:  # Ctrl-C
        _farewell(cli, "notifications watch", position)


async def board(cli: Cli, workspace: str, wanted: TaskFilter, cursor: str) -> None:
    """Prints a table of the current tasks, then a line per change, until Ctrl-C."""
    position = cursor
    try:
        view = _Board(cli, workspace)
        messages = cli.client.watch_tasks(
            workspace, wanted, cursor, snapshot=not cursor, on_reconnect=_reconnecting(cli)
        )
        async with aclosing(messages) as stream:
            async for message in stream:
                await view.show(message)
                if not message.HasField("snapshot"):
                    position = message.cursor
    except asyncio.CancelledError:  # Ctrl-C
        _farewell(cli, "watch", position)


class _Board:
    """Prints board messages. Keeps task keys and member names, because messages contain only ids."""

    def __init__(self, cli: Cli, workspace: str) -> None:
        self._cli = cli
        self._workspace = workspace
        self._snapshot: list[Task] = []
        self._keys: dict[str, str] = {}
        self._names: dict[str, str] = {}

    async def show(self, message: WatchTasksResponse) -> None:
        if self._cli.output.as_json:
            self._cli.output.event(message, "")
            return
        kind = message.WhichOneof("kind")
        if kind == "snapshot":
            self._snapshot.append(message.snapshot)
            self._keys[message.snapshot.id] = message.snapshot.key
        elif kind == "snapshot_complete":
            await self._learn_names(*(task.assignee_id for task in self._snapshot))
            self._cli.output.many(self._snapshot, tables.tasks(self._names))
            self._cli.output.remark("watching for changes, press Ctrl-C to end")
        elif kind == "reset":
            self._snapshot = []
            self._cli.output.remark("the cursor is too old: starting over")
        else:
            await self._learn_names(message.change.actor_id, message.change.task.assignee_id)
            self._cli.output.event(message, self._line(message))

    def _line(self, message: WatchTasksResponse) -> str:
        kind = message.WhichOneof("kind")
        if kind == "change":
            self._keys[message.change.task.id] = message.change.task.key
            return self._change_line(message.change)
        if kind == "job":
            job = message.job
            error = f": {tables.shortened(job.error)}" if job.error else ""
            return f"{self._key(job.task_id)} job {enums.job_state_word(job.state)}{error}"
        if kind == "suggestion":
            suggestion = message.suggestion
            state = enums.suggestion_state_word(suggestion.state)
            line = f"{self._key(suggestion.task_id)} suggestion {state}"
            return f"{line}: {tables.proposal(suggestion)} ({suggestion.reason})"
        return ""

    def _change_line(self, change: TaskChange) -> str:
        what = TaskChangeKind.Name(change.kind).removeprefix("TASK_CHANGE_KIND_").lower()
        who = tables.name(self._names, change.actor_id) or "TaskFlow"
        at = format_time(change.change_time).partition(" ")[2]
        line = f"{at} {change.task.key} {what} by {who}: {change.task.title}".strip()
        facts = [f"{path} {self._value(change.task, path)}" for path in change.changed_fields.paths]
        return f"{line} [{', '.join(facts)}]" if facts else line

    def _value(self, task: Task, path: str) -> str:
        shown: dict[str, Any] = {
            "status": lambda: enums.status_word(task.status),
            "priority": lambda: enums.priority_word(task.priority) or "none",
            "assignee_id": lambda: tables.name(self._names, task.assignee_id) or "nobody",
            "due": lambda: format_due(task) or "none",
            "labels": lambda: " ".join(task.labels) or "none",
        }
        return str(shown[path]()) if path in shown else "changed"

    def _key(self, task_id: str) -> str:
        return self._keys.get(task_id, task_id)

    async def _learn_names(self, *user_ids: str) -> None:
        unknown = {user_id for user_id in user_ids if user_id} - self._names.keys()
        if unknown:
            everyone = await lookup.members(self._cli, self._workspace)
            self._names |= dict.fromkeys(unknown, "a former member")
            self._names |= {member.user_id: member.display_name for member in everyone}


def _notification_line(message: WatchNotificationsResponse) -> str:
    change = message.change
    if change.HasField("created"):
        created = change.created
        at = format_time(created.create_time).partition(" ")[2]
        return f"{at} {created.headline}: {created.task_title}"
    if change.HasField("read"):
        return f"{len(change.read.ids)} read"
    if change.HasField("all_read"):
        return "all read"
    if change.HasField("removed"):
        return f"{len(change.removed.ids)} deleted, read long ago"
    if message.HasField("reset"):
        return "the cursor is too old: see `taskflow notifications list`"
    return ""


def _reconnecting(cli: Cli) -> Any:
    def tell(failure: TaskFlowError) -> None:
        cli.output.remark(f"interrupted ({failure.message}), resuming")

    return tell


def _farewell(cli: Cli, command: str, cursor: str) -> None:
    if cursor:
        cli.output.remark(f"\ncontinue from here with: taskflow {command} --cursor {cursor}")
