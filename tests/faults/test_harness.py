"""Tests of the harness itself: faults that it misses, no scenario can find."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health

from tests.faults.harness import runner
from tests.faults.harness.checker import Kept, compare, longest_gap
from tests.faults.harness.load import at_rate
from tests.faults.harness.oplog import Operation, OperationLog
from tests.faults.harness.proxy import Proxy
from tests.faults.harness.registry import Scenario
from tests.faults.harness.scenario import Profile, Run, Tally
from tests.faults.harness.world import CHANNEL_OPTIONS

T = "task"


def create(number: int = 1, begun: float = 0, **how: Any) -> Operation:
    facts = {"title": "made", "task": T}
    return Operation(number, "create", facts, begun, begun + 0.1, **{"outcome": "ok", **how})


def update(number: int, title: str, begun: float, **how: Any) -> Operation:
    facts = {"task": T, "title": title}
    ended = how.pop("ended", begun + 0.1)
    return Operation(number, "update", facts, begun, ended, **{"outcome": "ok", **how})


def change(number: int, op: str, begun: float, **how: Any) -> Operation:
    return Operation(number, op, {"task": T}, begun, begun + 0.1, **{"outcome": "ok", **how})


def test_a_missing_acknowledged_create_is_lost() -> None:
    found = compare([create()], {}, set())
    assert found.lost
    assert not compare([create()], {T: Kept("made", False, 1)}, set()).lost


def test_a_missing_update_is_lost_unless_a_later_one_may_have_overwritten_it() -> None:
    history = [create(), update(2, "a", 1), update(3, "b", 2)]
    assert not compare(history, {T: Kept("b", False, 3)}, set()).lost
    assert compare(history, {T: Kept("a", False, 3)}, set()).lost
    at_once = [create(), update(2, "a", 1, ended=3), update(3, "b", 2)]
    assert not compare(at_once, {T: Kept("a", False, 3)}, set()).lost


def test_an_update_of_unknown_outcome_may_take_effect_even_late() -> None:
    history = [create(), update(2, "a", 1, outcome="unknown"), update(3, "b", 2)]
    for title, revision in (("a", 3), ("b", 3), ("b", 2)):
        found = compare(history, {T: Kept(title, False, revision)}, set())
        assert not found.lost
        assert not found.doubled
    long_ago = [create(), update(2, "a", 1, outcome="unknown"), update(3, "b", 100)]
    assert compare(long_ago, {T: Kept("a", False, 3)}, set()).lost


def test_a_refused_write_that_took_effect_is_found() -> None:
    refused = update(2, "a", 1, outcome="failed", code="ABORTED")
    assert compare([create(), refused], {T: Kept("a", False, 2)}, set()).slipped_in
    never = create(outcome="failed", code="PERMISSION_DENIED")
    never.facts.pop("task")
    assert compare([never], {T: Kept("made", False, 1)}, set()).slipped_in


def test_a_reappeared_task_and_a_notification_unread_again_count_as_resurrected() -> None:
    history = [create(), change(2, "delete", 1)]
    assert compare(history, {T: Kept("made", False, 2)}, set()).resurrected
    assert not compare(history, {T: Kept("made", True, 2)}, set()).resurrected
    back = [*history, change(3, "undelete", 2)]
    assert compare(back, {T: Kept("made", True, 3)}, set()).lost
    read = Operation(1, "mark read", {"ids": ["x"]}, 0, 1, "ok")
    assert compare([read], {}, set()).resurrected
    assert not compare([read], {}, {"x"}).resurrected


def test_duplicates_are_found() -> None:
    twice = {T: Kept("made", False, 1), "u": Kept("made", False, 1)}
    assert compare([create()], twice, set()).doubled
    history = [create(), update(2, "a", 1)]
    assert compare(history, {T: Kept("a", False, 3)}, set()).doubled
    assert compare(history, {T: Kept("a", False, 1)}, set()).lost


def test_the_longest_gap_counts_acknowledged_answers_only() -> None:
    assert longest_gap(
        [create(begun=0), create(begun=1, outcome="unknown"), create(begun=5), create(begun=6)]
    ) == pytest.approx(5)


def test_a_scenario_passes_only_without_findings() -> None:
    held = Tally()
    held.expect(True, "not said")
    assert held.verdict == "held"
    assert Tally(impossible="no disk").verdict == "not possible here"
    assert Tally(impossible="no disk", lost=1).verdict == "BROKEN"
    broken = Tally()
    broken.expect(False, "it isn't there")
    assert broken.verdict == "BROKEN"
    assert broken.broken == ["it isn't there"]


def test_the_log_returns_an_outcome_only_once_it_is_on_disk(tmp_path: Path) -> None:
    file = tmp_path / "operations"
    with OperationLog(file) as log:
        first, second = log.begin("create", title="a"), log.begin("create", title="b")
        first.ok(task="1")
        # A thread writes the log, so wait for the thread.
        found = list(log)
        assert len(file.read_text().splitlines()) == 3
        assert json.loads(file.read_text().splitlines()[2])["outcome"] == "ok"
        assert [(one.outcome, one.facts) for one in found] == [
            ("ok", {"title": "a", "task": "1"}),
            ("unknown", {"title": "b"}),
        ]
        with pytest.raises(RuntimeError):
            first.failed("ABORTED")
        second.unknown("UNAVAILABLE")
    assert [one.code for one in log] == ["", "UNAVAILABLE"]


async def test_calls_start_at_their_rate_even_if_none_is_answered() -> None:
    answered = asyncio.Event()

    async def call(number: int) -> None:
        await answered.wait()

    started = time.monotonic()
    async with at_rate(100, call) as load:
        await asyncio.sleep(1)
        wanted = 100 * (time.monotonic() - started)
        assert wanted * 0.7 < load.begun < wanted * 1.2
        answered.set()


async def test_an_unexpected_failure_of_a_call_ends_the_load() -> None:
    async def call(number: int) -> None:
        raise ValueError("a mistake")

    with pytest.raises(ValueError, match="a mistake"):
        async with at_rate(100, call):
            await asyncio.sleep(0.1)


@asynccontextmanager
async def proxied() -> AsyncIterator[tuple[Proxy, Any]]:
    """A gRPC server behind the proxy, and a stub."""
    server = grpc.aio.server()
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with (
            Proxy("127.0.0.1", port) as proxy,
            grpc.aio.insecure_channel(proxy.address, options=CHANNEL_OPTIONS) as channel,
        ):
            yield proxy, health_pb2_grpc.HealthStub(channel)
    finally:
        await server.stop(0)


async def check(stub: Any, timeout: float = 10) -> bool:
    answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout, wait_for_ready=True)
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def check_anew(stub: Any) -> bool:
    """Checks on a new connection: gRPC may still send one more call on a connection that was just closed."""
    async with asyncio.timeout(10):
        while True:
            try:
                return await check(stub)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
            await asyncio.sleep(0.02)


async def test_the_proxy_counts_dropped_responses_and_forwards_later_ones() -> None:
    async with proxied() as (proxy, stub):
        assert await check(stub)
        for number in range(1, 4):
            proxy.drop_responses()
            waiting = asyncio.create_task(check(stub))
            async with asyncio.timeout(10):
                while proxy.dropped < number:
                    await asyncio.sleep(0.005)
            assert not waiting.done()
            proxy.pass_()
            with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
                await waiting
            assert await check_anew(stub)
        assert proxy.dropped == 3


async def test_calls_stall_while_the_proxy_stops_reading() -> None:
    async with proxied() as (proxy, stub):
        assert await check(stub)
        proxy.stop_reading("responses")
        waiting = asyncio.create_task(check(stub))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        proxy.pass_()
        assert await waiting


async def test_the_proxy_delays_cuts_and_refuses_connections() -> None:
    async with proxied() as (proxy, stub):
        assert await check(stub)
        proxy.delay(0.3)
        started = time.monotonic()
        assert await check(stub)
        assert time.monotonic() - started >= 0.6
        proxy.cut_after(1)
        with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
            await check(stub)
        proxy.refuse()
        # DEADLINE_EXCEEDED while the client is reconnecting, UNAVAILABLE while it still writes to the reset connection.
        with pytest.raises(grpc.aio.AioRpcError, match=r"DEADLINE_EXCEEDED|UNAVAILABLE"):
            await check(stub, timeout=0.5)
        proxy.pass_()
        assert await check_anew(stub)


async def test_a_server_soon_notices_that_the_proxy_stopped_reading() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        loop = asyncio.get_running_loop()
        async with Proxy("127.0.0.1", listening.getsockname()[1]) as proxy:
            _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            served, _ = await loop.sock_accept(listening)
            proxy.stop_reading()
            sent = 0
            while True:
                try:
                    sent += served.send(bytes(65536))
                except BlockingIOError:
                    await asyncio.sleep(0.1)
                    try:
                        sent += served.send(bytes(65536))
                    except BlockingIOError:
                        break
            # The sender's kernel buffer counts too, and we don't control its size.
            assert sent < 8 * 1024**2
            served.close()
            writer.close()


@pytest.mark.parametrize(
    ("profile", "tries", "verdict", "runs"),
    [
        ("short", [Tally(slow=["late"]), Tally()], "held", 2),
        ("short", [Tally(slow=["late"]), Tally(slow=["late"])], "BROKEN", 2),
        ("short", [Tally(slow=["late"], lost=1)], "BROKEN", 1),
        ("short", [Tally(broken=["INTERNAL"])], "BROKEN", 1),
        ("long", [Tally(slow=["late"])], "BROKEN", 1),
    ],
)
async def test_only_a_scenario_that_was_merely_slow_is_run_again(
    profile: Profile,
    tries: list[Tally],
    verdict: str,
    runs: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Path] = []

    async def run_one(scenario: Scenario, run: Run) -> Tally:
        seen.append(run.folder)
        return tries[len(seen) - 1]

    monkeypatch.setattr(runner, "_run_one", run_one)
    scenario: Any = SimpleNamespace(name="one")
    stack: Any = None
    tally = await runner._try(scenario, stack, profile, 7, tmp_path, lambda _: None)
    assert tally.verdict == verdict
    assert len(set(seen)) == len(seen) == runs
    assert ("too slow at first" in tally.figures) == (runs == 2)
