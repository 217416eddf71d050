"""Every process is restarted in turn behind the gateway, under calls without retries and with open streams."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc.aio

from taskflow.auth.v1.user_service_pb2 import GetCurrentUserRequest
from taskflow.auth.v1.workspace_service_pb2 import GetWorkspaceRequest, ListWorkspacesRequest
from taskflow.notification.v1.notification_pb2 import Notification
from taskflow.notification.v1.notification_service_pb2 import (
    GetUnreadCountRequest,
    ListNotificationsRequest,
)
from taskflow.task.v1.job_pb2 import JOB_STATE_DONE, Job
from taskflow.task.v1.job_service_pb2 import ListJobsRequest
from taskflow.task.v1.task_pb2 import Task
from taskflow.task.v1.task_service_pb2 import (
    CreateTaskRequest,
    GetTaskRequest,
    ListTasksRequest,
    UpdateTaskRequest,
)
from taskflow_client import TaskFlow
from taskflow_client.errors import TaskFlowError
from tests.faults.harness.injectors import roll
from tests.faults.harness.load import at_rate
from tests.faults.harness.scenario import Run, Tally
from tests.faults.harness.sdk import logged_in
from tests.faults.harness.world import (
    CHANNEL_OPTIONS,
    SeededPerson,
    Stubs,
    Workspace,
    World,
    a_world,
)
from tests.integration.notification_world import Device

PROMISE = "A rolling deploy fails no unary call, and streams resume"
LIMIT_SECONDS = {"short": 150.0, "long": 1800.0}

_RATE = {"short": 150.0, "long": 300.0}
# Time limit of a call (seconds), far above its usual time, because a slow call doesn't count as failed.
_DEADLINE = 30.0
_PEOPLE = 10
_SERVICES = ("auth", "task", "notification")
_REPLICATED = (*_SERVICES, "relay", "worker")
_SETTLE_SECONDS = 60.0

# A task id and a revision of that task.
Version = tuple[str, int]


@dataclass
class SdkBoard:
    """The tasks of a workspace as one client's stream shows them."""

    workspace: Workspace
    seen: dict[Version, float] = field(default_factory=dict)
    tasks: dict[str, int] = field(default_factory=dict)
    complete: asyncio.Event = field(default_factory=asyncio.Event)
    resets: int = 0

    async def follow(self, client: TaskFlow, ends: Counter[str]) -> None:
        messages = client.watch_tasks(
            self.workspace.id, snapshot=True, on_reconnect=lambda error: _note(ends, error)
        )
        async with aclosing(messages):
            async for message in messages:
                match message.WhichOneof("kind"):
                    case "snapshot":
                        self._keep(message.snapshot)
                    case "change":
                        self._keep(message.change.task)
                    case "reset":
                        self.resets += 1
                        self.tasks.clear()
                    case "snapshot_complete":
                        self.complete.set()

    def _keep(self, task: Task) -> None:
        self.seen.setdefault((task.id, task.revision), time.monotonic())
        self.tasks[task.id] = max(task.revision, self.tasks.get(task.id, 0))


@dataclass
class SdkInbox:
    """The notifications of one person as their client's stream shows them."""

    person: SeededPerson
    client: TaskFlow
    device: Device = field(default_factory=lambda: Device(cursor=""))
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    async def follow(self, ends: Counter[str]) -> None:
        messages = self.client.watch_notifications(on_reconnect=lambda error: _note(ends, error))
        async with aclosing(messages):
            async for message in messages:
                self.device.apply(message)
                self.opened.set()

    async def agrees(self) -> bool:
        """Whether the stream has shown the same notifications as the list."""
        listed: list[Notification] = []
        request = ListNotificationsRequest(page_size=1000)
        while True:
            answer = await self.client.notifications.ListNotifications(request)
            listed.extend(answer.notifications)
            request.page_token = answer.next_page_token
            if not request.page_token:
                return listed == self.device.shown()


@dataclass
class MixedCalls:
    """Unary calls to all three services, with the acknowledged changes: by workspace, version and seconds."""

    run: Run
    world: World
    stubs: Stubs
    tasks: dict[str, list[str]] = field(default_factory=dict)
    acknowledged: dict[str, dict[Version, float]] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    async def one(self, number: int) -> None:
        began = time.monotonic()
        try:
            await self._call(number)
        except grpc.aio.AioRpcError as error:
            self.failures[f"{error.code().name}: {error.details()}"] += 1
        self.seconds.append(time.monotonic() - began)

    async def _call(self, number: int) -> None:
        workspace = self.run.random.choice(self.world.workspaces)
        person = self.run.random.choice(workspace.people)
        known = self.tasks.setdefault(workspace.id, [])
        task_id = self.run.random.choice(known) if known else ""
        stubs = self.stubs
        how: dict[str, Any] = {"metadata": person.credentials, "timeout": _DEADLINE}
        match number % 20:
            case 0:
                await self.create(workspace, person, number)
            case 1 | 2 | 3 if task_id:
                # Updates don't change the text, because each text change would make the workers suggest something.
                task = Task(id=task_id, labels=[f"crane {number}"])
                answer = await stubs.tasks.UpdateTask(UpdateTaskRequest(task=task), **how)
                self._done(workspace, answer.task)
            case 4 | 5 | 6 | 7 if task_id:
                await stubs.tasks.GetTask(GetTaskRequest(id=task_id), **how)
            case 8:
                request = ListTasksRequest(workspace_id=workspace.id, page_size=10)
                await stubs.tasks.ListTasks(request, **how)
            case 9 | 10 | 11:
                await stubs.notifications.GetUnreadCount(GetUnreadCountRequest(), **how)
            case 12 | 13 | 14:
                await stubs.notifications.ListNotifications(
                    ListNotificationsRequest(page_size=10), **how
                )
            case 15 | 16:
                await stubs.workspaces.GetWorkspace(GetWorkspaceRequest(id=workspace.id), **how)
            case 17:
                await stubs.workspaces.ListWorkspaces(ListWorkspacesRequest(), **how)
            case _:
                await stubs.users.GetCurrentUser(GetCurrentUserRequest(), **how)

    async def create(self, workspace: Workspace, person: SeededPerson, number: int) -> None:
        assignee = self.run.random.choice(workspace.people)
        task = Task(title=f"Winch {number}", assignee_id=assignee.id)
        if number % 100 == 0:
            # A job for the workers, which are restarted too.
            task.payload.update({"message": "hoist"})
        answer = await self.stubs.tasks.CreateTask(
            CreateTaskRequest(project_id=workspace.projects[0], task=task),
            metadata=person.credentials,
            timeout=_DEADLINE,
        )
        self._done(workspace, answer.task)
        self.tasks.setdefault(workspace.id, []).append(answer.task.id)

    def _done(self, workspace: Workspace, task: Task) -> None:
        versions = self.acknowledged.setdefault(workspace.id, {})
        versions[task.id, task.revision] = time.monotonic()


async def run(run: Run, tally: Tally) -> None:
    # Half of the streams watch tasks and half watch notifications: one of each per person.
    streams = run.choose(100, 500)
    workspaces = streams // 2 // _PEOPLE
    ends: Counter[str] = Counter()
    async with a_world(run, people=_PEOPLE, workspaces=workspaces) as world:
        options = [*CHANNEL_OPTIONS, ("grpc.enable_retries", 0)]
        async with (
            grpc.aio.insecure_channel(run.gateway, options=options) as channel,
            _watching(run, world, ends) as (boards, inboxes),
        ):
            calls = MixedCalls(run, world, Stubs(channel))
            async with at_rate(_RATE[run.profile], calls.one) as load:
                await asyncio.sleep(1)
                for name in _rolls(run):
                    await roll(run, name, tally)
                    await asyncio.sleep(0.5)
            tally.operations = load.begun
            for failure, count in calls.failures.most_common(5):
                tally.broken.append(f"{count} × {failure}")
            run.say("waiting until all changes are shown")
            await _compare(calls, boards, inboxes, tally)
            await _finished(world, tally)
    tally.figures["calls (ms)"] = _percentiles(calls.seconds)
    tally.figures["streams resumed"] = ", ".join(f"{n:,} × {why}" for why, n in ends.items())
    strange = sum(ends.values()) - ends["DRAINING"]
    tally.expect(not strange, f"{strange} streams weren't ended with DRAINING")
    tally.expect(ends["DRAINING"] > 0, "no stream was ended")


def _rolls(run: Run) -> list[str]:
    """The order in which programs are restarted, one at a time."""
    if run.profile == "short":
        return [run.random.choice((name, f"{name}-2")) for name in _SERVICES]
    return 2 * [name for service in _REPLICATED for name in (service, f"{service}-2")]


@asynccontextmanager
async def _watching(
    run: Run, world: World, ends: Counter[str]
) -> AsyncIterator[tuple[list[SdkBoard], list[SdkInbox]]]:
    boards, inboxes, tasks = [], [], []
    clients = []
    for workspace in world.workspaces:
        for person in workspace.people:
            client = logged_in(run, person)
            clients.append(client)
            boards.append(SdkBoard(workspace))
            inboxes.append(SdkInbox(person, client))
            tasks.append(asyncio.create_task(boards[-1].follow(client, ends)))
            tasks.append(asyncio.create_task(inboxes[-1].follow(ends)))
    try:
        async with asyncio.timeout(60):
            await asyncio.gather(
                *(board.complete.wait() for board in boards),
                *(inbox.opened.wait() for inbox in inboxes),
            )
        yield boards, inboxes
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(client.close() for client in clients))


async def _compare(
    calls: MixedCalls, boards: list[SdkBoard], inboxes: list[SdkInbox], tally: Tally
) -> None:
    """Check that acknowledged changes are on every board, and that streams agree with lists."""
    give_up = time.monotonic() + _SETTLE_SECONDS
    while True:
        missing = sum(
            version not in board.seen
            for board in boards
            for version in calls.acknowledged.get(board.workspace.id, ())
        )
        unequal = 0 if missing else sum([not await inbox.agrees() for inbox in inboxes])
        if not (missing or unequal) or time.monotonic() > give_up:
            break
        await asyncio.sleep(0.5)
    tally.lost += missing
    tally.expect(not unequal, f"{unequal} notification streams don't agree with the list")
    resets = sum(board.resets for board in boards)
    tally.expect(not resets, f"{resets} streams had to start over")
    delays = [
        board.seen[version] - acknowledged
        for board in boards
        for version, acknowledged in calls.acknowledged.get(board.workspace.id, {}).items()
        if version in board.seen
    ]
    tally.recovered_after(max(delays, default=0.0))
    tally.figures["time until a change is shown (ms)"] = _percentiles(delays)


async def _finished(world: World, tally: Tally) -> None:
    """Check that no job is unfinished or failed. Waits as long as their number decreases."""
    fewest = None
    give_up = time.monotonic() + _SETTLE_SECONDS
    while time.monotonic() < give_up:
        jobs = [job for workspace in world.workspaces for job in await _jobs(world, workspace)]
        left = sum(job.state != JOB_STATE_DONE for job in jobs)
        if not left:
            tally.doubled += sum(job.attempt > 1 for job in jobs)
            tally.figures["jobs done"] = f"{len(jobs):,}"
            return
        if fewest is None or left < fewest:
            fewest, give_up = left, time.monotonic() + _SETTLE_SECONDS
        await asyncio.sleep(0.5)
    tally.lost += fewest or 0


async def _jobs(world: World, workspace: Workspace) -> Sequence[Job]:
    request = ListJobsRequest(workspace_id=workspace.id, page_size=1000)
    answer = await world.stubs.jobs.ListJobs(request, metadata=workspace.owner.credentials)
    found: Sequence[Job] = answer.jobs
    return found


def _note(ends: Counter[str], error: TaskFlowError) -> None:
    ends[error.reason or f"{error.code.name}: {error.message}"] += 1


def _percentiles(seconds: list[float]) -> str:
    found = sorted(1e3 * one for one in seconds) or [0.0]
    p99 = found[int(0.99 * (len(found) - 1))]
    return f"median {found[len(found) // 2]:.0f}, p99 {p99:.0f}, longest {found[-1]:.0f}"
