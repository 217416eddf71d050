"""Supervises one program: starts it, probes it, restarts it when it ends, and stops it."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from deploy.local.binaries import REPOSITORY, setpriv
from deploy.local.program import Program, StackError

_PROBE_EVERY_SECONDS = 0.1
_PROBE_LIMIT_SECONDS = 3.0
# How long a program may take to become ready: generous, for a busy machine.
_START_LIMIT_SECONDS = 180.0
# A program that has never been ready is started this many times, at most this far apart; then the stack gives up.
_FIRST_ATTEMPTS = 5
_FIRST_PAUSE_SECONDS = 1.0
_BACKOFF_FIRST_SECONDS = 0.5
_BACKOFF_MOST_SECONDS = 10.0
_HEALTHY_AFTER_SECONDS = 30.0
# $0 is the launcher's pid. A child whose parent ended before the death signal was armed gets no signal, so it exits.
_STILL_MY_PARENT = '[ "$PPID" = "$0" ] || exit 1; exec "$@"'
_END_SIGNALS = frozenset(
    {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGABRT, signal.SIGSEGV}
)

Say = Callable[[str, str], None]


def child_command(program: Program) -> list[str]:
    """A command line whose process ends with its parent and runs under the account that the program needs.

    The kernel forgets the death signal on a change of credentials, so setpriv arms it after changing them.
    """
    tool = setpriv()
    if tool is None:
        return list(program.command)
    signal_name = program.orphan_signal.name
    guard = ["/bin/sh", "-c", _STILL_MY_PARENT, str(os.getpid())]
    return [tool, *program.privileges, "--pdeathsig", signal_name, "--", *guard, *program.command]


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log file."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 16_384))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


class Process:
    """A supervised program. `ready` is set while the running process has passed its probe."""

    def __init__(
        self, program: Program, environment: Mapping[str, str], folder: Path, say: Say
    ) -> None:
        self.program = program
        self.log = folder / "logs" / f"{program.name}.log"
        self.ready = asyncio.Event()
        self._pid_file = folder / "run" / f"{program.name}.pid"
        self._environment = {**environment, **program.environment}
        self._say = say
        self._child: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        # `_held` is set between `hold` and `release`, `_down` while no process of the program runs.
        self._held = asyncio.Event()
        self._released = asyncio.Event()
        self._down = asyncio.Event()
        self._down.set()
        self._served = False
        self.begun = False

    @property
    def pid(self) -> int | None:
        child = self._child
        return None if child is None or child.returncode is not None else child.pid

    @property
    def held(self) -> bool:
        return self._held.is_set()

    def kill(self, number: signal.Signals) -> None:
        """Send a signal to the current process. If the signal ends it, `ready` is set again by the next process."""
        if self.pid is None:
            raise ProcessLookupError(f"{self.program.name} isn't running")
        if number in _END_SIGNALS:
            self.ready.clear()
        os.kill(self.pid, number)

    def kill_group(self) -> None:
        """Kill the process and its process group."""
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    async def hold(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End the process and keep it down until `release`; return when it has ended.

        SIGKILL also ends the processes that it started. Another signal goes to the process alone, which is killed if it
        hasn't ended after the program's `stop_seconds`.
        """
        self._released.clear()
        self._held.set()
        self.ready.clear()
        self._end(number)
        try:
            await asyncio.wait_for(self._down.wait(), self.program.stop_seconds)
        except TimeoutError:
            self._end(signal.SIGKILL)
            await self._down.wait()

    def release(self) -> None:
        """Restart the program after `hold`, without a pause. `ready` is set once it serves."""
        self._held.clear()
        self._released.set()

    def _end(self, number: signal.Signals) -> None:
        if self.pid is None:
            return
        if number == signal.SIGKILL:
            kill_family(self.pid)
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
            os.kill(self.pid, signal.SIGCONT)

    async def run(self) -> None:
        """Keep the program running until `stop`; a `once` program until it has succeeded.

        Raises StackError when it never becomes ready.
        """
        self.begun = True
        await self._prepare()
        failures = 0
        backoff = _BACKOFF_FIRST_SECONDS
        while not self._stopping.is_set():
            if self._held.is_set():
                self._say(self.program.name, "kept down")
                await _first(self._stopping, self._released)
                backoff = _BACKOFF_FIRST_SECONDS
                continue
            started = time.monotonic()
            ending, succeeded = await self._run_once()
            if self._stopping.is_set():
                return
            if self._held.is_set():
                continue
            if self.program.once:
                if succeeded:
                    self.ready.set()
                    return
                raise self._failure(f"{self.program.name} failed ({ending})")
            failures += 1
            if not self._served and failures == _FIRST_ATTEMPTS:
                raise self._failure(
                    f"{self.program.name} ended {failures} times before it was ready ({ending})"
                )
            if time.monotonic() - started >= _HEALTHY_AFTER_SECONDS:
                backoff = _BACKOFF_FIRST_SECONDS
            self._say(self.program.name, f"{ending}; starting again in {backoff:g} s")
            await _first(self._stopping, self._held, seconds=backoff)
            most = _BACKOFF_MOST_SECONDS if self._served else _FIRST_PAUSE_SECONDS
            backoff = min(2 * backoff, most)

    def stop(self) -> None:
        """Ask the process to end and don't start it again; `run` returns when it has ended."""
        self._stopping.set()
        self._send_stop()

    async def _prepare(self) -> None:
        if self.program.prepare is None:
            return
        try:
            await self.program.prepare()
        except OSError as error:
            raise StackError(f"{self.program.name} can't be prepared: {error}") from error

    async def _run_once(self) -> tuple[str, bool]:
        """Start the program and wait for its end. Returns how it ended, and whether it succeeded."""
        self._down.clear()
        try:
            child = await self._start()
        except OSError as error:
            self._down.set()
            return f"can't be started: {error}", False
        try:
            await self._watch(child)
        finally:
            self.ready.clear()
            self._pid_file.unlink(missing_ok=True)
            self._down.set()
        return _ending(child.returncode), child.returncode == 0

    async def _start(self) -> asyncio.subprocess.Process:
        with self.log.open("ab") as log:
            child = await asyncio.create_subprocess_exec(
                *child_command(self.program),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                cwd=REPOSITORY,
                # Ctrl-C in the terminal is for the launcher, which stops its programs in order. A session of its
                # own would take a program out of the launcher's scheduling group, where its `nice` counts.
                process_group=0,
            )
        self._child = child
        # Only a later launcher needs the pid file, so a full disk must not prevent the program's start.
        with contextlib.suppress(OSError):
            self._pid_file.write_text(f"{child.pid} {birth(child.pid)}\n")
        if self._stopping.is_set():
            self._send_stop()
        if self._held.is_set():
            self._end(signal.SIGKILL)
        return child

    def _send_stop(self) -> None:
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, self.program.stop_signal)
                # A paused process (SIGSTOP) would never see the request.
                os.kill(self.pid, signal.SIGCONT)

    async def _watch(self, child: asyncio.subprocess.Process) -> None:
        """Set `ready` when the process serves; return when it has ended."""
        end = asyncio.create_task(child.wait())
        try:
            if not self.program.once:
                await self._probe_until_ready(end)
            stop = asyncio.create_task(self._stopping.wait())
            await asyncio.wait({end, stop}, return_when=asyncio.FIRST_COMPLETED)
            stop.cancel()
            if not end.done():
                await asyncio.wait({end}, timeout=self.program.stop_seconds)
            if not end.done():
                self._say(self.program.name, "doesn't stop; killing it")
        finally:
            if not end.done():
                self.kill_group()
            await end

    async def _probe_until_ready(self, end: asyncio.Task[int]) -> None:
        started = time.monotonic()
        while not end.done() and not self._stopping.is_set():
            try:
                serves = await asyncio.wait_for(self.program.ready(), _PROBE_LIMIT_SECONDS)
            except TimeoutError:
                serves = False
            if serves and not end.done() and not self._held.is_set():
                self._served = True
                self.ready.set()
                self._say(self.program.name, f"ready after {time.monotonic() - started:.1f} s")
                return
            if not self._served and time.monotonic() - started > _START_LIMIT_SECONDS:
                raise self._failure(
                    f"{self.program.name} runs but isn't ready after {_START_LIMIT_SECONDS:g} s"
                )
            await asyncio.wait({end}, timeout=_PROBE_EVERY_SECONDS)

    def _failure(self, sentence: str) -> StackError:
        last = tail(self.log)
        return StackError(f"{sentence}. The end of {self.log}:\n{last}" if last else f"{sentence}.")


def birth(pid: int) -> str:
    """When a process started, in clock ticks since boot. Distinguishes it from a later one with the same pid.

    "" when it has ended, or where there is no /proc.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    # The second field of /proc/<pid>/stat, the process's name, may itself contain spaces and parentheses.
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]


def family(pid: int) -> list[int]:
    """The process and all its descendants, itself first; only itself where there is no /proc."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            stat = (folder / "stat").read_text()
            parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])
    found = [pid]
    for known in found:
        found += [child for child, parent in parents.items() if parent == known]
    return found


def kill_family(pid: int) -> None:
    """Kill a process and all its descendants: its group doesn't include Postgres backends, which have sessions."""
    with contextlib.suppress(ProcessLookupError):
        # A paused process can't start further child processes before they are all killed.
        os.kill(pid, signal.SIGSTOP)
    for member in reversed(family(pid)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)


async def _first(*events: asyncio.Event, seconds: float | None = None) -> None:
    """Wait until one of the events is set, or until `seconds` have passed."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f"ended by signal {-code}, {signal.strsignal(-code)}"
    return f"ended with code {code}"
