"""Output to the terminal: log lines with their program's name and colour, and one summary."""

import asyncio
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Full, Queue
from threading import Thread

from rich.console import Console
from rich.table import Table
from rich.text import Text

from deploy.local.process import Process
from deploy.local.stack import Stack

Show = Callable[[str, str], None]

_COLOURS = {
    "postgres": "blue",
    "nats": "cyan",
    "temporal": "magenta",
    "mail": "bright_black",
    "migrate": "bright_blue",
    "auth": "yellow",
    "task": "green",
    "notification": "bright_cyan",
    "relay": "bright_magenta",
    "worker": "bright_green",
    "envoy": "bright_yellow",
}
_WIDTH = max(len(name) for name in _COLOURS) + 2
# Characters in a line of a log file, at most.
_FILE_WIDTH = 10_000
_QUEUE_LINES = 10_000
_CLOSE_SECONDS = 2.0
_FOLLOW_EVERY_SECONDS = 0.1
_READ_BYTES = 256 * 1024
# A log file is truncated at this size, after copying it to <name>.log.1.
_LOG_BYTES = 20 * 1024 * 1024
# Log lines may quote user input, whose control characters must not reach the terminal.
_CONTROLS = {
    code: "\N{REPLACEMENT CHARACTER}" for code in (*range(9), *range(10, 32), *range(127, 160))
}


class Terminal:
    """Prints from a thread of its own, so that a paused or closed terminal never blocks the stack."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._queue: Queue[Text | Table | None] = Queue(_QUEUE_LINES)
        self._thread = Thread(target=self._print_all, daemon=True)
        self._thread.start()

    def line(self, name: str, text: str, style: str = "") -> None:
        """Prints one line after the program's name."""
        prefix = Text(f"{name:>{_WIDTH}} | ", style=_COLOURS.get(name.split("-")[0], "white"))
        self._put(prefix + Text(text.translate(_CONTROLS), style=style))

    def say(self, name: str, text: str) -> None:
        """Prints a message of the launcher about a program."""
        if not self._quiet:
            self.line(name, text, "bold")

    def summary(self, stack: Stack, seconds: float) -> None:
        """Prints the addresses of all programs once they serve, the gateway first."""
        table = Table(title=f"TaskFlow is ready ({seconds:.1f} s)", show_header=False)
        for process in reversed(stack.processes):
            program = process.program
            if program.ports:
                first, *more = program.ports.values()
                also = f" and {', '.join(map(str, more))}" if more else ""
                table.add_row(program.name, f"{stack.settings.host}:{first}{also}", program.about)
        table.add_row("data", str(stack.settings.data_dir), "logs/, mail/")
        self._put(table)

    def note(self, text: str) -> None:
        self._put(Text(text, style="bold"))

    def error(self, text: str) -> None:
        """Prints why the launcher ends."""
        self._put(Text(text, style="red"))

    def close(self) -> bool:
        """Wait a moment for the remaining output. Returns False when the terminal doesn't accept it."""
        self._put(None)
        self._thread.join(_CLOSE_SECONDS)
        return not self._thread.is_alive()

    def _put(self, what: Text | Table | None) -> None:
        # Drops lines when the terminal is too far behind; the log files have them all.
        with suppress(Full):
            self._queue.put_nowait(what)

    def _print_all(self) -> None:
        # In a log file no line is cut off.
        console = Console(highlight=False)
        if not console.is_terminal:
            console.width = _FILE_WIDTH
        while (what := self._queue.get()) is not None:
            try:
                console.print(what, soft_wrap=isinstance(what, Text))
            except OSError:
                # The reader of the pipe has closed it: stop, as any command does.
                os.kill(os.getpid(), signal.SIGTERM)
                return


async def follow(processes: Sequence[Process], show: Show | None, end: asyncio.Event) -> None:
    """Print the programs' log lines and limit the size of their log files, until `end`.

    The programs write to files, not through this process, so that nothing here can block them.
    """
    offsets = dict.fromkeys(processes, 0)
    last = False
    while not last:
        last = end.is_set()
        for process, offset in offsets.items():
            offsets[process] = _catch_up(process, offset, show)
        with suppress(TimeoutError):
            await asyncio.wait_for(end.wait(), _FOLLOW_EVERY_SECONDS)


def _catch_up(process: Process, offset: int, show: Show | None) -> int:
    """Print the complete lines after the offset; return the offset after them."""
    try:
        with process.log.open("rb") as file:
            file.seek(offset)
            new = file.read(_READ_BYTES)
    except FileNotFoundError:
        return offset
    complete = new[: new.rfind(b"\n") + 1]
    if not complete and len(new) == _READ_BYTES:
        complete = new
    if show is not None:
        for line in complete.decode(errors="replace").splitlines():
            show(process.program.name, line)
    offset += len(complete)
    if offset < _LOG_BYTES:
        return offset
    # The program appends to the file: after the truncation it continues at the start.
    shutil.copyfile(process.log, process.log.with_name(f"{process.log.name}.1"))
    with process.log.open("rb+") as file:
        file.truncate(0)
    return 0
