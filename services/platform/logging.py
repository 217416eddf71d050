"""Logs: lines for people on a terminal, JSON for machines; never a secret, a text of a task, or an e-mail address
(redaction.py)."""

import logging
import os
import re
import secrets
import sys
from contextvars import ContextVar
from types import TracebackType
from typing import Any

import structlog

from services.platform import tracing
from services.platform.config import Settings
from services.platform.redaction import (
    Hide,
    Line,
    describe,
    plain_exception,
    plain_values,
    shown_exception,
)

# Envoy's header; a process that is called without it makes an id of its own.
_REQUEST_ID_HEADER = "x-request-id"
# What somebody else made may come in here, so it's kept short and plain.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# As grpcio says it, as an error.
_CLIENT_GONE = "ExecuteBatchError raised in core"
_FIRST = ("timestamp", "level", "event", "process", "request_id", "method")


class _Call:
    """The call that is being served. Its id is looked up only when a line is written."""

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
    """Has the lines of a call say which one it is. Every call is a task of its own, with which this ends."""
    _call.set(_Call(method, context))


def request_id() -> str | None:
    """That of the call that is being served, by which its lines are found."""
    call = _call.get(None)
    return call.request_id if call else None


def configure(settings: Settings, process: str) -> None:
    """Sets up structlog, and has everything else that this process says come out the same way."""
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
    sys.excepthook = _last_words
    # gRPC's C library writes lines of its own otherwise.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


class _Origin:
    """Says where a line comes from, and puts that first."""

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
    """A library's line: without the exceptions' texts, and without what it appends (asyncio: all that it knows)."""
    if isinstance(record.args, tuple):
        record.args = tuple(
            describe(value) if isinstance(value, BaseException) else value for value in record.args
        )
    try:
        text = record.getMessage()
    except (TypeError, ValueError):
        text = str(record.msg)
    record.msg, record.args = text.partition("\n")[0], None
    # An answer that couldn't be sent, as the client had gone: no more than a call that was cancelled.
    return not (record.name.startswith("grpc.") and text.startswith(_CLIENT_GONE))


def _last_words(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """What ends the process is a line like any other."""
    if issubclass(kind, KeyboardInterrupt):
        return
    structlog.get_logger().critical("the process ends", exc_info=error)
