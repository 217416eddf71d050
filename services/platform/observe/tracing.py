"""Tracing: one trace from a request to everything that followed from it, as W3C trace context in calls and events.

Tracing is off unless the standard OTEL_* variables switch it on. OpenTelemetry is an optional extra and costs a third
of the throughput, so only spans.py imports it, and only when tracing is on.
"""

import os
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from services.platform.observe.spans import Call, Spans

log = structlog.get_logger()

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

_spans: "Spans | None" = None


def wanted(environment: Mapping[str, str]) -> bool:
    """Whether the OTEL_* variables name a destination for traces."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if exporter:
        return exporter != "none"
    return any(environment.get(name) for name in _ENDPOINTS)


def start(process: str) -> None:
    """Switches tracing on if the OTEL_* variables ask for it.

    Must run before servers, channels and consumers are made. Spans are flushed when the process ends.
    """
    global _spans
    if not wanted(os.environ):
        return
    try:
        from services.platform.observe.spans import Spans
    except ImportError as error:
        log.warning("no traces: install taskflow-server[otel]", missing=error.name)
        return
    _spans = Spans(process)
    log.info("tracing")


def active() -> bool:
    return _spans is not None


def serving(method: str, call: "Call") -> "Call":
    """Wraps a call in a span that continues the client's trace."""
    return call if _spans is None else _spans.serving(method, call)


def client_interceptors() -> list[Any]:
    """Interceptors for a channel to a TaskFlow service: each call gets a span, which the service continues."""
    return [] if _spans is None else _spans.client_interceptors()


def consuming(consumer: str, payloads: Iterable[bytes]) -> AbstractContextManager[None]:
    """Makes a span for each event that is handled in the block; it continues the event's trace.

    The span of a single event is the current span. In a batch, `within` and `trace_parent` select an event's span.
    """
    return nullcontext() if _spans is None else _spans.consuming(consumer, payloads)


def within(event_id: str) -> AbstractContextManager[object]:
    """Makes the span of an event in `consuming` the current span."""
    return nullcontext() if _spans is None else _spans.within(event_id)


def trace_parent(event_id: str | None = None) -> str:
    """The current span, or that of an event in `consuming`, as a W3C traceparent; empty while tracing is off."""
    return "" if _spans is None else _spans.trace_parent(event_id)
