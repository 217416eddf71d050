"""The input and output of a scenario: a Run and a Tally, which becomes one row of the table.

A scenario is a module in tests/faults/scenarios with `PROMISE`, the sentence that it tries to break, and
`async def run(run: Run, tally: Tally) -> None`. Optional are `ORDER`, a sort key instead of the name, and
`LIMIT_SECONDS`, a time limit per profile instead of the runner's.
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

# Port distance between replicas of a service (deploy/local/programs.py).
_REPLICA_STEP = 10


class NotPossible(Exception):
    """Raised when this machine doesn't allow the fault. The text is a sentence with the reason, for the table."""


@dataclass
class Tally:
    """The result of a scenario. `slowest_recovery` is in seconds."""

    operations: int = 0
    faults: int = 0
    lost: int = 0
    doubled: int = 0
    inverted: int = 0
    leaked: int = 0
    slowest_recovery: float = 0.0
    # Sentences about other broken promises, and about what was only slower than promised.
    broken: list[str] = field(default_factory=list)
    slow: list[str] = field(default_factory=list)
    # Name → measurement, printed below the table.
    figures: dict[str, str] = field(default_factory=dict)
    # A sentence that says why this machine doesn't allow the fault.
    impossible: str = ""

    def expect(self, holds: bool, sentence: str) -> None:
        """Record a broken promise, described by the sentence, unless the condition holds."""
        if not holds:
            self.broken.append(sentence)

    def expect_speed(self, holds: bool, sentence: str) -> None:
        """Like `expect`, but for promised times, which other load on the machine can spoil."""
        if not holds:
            self.slow.append(sentence)

    def recovered_after(self, seconds: float) -> None:
        self.slowest_recovery = max(self.slowest_recovery, seconds)

    @property
    def wrong(self) -> bool:
        """Whether a promise other than speed was broken."""
        return bool(self.broken or self.lost or self.doubled or self.inverted or self.leaked)

    @property
    def verdict(self) -> Verdict:
        if self.wrong or self.slow:
            return "BROKEN"
        return "not possible here" if self.impossible else "held"


@dataclass(frozen=True)
class Run:
    """One run of a scenario on the running stack, which has two processes of each service ("task", "task-2", …)."""

    stack: Stack
    profile: Profile
    # Seeded by the run's seed and the scenario's name. All random choices use it.
    random: random.Random
    # A scratch folder for this scenario.
    folder: Path
    say: Callable[[str], None]

    def choose(self, short: T, long: T) -> T:
        """The value for the current profile."""
        return short if self.profile == "short" else long

    @property
    def gateway(self) -> str:
        """host:port of the gateway."""
        settings = self.stack.settings
        return f"{reachable(settings.host)}:{settings.gateway_port}"

    def address(self, name: str) -> str:
        """host:port of one process, bypassing the gateway: "auth", "task-2", …"""
        service, _, number = name.partition("-")
        settings = self.stack.settings
        port = getattr(settings, f"{service}_port") + _REPLICA_STEP * (int(number or 1) - 1)
        return f"{reachable(settings.host)}:{port}"
