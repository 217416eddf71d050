"""Starts one whole stack and runs every scenario on it, one after the other."""

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

# The settings of `make up`, except folder, ports and these.
_SETTINGS: dict[str, object] = {
    "replicas": 2,
    # Seconds, as `make up` sets it by default.
    "email_window": 5,
    # All scenarios log in from one address.
    "login_attempts_per_address": 1_000_000,
    # The users of the bad-input corpus log in only once.
    "access_token_lifetime": 3600,
}
# Shorter times (seconds) for a run of five minutes.
_SHORT: dict[str, object] = {
    # The interval (seconds) at which services send heartbeats and check for clients that don't read.
    "heartbeat_interval": 3,
    # With the heartbeat above, a stalled stream is cut after at most 9 s instead of 30.
    "reader_timeout": 6,
    # Ten tries of a poison event then take 4 s instead of 2 minutes.
    "event_retry_pause": 0.5,
    "email_window": 2,
}
_RESTORE_SECONDS = 180.0
# How often (seconds) this process checks that it gets CPU time, and how late a check may be.
_PULSE_SECONDS = 0.1
_LATE_SECONDS = 0.5

Say = Callable[[str], None]


@dataclass(frozen=True)
class ScenarioResult:
    """A scenario with its tally, and how long it took."""

    scenario: Scenario
    tally: Tally
    seconds: float


def settings_of(profile: Profile, folder: Path) -> Settings:
    # The tests' own settings are faster than production; scenarios need the product's defaults.
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
    ended: Callable[[ScenarioResult], None],
) -> None:
    """Calls `begun` before each scenario, which returns its progress callback, and `ended` with each result."""
    async with running_stack(settings_of(profile, folder)) as stack:
        for scenario in scenarios:
            say = begun(scenario)
            started = time.monotonic()
            tally = await _try(scenario, stack, profile, seed, folder, say)
            ended(ScenarioResult(scenario, tally, time.monotonic() - started))


async def _try(
    scenario: Scenario, stack: Stack, profile: Profile, seed: int, folder: Path, say: Say
) -> Tally:
    """Run a scenario. In the short profile one that was only too slow runs again: it has too few samples for a
    percentile that other load on the machine can't distort."""
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
    """Report when this process got no CPU: then slow times are likely the machine's fault."""
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
    """The first cause of an exception group, in one line."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    text = str(error).strip().partition("\n")[0][:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


async def _restore(stack: Stack, tally: Tally) -> None:
    held = stack.held()
    missing = await restore(stack, _RESTORE_SECONDS)
    tally.expect(not held, f"it left {', '.join(held)} held")
    tally.expect(not missing, f"after it {', '.join(missing)} no longer served")
    if missing:
        return
    # Delete the dead letters that a scenario left, so that they don't count against the next scenario.
    left = await fetch(
        stack.settings, "DELETE FROM platform.dead_letters RETURNING consumer, subject"
    )
    tally.expect(not left, f"it left {len(left)} dead letters, such as {left[:3]}")
