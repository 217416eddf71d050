"""Every RPC with every kind of foreign id, page token and cursor, as tests/faults/test_isolation.py has it."""

import asyncio
import time

from tests.faults.harness.scenario import Run, Tally
from tests.faults.isolation import (
    id_places,
    seal_places,
    state,
    try_foreign_ids,
    try_foreign_key,
    try_foreign_seals,
)
from tests.faults.world import World, a_world

PROMISE = "Workspaces are isolated"

_SETTLE_SECONDS = 40.0


async def run(run: Run, tally: Tally) -> None:
    settings = run.stack.settings
    async with a_world(settings) as victim, a_world(settings) as stranger:
        run.say("waiting until the workers have done their part")
        await _quiet(victim, settings.email_window + 2)
        ids, seals = id_places(), seal_places()
        run.random.shuffle(ids)
        for number, (rpc, place) in enumerate(ids):
            run.say(f"{number + 1} of {len(ids)}: {rpc.name}.{place.path}")
            _count(await try_foreign_ids(victim, stranger, rpc, place), tally)
        _count(await try_foreign_key(victim, stranger), tally)
        for rpc, place in seals:
            _count(await try_foreign_seals(victim, stranger, rpc, place), tally)
    tally.figures["tried"] = f"{len(ids)} places for ids, {len(seals)} for page tokens and cursors"


def _count(sentences: list[str], tally: Tally) -> None:
    tally.operations += 1
    tally.leaked += len(sentences)
    tally.broken += sentences


async def _quiet(world: World, seconds: float) -> None:
    """Returns when nothing of the world has changed for so long. TimeoutError when it always does."""
    async with asyncio.timeout(_SETTLE_SECONDS):
        before, since = await state(world), time.monotonic()
        while time.monotonic() < since + seconds:
            await asyncio.sleep(0.5)
            now = await state(world)
            if now != before:
                before, since = now, time.monotonic()
