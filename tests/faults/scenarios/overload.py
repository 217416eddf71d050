"""Three times as many calls as can be served, in an open loop. Clients and servers share no processor."""

import asyncio
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from deploy.local.process import family
from deploy.local.stack import Stack
from tests.bench.machine import quiet
from tests.bench.processes import started
from tests.faults.harness.scenario import NotPossible, Run, Tally
from tests.faults.harness.world import World, a_world

PROMISE = "Overload is refused and causes no collapse"
LIMIT_SECONDS = {"short": 90.0, "long": 300.0}
# Runs after a scenario that leaves no work behind, so that the machine is quiet.
ORDER = "logins, then overload"

_TIMES = 3
_LEAST_GOODPUT = 0.8
# The longest that a refusal may take (milliseconds).
_LONGEST_REFUSAL = 100.0
# Mostly lists of 100 tasks: one processor makes the calls, so a call has to cost far more than a refusal.
_MIX = {"list": 6, "get": 2, "update": 2}
_TASKS = 200
# Concurrent calls that find the maximum throughput, far below the limit for refusals.
_AT_ONCE = 48
_CLIENTS = 3
# A client's time limit (seconds).
_PATIENCE = 5.0
# Without a control group Linux schedules by session, and each Postgres process is one. On a busy processor it can
# leave such a process waiting for ten seconds (seen with 6.18; docs/promises.md).
_GROUPS = Path("/sys/fs/cgroup/cpu")


async def run(run: Run, tally: Tally) -> None:
    async with a_world(run, people=20) as world:
        spec = await _spec(run, world)
        # Let the work of the previous scenario finish.
        await quiet()
        with _contained(run.stack), _apart(run.stack):
            await _phase(spec, 1.0, in_flight=_AT_ONCE // _CLIENTS)
            seconds = run.choose(3.0, 15.0)
            before = _goodput(await _phase(spec, seconds, in_flight=_AT_ONCE // _CLIENTS), seconds)
            run.say(f"{before:,.0f} calls/s can be served")
            under = run.choose(3.0, 60.0)
            found = await _phase(spec, under, rate=_TIMES * before / _CLIENTS)
            after = _goodput(await _phase(spec, seconds, in_flight=_AT_ONCE // _CLIENTS), seconds)
        _judge(tally, found, max(before, after), under)


def _judge(tally: Tally, found: list[dict[str, Any]], peak: float, seconds: float) -> None:
    codes: Counter[str] = Counter()
    for result in found:
        codes.update(result["codes"])
    refusals = sorted(
        ms for one in found for ms in one["milliseconds"].get("RESOURCE_EXHAUSTED", [])
    )
    goodput = _goodput(found, seconds)
    tally.operations = codes.total()
    tally.faults = codes.total() - codes["OK"]
    others = {
        code: count for code, count in codes.items() if code not in ("OK", "RESOURCE_EXHAUSTED")
    }
    tally.expect(not others, f"calls ended with {others}")
    tally.expect(bool(refusals), "nothing was refused: there was no overload")
    wordless = sum(one["wordless"] for one in found)
    tally.expect(not wordless, f"{wordless} refusals without a reason or a retry delay")
    late = refusals[int(0.99 * len(refusals))] if refusals else 0.0
    tally.expect_speed(late < _LONGEST_REFUSAL, f"refusals took {late:.0f} ms (p99)")
    tally.expect_speed(
        goodput >= _LEAST_GOODPUT * peak, f"goodput was {goodput / peak:.0%} of the peak"
    )
    tally.figures["peak"] = f"{peak:,.0f} calls/s"
    tally.figures["goodput at 3 × the peak"] = f"{goodput:,.0f} calls/s, {goodput / peak:.0%}"
    tally.figures["calls by code"] = ", ".join(f"{code} {n:,}" for code, n in codes.most_common())
    tally.figures["refusals"] = f"p99 {late:.0f} ms, slowest {max(refusals, default=0):.0f} ms"


def _goodput(found: list[dict[str, Any]], seconds: float) -> float:
    return float(sum(result["in_time"] for result in found)) / seconds


async def _phase(spec: dict[str, Any], seconds: float, **more: float) -> list[dict[str, Any]]:
    specs = [{**spec, **more, "seconds": seconds, "seed": seed} for seed in range(_CLIENTS)]
    async with started("tests.faults.load_process", *specs) as clients:
        for client in clients:
            client.go()
        return await asyncio.gather(*(client.result() for client in clients))


async def _spec(run: Run, world: World) -> dict[str, Any]:
    return {
        "address": run.gateway,
        "mix": _MIX,
        "tokens": [person.credentials[0][1].removeprefix("Bearer ") for person in world.people],
        "workspace": world.workspace.id,
        "tasks": await world.write_tasks(_TASKS),
        "deadline": _PATIENCE,
    }


@contextmanager
def _contained(stack: Stack) -> Iterator[None]:
    """Schedule the stack as one control group, as in a container; does nothing where that isn't possible."""
    group = _GROUPS / f"taskflow-faults-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        yield
        return
    try:
        _move(_pids(stack), group)
        yield
    finally:
        # Move out all processes, even new ones, because Linux removes only an empty control group.
        _move(map(int, (group / "cgroup.procs").read_text().split()), _GROUPS)
        group.rmdir()


def _move(pids: Iterable[int], group: Path) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            (group / "cgroup.procs").write_text(str(pid))


@contextmanager
def _apart(stack: Stack) -> Iterator[None]:
    """Run the stack on one half of the processors and new processes on the other. Otherwise the load generator would
    slow the servers whose goodput is measured."""
    every = sorted(os.sched_getaffinity(0))
    if len(every) < 2:
        raise NotPossible("with one processor the load would slow the servers")
    half = len(every) // 2
    _pin(stack, every[half:])
    os.sched_setaffinity(0, every[:half])
    try:
        yield
    finally:
        os.sched_setaffinity(0, every)
        _pin(stack, every)


def _pin(stack: Stack, processors: list[int]) -> None:
    for pid in _pids(stack):
        for thread in _threads(pid):
            with suppress(ProcessLookupError):
                os.sched_setaffinity(thread, processors)


def _pids(stack: Stack) -> Iterator[int]:
    for process in stack.processes:
        if process.pid is not None:
            yield from family(process.pid)


def _threads(pid: int) -> list[int]:
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except FileNotFoundError:
        return []
