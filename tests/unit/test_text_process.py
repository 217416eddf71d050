"""Texts are read in a process apart: one that takes for ever costs nobody but itself."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.bench.memory import resident
from tests.fakes import readings
from workflows.enrichers import EnrichRequest
from workflows.enrichers.heuristic import suggest
from workflows.text_process import TextProcess, UnreadableText
from workflows.turns import Turns

BUDGET = 0.3


@pytest.fixture
async def texts() -> AsyncIterator[TextProcess]:
    process = TextProcess(BUDGET)
    yield process
    await process.close()


async def test_a_function_is_called_in_one_other_process(texts: TextProcess) -> None:
    first = await texts.call("w", readings.child_of_this_process, "x")
    assert first not in (os.getpid(), 0)
    assert await texts.call("w", readings.child_of_this_process, "y") == first
    assert await texts.call("w", readings.length, "é" * 500_000) == 500_000


async def test_what_the_function_raises_is_raised_here(texts: TextProcess) -> None:
    with pytest.raises(ValueError, match="no good"):
        await texts.call("w", readings.refuses, "no good")
    assert await texts.call("w", readings.length, "abc") == 3


async def test_output_of_a_function_does_not_disturb_the_answers(texts: TextProcess) -> None:
    assert await texts.call("w", readings.prints, "hello") == "HELLO"


async def test_a_text_that_takes_too_long_fails_alone_while_the_event_loop_goes_on(
    texts: TextProcess,
) -> None:
    await texts.call("w", readings.length, "")
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.create_task(tick())
    failing = asyncio.create_task(texts.call("w", readings.never_ends, "secret!"))
    await asyncio.sleep(0)
    assert await texts.call("other", readings.length, "abc") == 3
    with pytest.raises(UnreadableText) as caught:
        await failing
    ticking.cancel()
    assert str(caught.value) == "the text takes too long to read"
    assert caught.value.__cause__ is None
    assert ticks > 5


async def test_workspaces_take_turns_so_that_one_with_many_slow_texts_delays_another_by_one(
    texts: TextProcess,
) -> None:
    await texts.call("w", readings.length, "")
    slow = [asyncio.create_task(texts.call("loud", readings.never_ends, "!")) for _ in range(6)]
    await asyncio.sleep(0)
    assert await texts.call("quiet", readings.length, "abc") == 3
    # One at most was being read when this one came.
    assert sum(task.done() for task in slow) <= 1
    for task in slow:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)
    assert await texts.call("quiet", readings.length, "abcd") == 4


async def test_a_child_that_is_killed_from_outside_costs_no_text(
    texts: TextProcess, tmp_path: Path
) -> None:
    assert await texts.call("w", readings.ends_its_process_once, str(tmp_path / "marker")) == "read"


async def test_a_text_that_ends_every_child_is_given_up(texts: TextProcess) -> None:
    with pytest.raises(UnreadableText, match="can't be read"):
        await texts.call("w", readings.ends_its_process, "x")
    assert await texts.call("w", readings.length, "abc") == 3


async def test_a_child_that_stands_still_is_given_up_by_the_clock(
    texts: TextProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workflows.text_process._CLOCK", 3.0)
    with pytest.raises(UnreadableText, match="takes too long"):
        await texts.call("w", readings.stops_its_process, "x")
    assert await texts.call("w", readings.length, "abc") == 3


async def test_a_cancelled_call_takes_no_answer_from_the_next(texts: TextProcess) -> None:
    await texts.call("w", readings.length, "")
    call = asyncio.create_task(texts.call("w", readings.never_ends, "!"))
    await asyncio.sleep(0.05)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await texts.call("w", readings.length, "abc") == 3


async def test_a_closed_process_leaves_no_child(texts: TextProcess) -> None:
    pid = await texts.call("w", readings.child_of_this_process, "x")
    await texts.close()
    assert not _runs(pid)


@pytest.mark.parametrize("busy", [False, True])
def test_no_child_outlives_a_parent_that_is_killed(busy: bool) -> None:
    program = (
        "import asyncio\n"
        "from workflows.text_process import TextProcess\n"
        "from tests.fakes import readings\n"
        "async def main():\n"
        f"    texts = TextProcess({BUDGET})\n"
        "    print(await texts.call('w', readings.child_of_this_process, ''), flush=True)\n"
        + ("    await texts.call('w', readings.never_ends, '!')\n" if busy else "")
        + "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        time.sleep(0.1)
        parent.kill()
    give_up = time.monotonic() + 10
    while _runs(child):
        assert time.monotonic() < give_up
        time.sleep(0.02)


def _runs(pid: int) -> bool:
    """Whether the process is there and isn't only waiting to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_the_child_stays_light(texts: TextProcess) -> None:
    await texts.call("w", suggest, EnrichRequest("Mend the pump as soon as possible"))
    pid = await texts.call("w", readings.child_of_this_process, "x")
    # Bytes. It has 15 million; gRPC or Temporal alone would double that.
    assert resident(pid) < 25_000_000


async def test_turns_go_from_key_to_key_and_in_order_within_one() -> None:
    turns = Turns()
    order: list[str] = []

    async def take(key: str, name: str) -> None:
        async with turns.turn(key):
            order.append(name)
            await asyncio.sleep(0)

    names = ["a1", "a2", "a3", "b1", "c1", "b2"]
    await asyncio.gather(*(take(name[0], name) for name in names))
    assert order == ["a1", "b1", "c1", "a2", "b2", "a3"]
    await take("a", "a4")
    assert order[-1] == "a4"


async def test_a_turn_that_nobody_waits_for_any_more_goes_to_the_next() -> None:
    turns = Turns()
    had: list[str] = []

    async def take(key: str) -> None:
        async with turns.turn(key):
            had.append(key)

    async with turns.turn("first"):
        gone, late, last = (asyncio.create_task(take(key)) for key in ("gone", "late", "last"))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
    # This one is cancelled in the moment that its turn has come.
    late.cancel()
    await asyncio.wait_for(last, 1)
    assert had == ["last"]
    assert gone.cancelled()
    assert late.cancelled()
