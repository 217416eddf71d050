"""`python -m deploy.backup make|restore`: backups of the embedded stack."""

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from deploy.backup import backup_folder
from deploy.backup.make import make
from deploy.backup.restore import restore
from deploy.local.program import StackError
from services.platform.config import load

# The result goes to stdout, progress to stderr.
console = Console(highlight=False, stderr=True)


def main() -> None:
    options = _options()
    # Only the owner may read new files: the dump and the keys are secrets.
    os.umask(0o077)
    settings = load()
    if options.command == "make":
        folder = options.to or Path("backups") / f"taskflow-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        work = _told(lambda say: make(settings, folder, say))
    else:
        folder = Path(options.folder)
        work = _told(lambda say: restore(settings, folder, say))
    started = time.monotonic()
    try:
        manifest = asyncio.run(work)
    except StackError as error:
        console.print(f"[red]{error}[/]", soft_wrap=True)
        sys.exit(1)
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)
    size, seconds = backup_folder.size(folder), round(time.monotonic() - started, 1)
    if options.output == "json":
        facts = {"folder": str(folder), "bytes": size, "seconds": seconds}
        print(json.dumps(facts | {"made_at": manifest.made_at, "schema": manifest.schema}))
    elif options.command == "make":
        print(f"{folder}: {size / 1e6:,.1f} MB in {seconds} s. Keep it safe: it holds secrets.")
    else:
        print(
            f"{settings.data_dir} is as it was at {manifest.made_at}, after {seconds} s. "
            "Start it with `make up`."
        )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m deploy.backup", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make", help="back up the stack while it runs")
    making.add_argument(
        "--to", type=Path, metavar="FOLDER", help="default: backups/taskflow-<UTC time>"
    )
    restoring = commands.add_parser("restore", help="fill an empty data folder from a backup")
    restoring.add_argument("folder", help="the backup")
    for command in (making, restoring):
        command.add_argument("--output", choices=("text", "json"), default="text")
    options = parser.parse_args()
    if options.command == "restore" and not options.folder:
        restoring.error("say which backup: make restore FROM=backups/taskflow-…")
    return options


async def _told(
    work: Callable[[Callable[[str], None]], Awaitable[backup_folder.Manifest]],
) -> backup_folder.Manifest:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    last = ""
    with console.status("") as status:

        def say(text: str) -> None:
            nonlocal last
            status.update(text)
            # When stderr isn't a terminal, print one line per step instead of one per megabyte.
            step = text.partition(":")[0]
            if not console.is_terminal and step != last:
                console.print(text, soft_wrap=True)
            last = step

        return await work(say)


if __name__ == "__main__":
    main()
