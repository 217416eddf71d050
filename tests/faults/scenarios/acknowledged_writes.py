"""Postgres and the services are killed repeatedly while 8 people write; then every answer is checked."""

import asyncio
from contextlib import AsyncExitStack

from tests.faults.harness.checker import check, longest_gap
from tests.faults.harness.injectors import killing
from tests.faults.harness.load import at_rate
from tests.faults.harness.oplog import OperationLog
from tests.faults.harness.scenario import Run, Tally
from tests.faults.harness.world import a_world
from tests.faults.harness.writers import Writers

PROMISE = "An acknowledged write survives"
LIMIT_SECONDS = {"short": 300.0, "long": 1800.0}

_WRITERS = 8
# Operations per second, of all people together.
_RATE = 200.0
_SERVICES = [
    "auth",
    "task",
    "notification",
    "relay",
    "auth-2",
    "task-2",
    "notification-2",
    "relay-2",
]


async def run(run: Run, tally: Tally) -> None:
    seconds = run.choose(8.0, 300.0)
    async with AsyncExitStack() as exit_stack:
        world = await exit_stack.enter_async_context(a_world(run, people=_WRITERS + 1, projects=2))
        log = exit_stack.enter_context(OperationLog(run.folder / "operations"))
        writers = Writers(world.stubs, world.workspace, log, run.random)
        async with at_rate(_RATE, writers.act) as load:
            async with (
                killing(run, ["postgres"], run.choose(3.5, 30.0), tally),
                killing(run, _SERVICES, run.choose(2.0, 7.0), tally),
            ):
                await asyncio.sleep(seconds)
            # Keep writing for a moment, so that the check covers writes acknowledged after the recovery.
            await asyncio.sleep(2)
        operations = list(log)
        tally.operations = load.begun
        tally.recovered_after(longest_gap(operations))
        await check(world.settings, world.workspace.id, operations, tally)
        codes = writers.codes
        tally.figures["answers"] = ", ".join(f"{code} {n:,}" for code, n in codes.most_common())
        tally.expect(not codes["INTERNAL"], f"{codes['INTERNAL']} calls were answered INTERNAL")
        tally.expect(codes["OK"] > 0.2 * load.begun, "hardly anything was acknowledged")
