"""The description of one program of the stack."""

import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field


class StackError(Exception):
    """Raised when the stack can't start or continue. The text is a sentence for the person at the terminal."""


# Command prefix for programs whose work can wait: on one machine, calls and streams have priority over workflows.
BACKGROUND = ("nice", "-n", "10")


async def _at_once() -> bool:
    return True


@dataclass(frozen=True, kw_only=True)
class Program:
    """One process of the stack.

    `about` stands beside its address in the summary.
    `ready` is called several times a second after the start until it returns that the program serves.
    `prepare` runs once before the first start (create a data folder, write a configuration).
    `ports` maps the name of a setting to the port that the program will listen on.
    `after` names the programs that have to be ready first; it also orders the stop, reversed.
    `orphan_signal` is what the kernel sends when the launcher disappears.
    `once` marks a command that has to exit with 0 instead of running on.
    `privileges` are options of setpriv(1), for a program that refuses to run as root.
    """

    name: str
    about: str = ""
    command: tuple[str, ...]
    ready: Callable[[], Awaitable[bool]] = _at_once
    prepare: Callable[[], Awaitable[None]] | None = None
    after: frozenset[str] = frozenset()
    ports: Mapping[str, int] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    stop_signal: signal.Signals = signal.SIGTERM
    orphan_signal: signal.Signals = signal.SIGKILL
    stop_seconds: float = 5.0
    once: bool = False
    privileges: tuple[str, ...] = ()
