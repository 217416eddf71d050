"""W3C trace context through calls and events: one trace from a request to whatever followed from it.

Off unless the standard OTEL_* variables ask for it. OpenTelemetry is an optional extra and costs a third of the
throughput, so it's imported (by spans.py) only then.
"""

import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from services.platform.spans import Spans

log = structlog.get_logger()

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

# A call as the gate has it: raw request and context.
Call = Callable[[bytes, Any], Awaitable[Any]]

_spans: "Spans | None" = None


def wanted(environment: Mapping[str, str]) -> bool:
    """Whether the OTEL_* variables name somewhere to send traces to."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if exporter:
        return exporter != "none"
    return any(environment.get(name) for name in _ENDPOINTS)


def start(process: str) -> None:
    """Call it before servers, channels and consumers are made. What is exported is flushed when the process ends."""
    global _spans
    if not wanted(os.environ):
        return
    try:
        from services.platform.spans import Spans
    except ImportError as error:
        log.warning("no traces: install taskflow-server[otel]", missing=error.name)
        return
    _spans = Spans(process)
    log.info("tracing")


def active() -> bool:
    return _spans is not None


def serving(method: str, call: Call) -> Call:
    """The call, continuing its client's trace in a span of its own."""
    return call if _spans is None else _spans.serving(method, call)


def client_interceptors() -> list[Any]:
    """For channels to our own services: a span for each call, which the service continues."""
    return [] if _spans is None else _spans.client_interceptors()


def consuming(consumer: str, payloads: Iterable[bytes]) -> AbstractContextManager[None]:
    """While events are handled: a span for each, which continues the event's trace.

    For a single one it's the current span. In a batch, say with `within` or `trace_parent` which one is meant.
    """
    return nullcontext() if _spans is None else _spans.consuming(consumer, payloads)


def within(event_id: str) -> AbstractContextManager[object]:
    """Makes the span of an event that is being handled the current one."""
    return nullcontext() if _spans is None else _spans.within(event_id)


def trace_parent(event_id: str | None = None) -> str:
    """The current span, or that of an event that is being handled, as a W3C traceparent; empty while tracing is off."""
    return "" if _spans is None else _spans.trace_parent(event_id)
