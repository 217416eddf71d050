"""Promises of the ring: a reader gets every later event of its workspace, or learns that it must read the store."""

import asyncio
from uuid import uuid4

from hypothesis import given
from hypothesis import strategies as st

from services.task.board.ring import Entry, Position, Reader, Ring, Room

_ROOMS = ("a", "b", "c")


def at(sequence: int) -> Position:
    return Position("epoch", sequence, str(sequence))


def filled(rooms: list[str], size: int) -> Ring:
    """A ring with one event after another, in these workspaces."""
    ring = Ring(size, 10**9)
    ring.restart(at(0))
    for number, room in enumerate(rooms, 1):
        ring.append(room, at(number), b"")
    return ring


def rest(entry: Entry) -> list[int]:
    found = []
    while entry.after is not None:
        entry = entry.after
        found.append(entry.position.sequence)
    return found


events = st.lists(st.sampled_from(_ROOMS), max_size=40)


@given(events, st.integers(1, 20), st.integers(0, 40), st.sampled_from(_ROOMS))
def test_a_reader_at_any_position_gets_all_later_events_of_its_workspace(
    rooms: list[str], size: int, position: int, name: str
) -> None:
    ring = filled(rooms, size)
    position = min(position, len(rooms))
    room = ring.enter(name)
    entry = ring.at(room, at(position))
    if position < len(rooms) - size:
        assert entry is None
    else:
        assert entry is not None
        later = [n for n, other in enumerate(rooms, 1) if other == name and n > position]
        assert rest(entry) == later


@given(events, events, st.integers(1, 20), st.sampled_from(_ROOMS))
def test_a_stream_that_falls_behind_the_ring_is_detected(
    before: list[str], after: list[str], size: int, name: str
) -> None:
    ring = filled(before, size)
    room = ring.enter(name)
    standing = room.tail
    for number, other in enumerate(after, len(before) + 1):
        ring.append(other, at(number), b"")
    later = [n for n, other in enumerate(after, len(before) + 1) if other == name]
    met = rest(standing)
    assert met == later[: len(met)]
    if met != later:
        last = standing
        while last.after is not None:
            last = last.after
        assert last.lost


@given(events, st.integers(1, 20))
def test_workspaces_without_events_and_streams_are_dropped(rooms: list[str], size: int) -> None:
    ring = filled(rooms, size)
    for name in _ROOMS:
        ring.leave(ring.enter(name))
    assert ring._rooms.keys() == set(rooms[-size:])
    ring.restart(at(100))
    assert not ring._rooms


def test_the_ring_is_bounded_in_bytes_too() -> None:
    ring = Ring(1000, 100_000)
    ring.restart(at(0))
    for number in range(1, 101):
        ring.append("a", at(number), b"x" * 10_000)
    assert 95 <= ring.floor.sequence < 100


def test_only_the_same_event_of_the_same_stream_is_a_duplicate() -> None:
    ring = filled(["a", "b"], 10)
    assert ring.holds(at(0))
    assert ring.holds(at(1))
    assert ring.holds(at(2))
    assert not ring.holds(at(3))
    assert not ring.holds(Position("epoch", 1, "another"))
    assert not ring.holds(Position("other", 1, "1"))


def test_a_restart_puts_a_reset_between_old_and_new_events() -> None:
    ring = filled(["a"], 10)
    room = ring.enter("a")
    standing = room.tail
    ring.restart(Position("new", 7, ""))
    ring.append("a", Position("new", 8, "8"), b"")
    reset = standing.after
    assert reset is not None
    assert reset.reset
    assert rest(reset) == [8]
    assert ring.at(room, Position("new", 7, "")) is not None


async def test_an_event_wakes_only_the_streams_of_its_workspace() -> None:
    ring = filled([], 10)
    readers = {name: Reader(ring.enter(name), uuid4(), 60) for name in ("a", "b")}
    waiting = {name: asyncio.create_task(reader.wait()) for name, reader in readers.items()}
    await asyncio.sleep(0)
    ring.append("a", at(1), b"")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert waiting["a"].done()
    assert not waiting["b"].done()
    readers["b"].end()
    await waiting["b"]
    assert readers["b"].ended
    for reader in readers.values():
        reader.close()


async def test_a_waiting_stream_is_registered_once_however_many_heartbeats_it_sends() -> None:
    room = Room("a", at(0))
    reader = Reader(room, uuid4(), 0.001)
    for _ in range(20):
        await reader.wait()
    assert len(room.waiting) == 1
    reader.close()
    assert not room.waiting


async def test_other_work_has_its_turn_before_an_event_has_woken_a_thousand_streams() -> None:
    ring = Ring(10, 10**6)
    room = ring.enter("a")
    readers = [Reader(room, uuid4(), 60) for _ in range(1000)]
    order: list[str] = []

    async def follow(reader: Reader) -> None:
        await reader.wait()
        order.append("stream")
        reader.close()

    following = [asyncio.create_task(follow(reader)) for reader in readers]
    await asyncio.sleep(0)
    ring.append("a", at(1), b"")
    asyncio.get_running_loop().call_soon(order.append, "other work")
    await asyncio.wait_for(asyncio.gather(*following), 10)
    assert order.count("stream") == 1000
    assert order.index("other work") <= 100
