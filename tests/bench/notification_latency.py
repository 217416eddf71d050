"""P4: time from a commit to the message on an open stream, on the whole stack and through the gateway.

The time runs from the answer to CreateTask, which follows the commit, to the arrival of the message at the client. The
events pass relay, JetStream, the notification consumer, Postgres, core NATS and Envoy. The worker starts two workflows
for each meanwhile.
"""

import asyncio
from statistics import median
from typing import Any

from services.platform.config import Settings
from tests.bench.dataset import Dataset
from tests.bench.machine import quiet
from tests.bench.processes import Remote, check, load, started
from tests.bench.rows import ROUNDS, Bench, Limit, Result, percentile
from tests.bench.stacks import WHOLE

_RATE = 100
_SECONDS = 2.0
STREAMS = 200
# Time limit for the last messages (seconds).
_PATIENCE = 30.0
_P50_MS = 15.0
_P99_MS = 100.0


async def latency(bench: Bench) -> Result:
    """Measures P4: the time from a commit to the message on an open stream."""
    stacks = await bench.stacks.need(small=WHOLE)
    settings = stacks["small"].settings
    p50, p99, floors = [], [], []
    for number in range(ROUNDS):
        bench.say(f"round {number + 1}: {STREAMS} streams, {_RATE} creates a second")
        found = await measured(settings, bench.small, STREAMS)
        p50.append(percentile(found["milliseconds"], 0.5))
        p99.append(percentile(found["milliseconds"], 0.99))
        bench.say(f"round {number + 1}: JetStream")
        [floor] = await load(
            {
                "kind": "messages",
                "nats": settings.nats,
                "bytes": found["bytes"],
                "rate": _RATE,
                "seconds": 3,
            }
        )
        floors.append(percentile(floor["milliseconds"], 0.5))
    ratios = [value / floor for value, floor in zip(p50, floors, strict=True)]
    return Result(
        median(p50),
        "ms p50",
        [
            Limit(f"p50 ≤ {_P50_MS:g} ms", median(p50) <= _P50_MS),
            Limit(f"p99 ≤ {_P99_MS:g} ms", median(p99) <= _P99_MS),
        ],
        median(floors),
        median(ratios),
        {"p50": p50, "p99": p99, "floors": floors, "ratios": ratios},
    )


async def growth(bench: Bench) -> tuple[list[float], list[float]]:
    """P9: p50 with ten times the tasks, users and streams, alternating with the base."""
    stacks = await bench.stacks.need(small=WHOLE, large=WHOLE)
    p50: tuple[list[float], list[float]] = ([], [])
    for number in range(ROUNDS):
        for found, name, place, streams in (
            (p50[0], "large", bench.large, 10 * STREAMS),
            (p50[1], "small", bench.small, STREAMS),
        ):
            bench.say(f"round {number + 1}: {streams} streams")
            result = await measured(stacks[name].settings, place, streams)
            found.append(percentile(result["milliseconds"], 0.5))
    return p50


async def measured(
    settings: Settings,
    dataset: Dataset,
    streams: int,
    *,
    rate: int = _RATE,
    seconds: float = _SECONDS,
    clients: int = 1,
) -> dict[str, Any]:
    """Returns the `milliseconds` of each notification, and the `bytes` of one message.

    The streams are spread over `clients` processes.
    """
    gateway = f"127.0.0.1:{settings.gateway_port}"
    # The author gets no stream, because users aren't notified of their own actions.
    readers = range(1, streams + 1)
    count = int(rate * seconds)
    inboxes = [
        {
            "kind": "inbox",
            "address": gateway,
            "tokens": dataset.tokens(settings, readers[client::clients]),
            "connections": max(4, streams // 100 // clients),
            "messages": sum(number % streams % clients == client for number in range(count)),
            "patience": seconds + _PATIENCE,
        }
        for client in range(clients)
    ]
    author = {
        "kind": "author",
        "address": gateway,
        "token": dataset.tokens(settings, [0])[0],
        "assignees": [dataset.user(number) for number in readers],
        "projects": dataset.projects[:10],
        "rate": rate,
        "seconds": seconds,
    }
    async with started("tests.bench.load", author, *inboxes) as (writing, *reading):
        # Workflows of the previous round may run for another 15 s.
        await quiet()
        return await _joined(reading, writing)


async def _joined(reading: list[Remote], writing: Remote) -> dict[str, Any]:
    for remote in (*reading, writing):
        remote.go()
    wrote = await writing.result()
    read = await asyncio.gather(*(remote.result() for remote in reading))
    check(wrote, *read)
    created: dict[str, tuple[float, float]] = wrote["created"]
    received: dict[str, float] = {}
    for found in read:
        received |= found["received"]
    return {
        "milliseconds": [
            (received[task_id] - answered) * 1e3 for task_id, (_, answered) in created.items()
        ],
        "bytes": read[0]["bytes"],
    }
