"""`python -m deploy.demo`: TaskFlow's main job on a real stack, told as a story. Exits 0 only if all of it was seen."""

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from rich.console import Console

from deploy.demo.story import Story
from deploy.local.ports import whole_stack
from deploy.local.program import StackError
from deploy.local.stack import running_stack
from services.platform.config import Settings

console = Console(highlight=False)


def main() -> None:
    argparse.ArgumentParser(
        prog="python -m deploy.demo",
        description="Shows TaskFlow at work, on a stack of its own that leaves nothing behind.",
    ).parse_args()
    try:
        told = asyncio.run(_main())
    except StackError as error:
        console.print(f"[red]{error}[/]")
        sys.exit(1)
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)
    sys.exit(0 if told else 1)


async def _main() -> bool:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    folder = _new_folder()
    told = stopped = False
    try:
        async with _stack(folder / "data") as running:
            told = await Story(running, console).tell()
    except asyncio.CancelledError:
        stopped = True
        raise
    finally:
        if told or stopped:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            console.print(f"Logs are in {folder / 'data' / 'logs'}.")
    return told


def _new_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="taskflow-demo-"))
    # Postgres may run as another user, who has to pass it.
    folder.chmod(0o755)
    return folder


@asynccontextmanager
async def _stack(data: Path) -> AsyncIterator[Settings]:
    """A stack that runs as long as the story does, in a new folder and on free ports: others aren't touched.

    The environment's settings don't count; they may name the servers of somebody else.
    """
    own = Settings.model_construct().model_copy(update={**whole_stack(), "data_dir": data})
    started = time.monotonic()
    with console.status("Starting PostgreSQL, NATS, Temporal, the services and Envoy …") as status:
        async with running_stack(own) as stack:
            status.stop()
            console.print(
                f"The whole stack is up after [bold]{time.monotonic() - started:.1f} s[/]: "
                f"{len(stack.processes)} processes, one entry at 127.0.0.1:{own.gateway_port}."
            )
            yield stack.settings
            console.print("Stopping the stack …")


if __name__ == "__main__":
    main()
