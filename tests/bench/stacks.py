"""The measured servers: the launcher's stack, or the part of it that a row needs."""

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.local.stack import Stack, running_stack
from services.platform.config import Settings
from tests.bench import dataset
from tests.bench.dataset import Dataset
from tests.conftest import superuser

# The programs that answer calls. The programs that process events don't run with them.
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
    """A port for each port setting. Second replicas listen 10 higher."""
    return {name: first + 11 * number for number, name in enumerate(_PORTS)}


@contextmanager
def folder_for(keep: Path | None) -> Iterator[Path]:
    """The folder `keep`, or a temporary one."""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep.resolve()
        return
    folder = Path(tempfile.mkdtemp(prefix="taskflow-bench-"))
    # Postgres may run as another user, who must be able to enter it.
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class StackPlace:
    """One database and its stack, configured like `make up` except folder and ports."""

    dataset: Dataset
    folder: Path
    first_port: int
    replicas: int = 1

    @property
    def filled(self) -> Path:
        """A marker file that exists once the database is filled, so that a kept folder can be used again."""
        return self.folder / "filled"

    @property
    def settings(self) -> Settings:
        chosen = ports(self.first_port)
        return Settings(data_dir=self.folder, replicas=self.replicas, **chosen)  # type: ignore[arg-type]


class Stacks:
    """Runs the programs that the next row needs, and keeps those it shares with the previous row."""

    def __init__(self, places: dict[str, StackPlace]) -> None:
        self._places = places
        self.say: Callable[[str], None] = lambda text: None
        self._running: dict[str, tuple[frozenset[str], Stack, AsyncExitStack]] = {}

    async def need(self, **wanted: Collection[str]) -> dict[str, Stack]:
        """The stacks with these programs, by place; others are stopped. A place is filled on first use."""
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
            self.say(f"writing {place.dataset.tasks:,} tasks")
            async with running_stack(place.settings, only={"postgres", "migrate"}) as stack:
                await dataset.fill(superuser(stack.settings), place.dataset)
            place.filled.touch()
        self.say(f"starting {', '.join(sorted(programs))}")
        async with AsyncExitStack() as exit_stack:
            stack = await exit_stack.enter_async_context(
                running_stack(place.settings, only=programs)
            )
            self._running[name] = (programs, stack, exit_stack.pop_all())
        # Services finish preparing shortly after they report that they serve.
        await asyncio.sleep(1)

    async def close(self) -> None:
        await self.need()
