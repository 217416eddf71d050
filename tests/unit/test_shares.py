"""The shares of users and workspaces in the gate, and of searches in the database. Times are passed in."""

import asyncio
from collections.abc import Hashable
from typing import Any

import pytest
from psycopg_pool import PoolTimeout

from services.auth.sessions.registrations import Registrations
from services.platform.config import Settings
from services.platform.data.shares import Budgets, DatabaseShares
from services.platform.rpc.caller_limits import caller_keys, is_limit
from services.platform.rpc.errors import DomainError
from services.platform.rpc.shares import Held, Scope, Shares


def _scope(**limits: Any) -> Scope[str]:
    return Scope("user", **{"calls": 1000, "calls_per_second": 10.0, "streams": 3, **limits})


def _named(error: DomainError) -> tuple[str, str]:
    assert is_limit(error)
    assert error.retry_after
    return error.metadata["limit"], error.metadata["scope"]


def test_a_refusal_names_the_limit_and_says_when_to_come_back() -> None:
    scope = _scope(calls=2)
    for _ in range(2):
        scope.start_call("ada", 0.0)
    with pytest.raises(DomainError) as caught:
        scope.start_call("ada", 0.0)
    assert _named(caught.value) == ("calls_at_once", "user")
    scope.start_call("bob", 0.0)


def test_a_caller_that_is_alone_isnt_slowed_down() -> None:
    scope = _scope()
    assert {scope.start_call("ada", 0.0)[1] for _ in range(500)} == {0.0}


def test_beside_another_caller_calls_above_the_rate_wait_and_then_are_refused() -> None:
    scope = _scope()
    scope.start_call("bob", 0.0)
    waits = [scope.start_call("ada", 0.0)[1] for _ in range(19)]
    assert waits[:10] == pytest.approx([0.0] * 10, abs=1e-6), "a second's calls at once"
    assert waits[10:] == pytest.approx([n / 10 for n in range(1, 10)])
    scope.start_call("ada", 0.01)
    with pytest.raises(DomainError) as caught:
        scope.start_call("ada", 0.0)
    assert _named(caught.value) == ("calls_per_second", "user")
    assert scope.start_call("bob", 0.0)[1] == 0.0
    # A refused call uses nothing up.
    assert scope.start_call("ada", 0.2)[1] == pytest.approx(0.9)


def test_a_flood_that_was_alone_owes_nothing_when_another_caller_comes() -> None:
    scope = _scope()
    for _ in range(500):
        scope.start_call("ada", 0.0)
    scope.start_call("bob", 0.0)
    assert scope.start_call("ada", 0.0)[1] == pytest.approx(0.1)


def test_streams_have_a_limit_of_their_own() -> None:
    scope = _scope()
    for _ in range(3):
        scope.start_stream("ada", 0.0)
    with pytest.raises(DomainError) as caught:
        scope.start_stream("ada", 0.0)
    assert _named(caught.value) == ("streams", "user")
    scope.start_call("ada", 0.0)


def test_streams_that_are_opened_and_closed_again_count_for_the_rate() -> None:
    scope = _scope()
    scope.start_call("bob", 0.0)
    for _ in range(19):
        share, _wait = scope.start_stream("ada", 0.0)
        share.streams -= 1
    scope.start_stream("ada", 0.01)
    with pytest.raises(DomainError) as caught:
        scope.start_stream("ada", 0.01)
    assert _named(caught.value) == ("calls_per_second", "user")


def test_idle_shares_are_forgotten_and_those_in_use_kept() -> None:
    scope = _scope()
    share, _ = scope.start_call("ada", 0.0)
    for number in range(5_000):
        other, _ = scope.start_call(f"{number}", 10.0 * number)
        other.calls -= 1
    assert len(scope) <= 1_001
    assert scope.start_call("ada", 60_000.0)[0] is share


def _shares(**limits: Any) -> Shares:
    return Shares(Settings(**limits))


def test_a_stranger_uses_up_nothing_of_a_workspace() -> None:
    shares = _shares(workspace_calls=2)
    for stranger in range(5):
        held = Held(shares)
        held.take(stranger)
        held.join("pier")
    member = [Held(shares) for _ in range(3)]
    for held in member:
        held.take(77)
    member[0].join("pier")
    member[0].succeeded()
    member[0].leave()
    for held in member[1:]:
        held.join("pier")
    last = Held(shares)
    last.take(77)
    with pytest.raises(DomainError) as caught:
        last.join("pier")
    # The first call came before the membership was known.
    assert _named(caught.value) == ("calls_at_once", "workspace")


def test_a_user_who_finds_nothing_any_more_isnt_counted_as_a_member() -> None:
    shares = _shares()
    held = Held(shares)
    held.take(1)
    held.join("pier")
    held.succeeded()
    assert shares.is_member(1, "pier")
    held.not_found()
    assert not shares.is_member(1, "pier")


async def test_beside_another_user_few_calls_of_a_user_run_and_the_others_follow_in_order() -> None:
    shares = _shares()
    other = Held(shares)
    other.take(2)
    running: list[int] = []
    ended = [asyncio.Event() for _ in range(40)]

    async def call(number: int) -> None:
        held = Held(shares)
        try:
            held.take(1)
            await held.turn()
            running.append(number)
            await ended[number].wait()
        finally:
            held.leave()

    calls = [asyncio.create_task(call(number)) for number in range(40)]
    await asyncio.sleep(0)
    assert running == list(range(8))
    # A waiter that gives up takes nobody's turn.
    calls[8].cancel()
    await asyncio.sleep(0)
    for event in ended:
        event.set()
    await asyncio.gather(*calls, return_exceptions=True)
    assert running == [*range(8), *range(9, 40)]


async def test_a_user_alone_runs_all_calls_at_once() -> None:
    shares = _shares()
    held = [Held(shares) for _ in range(64)]
    async with asyncio.timeout(1):
        for one in held:
            one.take(1)
            await one.turn()
    for one in held:
        one.leave()


def test_a_budget_for_searches_is_given_back_over_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("services.platform.data.shares.time.monotonic", lambda: now)
    budgets = Budgets((20.0, 30.0))
    budgets.charge((1, "pier"), 20.0)
    with pytest.raises(DomainError) as caught:
        budgets.check((1, "pier"))
    assert _named(caught.value) == ("database_time", "user")
    assert caught.value.retry_after == pytest.approx(6.0)
    budgets.check((2, "pier"))
    budgets.charge((2, "pier"), 10.0)
    with pytest.raises(DomainError) as caught:
        budgets.check((3, "pier"))
    assert _named(caught.value) == ("database_time", "workspace")
    now += 6.0
    budgets.check((1, "pier"))
    for number in range(5_000):
        now += 61.0
        budgets.charge((number,), 1.0)
    assert len(budgets) <= 1_001


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> DatabaseShares:
    """Shares of a pool of ten connections, with a short wait for one."""
    monkeypatch.setattr("services.platform.data.shares.CONNECTION_WAIT", 0.05)
    return DatabaseShares(Settings())


async def _connect(database: DatabaseShares, *keys: Hashable) -> None:
    """Takes a connection and keeps it."""
    caller_keys.set(keys)
    await database.connection().__aenter__()


async def _answered(database: DatabaseShares, *keys: Hashable) -> None:
    caller_keys.set(keys)
    async with database.connection():
        pass


async def test_a_user_who_holds_all_connections_of_its_share_is_refused_by_name(
    database: DatabaseShares,
) -> None:
    for _ in range(8):
        await _connect(database, 1)
    late = asyncio.create_task(_connect(database, 1))
    await asyncio.sleep(0)
    await _answered(database, 2)
    with pytest.raises(DomainError) as caught:
        await late
    assert _named(caught.value) == ("database_connections", "user")


async def test_while_the_database_answers_nobody_a_caller_isnt_told_of_its_limit(
    database: DatabaseShares,
) -> None:
    for _ in range(8):
        await _connect(database, 1)
    with pytest.raises(PoolTimeout):
        await _connect(database, 1)


async def test_while_all_connections_are_in_use_a_caller_isnt_told_of_its_limit(
    database: DatabaseShares,
) -> None:
    for _ in range(8):
        await _connect(database, 1)
    late = asyncio.create_task(_connect(database, 1))
    await asyncio.sleep(0)
    await _answered(database, 2)
    for _ in range(2):
        await _connect(database, 2)
    with pytest.raises(PoolTimeout):
        await late


async def test_searches_of_a_user_follow_each_other_and_the_last_ones_are_refused_by_name(
    database: DatabaseShares,
) -> None:
    caller_keys.set((1,))
    async with database.search():
        late = asyncio.create_task(database.search().__aenter__())
        await asyncio.sleep(0)
        await _answered(database, 2)
        with pytest.raises(DomainError) as caught:
            await late
    assert _named(caught.value) == ("searches_at_once", "user")
    caller_keys.set((1,))
    async with database.search():
        pass


def test_an_address_registers_its_number_in_an_hour_and_the_next_one_later() -> None:
    registrations = Registrations(100)
    for _ in range(100):
        registrations.count("198.51.100.7")
    with pytest.raises(DomainError) as caught:
        registrations.count("198.51.100.7")
    assert _named(caught.value) == ("registrations", "address")
    assert 30 < (caught.value.retry_after or 0) <= 36
    registrations.count("198.51.100.8")
