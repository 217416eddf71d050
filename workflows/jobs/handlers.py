"""Handlers of payload jobs. A payload's `type` names its handler.

Install more handlers as a distribution with an entry point of the group `taskflow.job_handlers`:

    [project.entry-points."taskflow.job_handlers"]
    resize = "pictures.jobs:resize"

    async def resize(payload: Payload, job: JobContext) -> Result: ...

A handler may run more than once for a job, for example after its worker died. It has to be idempotent; `job.key`
identifies the repetition.

All handlers share the worker's event loop with reminders, mail and suggestions. A handler that computes for long has to
do so in a process of its own, such as a `concurrent.futures.ProcessPoolExecutor`; a thread isn't enough.
"""

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

import structlog
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct

from workflows.jobs.contract import MAX_RESULT_BYTES

log = structlog.get_logger()

GROUP: Final = "taskflow.job_handlers"
# The handler of a payload without a type.
DEFAULT: Final = "message"

Payload = Mapping[str, Any]
# JSON: strings, numbers, booleans, None, lists, and mappings with string keys. None is stored as an empty object.
Result = Mapping[str, Any] | None


@dataclass(frozen=True)
class JobContext:
    """The job that a payload belongs to. `attempt` starts at 1 and grows when a user retries the job."""

    job_id: str
    task_id: str
    workspace_id: str
    attempt: int

    @property
    def key(self) -> str:
        """An idempotency key for handlers. It is the same in all tries of an attempt."""
        return f"{self.job_id}/{self.attempt}"


Handler = Callable[[Payload, JobContext], Awaitable[Result]]


class JobError(Exception):
    """Raised by a handler to be tried again later. After the last try users see its text.

    Any other exception is tried again too, and users see its type only.
    """


class PermanentJobError(JobError):
    """Raised when the payload is at fault and another try is useless."""


async def message(payload: Payload, job: JobContext) -> Result:
    """The built-in handler: completes a payload that has a string `message`."""
    text = payload.get("message")
    if not isinstance(text, str):
        raise PermanentJobError("the payload needs a string `message`")
    return {"message": text, "length": len(text)}


def load_handlers(installed: Iterable[EntryPoint] | None = None) -> dict[str, Handler]:
    """The built-in and the installed handlers, by name. A handler that can't be loaded is logged and left out."""
    handlers: dict[str, Handler] = {DEFAULT: message}
    for point in entry_points(group=GROUP) if installed is None else installed:
        try:
            handlers[point.name] = point.load()
        except Exception as error:
            log.error("job handler can't be loaded", name=point.name, exc_info=error)
    log.info("job handlers", names=sorted(handlers))
    return handlers


async def run_handler(handlers: Mapping[str, Handler], payload: Payload, job: JobContext) -> Struct:
    """Raises the handler's exceptions, and PermanentJobError for an unknown type or a result that can't be stored."""
    name = payload.get("type", DEFAULT)
    handler = handlers.get(name) if isinstance(name, str) else None
    if handler is None:
        raise PermanentJobError("there is no handler for this type of payload")
    return _as_struct(await handler(payload, job))


def _as_struct(result: Result) -> Struct:
    try:
        text = json.dumps({} if result is None else dict(result), allow_nan=False)
        struct = json_format.Parse(text, Struct())
    except (TypeError, ValueError, RecursionError, json_format.ParseError):
        raise PermanentJobError("the handler's result isn't a JSON object") from None
    if struct.ByteSize() > MAX_RESULT_BYTES:
        raise PermanentJobError(
            f"the handler's result is larger than {MAX_RESULT_BYTES // 1024} KiB"
        )
    return struct
