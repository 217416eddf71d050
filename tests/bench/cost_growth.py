"""`python -m tests.bench.cost_growth`: costs with 1, 10 and 100 times the tasks, users, projects and streams.

Writes docs/performance/growth.json, a plot of it, and the table in docs/performance.md. The sizes alternate for three
rounds, on stacks side by side. With `--only` the other results are kept.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from taskflow.task.v1.task_service_pb2 import ListTasksRequest
from tests.bench import dataset, notification_latency, plot, unary
from tests.bench.dataset import LARGE, WORKSPACES, Dataset
from tests.bench.machine import machine, versions
from tests.bench.processes import load
from tests.bench.rows import ROUNDS, percentile
from tests.bench.stacks import CALLS, WHOLE, StackPlace, Stacks, folder_for
from tests.conftest import superuser

_DOCS = Path(__file__).resolve().parents[2] / "docs"
RESULTS = _DOCS / "performance" / "growth.json"
PLOT = _DOCS / "performance" / "growth.svg"
_TEXT = _DOCS / "performance.md"
_BEGIN, _END = "<!-- growth: begin -->\n", "<!-- growth: end -->\n"

_PORT = 25_000
# Creates per second, few enough not to saturate a small machine: the row measures a notification's path, not a queue.
_RATE = 20
_SECONDS = 5.0
# Streams per client process.
_STREAMS_EACH = 2_500
# Envoy starts serving only after it has reached every service, so all services run.
_BEHIND_GATEWAY = CALLS | {"notification", "envoy"}

# Results by size or by number of processes, with one number per round.
Values = dict[str, list[float]]


@dataclass(frozen=True)
class Size:
    factor: int

    @property
    def name(self) -> str:
        return str(self.factor)

    @property
    def dataset(self) -> Dataset:
        return Dataset(tasks=10_000 * self.factor, users=1_000 * self.factor, notifications=3)

    @property
    def streams(self) -> int:
        return 100 * self.factor


SIZES = [Size(1), Size(10), Size(100)]


@dataclass(frozen=True)
class Measure:
    """What is measured at each size. `rate` marks values per second, whose cost is the time per item."""

    title: str
    unit: str
    rate: bool
    measure: Callable[[Stacks], Awaitable[Values]]


async def _creates(stacks: Stacks) -> Values:
    running = await stacks.need(**{size.name: CALLS for size in SIZES})
    specs = {
        size.name: unary.creating(running[size.name].settings, size.dataset, size.factor)
        for size in SIZES
    }
    found: Values = {name: [] for name in specs}
    for number in range(ROUNDS):
        for name, spec in specs.items():
            stacks.say(f"round {number + 1}: creates at {name} ×")
            found[name].append(await unary.rate(spec, spec["address"]))
            await _forget_events(superuser(running[name].settings))
    return found


async def _pages(stacks: Stacks) -> Values:
    running = await stacks.need(**{size.name: CALLS for size in SIZES})
    first = ListTasksRequest(workspace_id=WORKSPACES[LARGE], page_size=unary.PAGE)
    specs = {}
    for size in SIZES:
        settings = running[size.name].settings
        requests = [unary.encoded(first), *await unary.deep_pages(settings, first, None)]
        specs[size.name] = unary.listing(settings, size.dataset.tokens(settings, [1]), requests)
    found: Values = {name: [] for name in specs}
    for number in range(ROUNDS):
        for name, spec in specs.items():
            stacks.say(f"round {number + 1}: pages at {name} ×")
            [pages] = await load(spec)
            found[name].append(median(pages["milliseconds"]))
    return found


async def _notifications(stacks: Stacks) -> Values:
    running = await stacks.need(**{size.name: WHOLE for size in SIZES})
    found: Values = {size.name: [] for size in SIZES}
    for number in range(ROUNDS):
        for size in SIZES:
            stacks.say(f"round {number + 1}: {size.streams:,} streams")
            told = await notification_latency.measured(
                running[size.name].settings,
                size.dataset,
                size.streams,
                rate=_RATE,
                seconds=_SECONDS,
                clients=-(-size.streams // _STREAMS_EACH),
            )
            found[size.name].append(percentile(told["milliseconds"], 0.5))
    return found


async def _replicas(stacks: Stacks) -> Values:
    """Creates through the gateway with one task process and with two, on the smallest database."""
    found: Values = {"1": [], "2": []}
    for number in range(ROUNDS):
        for name, values in found.items():
            running = await stacks.need(**{f"processes {name}": _BEHIND_GATEWAY})
            settings = running[f"processes {name}"].settings
            stacks.say(f"round {number + 1}: creates by {name} of the task processes")
            spec = unary.creating(settings, SIZES[0].dataset)
            values.append(await unary.rate(spec, f"127.0.0.1:{settings.gateway_port}"))
            await _forget_events(superuser(settings))
    return found


async def _forget_events(url: str) -> None:
    """Delete unpublished events. No relay runs here, and the next one would have to publish them all."""
    await dataset.execute(url, "DELETE FROM platform.outbox WHERE published_at IS NULL")


MEASURES = {
    "pages": Measure("a page of 50 (ListTasks)", "ms p50", False, _pages),
    "creates": Measure("a create (CreateTask)", "a second", True, _creates),
    "notifications": Measure("from commit to notification", "ms p50", False, _notifications),
}
REPLICAS = Measure("CreateTask through Envoy", "a second", True, _replicas)
_EVERY = [*MEASURES, "replicas"]


def main() -> None:
    options = _options()
    console = Console(stderr=True)
    with folder_for(options.keep) as folder:
        asyncio.run(_measured(options.only, folder, options.port, console))
    found = json.loads(RESULTS.read_text())
    if missing := set(_EVERY) - set(found):
        console.print(f"There is nothing to draw without {', '.join(sorted(missing))}.")
        return
    PLOT.write_text(plot.svg(_costs(found)))
    text = _TEXT.read_text()
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    _TEXT.write_text(before + _BEGIN + _tables(found) + _END + after)
    console.print(_tables(found), markup=False)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.cost_growth")
    parser.add_argument(
        "--only",
        type=_names,
        default=_EVERY,
        help=f"some of {','.join(_EVERY)}, separated by commas",
    )
    parser.add_argument("--port", type=int, default=_PORT, help="the first of a thousand ports")
    parser.add_argument("--keep", type=Path, help="a folder for data and logs, kept afterwards")
    return parser.parse_args()


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(_EVERY):
        raise argparse.ArgumentTypeError(f"there is no {', '.join(sorted(unknown))}")
    return names


async def _measured(only: list[str], folder: Path, port: int, console: Console) -> None:
    smallest = SIZES[0]
    places = {
        size.name: StackPlace(size.dataset, folder / size.name, port + 200 * number)
        for number, size in enumerate(SIZES)
    } | {
        # Both process counts use one database, because their stacks never run together.
        f"processes {count}": StackPlace(smallest.dataset, folder / smallest.name, port, count)
        for count in (1, 2)
    }
    stacks = Stacks(places)
    columns = (
        BarColumn(20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    every = MEASURES | {"replicas": REPLICAS}
    chosen = {name: measure for name, measure in every.items() if name in only}
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=len(chosen))
        for name, measure in chosen.items():

            def say(text: str, title: str = measure.title) -> None:
                progress.update(task, description=f"{title}: {text}")

            stacks.say = say
            began = time.monotonic()
            try:
                values = await measure.measure(stacks)
            except BaseException:
                await stacks.close()
                raise
            _store(name, measure.unit, values)
            seconds = time.monotonic() - began
            medians = ", ".join(f"{_number(median(each))}" for each in values.values())
            progress.console.print(f"{measure.title}: {medians} {measure.unit} ({seconds:.0f} s)")
            progress.advance(task)
        await stacks.close()


def _store(name: str, unit: str, values: Values) -> None:
    try:
        stored: dict[str, Any] = json.loads(RESULTS.read_text())
    except FileNotFoundError:
        stored = {}
    stored |= {name: {"unit": unit, "rounds": values}}
    stored |= {"machine": machine(), "versions": versions()}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(stored, indent=2) + "\n")


def _costs(found: dict[str, Any]) -> plot.Lines:
    """The cost of each size relative to the smallest: the medians of the rounds' ratios."""
    return {
        measure.title: {
            size.factor: _ratio(found[name]["rounds"], size.name, measure) for size in SIZES
        }
        for name, measure in MEASURES.items()
    }


def _ratio(rounds: Values, name: str, measure: Measure) -> float:
    ratios = [
        here / base for here, base in zip(rounds[name], next(iter(rounds.values())), strict=True)
    ]
    return median(1 / ratio if measure.rate else ratio for ratio in ratios)


def _tables(found: dict[str, Any]) -> str:
    heads = [
        f"{size.factor} ×: {size.dataset.tasks:,} tasks, {size.dataset.users:,} users, {size.streams:,} streams"
        for size in SIZES
    ]
    lines = [f"| | {' | '.join(heads)} |", f"|---|{'---|' * len(heads)}"]
    for name, measure in MEASURES.items():
        rounds = found[name]["rounds"]
        cells = [
            f"{_number(median(rounds[size.name]))} {measure.unit}"
            + (f", {_ratio(rounds, size.name, measure):.2f} × the cost" if size.factor > 1 else "")
            for size in SIZES
        ]
        lines.append(f"| {measure.title} | {' | '.join(cells)} |")
    rounds = found["replicas"]["rounds"]
    one, two = (median(rounds[count]) for count in ("1", "2"))
    lines += [
        "",
        f"{REPLICAS.title}, with {found['machine']['processors']} processors for everything, clients included: "
        f"{_number(one)} {REPLICAS.unit} with one task process, {_number(two)} with two.",
    ]
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main()
