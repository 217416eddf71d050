"""`python -m deploy.demo`: shows TaskFlow's main features on a real stack. Exits 0 only if every step succeeded."""

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
        succeeded = asyncio.run(_main())
    except StackError as error:
        console.print(f"[red]{error}[/]")
        sys.exit(1)
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)
    sys.exit(0 if succeeded else 1)


async def _main() -> bool:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    folder = _new_folder()
    succeeded = stopped = False
    try:
        async with _stack(folder / "data") as running:
            succeeded = await Story(running, console).tell()
    except asyncio.CancelledError:
        stopped = True
        raise
    finally:
        if succeeded or stopped:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            console.print(f"Logs are in {folder / 'data' / 'logs'}.")
    return succeeded


def _new_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="taskflow-demo-"))
    # Postgres may run as another user, who has to be able to enter the folder.
    folder.chmod(0o755)
    return folder


@asynccontextmanager
async def _stack(data: Path) -> AsyncIterator[Settings]:
    """A stack for the story, in a new folder and on free ports, so that it can't disturb another stack.

    It ignores the environment's settings, which may name servers in use.
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
