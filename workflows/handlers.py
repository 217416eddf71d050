"""Handlers of payload jobs, by the name that a payload gives as its `type`.

Others are added by installing a distribution with an entry point of the group `taskflow.job_handlers`:

    [project.entry-points."taskflow.job_handlers"]
    resize = "pictures.jobs:resize"

    async def resize(payload: Payload, job: JobContext) -> Result: ...

A handler may run more than once for one job, as after the loss of a worker: it has to be idempotent, and `job.key` is
what to recognise a repetition by.

All handlers share the worker's event loop with reminders, mail and suggestions. One that computes for long has to do so
in a process of its own, as with `concurrent.futures.ProcessPoolExecutor`; a thread isn't enough.
"""

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

import structlog
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct

from workflows import contracts

log = structlog.get_logger()

GROUP: Final = "taskflow.job_handlers"
# What processes a payload without a type.
DEFAULT: Final = "message"

Payload = Mapping[str, Any]
# JSON: strings, numbers, booleans, None, lists and mappings with string keys. None is an empty one.
Result = Mapping[str, Any] | None


@dataclass(frozen=True)
class JobContext:
    """The job that a payload belongs to. `attempt` counts from 1, by people who retry it."""

    job_id: str
    task_id: str
    workspace_id: str
    attempt: int

    @property
    def key(self) -> str:
        """The same in all tries of an attempt."""
        return f"{self.job_id}/{self.attempt}"


Handler = Callable[[Payload, JobContext], Awaitable[Result]]


class JobError(Exception):
    """Try again later. Its text is shown to people when the tries are used up; of other exceptions only the type is."""


class PermanentJobError(JobError):
    """Don't try again: the payload is at fault."""


async def message(payload: Payload, job: JobContext) -> Result:
    """The built-in handler: completes a payload that has a string `message`."""
    text = payload.get("message")
    if not isinstance(text, str):
        raise PermanentJobError("the payload needs a string `message`")
    return {"message": text, "length": len(text)}


class Handlers:
    """All handlers of this worker."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = {DEFAULT: message, **handlers}

    async def run(self, payload: Payload, job: JobContext) -> Struct:
        """Raises what the handler does, and PermanentJobError when there is no handler, or no such result."""
        name = payload.get("type", DEFAULT)
        handler = self._handlers.get(name) if isinstance(name, str) else None
        if handler is None:
            raise PermanentJobError("there is no handler for this type of payload")
        return _as_struct(await handler(payload, job))


def load_handlers(found: Iterable[EntryPoint] | None = None) -> Handlers:
    """Those of the installed distributions. One that can't be loaded is logged and left out."""
    handlers: dict[str, Handler] = {}
    for point in entry_points(group=GROUP) if found is None else found:
        try:
            handlers[point.name] = point.load()
        except Exception as error:
            log.error("job handler can't be loaded", name=point.name, exc_info=error)
    if handlers:
        log.info("job handlers", names=sorted(handlers))
    return Handlers(handlers)


def _as_struct(result: Result) -> Struct:
    try:
        text = json.dumps({} if result is None else dict(result), allow_nan=False)
        struct = json_format.Parse(text, Struct())
    except (TypeError, ValueError, RecursionError, json_format.ParseError):
        raise PermanentJobError("the handler's result isn't a JSON object") from None
    if struct.ByteSize() > contracts.MAX_RESULT_BYTES:
        raise PermanentJobError(
            f"the handler's result is larger than {contracts.MAX_RESULT_BYTES // 1024} KiB"
        )
    return struct
