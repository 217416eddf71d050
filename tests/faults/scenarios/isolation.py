"""Every RPC with every kind of foreign id, page token and cursor, as in tests/faults/test_isolation.py."""

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
from tests.faults.samples import Samples, new_samples

PROMISE = "Workspaces are isolated"

_SETTLE_SECONDS = 40.0


async def run(run: Run, tally: Tally) -> None:
    settings = run.stack.settings
    async with new_samples(settings) as victim, new_samples(settings) as stranger:
        run.say("waiting until the workers are done")
        await _quiet(victim, settings.email_window + 2)
        ids, seals = id_places(), seal_places()
        run.random.shuffle(ids)
        for number, (rpc, place) in enumerate(ids):
            run.say(f"{number + 1} of {len(ids)}: {rpc.name}.{place.path}")
            _count(await try_foreign_ids(victim, stranger, rpc, place), tally)
        _count(await try_foreign_key(victim, stranger), tally)
        for rpc, place in seals:
            _count(await try_foreign_seals(victim, stranger, rpc, place), tally)
    tally.figures["tried"] = f"{len(ids)} id fields, {len(seals)} page token and cursor fields"


def _count(sentences: list[str], tally: Tally) -> None:
    tally.operations += 1
    tally.leaked += len(sentences)
    tally.broken += sentences


async def _quiet(samples: Samples, seconds: float) -> None:
    """Return once the samples stayed unchanged for this long; TimeoutError if they keep changing."""
    async with asyncio.timeout(_SETTLE_SECONDS):
        before, since = await state(samples), time.monotonic()
        while time.monotonic() < since + seconds:
            await asyncio.sleep(0.5)
            now = await state(samples)
            if now != before:
                before, since = now, time.monotonic()
