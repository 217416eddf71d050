"""The corpus of bad input over every RPC: the documented answer to whatever is sent, and nothing worse."""

from tests.faults.bad_input import CASES, MOST_GROWTH, hold
from tests.faults.harness.scenario import Run, Tally
from tests.faults.world import a_world

PROMISE = "Bad input gets the documented answer and harms nothing"
LIMIT_SECONDS = {"short": 240.0, "long": 3600.0}

# Broken sentences shown; the others are more of the same.
_SHOWN = 20


async def run(run: Run, tally: Tally) -> None:
    settings = run.stack.settings
    seed = run.random.randrange(2**32)
    async with a_world(settings) as world:
        report = await hold(world, run.stack, seed, CASES[run.profile], say=run.say)
    tally.operations = tally.faults = report.cases
    tally.broken += report.wrong[:_SHOWN]
    growth = report.growth / 2**20
    tally.expect(report.growth < MOST_GROWTH, f"a process grew by {growth:.0f} MiB")
    tally.figures["seed of the cases"] = f"{seed} (python -m tests.faults.bad_input --seed {seed})"
    tally.figures["answered otherwise than documented"] = f"{len(report.wrong):,}"
    tally.figures["memory of a process grew by"] = f"{growth:.0f} MiB"
    tally.figures["slowest answer"] = f"{report.slowest[0]:.2f} s, {report.slowest[1]}"
