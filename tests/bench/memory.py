"""Memory of processes, as Linux reports it (bytes)."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def resident(pid: int) -> int:
    """Resident memory of a process (RSS, bytes)."""
    return _field(pid, "status", "VmRSS")


def proportional(pid: int) -> int:
    """Proportional memory (PSS): shared pages are divided, so that a sum over processes counts them once."""
    return _field(pid, "smaps_rollup", "Pss")


def _field(pid: int, file: str, name: str) -> int:
    for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(f"{pid} has no {name}")


def family(pid: int) -> Iterator[int]:
    """The process and its descendants, without those that end during the call."""
    children: list[str] = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            children += (task / "children").read_text().split()
        yield pid
    for child in children:
        yield from family(int(child))


def command(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").split("\0")
