"""The steps of the demo: each calls the services through the gateway and checks the responses."""

import asyncio
import email
import email.policy
import json
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from email.message import EmailMessage
from pathlib import Path
from statistics import median

from google.protobuf import struct_pb2
from google.type import datetime_pb2
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from services.platform.config import Settings
from taskflow.auth.v1 import workspace_pb2, workspace_service_pb2
from taskflow.notification.v1 import notification_pb2, notification_service_pb2
from taskflow.task.v1 import (
    job_pb2,
    job_service_pb2,
    project_pb2,
    project_service_pb2,
    suggestion_pb2,
    suggestion_service_pb2,
    task_pb2,
    task_service_pb2,
)
from taskflow_client import TaskFlow

SAMPLE = Path(__file__).with_name("tasks.csv")
_KIND = notification_pb2.NotificationKind
# A step fails when its result takes longer than this (seconds).
_PATIENCE = 30.0

Notification = notification_pb2.Notification


class Missing(Exception):
    """Raised when a step doesn't get what it expects. The text says what is missing."""


class Inbox:
    """A user's notification stream: what arrived, when, and the cursor to resume from."""

    def __init__(self, client: TaskFlow) -> None:
        self._client = client
        self._came = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None
        self.cursor: str | None = None
        self.opened = asyncio.Event()
        self.received: list[tuple[float, int, Notification]] = []

    def open(self) -> None:
        self.opened.clear()
        self._task = asyncio.create_task(self._read())

    async def cut(self) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _read(self) -> None:
        async for message in self._client.watch_notifications(self.cursor):
            self.cursor = message.cursor
            self.opened.set()
            if message.change.HasField("created"):
                arrival = (time.time(), message.change.sequence, message.change.created)
                async with self._came:
                    self.received.append(arrival)
                    self._came.notify_all()

    async def until(self, what: str, seen: Callable[[list[Notification]], bool]) -> None:
        """Waits until the received notifications satisfy `seen`. Raises Missing."""
        try:
            async with asyncio.timeout(_PATIENCE), self._came:
                await self._came.wait_for(lambda: seen([entry[2] for entry in self.received]))
        except TimeoutError:
            raise Missing(what) from None


class Story:
    """The demo: two users create forty tasks; suggestions, jobs, notifications and mails follow."""

    def __init__(self, settings: Settings, console: Console) -> None:
        self._settings = settings
        self._console = console
        self._server = f"127.0.0.1:{settings.gateway_port}"
        self._password = secrets.token_urlsafe(12)
        run = secrets.token_hex(3)
        self._addresses = {name: f"{name}.{run}@example.com" for name in ("ada", "ben")}
        self._seen: list[tuple[str, str]] = []
        self._workspace = workspace_pb2.Workspace()
        self._project = project_pb2.Project()
        self._tasks: list[task_pb2.Task] = []
        self._ids: dict[str, str] = {}

    async def tell(self) -> bool:
        """Runs all steps; returns whether every step succeeded."""
        started = time.monotonic()
        async with TaskFlow(self._server) as ada, TaskFlow(self._server) as ben:
            self._ada, self._ben = ada, ben
            self._inbox = Inbox(ben)
            steps: list[tuple[str, Callable[[], Awaitable[str]]]] = [
                ("Two people and a workspace", self._meet),
                ("Forty tasks from a file", self._import),
                ("Live notifications", self._live),
                ("Suggestions: people decide", self._suggestions),
                ("A payload is processed", self._jobs),
                ("A deadline reminds", self._reminder),
                ("A status change notifies", self._status),
                ("A cut stream resumes without a hole", self._resume),
                ("Mail for what stayed unread", self._mail),
            ]
            failed = False
            for title, step in steps:
                self._console.rule(f"[bold]{title}", align="left")
                try:
                    self._seen.append((title, await step()))
                except Missing as missing:
                    self._console.print(f"[red]Not seen: {missing}[/]")
                    self._seen.append((title, f"[red]not seen: {missing}[/]"))
                    failed = True
                    break
            await self._inbox.cut()
        self._summary(time.monotonic() - started, failed)
        return not failed

    def _summary(self, seconds: float, failed: bool) -> None:
        table = Table(title=f"Seen in {seconds:.0f} s", title_justify="left")
        table.add_column("step")
        table.add_column("what was seen")
        for title, seen in self._seen:
            table.add_row(title, seen)
        self._console.print(table)
        verdict = "[red]The story broke off.[/]" if failed else "[green]All of it was seen.[/]"
        self._console.print(verdict)

    async def _meet(self) -> str:
        for name, client in (("ada", self._ada), ("ben", self._ben)):
            user = await client.register(
                self._addresses[name], self._password, name.title(), "Europe/Berlin"
            )
            await client.login(self._addresses[name], self._password)
            self._ids[name] = user.id
        created = await self._ada.workspaces.CreateWorkspace(
            workspace_service_pb2.CreateWorkspaceRequest(display_name="Harbour Street Café")
        )
        self._workspace = created.workspace
        await self._ada.workspaces.AddMember(
            workspace_service_pb2.AddMemberRequest(
                workspace_id=self._workspace.id,
                email=self._addresses["ben"],
                role=workspace_pb2.ROLE_MEMBER,
            )
        )
        project = await self._ada.projects.CreateProject(
            project_service_pb2.CreateProjectRequest(
                workspace_id=self._workspace.id,
                project=project_pb2.Project(key="SHOP", display_name="The shop"),
            )
        )
        self._project = project.project
        self._inbox.open()
        async with asyncio.timeout(_PATIENCE):
            await self._inbox.opened.wait()
        self._console.print(
            "Ada (owner) and Ben (member) registered through the gateway; Ben's stream is open."
        )
        return "registered, signed in, one workspace, one project"

    async def _import(self) -> str:
        text = SAMPLE.read_text()
        for name, address in self._addresses.items():
            text = text.replace(f"{name}@example.com", address)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "tasks.csv")
            await asyncio.to_thread(file.write_text, text)
            environment = {"TASKFLOW_CONFIG_DIR": folder, "TASKFLOW_SERVER": self._server}
            await self._cli(environment, "login", self._addresses["ada"], "--password-stdin")
            started = time.monotonic()
            await self._cli(environment, "import", str(file), "--workspace", self._workspace.id)
            elapsed = time.monotonic() - started
        listed = await self._ada.tasks.ListTasks(
            task_service_pb2.ListTasksRequest(workspace_id=self._workspace.id, page_size=1000)
        )
        self._tasks = list(listed.tasks)
        expected = len(text.splitlines()) - 1
        if len(self._tasks) != expected:
            raise Missing(f"{expected} tasks; there are {len(self._tasks)}")
        self._console.print(
            f"[dim]$[/] taskflow import {SAMPLE.name}  →  {expected} tasks in {elapsed:.1f} s, "
            f"{self._tasks[0].key} to {self._tasks[-1].key}"
        )
        return f"{expected} tasks by the CLI's import"

    async def _cli(self, environment: dict[str, str], *arguments: str) -> None:
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("taskflow")),
            *arguments,
            env=os.environ | environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await process.communicate(self._password.encode())
        if process.returncode != 0:
            raise Missing(f"taskflow {arguments[0]} to succeed; it said: {out.decode().strip()}")

    async def _live(self) -> str:
        mine = {task.id for task in self._tasks if task.assignee_id == self._ids["ben"]}
        await self._inbox.until(
            f"{len(mine)} assignments on Ben's stream",
            lambda came: mine <= {notification.task_id for notification in came},
        )
        latencies = []
        table = Table(box=None, pad_edge=False)
        for column in ("", "notification", "task", "latency"):
            table.add_column(column, justify="right" if column == "latency" else "left")
        for arrived, sequence, notification in self._inbox.received:
            milliseconds = arrived * 1e3 - _created_at(notification.task_id)
            latencies.append(milliseconds)
            table.add_row(
                f"[dim]#{sequence}[/]",
                escape(notification.headline),
                escape(notification.task_title),
                f"{milliseconds:.0f} ms",
            )
        self._console.print(table)
        return f"{len(mine)} assignments, median {median(latencies):.0f} ms after the create began"

    async def _suggestions(self) -> str:
        pending = await self._wait_for_suggestions()
        table = Table(box=None, pad_edge=False)
        for column in ("suggests", "for", "because"):
            table.add_column(column)
        titles = {task.id: task.title for task in self._tasks}
        shown: dict[int, int] = {}
        for suggestion in pending:
            shown[suggestion.priority] = shown.get(suggestion.priority, 0) + 1
            if shown[suggestion.priority] <= 4:
                table.add_row(
                    _priority(suggestion.priority),
                    escape(titles[suggestion.task_id]),
                    escape(suggestion.reason),
                )
        self._console.print(table)
        high = _first(pending, task_pb2.TASK_PRIORITY_HIGH)
        low = _first(pending, task_pb2.TASK_PRIORITY_LOW)
        accepted = await self._ada.suggestions.AcceptSuggestion(
            suggestion_service_pb2.AcceptSuggestionRequest(id=high.id)
        )
        await self._ada.suggestions.RejectSuggestion(
            suggestion_service_pb2.RejectSuggestionRequest(id=low.id, reason="We want it anyway")
        )
        untouched = await self._ada.tasks.GetTask(task_service_pb2.GetTaskRequest(id=low.task_id))
        if accepted.task.priority != task_pb2.TASK_PRIORITY_HIGH:
            raise Missing("the accepted priority on the task")
        if untouched.task.priority != task_pb2.TASK_PRIORITY_UNSPECIFIED:
            raise Missing("a task that a rejected suggestion left alone")
        self._console.print(
            f"Ada accepts {_priority(high.priority)} for {accepted.task.key} "
            f"and rejects {_priority(low.priority)} for {untouched.task.key}, which stays as it is."
        )
        return f"{len(pending)} suggestions with reasons, one accepted, one rejected"

    async def _wait_for_suggestions(self) -> list[suggestion_pb2.Suggestion]:
        request = suggestion_service_pb2.ListSuggestionsRequest(
            workspace_id=self._workspace.id,
            states=[suggestion_pb2.SUGGESTION_STATE_PENDING],
            page_size=1000,
        )
        deadline = time.monotonic() + _PATIENCE
        with self._console.status("Workers read the tasks …") as status:
            while time.monotonic() < deadline:
                listed = await self._ada.suggestions.ListSuggestions(request)
                priorities = [
                    suggestion
                    for suggestion in listed.suggestions
                    if suggestion.kind == suggestion_pb2.SUGGESTION_KIND_PRIORITY
                ]
                status.update(f"Workers read the tasks … {len(priorities)}/{len(self._tasks)}")
                if len(priorities) == len(self._tasks):
                    return priorities
                await asyncio.sleep(0.3)
        raise Missing(f"{len(self._tasks)} priority suggestions; there are {len(priorities)}")

    async def _jobs(self) -> str:
        good = await self._create("Greet the morning shift", payload={"message": "Good morning"})
        bad = await self._create("Greet nobody", payload={"text": "no message in it"})
        done = await self._job(good.id, job_pb2.JOB_STATE_DONE)
        failed = await self._job(bad.id, job_pb2.JOB_STATE_FAILED)
        took = (done.finish_time.ToMilliseconds() - done.create_time.ToMilliseconds()) / 1e3
        self._console.print(
            f"{good.key}: PENDING → PROCESSING → DONE in {took:.1f} s. "
            f"{bad.key}: FAILED, a dead letter: [italic]{escape(failed.error)}[/]"
        )
        return "one job done, one in the dead letters with its reason"

    async def _job(self, task_id: str, state: job_pb2.JobState.ValueType) -> job_pb2.Job:
        request = job_service_pb2.ListJobsRequest(
            workspace_id=self._workspace.id, task_id=task_id, states=[state]
        )
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            listed = await self._ada.jobs.ListJobs(request)
            if listed.jobs:
                return listed.jobs[0]
            await asyncio.sleep(0.1)
        raise Missing(f"a job in state {job_pb2.JobState.Name(state)}")

    async def _reminder(self) -> str:
        due = time.time() + 6
        task = await self._create("Take the bread out of the oven", due=due, assignee="ben")
        self._console.print(f"{task.key} is due in 6 s …")
        kind = _KIND.NOTIFICATION_KIND_OVERDUE
        await self._inbox.until(
            "a reminder at the deadline",
            lambda came: any(n.task_id == task.id and n.kind == kind for n in came),
        )
        arrived, _, notification = next(
            entry
            for entry in reversed(self._inbox.received)
            if entry[2].task_id == task.id and entry[2].kind == kind
        )
        seen = f"“{escape(notification.headline)}”, {arrived - due:+.1f} s from the deadline"
        self._console.print(f"[bold]{seen}[/]")
        return seen

    async def _status(self) -> str:
        task = next(task for task in self._tasks if task.assignee_id == self._ids["ben"])
        await self._ada.tasks.ChangeTaskStatus(
            task_service_pb2.ChangeTaskStatusRequest(
                id=task.id, status=task_pb2.TASK_STATUS_IN_PROGRESS
            )
        )
        kind = _KIND.NOTIFICATION_KIND_STATUS_CHANGED
        await self._inbox.until(
            "a notification of the status change",
            lambda came: any(n.task_id == task.id and n.kind == kind for n in came),
        )
        headline = self._inbox.received[-1][2].headline
        self._console.print(
            f"Ada starts {task.key}; Ben's stream says: [bold]{escape(headline)}[/]"
        )
        return f"“{escape(headline)}”"

    async def _resume(self) -> str:
        await self._inbox.cut()
        last = self._inbox.received[-1][1]
        self._console.print(f"Ben's stream is cut after change #{last}. Ada goes on:")
        missed = [
            await self._create(f"While Ben was away, {number}", assignee="ben")
            for number in range(1, 6)
        ]
        self._inbox.open()
        ids = {task.id for task in missed}
        await self._inbox.until(
            "what happened while the stream was cut",
            lambda came: ids <= {notification.task_id for notification in came},
        )
        sequences = [sequence for _, sequence, _ in self._inbox.received]
        if sequences != list(range(sequences[0], sequences[0] + len(sequences))):
            raise Missing(f"a sequence without a hole; it was {sequences}")
        self._console.print(
            f"Five tasks later it resumes from its cursor: #{last + 1} to #{sequences[-1]} arrive, "
            f"and #{sequences[0]} to #{sequences[-1]} came without a hole or a repetition."
        )
        listed = await self._ben.notifications.ListNotifications(
            notification_service_pb2.ListNotificationsRequest(page_size=1000)
        )
        if {n.id for n in listed.notifications} != {n.id for _, _, n in self._inbox.received}:
            raise Missing("the same notifications in the list as on the stream")
        return (
            f"{len(missed)} missed changes arrived; #{sequences[0]}–#{sequences[-1]} without a hole"
        )

    async def _mail(self) -> str:
        folder = self._settings.data_dir / "mail"
        deadline = time.monotonic() + _PATIENCE
        with self._console.status("Mail is sent in batches …"):
            while time.monotonic() < deadline:
                for file in sorted(folder.glob("*.eml")):
                    message = email.message_from_bytes(
                        file.read_bytes(), policy=email.policy.default
                    )
                    if self._addresses["ben"] in str(message["To"]):
                        return self._show_mail(message)
                await asyncio.sleep(0.3)
        raise Missing("a mail to Ben in the catcher's folder")

    def _show_mail(self, message: EmailMessage) -> str:
        text = message.get_body(("plain",))
        if text is None or message.get_body(("html",)) is None:
            raise Missing("a mail with both text and HTML")
        head = f"To: {message['To']}\nSubject: {message['Subject']}\n\n"
        body = text.get_content().strip().splitlines()
        shown = body[:14] + (["…"] if len(body) > 14 else [])
        self._console.print(Panel(escape(head + "\n".join(shown)), title="mail", expand=False))
        return f"“{escape(str(message['Subject']))}”, as text and HTML"

    async def _create(
        self,
        title: str,
        *,
        payload: dict[str, object] | None = None,
        due: float | None = None,
        assignee: str | None = None,
    ) -> task_pb2.Task:
        task = task_pb2.Task(title=title)
        if payload is not None:
            task.payload.CopyFrom(_struct(payload))
        if due is not None:
            task.due.date_time.CopyFrom(_utc(due))
        if assignee is not None:
            task.assignee_id = self._ids[assignee]
        created = await self._ada.tasks.CreateTask(
            task_service_pb2.CreateTaskRequest(project_id=self._project.id, task=task)
        )
        return created.task


def _created_at(task_id: str) -> int:
    """The time in a UUIDv7, in milliseconds since the epoch (RFC 9562). The service makes it when the create begins."""
    return int(task_id.replace("-", "")[:12], 16)


def _priority(priority: task_pb2.TaskPriority.ValueType) -> str:
    return task_pb2.TaskPriority.Name(priority).removeprefix("TASK_PRIORITY_")


def _first(
    suggestions: list[suggestion_pb2.Suggestion], priority: task_pb2.TaskPriority.ValueType
) -> suggestion_pb2.Suggestion:
    for suggestion in suggestions:
        if suggestion.priority == priority:
            return suggestion
    raise Missing(f"a suggestion of {_priority(priority)}")


def _struct(value: dict[str, object]) -> struct_pb2.Struct:
    struct = struct_pb2.Struct()
    struct.update(json.loads(json.dumps(value)))
    return struct


def _utc(instant: float) -> datetime_pb2.DateTime:
    at = time.gmtime(instant)
    return datetime_pb2.DateTime(
        year=at.tm_year,
        month=at.tm_mon,
        day=at.tm_mday,
        hours=at.tm_hour,
        minutes=at.tm_min,
        seconds=at.tm_sec,
        nanos=int(instant % 1 * 1e9),
        time_zone=datetime_pb2.TimeZone(id="UTC"),
    )
