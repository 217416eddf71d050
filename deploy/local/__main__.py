"""`python -m deploy.local`: the embedded stack in the terminal, until Ctrl-C or SIGTERM."""

import argparse
import asyncio
import ctypes
import os
import signal
import sys
from contextlib import suppress

from deploy.local.binaries import setpriv
from deploy.local.program import StackError
from deploy.local.stack import Stack, assembled
from deploy.local.terminal import Terminal, follow
from services.platform.config import Settings, load

_PR_SET_PDEATHSIG = 1


def main() -> None:
    options = _options()
    if options.exit_with_parent:
        _exit_with_parent()
    # Log lines may hold characters that this terminal doesn't know.
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    terminal = Terminal(options.quiet)
    if setpriv() is None:
        terminal.note(
            "setpriv (package util-linux) is missing: killed by force, the launcher leaves its programs running."
        )
    code = 0
    try:
        asyncio.run(_run(load(), terminal, options))
    except StackError as error:
        terminal.error(str(error))
        code = 1
    if not terminal.close():
        # The terminal is paused. A normal exit would wait until it accepts the rest of the output.
        os._exit(code)
    sys.exit(code)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.local",
        description="Run all of TaskFlow on this machine: PostgreSQL, NATS, Temporal, a mail catcher, the services, "
        "the workflow worker and the gateway. Ctrl-C stops it, a second Ctrl-C at once.",
        epilog="Ports and the data folder are settings: TASKFLOW_GATEWAY_PORT, TASKFLOW_DATA_DIR and so on; "
        "see services/platform/config.py.",
    )
    parser.add_argument("--quiet", action="store_true", help="no logs, only the summary")
    parser.add_argument(
        "--only",
        metavar="NAMES",
        type=lambda names: frozenset(names.split(",")),
        help="start these programs only, separated by commas: postgres,nats,temporal,mail for "
        "the servers alone",
    )
    parser.add_argument(
        "--exit-with-parent",
        action="store_true",
        help="stop when the parent process has ended (Linux)",
    )
    return parser.parse_args()


def _exit_with_parent() -> None:
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(1)


async def _run(settings: Settings, terminal: Terminal, options: argparse.Namespace) -> None:
    asked = asyncio.Event()
    with assembled(settings, options.only, terminal.say) as stack:
        _on_signals(stack, asked)
        stopped = asyncio.Event()
        show = None if options.quiet else terminal.line
        following = asyncio.create_task(follow(stack.processes, show, stopped))
        serving = asyncio.create_task(_serve(stack, terminal))
        stopping = asyncio.create_task(asked.wait())
        try:
            await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            terminal.note("Stopping. Ctrl-C ends everything at once.")
            serving.cancel()
            await stack.stop()
            stopped.set()
            await following
        terminal.note("Stopped.")
        with suppress(asyncio.CancelledError):
            await serving


async def _serve(stack: Stack, terminal: Terminal) -> None:
    seconds = await stack.start()
    terminal.summary(stack, seconds)
    await stack.failure()


def _on_signals(stack: Stack, asked: asyncio.Event) -> None:
    """Stops in order at the first signal; Ctrl-C while stopping kills everything at once.

    A second SIGTERM doesn't kill: the process group and make may both forward the same one.
    """

    def interrupt() -> None:
        if asked.is_set():
            stack.kill_all()
        asked.set()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, interrupt)
    loop.add_signal_handler(signal.SIGTERM, asked.set)
    loop.add_signal_handler(signal.SIGHUP, asked.set)


if __name__ == "__main__":
    main()
