"""Functions on texts for the child process to call, some of them harmful."""

import os
import re
import signal
import sys
from pathlib import Path


def length(text: str) -> int:
    return len(text)


def never_ends(text: str) -> bool:
    """Never returns, and holds the interpreter lock."""
    return re.fullmatch(r"(\w+)+", "a" * 200 + text) is not None


def child_of_this_process(text: str) -> int:
    return os.getpid()


def prints(text: str) -> str:
    print(text)
    sys.stdout.flush()
    return text.upper()


def refuses(text: str) -> None:
    raise ValueError(text)


def ends_its_process(text: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stops_its_process(text: str) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def ends_its_process_once(path: str) -> str:
    marker = Path(path)
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "read"
