"""`python -m tests.faults`: tries to break each promise and prints one table; exits with 1 if one broke."""

import argparse
import asyncio
import secrets
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from deploy.local.program import StackError
from tests.faults.harness import registry, report
from tests.faults.harness.registry import Scenario
from tests.faults.harness.runner import Say, ScenarioResult, run_all
from tests.faults.harness.scenario import Profile


def main() -> None:
    options = _options()
    console = Console(stderr=True)
    rows: list[ScenarioResult] = []
    started = time.monotonic()
    code = 0
    folder = _folder(options.keep)
    console.print(f"profile {options.profile}, seed {options.seed}, folder {folder}")
    try:
        asyncio.run(_run(options, folder, console, rows))
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("Stopped.")
        code = 130
    except StackError as error:
        console.print(str(error), markup=False)
        code = 1
    seconds = time.monotonic() - started
    text = report.as_json(rows, options.profile, options.seed, seconds)
    (folder / "results.json").write_text(text + "\n")
    if options.output == "json":
        print(text)
    elif rows:
        report.show(rows, options.profile, options.seed, seconds, report.screen())
    broken = [row.scenario.name for row in rows if row.tally.verdict == "BROKEN"]
    if broken:
        console.print(
            f"faults: {', '.join(broken)} broken; logs are in {folder}. Again: make faults "
            f"PROFILE={options.profile} SEED={options.seed} ONLY={','.join(broken)}"
        )
    elif not code and options.keep is None:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(code or bool(broken))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults",
        description="Try to break what TaskFlow promises: real processes, real servers, a fault, then a checker.",
    )
    parser.add_argument(
        "--profile", choices=("short", "long"), default="short", help="how much of everything"
    )
    parser.add_argument(
        "--only",
        type=_names,
        default=registry.names(),
        metavar="NAMES",
        help=f"some scenarios, separated by commas: {', '.join(registry.names())}",
    )
    parser.add_argument(
        "--except",
        dest="left_out",
        type=_names,
        default=[],
        metavar="NAMES",
        help="all but these",
    )
    parser.add_argument(
        "--seed", type=int, default=secrets.randbelow(1_000_000), help="of all choices; printed"
    )
    parser.add_argument("--output", choices=("table", "json"), default="table")
    parser.add_argument(
        "--keep", type=Path, help="a folder for data, logs and results, kept afterwards"
    )
    return parser.parse_args()


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if unknown := set(names) - set(registry.names()):
        raise argparse.ArgumentTypeError(
            f"no scenario {', '.join(sorted(unknown))}; there are {', '.join(registry.names())}"
        )
    return names


def _folder(keep: Path | None) -> Path:
    """A new folder for data, logs and results. It is removed after a good run unless the user named it."""
    if keep is not None:
        folder = keep.resolve() / time.strftime("%Y%m%d-%H%M%S")
        folder.mkdir(parents=True)
        return folder
    folder = Path(tempfile.mkdtemp(prefix="taskflow-faults-"))
    # Postgres may run as another user, who must be able to enter it.
    folder.chmod(0o755)
    return folder


async def _run(
    options: argparse.Namespace, folder: Path, console: Console, rows: list[ScenarioResult]
) -> None:
    scenarios = registry.load([name for name in options.only if name not in options.left_out])
    task = asyncio.current_task()
    assert task is not None
    # SIGTERM cancels the main task as Ctrl-C does, so that the stack stops in order.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    status = console.status("starting the stack")

    def begun(scenario: Scenario) -> Say:
        def say(text: str) -> None:
            status.update(f"{len(rows) + 1}/{len(scenarios)} {scenario.name}: {text}")

        say(scenario.promise)
        return say

    def ended(row: ScenarioResult) -> None:
        rows.append(row)
        console.print(f"{len(rows)}/{len(scenarios)} {report.line(row)}")

    with status:
        profile: Profile = options.profile
        await run_all(scenarios, profile, options.seed, folder, begun, ended)


if __name__ == "__main__":
    main()
