"""Promises of backups: made while users write, restored into an empty folder, and everything continues from there."""

import asyncio
import json
import shutil
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from google.protobuf.struct_pb2 import Struct
from google.type.datetime_pb2 import DateTime, TimeZone
from rich.console import Console

from deploy.backup.make import make
from deploy.backup.restore import restore
from deploy.demo.story import Story
from deploy.local.program import StackError
from deploy.local.programs import child_environment
from deploy.local.stack import Stack, assembled, running_stack
from services.platform.config import Settings
from services.platform.data.db import Database
from taskflow.auth.v1 import workspace_pb2, workspace_service_pb2
from taskflow.notification.v1 import notification_service_pb2
from taskflow.notification.v1.notification_pb2 import Notification
from taskflow.task.v1 import (
    job_pb2,
    job_service_pb2,
    project_pb2,
    project_service_pb2,
    task_pb2,
    task_service_pb2,
    task_service_pb2_grpc,
)
from taskflow_client import TaskFlow
from tests.conftest import settings_for
from tests.integration.people import bearer, events

PASSWORD = "correct horse battery"
# Long enough that the deadline is still ahead after the restore, unless the machine is busy; then it is overdue.
_DUE_IN = 18.0
_PATIENCE = 60.0


@dataclass
class Before:
    """What the clients of the first stack know: all of it, and the part acknowledged before the backup began."""

    owner: str
    colleague: str
    token: str = ""
    workspace_id: str = ""
    project_id: str = ""
    colleague_id: str = ""
    created: set[str] = field(default_factory=set)
    acknowledged: frozenset[str] = frozenset()
    with_job: str = ""
    with_reminder: str = ""
    board_cursor: str = ""
    inbox_cursor: str = ""
    seen: set[str] = field(default_factory=set)


@dataclass
class After:
    before: Before
    stack: Stack
    owner: TaskFlow
    colleague: TaskFlow

    async def tasks(self) -> dict[str, task_pb2.Task]:
        found: dict[str, task_pb2.Task] = {}
        request = task_service_pb2.ListTasksRequest(
            workspace_id=self.before.workspace_id, page_size=1000
        )
        while True:
            page = await self.owner.tasks.ListTasks(request)
            found |= {task.id: task for task in page.tasks}
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def notifications(self) -> list[Notification]:
        """The colleague's notifications, oldest first."""
        listed = await self.colleague.notifications.ListNotifications(
            notification_service_pb2.ListNotificationsRequest(page_size=1000)
        )
        return list(reversed(listed.notifications))


async def backup(settings: Settings, *arguments: str, code: int = 0) -> str:
    """Run the command with the settings of `make up`; returns its output."""
    filled_in = {"TASKFLOW_DATABASE_URL", "TASKFLOW_NATS_URL", "TASKFLOW_TEMPORAL_ADDRESS"}
    given = child_environment(settings).items()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "deploy.backup", *arguments),
        env={name: value for name, value in given if name not in filled_in},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT if code else asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == code, (err or out).decode()
    return out.decode()


@pytest.fixture(scope="module")
async def made(whole: Stack, tmp_path_factory: pytest.TempPathFactory) -> tuple[Before, Path]:
    """A backup made while two users work and the workers are down."""
    folder = tmp_path_factory.mktemp("backups") / "one"
    gateway = f"127.0.0.1:{whole.settings.gateway_port}"
    workers = [process.program.name for process in whole.processes]
    workers = [name for name in workers if name.startswith("worker")]
    async with TaskFlow(gateway) as owner, TaskFlow(gateway) as colleague:
        before = Before(await _person(owner), await _person(colleague))
        assert owner.session is not None
        before.token = owner.session.access_token
        await _team(owner, before)
        streams = [
            asyncio.create_task(_board(owner, before)),
            asyncio.create_task(_inbox(colleague, before)),
        ]
        creating = [asyncio.create_task(_create(owner, before)) for _ in range(2)]
        await _until(lambda: len(before.created) >= 20)
        await asyncio.gather(*(whole.hold(name) for name in workers))
        try:
            payload = Struct()
            payload.update({"message": "after the restore"})
            before.with_job = await _one(owner, before, payload=payload)
            before.with_reminder = await _one(
                owner, before, due=_due(time.time() + _DUE_IN), assignee_id=before.colleague_id
            )
            before.acknowledged = frozenset(before.created)
            facts = json.loads(
                await backup(whole.settings, "make", "--to", str(folder), "--output", "json")
            )
            assert facts["folder"] == str(folder)
        finally:
            for name in workers:
                whole.release(name)
        during = len(before.created)
        assert during > len(before.acknowledged), "nobody could write while the backup was made"
        await _until(lambda: len(before.created) >= during + 20)
        for task in creating:
            task.cancel()
        await asyncio.gather(*creating, return_exceptions=True)
        await _until(lambda: before.created <= before.seen)
        for stream in streams:
            assert not stream.done(), stream.exception()
            stream.cancel()
    return before, folder


@pytest.fixture(scope="module")
async def after(
    made: tuple[Before, Path], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[After]:
    """The stack restored from the backup; the first one still runs."""
    before, folder = made
    settings = settings_for(tmp_path_factory.mktemp("restored") / "data")
    await backup(settings, "restore", str(folder))
    gateway = f"127.0.0.1:{settings.gateway_port}"
    async with (
        running_stack(settings) as stack,
        TaskFlow(gateway) as owner,
        TaskFlow(gateway) as colleague,
    ):
        await owner.login(before.owner, PASSWORD)
        await colleague.login(before.colleague, PASSWORD)
        yield After(before, stack, owner, colleague)


async def _person(client: TaskFlow) -> str:
    address = f"{uuid.uuid4().hex}@example.com"
    await client.register(address, PASSWORD, "Someone")
    await client.login(address, PASSWORD)
    return address


async def _team(owner: TaskFlow, before: Before) -> None:
    workspace = await owner.workspaces.CreateWorkspace(
        workspace_service_pb2.CreateWorkspaceRequest(display_name="Lighthouse")
    )
    before.workspace_id = workspace.workspace.id
    member = await owner.workspaces.AddMember(
        workspace_service_pb2.AddMemberRequest(
            workspace_id=before.workspace_id,
            email=before.colleague,
            role=workspace_pb2.ROLE_MEMBER,
        )
    )
    before.colleague_id = member.member.user_id
    project = await owner.projects.CreateProject(
        project_service_pb2.CreateProjectRequest(
            workspace_id=before.workspace_id,
            project=project_pb2.Project(key="LAMP", display_name="The lamp"),
        )
    )
    before.project_id = project.project.id


async def _one(owner: TaskFlow, before: Before, **fields: Any) -> str:
    request = task_service_pb2.CreateTaskRequest(
        project_id=before.project_id, task=task_pb2.Task(title="Trim the wick", **fields)
    )
    created = (await owner.tasks.CreateTask(request)).task.id
    before.created.add(created)
    return str(created)


async def _create(owner: TaskFlow, before: Before) -> None:
    while True:
        await _one(owner, before, assignee_id=before.colleague_id)
        await asyncio.sleep(0.03)


async def _board(client: TaskFlow, before: Before) -> None:
    async for message in client.watch_tasks(before.workspace_id, snapshot=True):
        before.board_cursor = message.cursor
        before.seen |= {message.change.task.id, message.snapshot.id}


async def _inbox(client: TaskFlow, before: Before) -> None:
    async for message in client.watch_notifications():
        before.inbox_cursor = message.cursor


def _due(instant: float) -> task_pb2.Due:
    at = time.gmtime(instant)
    fields = dict(zip(("year", "month", "day", "hours", "minutes", "seconds"), at[:6], strict=True))
    return task_pb2.Due(date_time=DateTime(**fields, time_zone=TimeZone(id="UTC")))


async def _until(reached: Any) -> None:
    async with asyncio.timeout(_PATIENCE):
        while not reached():
            await asyncio.sleep(0.05)


async def _eventually(reached: Any) -> None:
    async with asyncio.timeout(_PATIENCE):
        while not await reached():
            await asyncio.sleep(0.1)


async def test_writes_acknowledged_before_the_backup_are_restored(after: After) -> None:
    found = (await after.tasks()).keys()
    assert after.before.acknowledged <= found <= after.before.created


async def test_sessions_survive_backup_and_restore(after: After) -> None:
    request = task_service_pb2.GetTaskRequest(id=after.before.with_job)
    async with grpc.aio.insecure_channel(
        f"127.0.0.1:{after.stack.settings.gateway_port}"
    ) as channel:
        stub = task_service_pb2_grpc.TaskServiceStub(channel)
        answer = await stub.GetTask(request, metadata=bearer(after.before.token))
    assert answer.task.id == after.before.with_job


async def test_old_cursors_get_a_reset_and_then_nothing_is_missing(
    after: After,
) -> None:
    board = after.owner.watch_tasks(after.before.workspace_id, cursor=after.before.board_cursor)
    inbox = after.colleague.watch_notifications(after.before.inbox_cursor)
    async with asyncio.timeout(_PATIENCE):
        for stream in (board, inbox):
            message: Any = await anext(stream)
            while message.WhichOneof("kind") == "heartbeat":
                message = await anext(stream)
            assert message.WhichOneof("kind") == "reset"
        known = len(await after.notifications())
        made = await _one(after.owner, after.before, assignee_id=after.before.colleague_id)
        shown: Any = await anext(board)
        while shown.change.task.id != made:
            shown = await anext(board)
        told: Any = await anext(inbox)
        while told.change.created.task_id != made:
            told = await anext(inbox)
    assert told.change.sequence > known
    for stream in (board, inbox):
        await stream.aclose()


async def test_sequences_continue_without_a_gap_and_nobody_is_notified_twice(after: After) -> None:
    async def all_told() -> bool:
        assigned = [
            task.id
            for task in (await after.tasks()).values()
            if task.assignee_id == after.before.colleague_id
        ]
        told = await after.notifications()
        kinds = [one.task_id for one in told if one.kind == 1]
        assert len(set(kinds)) == len(kinds)
        return sorted(kinds) == sorted(assigned)

    await _eventually(all_told)
    told = await after.notifications()
    assert [one.sequence for one in told] == list(range(1, len(told) + 1))


async def test_the_pending_job_and_reminder_happen_once_and_mail_is_sent(after: After) -> None:
    request = job_service_pb2.ListJobsRequest(
        workspace_id=after.before.workspace_id, task_id=after.before.with_job
    )

    async def job_done() -> bool:
        [job] = (await after.owner.jobs.ListJobs(request)).jobs
        return bool(job.state == job_pb2.JOB_STATE_DONE)

    async def reminded() -> bool:
        return any(
            one.task_id == after.before.with_reminder and one.kind == 4
            for one in await after.notifications()
        )

    async def mailed() -> bool:
        mails = (after.stack.settings.data_dir / "mail").glob("*.eml")
        return any(after.before.colleague in mail.read_text() for mail in mails)

    for happened in (job_done, reminded, mailed):
        await _eventually(happened)


async def test_the_demo_shows_its_whole_story_on_the_restored_stack(after: After) -> None:
    assert await Story(after.stack.settings, Console()).tell()


async def test_nothing_was_done_twice_after_the_restore(after: After) -> None:
    db = Database(after.stack.settings, application="test")
    await db.open()
    try:
        changes = await events(db, "taskflow.%.job.updated")
        reminders = await events(db, "taskflow.%.reminder_due", after.before.with_reminder)
    finally:
        await db.close()
    ended = [
        event.job_changed.job.attempt
        for event in changes
        if event.job_changed.job.task_id == after.before.with_job
        and event.job_changed.job.state == job_pb2.JOB_STATE_DONE
    ]
    assert ended == [1]
    # The one-hour reminder was already overdue at creation. It is sent only if the deadline is still ahead.
    assert [each.task_reminder_due.offset_seconds for each in reminders] in ([0], [3600, 0])


async def refused(work: Awaitable[object]) -> str:
    with pytest.raises(StackError) as caught:
        await work
    return str(caught.value)


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_a_restore_overwrites_no_existing_data(
    after: After, made: tuple[Before, Path], tmp_path: Path
) -> None:
    _, folder = made
    running = after.stack.settings
    said = await backup(running, "restore", str(folder), code=1)
    assert f"TaskFlow is running on {running.data_dir}" in said
    full = settings_for(tmp_path)
    (tmp_path / "kept").write_text("mine")
    assert "isn't empty" in await refused(restore(full, folder, print))
    assert names(tmp_path) == ["kept"]
    elsewhere = settings_for(tmp_path / "none", database_url=running.postgres)
    assert "docs/operations.md" in await refused(restore(elsewhere, folder, print))


async def test_a_damaged_or_invalid_backup_is_refused_and_leaves_no_files(
    made: tuple[Before, Path], tmp_path: Path
) -> None:
    _, folder = made
    empty = settings_for(tmp_path / "empty")
    assert "isn't a backup" in await refused(restore(empty, tmp_path, print))
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    with (copy / "database.dump").open("r+b") as dump:
        dump.seek(1000)
        dump.write(b"????")
    assert "damaged" in await refused(restore(empty, copy, print))
    (copy / "database.dump").unlink()
    assert "damaged" in await refused(restore(empty, copy, print))
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"files": {}, "schema": "9999"}))
    assert "newer TaskFlow" in await refused(restore(empty, copy, print))
    (copy / "manifest.json").write_text(json.dumps(manifest | {"files": {}}))
    (copy / "database.dump").write_text("no dump at all")
    assert "pg_restore failed" in await refused(restore(empty, copy, print))
    assert names(empty.data_dir) == []


async def test_a_failed_backup_leaves_no_files(
    whole: Stack, made: tuple[Before, Path], tmp_path: Path
) -> None:
    _, folder = made
    before = {path: path.stat().st_mtime for path in folder.rglob("*")}
    assert "exists already" in await refused(make(whole.settings, folder, print))
    assert before == {path: path.stat().st_mtime for path in folder.rglob("*")}
    nobody = settings_for(tmp_path / "data")
    assert "doesn't answer" in await refused(make(nobody, tmp_path / "backup", print))
    assert names(tmp_path) == []


async def test_a_stack_does_not_start_on_a_folder_that_is_being_restored(tmp_path: Path) -> None:
    (tmp_path / "restoring").mkdir()
    settings = settings_for(tmp_path)
    with pytest.raises(StackError, match="is being restored"), assembled(settings):
        pass


async def test_a_backup_is_readable_by_its_owner_only(made: tuple[Before, Path]) -> None:
    _, folder = made
    for path in (folder, *folder.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0
    names = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    assert {"database.dump", "manifest.json", "postgres.password", "keys"} <= names
    assert PASSWORD.encode() not in (folder / "database.dump").read_bytes()
