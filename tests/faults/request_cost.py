"""The cost of filled requests for a service: CPU time of its event loop, and memory (docs/promises.md)."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from deploy.local.stack import Stack
from tests.faults.bad_input import MEASURED, problem, send
from tests.faults.bad_input_cases import Case, wanted_by_the_rules
from tests.faults.largest_requests import Filled, filled
from tests.faults.rpcs import every_rpc
from tests.faults.samples import Samples

# CPU time (seconds) that one request may take on the event loop.
MOST_CPU = 0.1
# Bytes that a process may grow by, at any moment.
MOST_MEMORY = 50 * 2**20
# Other load can only make a request look more expensive, so the cheapest of some tries counts.
_TRIES = 3
_SHOWN = 10
# RPCs that leave the samples unchanged.
_READS = ("Get", "List", "Watch", "BatchGet", "Check", "ServerReflection")


@dataclass
class Costs:
    """`dearest` are (seconds, request); `memory` is the most bytes that a process grew by."""

    answers: Counter[str] = field(default_factory=Counter)
    dearest: list[tuple[float, str]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    memory: dict[str, int] = field(default_factory=dict)

    def table(self) -> str:
        lines = [f"{1000 * seconds:7.1f} ms  {name}" for seconds, name in self.dearest]
        lines += [
            f"{name} held up to {bytes_ / 2**20:.0f} MiB more"
            for name, bytes_ in self.memory.items()
        ]
        return "\n".join(
            [f"{self.answers.total():,} filled requests: {dict(self.answers)}", *lines]
        )

    @property
    def broken(self) -> list[str]:
        dear = [
            f"{name} took {1000 * seconds:.0f} ms of CPU on the event loop"
            for seconds, name in self.dearest
            if seconds > MOST_CPU
        ]
        large = [
            f"{name} held {bytes_ / 2**20:.0f} MiB more"
            for name, bytes_ in self.memory.items()
            if bytes_ > MOST_MEMORY
        ]
        return [*self.wrong, *dear, *large]


def loop_seconds(process: int) -> float:
    """CPU time of the process's first thread, which runs the event loop."""
    schedule = Path(f"/proc/{process}/task/{process}/schedstat").read_text()
    return int(schedule.split()[0]) / 1e9


def memory(process: int) -> tuple[int, int]:
    """Memory of the process in bytes: now, and the peak since `forget_peak`."""
    status = Path(f"/proc/{process}/status").read_text()

    def value(name: str) -> int:
        return int(status.partition(f"{name}:")[2].split()[0]) * 1024

    return value("VmRSS"), value("VmHWM")


def forget_peak(process: int) -> None:
    Path(f"/proc/{process}/clear_refs").write_text("5")


async def measure(
    samples: Samples,
    stack: Stack,
    seed: int,
    share: float = 1.0,
    say: Callable[[str], None] = lambda _: None,
) -> Costs:
    """Send the filled requests of every RPC, one at a time. A smaller `share` sends a part, chosen by the seed."""
    costs = Costs()
    rng = random.Random(seed)
    processes = {name: stack.pid(name) for name in MEASURED}
    for rpc in every_rpc():
        # The first call of each kind compiles rules and statements.
        await send(samples, Case(0, "", rpc, b"", samples.credentials(rpc)))
    before = {}
    for name, process in processes.items():
        forget_peak(process)
        before[name], _ = memory(process)
    for rpc in every_rpc():
        for filling in filled(rpc, samples, rng):
            if rng.random() < share:
                await _measure_one(samples, processes[rpc.process], filling, costs)
        if not rpc.name.startswith(_READS):
            await samples.renew()
        say(f"{costs.answers.total():,} filled requests")
    for name, process in processes.items():
        costs.memory[name] = memory(process)[1] - before[name]
    return costs


async def _measure_one(samples: Samples, process: int, filling: Filled, costs: Costs) -> None:
    rpc = filling.rpc
    case = Case(
        0,
        filling.way,
        rpc,
        filling.raw,
        samples.credentials(rpc),
        wanted_by_the_rules(rpc, filling.raw),
    )
    cheapest = float("inf")
    for _ in range(_TRIES):
        begin = loop_seconds(process)
        answer = await send(samples, case)
        cheapest = min(cheapest, loop_seconds(process) - begin)
        costs.answers[answer.code] += 1
        if wrong := problem(samples, case, answer):
            costs.wrong.append(f"{rpc.path}, {filling.way}: {wrong} [{answer.told[:200]!r}]")
            break
        if cheapest < MOST_CPU / 2:
            break
    dearest = [*costs.dearest, (cheapest, f"{rpc.path}, {filling.way}")]
    costs.dearest = sorted(dearest, reverse=True)[:_SHOWN]
