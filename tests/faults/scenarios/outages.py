"""NATS, Temporal, the model and SMTP are down or hang, in every combination, while users work and log in."""

import asyncio
import signal
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import grpc.aio
from google.protobuf.field_mask_pb2 import FieldMask
from uuid_utils.compat import uuid7

from deploy.local.ports import free_ports
from deploy.local.probes import http_get
from deploy.local.process import Process, family
from deploy.local.program import BACKGROUND, Program
from deploy.local.programs import child_environment
from taskflow.auth.v1.auth_service_pb2 import LoginRequest, RegisterRequest
from taskflow.task.v1.task_pb2 import TASK_STATUS_IN_PROGRESS, Task
from taskflow.task.v1.task_service_pb2 import (
    ChangeTaskStatusRequest,
    CreateTaskRequest,
    DeleteTaskRequest,
    GetTaskRequest,
    ListTasksRequest,
    UpdateTaskRequest,
)
from tests.fakes.model_server import model_server
from tests.faults.harness import events
from tests.faults.harness.injectors import signal_all
from tests.faults.harness.oplog import OperationLog
from tests.faults.harness.proxy import Proxy
from tests.faults.harness.scenario import Run, Tally
from tests.faults.harness.world import World, a_world

PROMISE = "CRUD and login work with NATS, Temporal, the model and SMTP down, in any combination"
LIMIT_SECONDS = {"short": 150.0, "long": 2400.0}

_WORKERS: Final = ("worker", "worker-2")
_PEOPLE_AT_WORK: Final = 4
# Seconds between a person's calls, and between logins.
_PAUSE: Final = 0.05
_LOGIN_PAUSE: Final = 0.4
# Tasks that a person keeps before deleting the oldest: enough time for the model to be called about it.
_KEPT: Final = 60
# A longer call (seconds) counts as failed.
_PATIENCE: Final = 10.0
_PASSWORD: Final = "correct horse battery"
# Promises for calls during an outage.
_PROMISED_OK: Final = 0.999
_PROMISED_RATIO: Final = 2.0

_ALL_UP: Final = "all up"
_COMING_BACK: Final = "coming back"


@dataclass(frozen=True)
class Dependency:
    name: str
    # Each dependency is down or hangs, at random.
    fail: Callable[[], Awaitable[None]]
    mend: Callable[[], Awaitable[None]]


@dataclass
class Measured:
    """Calls, by which dependencies were down."""

    label: str = _COMING_BACK
    # Start and duration of successful calls (seconds), by label and kind of call.
    took: dict[tuple[str, str], list[tuple[float, float]]] = field(default_factory=dict)
    # Failed calls by label, with their codes.
    failed: dict[str, list[str]] = field(default_factory=dict)

    def calls(self, labels: Sequence[str]) -> int:
        good = sum(len(took) for (label, _), took in self.took.items() if label in labels)
        return good + self.failures(labels)

    def failures(self, labels: Sequence[str]) -> int:
        return sum(len(codes) for label, codes in self.failed.items() if label in labels)

    def p99(self, labels: Sequence[str], kind: str, slice_seconds: float) -> float:
        """The median over time slices of the 99th percentile in each (seconds). 0 without calls."""
        slices: dict[int, list[float]] = {}
        for (label, of), found in self.took.items():
            if label in labels and of == kind:
                for at, seconds in found:
                    slices.setdefault(int(at / slice_seconds), []).append(seconds)
        worst = sorted(sorted(took)[int(len(took) * 0.99)] for took in slices.values())
        return worst[len(worst) // 2] if worst else 0.0


async def run(run: Run, tally: Tally) -> None:
    measured = Measured()
    async with AsyncExitStack() as opened:
        world = await opened.enter_async_context(a_world(run, people=2, ai=True))
        model = await opened.enter_async_context(model_server())
        model_proxy = await opened.enter_async_context(Proxy("127.0.0.1", model.port))
        await opened.enter_async_context(_worker(run, model_proxy))
        log = opened.enter_context(OperationLog(run.folder / "operations"))
        dependencies = [
            _program(run, "nats"),
            _program(run, "temporal"),
            _model(run, model_proxy),
            _program(run, "mail"),
        ]
        for dependency in dependencies:
            opened.push_async_callback(dependency.mend)
        async with _people(world, measured, log):
            await _combinations(run, world, dependencies, measured, tally)
        run.say("everything is up; waiting for postponed work")
        drained = await events.settled(world.settings, 60)
        tally.expect(drained is not None, "events are left 60 s after everything was up again")
        tally.recovered_after(drained or 60.0)
        await _check(world, log, tally)
        tally.expect(bool(model.requests), "the model was never called")
        tally.figures["calls to the model"] = f"{len(model.requests)} times"
    _judge(run, measured, tally)


# Dependencies, and how to break them.


def _program(run: Run, name: str) -> Dependency:
    """A program of the stack, killed or paused."""
    paused: list[int] = []

    async def fail() -> None:
        if run.random.random() < 0.5:
            await run.stack.hold(name)
        else:
            paused.extend(family(run.stack.pid(name)))
            signal_all(paused, signal.SIGSTOP)

    async def mend() -> None:
        signal_all(paused, signal.SIGCONT)
        paused.clear()
        if name in run.stack.held():
            run.stack.release(name)
        await run.stack.wait_ready(name, 60)

    return Dependency(name, fail, mend)


def _model(run: Run, proxy: Proxy) -> Dependency:
    async def fail() -> None:
        if run.random.random() < 0.5:
            proxy.refuse()
        else:
            proxy.stop_reading()

    async def mend() -> None:
        proxy.pass_()

    return Dependency("the model", fail, mend)


@asynccontextmanager
async def _worker(run: Run, model: Proxy) -> AsyncIterator[None]:
    """A worker that calls the model, replacing the stack's workers, which use the heuristic."""
    (port,) = free_ports(1)
    host = run.stack.settings.host
    settings = run.stack.settings.model_copy(
        update={
            "ai_base_url": f"http://{model.address}/v1",
            "ai_model": "fake",
            "ai_allow_private": True,
            "worker_http_port": port,
        }
    )

    async def ready() -> bool:
        status, _ = await http_get(host, port, "/healthz")
        return status == 200

    program = Program(
        name="worker-with-model",
        command=(*BACKGROUND, sys.executable, "-m", "workflows"),
        ready=ready,
        stop_seconds=8.0,
    )
    for part in ("logs", "run"):
        (run.folder / part).mkdir()
    process = Process(
        program, child_environment(settings), run.folder, lambda _, text: run.say(text)
    )
    for name in _WORKERS:
        await run.stack.hold(name)
    running = asyncio.create_task(process.run())
    try:
        await asyncio.wait_for(process.ready.wait(), 60)
        yield
    finally:
        process.stop()
        await running
        for name in _WORKERS:
            run.stack.release(name)
        for name in _WORKERS:
            await run.stack.wait_ready(name, 60)


async def _combinations(
    run: Run,
    world: World,
    dependencies: Sequence[Dependency],
    measured: Measured,
    tally: Tally,
) -> None:
    """Every subset of dependencies, each one dependency different from the last, with all up in between."""
    seconds_down, seconds_up = run.choose((0.5, 1.5), (30.0, 30.0))
    in_a_row = run.choose(15, 4)
    down: set[str] = set()
    for number in range(1, 2 ** len(dependencies)):
        if (number - 1) % in_a_row == 0:
            await _become(run, set(), down, dependencies, measured, tally)
            await events.settled(world.settings, run.choose(3.0, 60.0))
            await _measure(run, _ALL_UP, measured, seconds_up)
        # A reflected Gray code: each combination differs from the previous one by a single dependency.
        bits = number ^ number >> 1
        wanted = {one.name for place, one in enumerate(dependencies) if bits >> place & 1}
        await _become(run, wanted, down, dependencies, measured, tally)
        await _measure(run, measured.label, measured, seconds_down)
    await _become(run, set(), down, dependencies, measured, tally)
    await events.settled(world.settings, run.choose(3.0, 60.0))
    await _measure(run, _ALL_UP, measured, seconds_up)


async def _become(
    run: Run,
    wanted: set[str],
    down: set[str],
    dependencies: Sequence[Dependency],
    measured: Measured,
    tally: Tally,
) -> None:
    # Calls during a restart get a label of their own: the program isn't down any more, but slows others on a small
    # machine.
    measured.label = _COMING_BACK
    for dependency in dependencies:
        if dependency.name in down - wanted:
            await dependency.mend()
    measured.label = " + ".join(sorted(wanted)) or _COMING_BACK
    for dependency in dependencies:
        if dependency.name in wanted - down:
            await dependency.fail()
            tally.faults += 1
    down.clear()
    down |= wanted


async def _measure(run: Run, label: str, measured: Measured, seconds: float) -> None:
    run.say(f"{label} is down" if label != _ALL_UP else label)
    measured.label = label
    await asyncio.sleep(seconds)


# People who work during the outages.


@asynccontextmanager
async def _people(world: World, measured: Measured, log: OperationLog) -> AsyncIterator[None]:
    """People create, read, list, change and delete tasks, and log in, while the block runs."""
    email = f"{uuid7().hex}@example.com"
    await world.stubs.auth.Register(
        RegisterRequest(email=email, password=_PASSWORD, display_name="Somebody")
    )
    caller = Caller(world, measured, log)
    working = [asyncio.create_task(_work(caller)) for _ in range(_PEOPLE_AT_WORK)]
    working.append(asyncio.create_task(_log_in(caller, email)))
    try:
        yield
    finally:
        for task in working:
            task.cancel()
        ended = await asyncio.gather(*working, return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception):
                raise error


class Caller:
    """Makes calls without retries and records their results."""

    def __init__(self, world: World, measured: Measured, log: OperationLog) -> None:
        self.world = world
        self._measured = measured
        self._log = log

    async def call(self, kind: str, method: Any, request: Any, pause: float) -> Any:
        """The answer, or None if the call failed."""
        label = self._measured.label
        entry = self._log.begin(type(request).__name__)
        metadata = () if kind == "login" else self.world.people[0].credentials
        started = time.perf_counter()
        try:
            answer = await method(request, metadata=metadata, timeout=_PATIENCE)
        except grpc.aio.AioRpcError as error:
            entry.raised(error)
            code = f"{type(request).__name__} {error.code().name}"
            self._measured.failed.setdefault(label, []).append(code)
            answer = None
        else:
            took = time.perf_counter() - started
            self._measured.took.setdefault((label, kind), []).append((started, took))
            entry.ok(**({"task": answer.task.id} if isinstance(request, CreateTaskRequest) else {}))
        await asyncio.sleep(pause)
        return answer


async def _work(caller: Caller) -> None:
    world, stubs = caller.world, caller.world.stubs
    kept: deque[str] = deque()

    async def call(method: Any, request: Any) -> Any:
        return await caller.call("CRUD", method, request, _PAUSE)

    while True:
        task = Task(title="Paint the hull as soon as possible", assignee_id=world.people[1].id)
        created = await call(
            stubs.tasks.CreateTask, CreateTaskRequest(project_id=world.project, task=task)
        )
        if created is None:
            continue
        task_id = created.task.id
        kept.append(task_id)
        await call(stubs.tasks.GetTask, GetTaskRequest(id=task_id))
        await call(stubs.tasks.ListTasks, ListTasksRequest(workspace_id=world.workspace.id))
        await call(
            stubs.tasks.UpdateTask,
            UpdateTaskRequest(
                task=Task(id=task_id, labels=["hull"]), update_mask=FieldMask(paths=["labels"])
            ),
        )
        await call(
            stubs.tasks.ChangeTaskStatus,
            ChangeTaskStatusRequest(id=task_id, status=TASK_STATUS_IN_PROGRESS),
        )
        if len(kept) > _KEPT:
            await call(stubs.tasks.DeleteTask, DeleteTaskRequest(id=kept.popleft()))


async def _log_in(caller: Caller, email: str) -> None:
    request = LoginRequest(email=email, password=_PASSWORD)
    while True:
        await caller.call("login", caller.world.stubs.auth.Login, request, _LOGIN_PAUSE)


# Checks at the end.


async def _check(world: World, log: OperationLog, tally: Tally) -> None:
    """Check that acknowledged writes exist and that postponed work was done."""
    rows = await world.fetch(
        "SELECT id::text FROM task.tasks WHERE workspace_id = %(workspace)s",
        {"workspace": world.workspace.id},
    )
    kept = {task_id for (task_id,) in rows}
    for operation in log:
        tally.operations += 1
        if operation.outcome == "ok" and "task" in operation.facts:
            tally.lost += operation.facts["task"] not in kept
    had = await events.effects(world.settings, world.workspace.id)
    tally.lost += had.missing
    tally.doubled += had.surplus
    tally.figures["notifications"] = f"{had.total:,}"


def _judge(run: Run, measured: Measured, tally: Tally) -> None:
    subsets = sorted({label for label, _ in measured.took} - {_ALL_UP, _COMING_BACK})
    # In the short profile a combination lasts a second, too few calls for a percentile, so all combinations share one
    # percentile.
    groups: list[list[str]] = run.choose([subsets], [[one] for one in subsets])
    tally.expect(len(subsets) == 15, f"only {len(subsets)} of 15 combinations were tried")
    for group in [*groups, [_COMING_BACK]]:
        name = group[0] if len(group) == 1 else "any combination"
        calls, failures = measured.calls(group), measured.failures(group)
        codes = sorted({code for label in group for code in measured.failed.get(label, [])})
        tally.expect(
            calls > 0 and 1 - failures / calls >= _PROMISED_OK,
            f"with {name} down {failures} of {calls:,} calls failed: {', '.join(codes)}",
        )
    # The short profile uses the median over half seconds: 1 % of a few hundred calls would be too few, and a moment of
    # other load on the machine would decide.
    slice_seconds = run.choose(0.5, 1e9)
    for kind in ("CRUD", "login"):
        usual = measured.p99([_ALL_UP], kind, slice_seconds)
        worst = max(groups, key=lambda group: measured.p99(group, kind, slice_seconds))
        found = measured.p99(worst, kind, slice_seconds)
        name = worst[0] if len(worst) == 1 else "any combination"
        tally.expect_speed(
            found <= _PROMISED_RATIO * usual,
            f"p99 of {kind} is {1000 * found:.0f} ms with {name} down, {1000 * usual:.0f} ms with all up",
        )
        tally.figures[f"p99 of {kind}"] = (
            f"{1000 * usual:.1f} ms with all up, {1000 * found:.1f} ms with {name} down"
        )
    tally.figures["calls"] = (
        f"{measured.calls([_ALL_UP]):,} with all up, {measured.calls(subsets):,} with something down, "
        f"{measured.failures(subsets)} of these failed"
    )
