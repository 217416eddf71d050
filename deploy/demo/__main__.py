"""`python -m deploy.demo`: TaskFlow's main job on a real stack, told as a story. Exits 0 only if all of it was seen."""

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from rich.console import Console

from deploy.demo.story import Story
from deploy.local.probes import grpc_serving
from deploy.local.program import StackError
from deploy.local.stack import running_stack
from services.platform.config import Settings, load

console = Console(highlight=False)


def main() -> None:
    argparse.ArgumentParser(
        prog="python -m deploy.demo",
        description="Shows TaskFlow at work. Uses the stack that runs at the configured ports, or starts its own.",
    ).parse_args()
    settings = load()
    try:
        told = asyncio.run(_main(settings))
    except StackError as error:
        console.print(f"[red]{error}[/]")
        sys.exit(1)
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)
    sys.exit(0 if told else 1)


async def _main(settings: Settings) -> bool:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with _stack(settings) as running:
        return await Story(running, console).tell()


@asynccontextmanager
async def _stack(settings: Settings) -> AsyncIterator[Settings]:
    """The stack that runs already, or one that runs as long as the story does."""
    address = f"127.0.0.1:{settings.gateway_port}"
    with suppress(OSError):
        if await grpc_serving("127.0.0.1", settings.gateway_port):
            console.print(f"Using the stack at {address}.")
            yield settings
            return
    started = time.monotonic()
    with console.status("Starting PostgreSQL, NATS, Temporal, the services and Envoy …") as status:
        async with running_stack(settings) as stack:
            status.stop()
            console.print(
                f"The whole stack is up after [bold]{time.monotonic() - started:.1f} s[/]: "
                f"{len(stack.processes)} processes, one entry at {address}."
            )
            yield stack.settings
            console.print("Stopping the stack …")


if __name__ == "__main__":
    main()
