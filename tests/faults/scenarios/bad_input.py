"""Bad input to every RPC gets the documented answer at a bounded cost and does no harm."""

from tests.faults import request_cost
from tests.faults.bad_input import CASES, MOST_GROWTH, hold
from tests.faults.harness.scenario import Run, Tally
from tests.faults.samples import new_samples

PROMISE = "Bad input gets the documented answer and does no harm"
LIMIT_SECONDS = {"short": 240.0, "long": 3600.0}

# Share of the requests filled to the size limit.
_SHARE = {"short": 0.3, "long": 1.0}
# Number of findings shown; more would repeat them.
_SHOWN = 20


async def run(run: Run, tally: Tally) -> None:
    settings = run.stack.settings
    seed = run.random.randrange(2**32)
    async with new_samples(settings) as samples:
        costs = await request_cost.measure(samples, run.stack, seed, _SHARE[run.profile], run.say)
        report = await hold(samples, run.stack, seed, CASES[run.profile], say=run.say)
    tally.operations = tally.faults = report.cases + costs.answers.total()
    tally.broken += costs.broken[:_SHOWN]
    tally.broken += report.wrong[:_SHOWN]
    growth = report.growth / 2**20
    tally.expect(report.growth < MOST_GROWTH, f"a process grew by {growth:.0f} MiB")
    tally.figures["seed of the cases"] = f"{seed} (python -m tests.faults.bad_input --seed {seed})"
    tally.figures["requests with an undocumented answer"] = f"{len(report.wrong):,}"
    tally.figures["memory of a process grew by"] = f"{growth:.0f} MiB"
    seconds, name = costs.dearest[0]
    tally.figures["most expensive filled request"] = (
        f"{1000 * seconds:.0f} ms of CPU on the event loop, {name}"
    )
    tally.figures["most memory for one of them"] = f"{max(costs.memory.values()) / 2**20:.0f} MiB"
    tally.figures["slowest answer"] = f"{report.slowest[0]:.2f} s, {report.slowest[1]}"
