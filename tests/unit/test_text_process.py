"""Texts are read in a child process: an endless one fails alone."""

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
from tests.fakes import text_functions
from workflows.enrichment.enrichers import EnrichRequest
from workflows.enrichment.enrichers.heuristic import suggest
from workflows.enrichment.text_process import TextProcess, UnreadableText

BUDGET = 0.3


@pytest.fixture
async def texts() -> AsyncIterator[TextProcess]:
    process = TextProcess(BUDGET)
    yield process
    await process.close()


async def test_functions_are_called_in_a_single_child_process(texts: TextProcess) -> None:
    first = await texts.call("w", text_functions.child_of_this_process, "x")
    assert first not in (os.getpid(), 0)
    assert await texts.call("w", text_functions.child_of_this_process, "y") == first
    assert await texts.call("w", text_functions.length, "é" * 500_000) == 500_000


async def test_an_exception_in_the_child_process_is_raised_in_the_caller(
    texts: TextProcess,
) -> None:
    with pytest.raises(ValueError, match="no good"):
        await texts.call("w", text_functions.refuses, "no good")
    assert await texts.call("w", text_functions.length, "abc") == 3


async def test_printed_output_of_a_function_does_not_corrupt_the_answers(
    texts: TextProcess,
) -> None:
    assert await texts.call("w", text_functions.prints, "hello") == "HELLO"


async def test_a_slow_text_fails_alone_and_does_not_block_the_event_loop(
    texts: TextProcess,
) -> None:
    await texts.call("w", text_functions.length, "")
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.create_task(tick())
    failing = asyncio.create_task(texts.call("w", text_functions.never_ends, "secret!"))
    await asyncio.sleep(0)
    assert await texts.call("other", text_functions.length, "abc") == 3
    with pytest.raises(UnreadableText) as caught:
        await failing
    ticking.cancel()
    assert str(caught.value) == "the text takes too long to read"
    assert caught.value.__cause__ is None
    assert ticks > 5


async def test_a_workspace_with_many_slow_texts_delays_another_by_one_text_only(
    texts: TextProcess,
) -> None:
    await texts.call("w", text_functions.length, "")
    slow = [
        asyncio.create_task(texts.call("loud", text_functions.never_ends, "!")) for _ in range(6)
    ]
    await asyncio.sleep(0)
    assert await texts.call("quiet", text_functions.length, "abc") == 3
    # The other workspace's text waits for at most one slow text, the one that was being read when it arrived.
    assert sum(task.done() for task in slow) <= 1
    for task in slow:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)
    assert await texts.call("quiet", text_functions.length, "abcd") == 4


async def test_a_text_is_read_again_if_its_child_process_is_killed(
    texts: TextProcess, tmp_path: Path
) -> None:
    assert (
        await texts.call("w", text_functions.ends_its_process_once, str(tmp_path / "marker"))
        == "read"
    )


async def test_a_text_that_crashes_every_child_process_is_given_up(texts: TextProcess) -> None:
    with pytest.raises(UnreadableText, match="can't be read"):
        await texts.call("w", text_functions.ends_its_process, "x")
    assert await texts.call("w", text_functions.length, "abc") == 3


async def test_a_stopped_child_process_is_killed_after_a_timeout(
    texts: TextProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workflows.enrichment.text_process._CLOCK_FACTOR", 3.0)
    with pytest.raises(UnreadableText, match="takes too long"):
        await texts.call("w", text_functions.stops_its_process, "x")
    assert await texts.call("w", text_functions.length, "abc") == 3


async def test_a_cancelled_call_does_not_take_the_answer_of_the_next(texts: TextProcess) -> None:
    await texts.call("w", text_functions.length, "")
    call = asyncio.create_task(texts.call("w", text_functions.never_ends, "!"))
    await asyncio.sleep(0.05)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await texts.call("w", text_functions.length, "abc") == 3


async def test_closing_leaves_no_child_process(texts: TextProcess) -> None:
    pid = await texts.call("w", text_functions.child_of_this_process, "x")
    await texts.close()
    assert not _runs(pid)


@pytest.mark.parametrize("busy", [False, True])
def test_no_child_process_outlives_a_killed_parent(busy: bool) -> None:
    program = (
        "import asyncio\n"
        "from workflows.enrichment.text_process import TextProcess\n"
        "from tests.fakes import text_functions\n"
        "async def main():\n"
        f"    texts = TextProcess({BUDGET})\n"
        "    print(await texts.call('w', text_functions.child_of_this_process, ''), flush=True)\n"
        + ("    await texts.call('w', text_functions.never_ends, '!')\n" if busy else "")
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
    """Whether the process runs and isn't a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_the_child_process_uses_little_memory(texts: TextProcess) -> None:
    await texts.call("w", suggest, EnrichRequest("Mend the pump as soon as possible"))
    pid = await texts.call("w", text_functions.child_of_this_process, "x")
    # Limit in bytes. The child process uses 15 million; importing gRPC or Temporal alone would double that.
    assert resident(pid) < 25_000_000
