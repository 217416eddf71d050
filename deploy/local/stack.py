"""The whole stack as one object: started in dependency order, stopped in reverse."""

import asyncio
import resource
import signal
import time
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager

from deploy.local.data_folder import claimed
from deploy.local.ports import check_ports
from deploy.local.process import Process, Say
from deploy.local.program import Program, StackError
from deploy.local.programs import child_environment, completed, external, programs
from services.platform.config import Settings

_OPEN_FILES = 65_536


def _silent(name: str, text: str) -> None:
    return None


class Stack:
    """Supervises the programs. Their names: `postgres`, `task`, `task-2` for the second replica, …"""

    def __init__(self, settings: Settings, chosen: list[Program], say: Say) -> None:
        self.settings = settings
        environment = child_environment(settings)
        self._processes = {
            program.name: Process(program, environment, settings.data_dir, say)
            for program in chosen
        }
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def processes(self) -> list[Process]:
        """The supervised processes, in the order in which the stack starts them."""
        return list(self._processes.values())

    def pid(self, name: str) -> int:
        """The current process id, which changes at a restart. Raises ProcessLookupError while it isn't running."""
        pid = self._processes[name].pid
        if pid is None:
            raise ProcessLookupError(f"{name} isn't running")
        return pid

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to one program. If the signal ends it, it is restarted, as after any crash."""
        self._processes[name].kill(number)

    async def hold(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """End one program and keep it down until `release`; return when it has ended.

        SIGKILL also ends the processes that it started, such as all of Postgres. Another signal lets it end in order.
        """
        await self._processes[name].hold(number)

    def release(self, name: str) -> None:
        """Restart a held program, without the pause that follows a crash. `wait_ready` waits until it serves."""
        self._processes[name].release()

    def held(self) -> list[str]:
        """The programs that are held now."""
        return [name for name, process in self._processes.items() if process.held]

    def ready(self, name: str) -> bool:
        """Whether the program has passed its probe and hasn't ended since."""
        return self._processes[name].ready.is_set()

    async def wait_ready(self, name: str, seconds: float = 30.0) -> None:
        """Wait until the program serves; after `kill`, until its successor does. TimeoutError after `seconds`."""
        await asyncio.wait_for(self._processes[name].ready.wait(), seconds)

    async def start(self) -> float:
        """Start everything; return the seconds until all of it served.

        Raises StackError when a program can't be started. Call `stop` afterwards in any case.
        """
        started = time.monotonic()
        for name, process in self._processes.items():
            self._tasks[name] = asyncio.create_task(self._bring_up(process), name=name)
        everything = asyncio.create_task(self._all_ready())
        pending: set[asyncio.Task[None]] = {everything, *self._tasks.values()}
        try:
            while not everything.done():
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            everything.cancel()
        return time.monotonic() - started

    async def failure(self) -> None:
        """Wait until the stack fails, and raise its error."""
        done, _ = await asyncio.wait(self._tasks.values(), return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()

    async def stop(self) -> None:
        """Stop every program after its dependents. A program that doesn't end in time is killed."""
        stops: dict[str, asyncio.Task[None]] = {}
        for name in reversed(self._tasks):
            dependents = [
                stop
                for other, stop in stops.items()
                if name in self._processes[other].program.after
            ]
            stops[name] = asyncio.create_task(self._take_down(name, dependents))
        await asyncio.gather(*stops.values())

    def kill_all(self) -> None:
        """Kill every program at once."""
        for process in self._processes.values():
            process.stop()
            process.kill_group()

    async def _all_ready(self) -> None:
        for process in self._processes.values():
            await process.ready.wait()

    async def _bring_up(self, process: Process) -> None:
        for name in process.program.after & self._processes.keys():
            await self._processes[name].ready.wait()
        await process.run()

    async def _take_down(self, name: str, dependents: list[asyncio.Task[None]]) -> None:
        if dependents:
            await asyncio.wait(dependents)
        process, task = self._processes[name], self._tasks[name]
        if process.begun:
            process.stop()
        else:
            task.cancel()
        await asyncio.wait({task})


@contextmanager
def assembled(
    settings: Settings, only: Collection[str] | None = None, say: Say = _silent
) -> Iterator[Stack]:
    """A stack that is ready to start: its folder is locked, its ports are free. The caller starts and stops it."""
    _allow_open_files()
    with claimed(settings.data_dir.resolve()):
        complete = completed(settings)
        chosen = _chosen(programs(complete), only, external(settings))
        check_ports(complete.host, chosen)
        yield Stack(complete, chosen, say)


@asynccontextmanager
async def running_stack(
    settings: Settings, only: Collection[str] | None = None, say: Say = _silent
) -> AsyncIterator[Stack]:
    """The embedded stack, or the part of it named in `only`, serving while the block runs.

        async with running_stack(settings, only={"postgres", "nats", "temporal", "mail"}) as stack:
            connection = await psycopg.AsyncConnection.connect(stack.settings.postgres)

    The names: postgres, nats, temporal, mail, migrate, auth, task, notification, relay, worker, envoy.
    Give each stack its own `data_dir` and ports. `stack.settings` are `settings` with the addresses of the
    servers filled in. With `only`, unnamed dependencies are expected to be running already. Logs go to
    `data_dir`/logs/<name>.log, mails to `data_dir`/mail. Call it from the main thread: the programs end with the
    thread that started them. Raises StackError with the end of the failed program's log.
    """
    with assembled(settings, only, say) as stack:
        try:
            await stack.start()
            yield stack
        finally:
            await stack.stop()


def _allow_open_files() -> None:
    """Raises the limit of open files, usually 1,024: each stream and connection of a program is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _chosen(
    every: list[Program], only: Collection[str] | None, elsewhere: Collection[str]
) -> list[Program]:
    """The programs to start: those named in `only` (replicas by their service's name) that don't run elsewhere."""
    kinds = {program.name: program.name.partition("-")[0] for program in every}
    if unknown := set(only or ()) - set(kinds.values()):
        raise StackError(
            f"There is no program {' or '.join(sorted(unknown))}. "
            f"There are: {', '.join(dict.fromkeys(kinds.values()))}."
        )
    return [
        program
        for program in every
        if kinds[program.name] not in elsewhere and (only is None or kinds[program.name] in only)
    ]
