"""The rows of the table, by their ids, in the order in which they are measured."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.stacks import Place, Stacks
from tests.bench.world import World

ROUNDS = 3


@dataclass
class Bench:
    """What a row measures with. `say` shows what is being done."""

    stacks: Stacks
    small: World
    large: World
    folder: Path
    port: int
    say: Callable[[str], None]

    @property
    def echo(self) -> str:
        """Where the bare server listens."""
        return f"127.0.0.1:{self.port + 900}"


def places(folder: Path, port: int) -> dict[str, Place]:
    """The base, ten times as much of everything, and one where only the outbox is filled."""
    return {
        "small": Place(World(tasks=100_000, users=1_000), folder / "small", port),
        "large": Place(World(tasks=1_000_000, users=10_000), folder / "large", port + 200),
        "outbox": Place(World(tasks=1_000, users=10), folder / "outbox", port + 400),
    }


@dataclass(frozen=True)
class Limit:
    """What has to be reached, in the words of the table."""

    text: str
    met: bool


@dataclass(frozen=True)
class Result:
    """`value` and `floor` are medians of the rounds, and so is `ratio`; `details` go into results.json only."""

    value: float
    unit: str
    limits: list[Limit]
    floor: float | None = None
    ratio: float | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool:
        return all(limit.met for limit in self.limits)


@dataclass(frozen=True)
class Row:
    id: str
    work: str
    floor: str
    measure: Callable[[Bench], Awaitable[Result]]


def compared(
    values: list[float],
    floors: list[float],
    unit: str,
    *,
    least: float | None = None,
    most: float | None = None,
) -> Result:
    """Of rounds that were measured in turn with their floors; the ratio is value / floor."""
    ratios = [value / floor for value, floor in zip(values, floors, strict=True)]
    ratio = median(ratios)
    limits = []
    if least is not None:
        limits.append(Limit(f"≥ {least:g} of the floor", ratio >= least))
    if most is not None:
        limits.append(Limit(f"≤ {most:g} × the floor", ratio <= most))
    return Result(
        median(values),
        unit,
        limits,
        median(floors),
        ratio,
        {"values": values, "floors": floors, "ratios": ratios},
    )


def percentile(values: list[float], share: float) -> float:
    """The value that `share` of them don't exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
