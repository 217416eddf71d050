"""Brings up one whole stack and tries every promise on it, one after the other."""

import asyncio
import random
import time
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc.aio

from deploy.local.stack import Stack, running_stack
from services.platform.config import Settings
from tests.conftest import settings_for
from tests.faults.harness.injectors import restore
from tests.faults.harness.registry import Scenario
from tests.faults.harness.scenario import NotPossible, Profile, Run, Tally
from tests.faults.harness.world import fetch

# As `make up` but for folder and ports, and for what follows.
_SETTINGS: dict[str, object] = {
    "replicas": 2,
    # What `make up` has, when nobody says otherwise (seconds).
    "email_window": 5,
    # Logins of all scenarios come from one address.
    "login_attempts_per_address": 1_000_000,
    # The people of the corpus of bad input log in once.
    "access_token_lifetime": 3600,
}
# What a run of five minutes can't wait for (seconds).
_SHORT: dict[str, object] = {
    # A stream without news says that it lives; also how often one that isn't read is looked at.
    "heartbeat_interval": 3,
    # With the heartbeat above, one that isn't read is cut after at most 9 s instead of 30.
    "reader_timeout": 6,
    # Ten tries of a bad event then take 4 s instead of 2 minutes.
    "event_retry_pause": 0.5,
    "email_window": 2,
}
_RESTORE_SECONDS = 180.0
# How often this process looks whether it runs, and how late that may be (seconds).
_PULSE_SECONDS = 0.1
_LATE_SECONDS = 0.5

Say = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """A scenario and what came of it, in `seconds`."""

    scenario: Scenario
    tally: Tally
    seconds: float


def settings_of(profile: Profile, folder: Path) -> Settings:
    # The tests' own settings are brisker than what people run; here they have to be the product's.
    ours = {
        name: field.default
        for name, field in Settings.model_fields.items()
        if not name.endswith("_port") and name not in ("data_dir", "email_window")
    }
    brief = _SHORT if profile == "short" else {}
    return settings_for(folder / "data", **{**ours, **_SETTINGS, **brief})


async def run_all(
    scenarios: list[Scenario],
    profile: Profile,
    seed: int,
    folder: Path,
    begun: Callable[[Scenario], Say],
    ended: Callable[[Row], None],
) -> None:
    """`begun` is told which scenario begins and returns what it reports its progress to; `ended` what came of it."""
    async with running_stack(settings_of(profile, folder)) as stack:
        for scenario in scenarios:
            say = begun(scenario)
            started = time.monotonic()
            tally = await _try(scenario, stack, profile, seed, folder, say)
            ended(Row(scenario, tally, time.monotonic() - started))


async def _try(
    scenario: Scenario, stack: Stack, profile: Profile, seed: int, folder: Path, say: Say
) -> Tally:
    """In the short profile, what was only too slow has a second try: its seconds are too few for a percentile that
    nothing else on the machine can spoil."""
    slow: list[str] = []
    for name in (scenario.name, f"{scenario.name} again"):
        scratch = folder / "scenarios" / name
        scratch.mkdir(parents=True)
        run = Run(stack, profile, random.Random(f"{seed} {name}"), scratch, say)
        tally = await _run_one(scenario, run)
        if slow:
            tally.figures["too slow at first"] = "; ".join(slow)
        if profile == "long" or tally.wrong or not tally.slow:
            break
        slow = tally.slow
        say("again, as it was too slow")
    return tally


@asynccontextmanager
async def _watched(tally: Tally) -> AsyncIterator[None]:
    """Tell when this process, and with it most likely all of them, got no processor: times are the machine's then."""
    waits: list[float] = []

    async def watch() -> None:
        while True:
            due = time.monotonic() + _PULSE_SECONDS
            await asyncio.sleep(_PULSE_SECONDS)
            if (late := time.monotonic() - due) > _LATE_SECONDS:
                waits.append(late)

    watching = asyncio.create_task(watch(), name="pulse")
    try:
        yield
    finally:
        watching.cancel()
        if waits:
            tally.figures["the machine was busy"] = (
                f"this process stood still for up to {max(waits):.1f} s, {sum(waits):.0f} s in all"
            )


async def _run_one(scenario: Scenario, run: Run) -> Tally:
    tally = Tally()
    limit = scenario.limit[run.profile]
    deadline = asyncio.timeout(limit)
    try:
        async with _watched(tally), deadline:
            await scenario.run(run, tally)
    except NotPossible as reason:
        tally.impossible = str(reason)
    except Exception as error:
        (run.folder / "error.txt").write_text(traceback.format_exc())
        if deadline.expired():
            tally.broken.append(f"it took longer than {limit:g} s")
        else:
            tally.broken.append(f"the scenario failed: {_in_short(error)}")
    await _restore(run.stack, tally)
    return tally


def _in_short(error: BaseException) -> str:
    """One line, of the first cause in a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    text = str(error).strip().partition("\n")[0][:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


async def _restore(stack: Stack, tally: Tally) -> None:
    held = stack.held()
    missing = await restore(stack, _RESTORE_SECONDS)
    tally.expect(not held, f"it left {', '.join(held)} held down")
    tally.expect(not missing, f"after it {', '.join(missing)} didn't serve any more")
    if missing:
        return
    # Each row answers for its own.
    left = await fetch(
        stack.settings, "DELETE FROM platform.dead_letters RETURNING consumer, subject"
    )
    tally.expect(not left, f"it left {len(left)} dead letters, such as {left[:3]}")
