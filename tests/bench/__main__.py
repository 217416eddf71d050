"""`python -m tests.bench`: measures, prints one table, writes results.json; exits with 1 if a limit isn't met."""

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests.bench.machine import machine, versions
from tests.bench.registry import ROWS
from tests.bench.rows import Bench, Result, Row, places
from tests.bench.stacks import Stacks, folder_for

RESULTS = Path(__file__).parent / "results.json"
_PORT = 25_000


def main() -> None:
    options = _options()
    console = Console(stderr=True)
    rows = [ROWS[name] for name in ROWS if name in options.rows]
    with folder_for(options.keep) as folder:
        found = asyncio.run(_measured(rows, folder, options.port, console))
    Console().print(_table(found))
    missing = [name for name, result in found.items() if not result.met]
    if missing:
        sys.exit(f"bench: {', '.join(missing)} not met")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument(
        "--rows",
        type=_names,
        default=list(ROWS),
        help="some of the rows, separated by commas: P1,P4",
    )
    parser.add_argument("--port", type=int, default=_PORT, help="the first of a thousand ports")
    parser.add_argument("--keep", type=Path, help="a folder for data and logs, kept afterwards")
    return parser.parse_args()


def _names(text: str) -> list[str]:
    names = [name.strip().upper() for name in text.split(",")]
    if unknown := set(names) - set(ROWS):
        raise argparse.ArgumentTypeError(
            f"no row {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}"
        )
    return names


async def _measured(
    rows: list[Row], folder: Path, port: int, console: Console
) -> dict[str, Result]:
    where = places(folder, port)
    stacks = Stacks(where)
    small, large = where["small"].dataset, where["large"].dataset
    columns = (
        *(TextColumn("{task.fields[row]:>4}"), BarColumn(20), MofNCompleteColumn()),
        *(TimeElapsedColumn(), TextColumn("{task.description}")),
    )
    found: dict[str, Result] = {}
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=len(rows), row="")
        for row in rows:
            progress.update(task, row=row.id, description=row.work)

            def say(text: str, row: Row = row) -> None:
                progress.update(task, description=f"{row.work}: {text}")

            stacks.say = say
            began = time.monotonic()
            try:
                result = await row.measure(Bench(stacks, small, large, folder, port, say))
            except BaseException:
                await stacks.close()
                raise
            found[row.id] = result
            _store(row.id, result)
            seconds = time.monotonic() - began
            progress.console.print(f"{row.id}: {_summary(result)} ({seconds:.0f} s)")
            progress.advance(task)
        await stacks.close()
    return found


def _summary(result: Result) -> str:
    ratio = "" if result.ratio is None else f", {result.ratio:.2f} of the floor"
    return f"{_number(result.value)} {result.unit}{ratio}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _table(found: dict[str, Result]) -> Table:
    table = Table(title="TaskFlow, measured", caption="Notes and methods: docs/performance.md")
    for heading in ("", "work", "measured", "floor", "", "ratio", "reach", ""):
        right = heading in ("measured", "floor", "ratio")
        table.add_column(heading, justify="right" if right else "left")
    for name in sorted(found, key=lambda name: int(name[1:])):
        row, result = ROWS[name], found[name]
        table.add_row(
            name,
            row.work,
            f"{_number(result.value)} {result.unit}",
            "–" if result.floor is None else _number(result.floor),
            row.floor,
            "–" if result.ratio is None else f"{result.ratio:.2f}",
            "\n".join(limit.text for limit in result.limits),
            "\n".join(
                "[green]met[/]" if limit.met else "[red]not met[/]" for limit in result.limits
            ),
        )
    return table


def _store(measured: str, result: Result) -> None:
    """Writes results.json. Benchmark rows that weren't measured now keep their stored results."""
    try:
        stored: dict[str, Any] = json.loads(RESULTS.read_text())
    except FileNotFoundError:
        stored = {}
    stored[measured] = {
        "value": result.value,
        "unit": result.unit,
        "floor": result.floor,
        "ratio": result.ratio,
        "reach": ", ".join(limit.text for limit in result.limits),
        "met": result.met,
        "details": result.details,
    }
    stored["machine"] = machine()
    stored["versions"] = versions()
    order = sorted(
        stored, key=lambda name: (name not in ROWS, int(name[1:]) if name in ROWS else 0)
    )
    RESULTS.write_text(json.dumps({name: stored[name] for name in order}, indent=2) + "\n")


if __name__ == "__main__":
    main()
