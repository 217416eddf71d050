"""A log of operations and their answers, on disk before the checker sees it."""

import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TextIO

import grpc

Outcome = Literal["ok", "failed", "unknown"]

# Lines wait this long (seconds) so that one fsync covers several.
_GATHER_SECONDS = 0.05

_Code = grpc.StatusCode
# Codes by which the server refused without a change. Any other failure may follow a commit.
REFUSALS = frozenset(
    {
        *(_Code.INVALID_ARGUMENT, _Code.NOT_FOUND, _Code.ALREADY_EXISTS, _Code.OUT_OF_RANGE),
        *(_Code.PERMISSION_DENIED, _Code.UNAUTHENTICATED, _Code.FAILED_PRECONDITION),
        *(_Code.ABORTED, _Code.RESOURCE_EXHAUSTED, _Code.UNIMPLEMENTED),
    }
)


@dataclass
class Operation:
    """A logged operation. Times are monotonic seconds; without an end the outcome is unknown."""

    number: int
    op: str
    facts: dict[str, Any]
    begun: float
    ended: float | None = None
    outcome: Outcome = "unknown"
    code: str = ""


@dataclass
class Entry:
    """A running operation. Call exactly one method to record its outcome."""

    log: "OperationLog"
    number: int
    told: bool = field(default=False)

    def ok(self, **facts: Any) -> None:
        """Record that the server acknowledged the operation."""
        self._end("ok", "", facts)

    def failed(self, code: str) -> None:
        """Record that the server refused the operation, so it had no effect."""
        self._end("failed", code, {})

    def unknown(self, code: str) -> None:
        """Record that the outcome is unknown: the operation may still take effect."""
        self._end("unknown", code, {})

    def raised(self, error: grpc.aio.AioRpcError) -> None:
        """Record a failed call: refused or unknown, depending on the code."""
        code = error.code()
        (self.failed if code in REFUSALS else self.unknown)(code.name)

    def _end(self, outcome: Outcome, code: str, facts: dict[str, Any]) -> None:
        if self.told:
            raise RuntimeError("an operation ends once")
        self.told = True
        self.log.write({"n": self.number, "outcome": outcome, "code": code, "facts": facts})


class OperationLog:
    """A file of operations, fsynced by a background thread. Reading waits for the disk.

    with OperationLog(run.folder / "operations") as log:
        entry = log.begin("create", project=project_id)
        ...
        entry.ok(task=answer.task.id)
    for operation in log: ...
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: TextIO = path.open("w")
        self._last = 0
        self._lines: list[str] = []
        # Number of log lines written, and number of lines that are on disk.
        self._written = self._synced = 0
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._keep, name="operation log", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def begin(self, op: str, **facts: Any) -> Entry:
        """Log an operation before the client sends its request; `facts` are JSON values."""
        self._last += 1
        self.write({"n": self._last, "op": op, "facts": facts})
        return Entry(self, self._last)

    def write(self, line: dict[str, Any]) -> None:
        text = json.dumps({**line, "at": time.monotonic()})
        with self._changed:
            self._lines.append(text)
            self._written += 1
            self._changed.notify_all()

    def sync(self) -> None:
        """Return when everything written so far is on disk."""
        with self._changed:
            wanted = self._written
            self._changed.wait_for(lambda: self._synced >= wanted)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def __iter__(self) -> Iterator[Operation]:
        """Operations in the order they began, with their known outcomes."""
        self.sync()
        found: dict[int, Operation] = {}
        with self._path.open() as file:
            for text in file:
                line = json.loads(text)
                number = line["n"]
                if "op" in line:
                    found[number] = Operation(number, line["op"], line["facts"], line["at"])
                    continue
                operation = found[number]
                operation.ended = line["at"]
                operation.outcome = line["outcome"]
                operation.code = line["code"]
                operation.facts.update(line["facts"])
        return iter(found.values())

    def _keep(self) -> None:
        with self._file:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._lines or self._closed)
                    closed = self._closed
                if not closed:
                    time.sleep(_GATHER_SECONDS)
                with self._changed:
                    lines, self._lines = self._lines, []
                self._file.writelines(f"{line}\n" for line in lines)
                self._file.flush()
                os.fsync(self._file.fileno())
                with self._changed:
                    self._synced += len(lines)
                    self._changed.notify_all()
                    if self._closed and not self._lines:
                        return
