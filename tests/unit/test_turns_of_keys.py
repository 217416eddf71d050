"""Places that callers take in turns."""

import asyncio

import pytest

from services.platform.turns import Turns


async def test_places_go_round_the_keys_and_keep_the_order_within_a_key() -> None:
    turns = Turns(1)
    order: list[str] = []

    async def take(key: str, name: str) -> None:
        async with turns.hold((key,)):
            order.append(name)
            await asyncio.sleep(0)

    names = ["a1", "a2", "a3", "b1", "c1", "b2"]
    await asyncio.gather(*(take(name[0], name) for name in names))
    assert order == ["a1", "b1", "c1", "a2", "b2", "a3"]
    await take("a", "a4")
    assert order[-1] == "a4"


async def test_a_turn_that_nobody_waits_for_any_more_goes_to_the_next() -> None:
    turns = Turns(1)
    had: list[str] = []

    async def take(key: str) -> None:
        async with turns.hold((key,)):
            had.append(key)

    async with turns.hold(("first",)):
        gone, late, last = (asyncio.create_task(take(key)) for key in ("gone", "late", "last"))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
    # This waiter is cancelled at the moment of its turn.
    late.cancel()
    await asyncio.wait_for(last, 1)
    assert had == ["last"]
    assert gone.cancelled()
    assert late.cancelled()


async def test_a_key_at_its_limit_waits_while_another_key_takes_a_free_place() -> None:
    turns = Turns(3, (2,))
    await turns.take(("a",))
    await turns.take(("a",))
    third = asyncio.create_task(turns.take(("a",)))
    await asyncio.sleep(0)
    assert not third.done()
    assert turns.limiting(("a",)) == 0
    assert turns.take_at_once(("b",))
    assert turns.limiting(("c",)) is None
    assert not turns.take_at_once(("c",))
    turns.give_back(("a",))
    await asyncio.wait_for(third, 1)


async def test_a_second_key_such_as_a_workspace_has_a_limit_of_its_own() -> None:
    turns = Turns(4, (2, 3))
    for user in ("ada", "ada", "bob"):
        assert turns.take_at_once((user, "pier"))
    assert not turns.take_at_once(("bob", "pier"))
    assert turns.limiting(("bob", "pier")) == 1
    assert turns.take_at_once(("bob", "dock"))


async def test_a_cancelled_waiter_is_counted_no_longer_and_gets_no_place() -> None:
    turns = Turns(1)
    await turns.take(("a",))
    waiters = [asyncio.create_task(turns.take(("b",))) for _ in range(2)]
    await asyncio.sleep(0)
    assert turns.waiting("b") == 2
    waiters[0].cancel()
    await asyncio.gather(waiters[0], return_exceptions=True)
    assert turns.waiting("b") == 1
    turns.give_back(("a",))
    await asyncio.wait_for(waiters[1], 1)
    turns.give_back(("b",))
    assert turns.take_at_once(("c",))


async def test_work_without_a_caller_takes_its_turn_and_has_no_limit() -> None:
    turns = Turns(2, (1,))
    await turns.take(())
    await turns.take(())
    late = asyncio.create_task(turns.take(("a",)))
    await asyncio.sleep(0)
    assert not late.done()
    turns.give_back(())
    await asyncio.wait_for(late, 1)


@pytest.mark.parametrize("gone", [0, 1, 2])
async def test_all_places_are_free_again_whoever_of_the_waiters_gives_up(gone: int) -> None:
    turns = Turns(1)
    await turns.take(("first",))

    async def pass_through(key: str) -> None:
        async with turns.hold((key,)):
            pass

    tasks = [asyncio.create_task(pass_through(key)) for key in ("a", "b", "a")]
    await asyncio.sleep(0)
    turns.give_back(("first",))
    tasks[gone].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert turns.take_at_once(("last",))
