"""The printed and stored report: one table, the broken promises, the figures."""

import json
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.faults.harness.runner import ScenarioResult
from tests.faults.harness.scenario import Profile, Verdict

_COUNTS = ("operations", "faults", "lost", "doubled", "inverted", "leaked")
_COLOUR: dict[Verdict, str] = {"held": "green", "BROKEN": "red", "not possible here": "yellow"}


# Width of the table if the terminal's width is unknown.
_WIDTH = 170


def screen() -> Console:
    """Standard output."""
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH)


def line(row: ScenarioResult) -> str:
    """One line about a finished scenario."""
    tally = row.tally
    verdict = f"[{_COLOUR[tally.verdict]}]{tally.verdict}[/]"
    return (
        f"{row.scenario.name}: {verdict}, {tally.operations:,} operations, "
        f"{tally.faults:,} faults ({row.seconds:.0f} s)"
    )


def show(
    rows: list[ScenarioResult], profile: Profile, seed: int, seconds: float, console: Console
) -> None:
    """Print the table, and below it the broken promises and the measurements."""
    table = Table(title=f"Promises: profile {profile}, seed {seed}, {seconds:.0f} s")
    for heading in ("promise", *_COUNTS, "slowest recovery (s)", "verdict"):
        table.add_column(heading, justify="left" if heading in ("promise", "verdict") else "right")
    for row in rows:
        tally = row.tally
        table.add_row(
            escape(row.scenario.promise),
            *(f"{getattr(tally, name):,}" for name in _COUNTS),
            f"{tally.slowest_recovery:.1f}" if tally.slowest_recovery else "–",
            f"[{_COLOUR[tally.verdict]}]{tally.verdict}[/]",
        )
    console.print(table)
    for row in rows:
        tally = row.tally
        sentences = [f"[red]broken:[/] {escape(text)}" for text in tally.broken]
        sentences += [f"[red]too slow:[/] {escape(text)}" for text in tally.slow]
        if tally.impossible:
            sentences.append(f"[yellow]not possible here:[/] {escape(tally.impossible)}")
        sentences += [f"{escape(name)}: {escape(value)}" for name, value in tally.figures.items()]
        if sentences:
            console.print(f"\n[bold]{escape(row.scenario.name)}[/]")
            for sentence in sentences:
                console.print(f"  {sentence}")


def as_json(rows: list[ScenarioResult], profile: Profile, seed: int, seconds: float) -> str:
    return json.dumps(
        {
            "profile": profile,
            "seed": seed,
            "seconds": round(seconds, 1),
            "rows": {row.scenario.name: _facts(row) for row in rows},
        },
        indent=2,
    )


def _facts(row: ScenarioResult) -> dict[str, Any]:
    tally = row.tally
    return {
        "promise": row.scenario.promise,
        **{name: getattr(tally, name) for name in _COUNTS},
        "slowest_recovery": round(tally.slowest_recovery, 2),
        "verdict": tally.verdict,
        "broken": tally.broken,
        "slow": tally.slow,
        "impossible": tally.impossible,
        "figures": tally.figures,
        "seconds": round(row.seconds, 1),
    }
