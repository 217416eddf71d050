"""The data folder: made, claimed by one launcher at a time, and rid of what an earlier one left running."""

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from deploy.local.process import birth
from deploy.local.program import StackError

_LEFTOVER_SECONDS = 5.0


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold the folder for this launcher. Raises StackError when it can't be used or another one holds it."""
    try:
        for part in (folder, folder / "logs", folder / "run"):
            part.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (folder / "launcher.lock").open("a+")
    except OSError as error:
        raise StackError(
            f"The data folder {folder} can't be used: {error.strerror} ({error.filename}). "
            "Set TASKFLOW_DATA_DIR to a folder you may write."
        ) from None
    with lock:
        _lock(lock.fileno(), folder)
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        _end_leftovers(folder / "run")
        _keep_last_logs(folder / "logs")
        yield


def _lock(file: int, folder: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(file, 20, 0).decode().strip()
        raise StackError(
            f"Another TaskFlow (process {holder}) already uses {folder}. Stop it, or set TASKFLOW_DATA_DIR "
            "and the ports for a second stack."
        ) from None


def _end_leftovers(run: Path) -> None:
    """End programs of a launcher that was killed before it could, and wait for those that are just ending."""
    left: dict[int, str] = {}
    for file in run.glob("*.pid"):
        number, _, born = file.read_text().strip().partition(" ")
        if number.isdigit() and born and birth(int(number)) == born:
            left[int(number)] = born
        file.unlink()
    for how, seconds in (
        (signal.SIGINT, _LEFTOVER_SECONDS),
        (signal.SIGKILL, _LEFTOVER_SECONDS),
    ):
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, how)
        give_up = time.monotonic() + seconds
        while left and time.monotonic() < give_up:
            left = {pid: born for pid, born in left.items() if birth(pid) == born}
            time.sleep(0.02)


def _keep_last_logs(logs: Path) -> None:
    """Start this run with empty logs; those of the last one stay as <name>.log.1."""
    for file in logs.glob("*.log"):
        file.replace(file.with_name(f"{file.name}.1"))
