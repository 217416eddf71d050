"""What a scenario is handed, and what it hands back: one row of the table.

A scenario is a module in tests/faults/scenarios with `PROMISE`, the sentence that it tries to break, and
`async def run(run: Run, tally: Tally) -> None`. Optional: `ORDER`, a string to sort by instead of its name, and
`LIMIT_SECONDS`, a time limit by profile instead of the runner's.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from deploy.local.programs import reachable
from deploy.local.stack import Stack

T = TypeVar("T")

Profile = Literal["short", "long"]
Verdict = Literal["held", "BROKEN", "not possible here"]

# The k-th replica listens this far above its service's port (deploy/local/programs.py).
_REPLICA_STEP = 10


class NotPossible(Exception):
    """This machine doesn't allow the fault. The text is a sentence that says why; the row tells it."""


@dataclass
class Tally:
    """What came of a scenario. `slowest_recovery` is seconds."""

    operations: int = 0
    faults: int = 0
    lost: int = 0
    doubled: int = 0
    inverted: int = 0
    leaked: int = 0
    slowest_recovery: float = 0.0
    # Sentences: what else didn't hold, and what was only slower than promised.
    broken: list[str] = field(default_factory=list)
    slow: list[str] = field(default_factory=list)
    # What was measured, for people to read below the table.
    figures: dict[str, str] = field(default_factory=dict)
    # A sentence: why the fault can't be made on this machine.
    impossible: str = ""

    def expect(self, holds: bool, sentence: str) -> None:
        """Keep the sentence as broken unless it holds."""
        if not holds:
            self.broken.append(sentence)

    def expect_speed(self, holds: bool, sentence: str) -> None:
        """As `expect`, of what a neighbour on the same machine can spoil."""
        if not holds:
            self.slow.append(sentence)

    def recovered_after(self, seconds: float) -> None:
        self.slowest_recovery = max(self.slowest_recovery, seconds)

    @property
    def wrong(self) -> bool:
        """Whether something was other than promised, however slow the machine."""
        return bool(self.broken or self.lost or self.doubled or self.inverted or self.leaked)

    @property
    def verdict(self) -> Verdict:
        if self.wrong or self.slow:
            return "BROKEN"
        return "not possible here" if self.impossible else "held"


@dataclass(frozen=True)
class Run:
    """One run of a scenario on the running stack: whole, two processes of each service ("task", "task-2", …)."""

    stack: Stack
    profile: Profile
    # Seeded by the seed and the scenario's name; every choice comes from here.
    random: random.Random
    # Scratch of this scenario alone.
    folder: Path
    say: Callable[[str], None]

    def choose(self, short: T, long: T) -> T:
        """The value for this profile."""
        return short if self.profile == "short" else long

    @property
    def gateway(self) -> str:
        """host:port of the single entry."""
        settings = self.stack.settings
        return f"{reachable(settings.host)}:{settings.gateway_port}"

    def address(self, name: str) -> str:
        """host:port of one process, past the gateway: "auth", "task-2", …"""
        service, _, number = name.partition("-")
        settings = self.stack.settings
        port = getattr(settings, f"{service}_port") + _REPLICA_STEP * (int(number or 1) - 1)
        return f"{reachable(settings.host)}:{port}"
