"""Logging: readable lines for a terminal, JSON for machines.

No line holds a secret, a text of a task or an e-mail address, see redaction.py.
"""

import logging
import os
import re
import secrets
import sys
from contextvars import ContextVar
from types import TracebackType
from typing import Any

import structlog

from services.platform.config import Settings
from services.platform.observe import tracing
from services.platform.observe.redaction import (
    Hide,
    Line,
    describe,
    plain_exception,
    plain_values,
    shown_exception,
)

# The gateway sets this header to the call's id. A call without the header gets an id from the process.
_REQUEST_ID_HEADER = "x-request-id"
# Request ids that are accepted. A client that connects directly could send anything, so other values are replaced.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# grpcio logs an error that begins with this text when a client disconnects before its answer.
_CLIENT_GONE = "ExecuteBatchError raised in core"
# Fields at the beginning of a log line, in this order.
_FIRST = ("timestamp", "level", "event", "process", "request_id", "method")


class _Call:
    """The current call. Its id is looked up only when a line is written."""

    __slots__ = ("_context", "_id", "method")

    def __init__(self, method: str, context: Any) -> None:
        self.method = method
        self._context = context
        self._id = ""

    @property
    def request_id(self) -> str:
        if not self._id:
            sent = [v for k, v in self._context.invocation_metadata() if k == _REQUEST_ID_HEADER]
            usable = len(sent) == 1 and isinstance(sent[0], str) and _REQUEST_ID.fullmatch(sent[0])
            self._id = sent[0] if usable else secrets.token_hex(8)
        return self._id


_call: ContextVar[_Call] = ContextVar("call")


def serve(method: str, context: Any) -> None:
    """Adds method and request id to all lines that the current task writes; each call is served by its own task."""
    _call.set(_Call(method, context))


def request_id() -> str | None:
    """The id of the current call, which is in all of its lines."""
    call = _call.get(None)
    return call.request_id if call else None


def configure(settings: Settings, process: str) -> None:
    """Sets up structlog, and gives the same format to lines of libraries, to warnings and to the final exception."""
    as_json = settings.log_format == "json"
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _Origin(process),
        plain_exception if as_json else shown_exception,
        plain_values,
    ]
    render: list[structlog.typing.Processor] = [
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0),
        Hide(settings),
    ]
    level = getattr(logging, settings.log_level.upper())
    structlog.configure(
        processors=[*shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_tame)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.captureWarnings(True)
    sys.excepthook = _log_final_exception
    # Silences gRPC's C library, which writes lines in a format of its own.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


class _Origin:
    """Adds process, request id, method and trace id to a log line."""

    def __init__(self, process: str) -> None:
        self._process = process

    def __call__(self, _: Any, __: str, line: Line) -> Line:
        line["process"] = self._process
        call = _call.get(None)
        if call is not None:
            line["request_id"] = call.request_id
            line.setdefault("method", call.method)
        if trace := tracing.trace_parent():
            line["trace_id"] = trace.split("-")[1]
        first = {name: line[name] for name in _FIRST if name in line}
        return first | dict(line)


def _tame(record: logging.LogRecord) -> bool:
    """Reduces a library's log record to its first line, without texts of exceptions. False: the record is dropped.

    The further lines can quote data: asyncio appends the task and its source.
    """
    if isinstance(record.args, tuple):
        record.args = tuple(
            describe(value) if isinstance(value, BaseException) else value for value in record.args
        )
    try:
        text = record.getMessage()
    except (TypeError, ValueError):
        text = str(record.msg)
    record.msg, record.args = text.partition("\n")[0], None
    # A client that disconnected is no error: its call counts as cancelled.
    return not (record.name.startswith("grpc.") and text.startswith(_CLIENT_GONE))


def _log_final_exception(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Logs the exception that ends the process."""
    if issubclass(kind, KeyboardInterrupt):
        return
    structlog.get_logger().critical("the process ends", exc_info=error)
