"""Network attacks on the gateway and on a service: other clients aren't affected, and memory doesn't grow."""

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc.aio

from taskflow.task.v1.task_pb2 import Task
from taskflow.task.v1.task_service_pb2 import CreateTaskRequest, GetTaskRequest
from tests.faults.harness.scenario import Run, Tally
from tests.faults.harness.world import Stubs, World, a_world, stubs_at
from tests.faults.network_attacks import ATTACKS

PROMISE = "Network abuse harms no other client"
LIMIT_SECONDS = {"short": 120.0, "long": 1800.0}

_TARGETS = {"gateway": "envoy", "service": "task"}
# The amount of each attack, and the number of rounds in the long profile.
_AMOUNTS = {
    "rapid_resets": 4000,
    "half_open_streams": 2000,
    "endless_headers": 100,
    "oversized_headers": 300,
    "ping_flood": 20_000,
    "settings_flood": 20_000,
    "empty_frames": 20_000,
    "window_updates": 20_000,
    "slow_headers": 50,
    "garbage": 50,
    "tls_to_a_clear_port": 50,
    "connections_left_open": 300,
    "unread_answers": 500,
}
_ROUNDS = 2
# After these attacks the server closes the connection or refuses the call at once. After other attacks it closes the
# connection once its pings stay unanswered.
_ENDED = {
    "garbage": {"service"},
    "tls_to_a_clear_port": {"gateway", "service"},
    "oversized_headers": {"gateway"},
    "rapid_resets": {"gateway"},
    "ping_flood": {"service"},
}
# The server doesn't ping a silent connection, but closes it after some idle minutes.
_SILENT = ("connections_left_open", "gateway")
# How soon (seconds) the server must end a connection: at once, with room for a busy machine, and after unanswered
# pings.
_AT_ONCE, _UNANSWERED = 5.0, 50.0
# Calls per second of an innocent client, on each path.
_RATE = 20.0
_PATIENCE = 5.0
# The longest time that an innocent call may take (milliseconds), and the bytes that a process may grow by.
_LONGEST = 1000.0
_MOST_GROWTH = 50 * 2**20
# Concurrent calls before the first memory measurement.
_CROWD = 1000
# Seconds between memory measurements.
_LOOK = 0.1


@dataclass
class Bystander:
    """A client that calls on the same path, with the results of its calls."""

    took: list[float] = field(default_factory=list)
    failed: dict[str, int] = field(default_factory=dict)

    async def call(self, stubs: Stubs, world: World, task_id: str) -> None:
        while True:
            begun = time.monotonic()
            try:
                await stubs.tasks.GetTask(
                    GetTaskRequest(id=task_id),
                    metadata=world.people[0].credentials,
                    timeout=_PATIENCE,
                )
                self.took.append(1e3 * (time.monotonic() - begun))
            except grpc.aio.AioRpcError as error:
                self.failed[error.code().name] = self.failed.get(error.code().name, 0) + 1
            await asyncio.sleep(max(0.0, begun + 1 / _RATE - time.monotonic()))


async def run(run: Run, tally: Tally) -> None:
    addresses = {"gateway": run.gateway, "service": run.address("task")}
    pids = {target: run.stack.pid(process) for target, process in _TARGETS.items()}
    calls: dict[str, list[float]] = {target: [] for target in _TARGETS}
    async with a_world(run) as world, _attackers(len(addresses)) as attackers:
        task = await world.stubs.tasks.CreateTask(
            CreateTaskRequest(project_id=world.project, task=Task(title="Check the valve")),
            metadata=world.people[0].credentials,
        )
        for address in addresses.values():
            await _load_shedder(address, world, task.task.id)
        before = {target: _resident(pid) for target, pid in pids.items()}
        most = dict(before)
        for name in list(ATTACKS) * run.choose(1, _ROUNDS):
            async with (
                _bystanders(addresses, world, task.task.id) as bystanders,
                _watch(pids, most),
            ):
                answers = await asyncio.gather(
                    *(
                        attacker.order(run, name, target, address)
                        for attacker, (target, address) in zip(
                            attackers, addresses.items(), strict=True
                        )
                    )
                )
                found = dict(zip(addresses, answers, strict=True))
            for target, bystander in bystanders.items():
                calls[target] += bystander.took
                _judge(tally, name, target, found[target], bystander, run.profile == "long")
                megabytes = (most[target] - before[target]) / 2**20
                run.say(f"{name} at the {target}: {found[target]}, {megabytes:.0f} MiB so far")
    for target, process in _TARGETS.items():
        tally.expect(
            run.stack.pid(process) == pids[target], f"{process} ended and was started again"
        )
        grown = most[target] - before[target]
        megabytes = grown / 2**20
        tally.expect(grown < _MOST_GROWTH, f"{process} grew by {megabytes:.0f} MiB")
        late = _p99(calls[target])
        tally.expect_speed(
            late < _LONGEST, f"other clients at the {target} waited {late:.0f} ms (p99)"
        )
        tally.operations += len(calls[target])
        tally.figures[f"{process} grew by"] = f"{megabytes:.0f} MiB at most"
        tally.figures[f"calls of other clients at the {target}"] = f"p99 {late:.0f} ms"


def _judge(
    tally: Tally,
    name: str,
    target: str,
    found: dict[str, int],
    bystander: Bystander,
    patient: bool,
) -> None:
    tally.faults += found["sent"]
    tally.expect(
        not bystander.failed,
        f"{name} at the {target}: other clients' calls ended with {bystander.failed}",
    )
    if target in _ENDED.get(name, ()) or (patient and (name, target) != _SILENT):
        left = found["connections"] - found["closed"] - found["refused"]
        tally.expect(not left, f"{name} at the {target}: {left} connections stayed open")


def _p99(took: list[float]) -> float:
    return sorted(took)[int(0.99 * len(took))] if took else 0.0


class Attacker:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def order(self, run: Run, name: str, target: str, address: str) -> dict[str, int]:
        host, _, port = address.rpartition(":")
        order = {
            "attack": name,
            "host": host,
            "port": int(port),
            "amount": _AMOUNTS[name],
            "seconds": (
                _AT_ONCE if target in _ENDED.get(name, ()) else run.choose(0.5, _UNANSWERED)
            ),
            "seed": run.random.random(),
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        found: dict[str, int] = json.loads(await self._process.stdout.readline())
        return found


@asynccontextmanager
async def _attackers(count: int) -> AsyncIterator[list[Attacker]]:
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.faults.network_attacks"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(count)
    ]
    try:
        yield [Attacker(process) for process in processes]
    finally:
        for process in processes:
            process.kill()
            await process.wait()


@asynccontextmanager
async def _bystanders(
    addresses: dict[str, str], world: World, task_id: str
) -> AsyncIterator[dict[str, Bystander]]:
    bystanders = {target: Bystander() for target in addresses}
    async with contextlib.AsyncExitStack() as opened:
        calling = []
        for target, address in addresses.items():
            stubs = await opened.enter_async_context(stubs_at(address))
            calling.append(asyncio.create_task(bystanders[target].call(stubs, world, task_id)))
        try:
            yield bystanders
        finally:
            for task in calling:
                task.cancel()
            await asyncio.gather(*calling, return_exceptions=True)


async def _load_shedder(address: str, world: World, task_id: str) -> None:
    """Make as many calls at once as in a busy moment, to fill pools and buffers; some may be refused."""
    async with stubs_at(address) as stubs:
        request = GetTaskRequest(id=task_id)
        calls = (
            stubs.tasks.GetTask(request, metadata=world.people[0].credentials)
            for _ in range(_CROWD)
        )
        await asyncio.gather(*calls, return_exceptions=True)


@asynccontextmanager
async def _watch(pids: dict[str, int], most: dict[str, int]) -> AsyncIterator[None]:
    """Record the peak memory of each process."""

    async def look() -> None:
        while True:
            for target, pid in pids.items():
                most[target] = max(most[target], _resident(pid))
            await asyncio.sleep(_LOOK)

    looking = asyncio.create_task(look())
    try:
        yield
    finally:
        looking.cancel()


def _resident(pid: int) -> int:
    """Resident memory of a process in bytes; 0 if it has ended."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
