"""The servers that are measured: the launcher's own stack, or the part of it that a row is about."""

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.local.stack import Stack, running_stack
from services.platform.config import Settings
from tests.bench import world
from tests.bench.world import World

# What a call needs: the events that it leaves are other rows' business.
CALLS = frozenset({"postgres", "nats", "migrate", "auth", "task"})
RELAY = frozenset({"postgres", "nats", "migrate", "relay"})
WHOLE = frozenset(
    {
        *("postgres", "nats", "temporal", "mail", "migrate"),
        *("auth", "task", "notification", "relay", "worker", "envoy"),
    }
)

_PORTS = sorted(
    name for name in Settings.model_fields if name.endswith("_port") and name != "smtp_port"
)


def ports(first: int) -> dict[str, int]:
    """A port for each setting that is one. Second replicas listen 10 higher."""
    return {name: first + 11 * number for number, name in enumerate(_PORTS)}


@contextmanager
def folder_for(keep: Path | None) -> Iterator[Path]:
    """The folder `keep`, or one that is gone afterwards."""
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


@dataclass
class Place:
    """One database and its stack: as `make up` has it, but for folder and ports."""

    world: World
    folder: Path
    first_port: int
    replicas: int = 1

    @property
    def filled(self) -> Path:
        """A file that says so. A folder that was kept is used again."""
        return self.folder / "filled"

    @property
    def settings(self) -> Settings:
        chosen = ports(self.first_port)
        return Settings(data_dir=self.folder, replicas=self.replicas, **chosen)  # type: ignore[arg-type]


class Stacks:
    """Runs what the next row asks for, and leaves alone what it shares with the row before."""

    def __init__(self, places: dict[str, Place]) -> None:
        self._places = places
        self.say: Callable[[str], None] = lambda text: None
        self._running: dict[str, tuple[frozenset[str], Stack, AsyncExitStack]] = {}

    async def need(self, **wanted: Collection[str]) -> dict[str, Stack]:
        """By place, the stack with these programs; all others are stopped. A place is filled the first time."""
        for name in list(self._running):
            if self._running[name][0] != frozenset(wanted.get(name, ())):
                await self._running.pop(name)[2].aclose()
        for name, programs in wanted.items():
            if name not in self._running:
                await self._start(name, frozenset(programs))
        return {name: self._running[name][1] for name in wanted}

    async def _start(self, name: str, programs: frozenset[str]) -> None:
        place = self._places[name]
        if not place.filled.exists():
            self.say(f"writing {place.world.tasks:,} tasks")
            async with running_stack(place.settings, only={"postgres", "migrate"}) as stack:
                await world.fill(stack.settings.postgres, place.world)
            place.filled.touch()
        self.say(f"starting {', '.join(sorted(programs))}")
        async with AsyncExitStack() as exit_stack:
            stack = await exit_stack.enter_async_context(
                running_stack(place.settings, only=programs)
            )
            self._running[name] = (programs, stack, exit_stack.pop_all())
        # Services go on preparing themselves for a moment after they say that they serve.
        await asyncio.sleep(1)

    async def close(self) -> None:
        await self.need()
