"""The data folder: created, locked by one launcher at a time, and cleaned of programs that an earlier one left."""

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from deploy.local.process import birth
from deploy.local.program import StackError

# The subfolder that a restore fills. It exists until the restore is complete.
RESTORING = "restoring"
_LEFTOVER_SECONDS = 5.0


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Lock the folder for this launcher. Raises StackError when it can't be used or another launcher has locked it."""
    if (folder / RESTORING).exists():
        raise StackError(
            f"A backup is being restored into {folder}, or a restore was interrupted. If it was, remove the folder "
            "and restore again."
        )
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


def is_claimed(folder: Path) -> bool:
    """Whether a launcher has locked the folder."""
    try:
        with (folder / "launcher.lock").open() as lock:
            fcntl.flock(lock.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


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
    """End programs that a killed launcher left running, and wait until they have ended."""
    left: dict[int, str] = {}
    for file in run.glob("*.pid"):
        pid_text, _, born = file.read_text().strip().partition(" ")
        if pid_text.isdigit() and born and birth(int(pid_text)) == born:
            left[int(pid_text)] = born
        file.unlink()
    for number, seconds in (
        (signal.SIGINT, _LEFTOVER_SECONDS),
        (signal.SIGKILL, _LEFTOVER_SECONDS),
    ):
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        give_up = time.monotonic() + seconds
        while left and time.monotonic() < give_up:
            left = {pid: born for pid, born in left.items() if birth(pid) == born}
            time.sleep(0.02)


def _keep_last_logs(logs: Path) -> None:
    """Start this run with empty logs; those of the last run are kept as <name>.log.1."""
    for file in logs.glob("*.log"):
        file.replace(file.with_name(f"{file.name}.1"))
