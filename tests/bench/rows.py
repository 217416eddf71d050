"""The parts of a benchmark row: its inputs, limits and results."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.dataset import Dataset
from tests.bench.stacks import StackPlace, Stacks

ROUNDS = 3


@dataclass
class Bench:
    """The inputs of a measurement. `say` shows its progress."""

    stacks: Stacks
    small: Dataset
    large: Dataset
    folder: Path
    port: int
    say: Callable[[str], None]

    @property
    def echo(self) -> str:
        """The address of the echo server."""
        return f"127.0.0.1:{self.port + 900}"


def places(folder: Path, port: int) -> dict[str, StackPlace]:
    """The databases: the base, ten times as much of everything, and one with only a filled outbox."""
    return {
        "small": StackPlace(Dataset(tasks=100_000, users=1_000), folder / "small", port),
        "large": StackPlace(Dataset(tasks=1_000_000, users=10_000), folder / "large", port + 200),
        "outbox": StackPlace(Dataset(tasks=1_000, users=10), folder / "outbox", port + 400),
    }


@dataclass(frozen=True)
class Limit:
    """A limit that a benchmark result has to meet, and its wording in the printed table."""

    text: str
    met: bool


@dataclass(frozen=True)
class Result:
    """`value`, `floor` and `ratio` are medians of the rounds; `details` appear in results.json only."""

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
    """The result of rounds that alternated with their floors; the ratio is value / floor."""
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
    """The value that this share of the values doesn't exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
