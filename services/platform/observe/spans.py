"""Spans of calls and events with OpenTelemetry. Only tracing.py imports this module, when tracing is on."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.metadata import entry_points
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.instrumentation.grpc import aio_client_interceptors
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from taskflow.event.v1.event_pb2 import Event

# OTEL_PROPAGATORS isn't used: clients could send anything as baggage, and it would end up in workflow histories.
_W3C = TraceContextTextMapPropagator()
_CARRIED = frozenset(("traceparent", "tracestate"))

# The handler of a call in the gate: takes the raw request and gRPC's context.
Call = Callable[[bytes, Any], Awaitable[Any]]

_CANCELLED = 1
# gRPC status codes that OpenTelemetry's semantic conventions count as errors of the server: UNKNOWN, DEADLINE_EXCEEDED,
# UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS.
_SERVER_ERRORS = frozenset((2, 4, 12, 13, 14, 15))


class Spans:
    """Makes OpenTelemetry spans: implements the functions of tracing.py."""

    def __init__(self, process: str) -> None:
        provider = TracerProvider(resource=_resource(process))
        for exporter in _exporters():
            provider.add_span_processor(BatchSpanProcessor(_WithoutTexts(exporter)))
        # Sets the global provider, because Temporal's instrumentation uses it.
        trace.set_tracer_provider(provider)
        self._tracer = provider.get_tracer("taskflow")
        # Spans of the events that consumers are handling, by event id.
        self._handled: dict[str, Span] = {}

    def serving(self, method: str, call: Call) -> Call:
        name = method.removeprefix("/")
        service, _, rpc = name.partition("/")
        attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": rpc}

        async def traced(raw: bytes, context: Any) -> Any:
            sent = {key: value for key, value in context.invocation_metadata() if key in _CARRIED}
            with self._tracer.start_as_current_span(
                name,
                context=_W3C.extract(sent, Context()),
                kind=SpanKind.SERVER,
                attributes=attributes,
                record_exception=False,
                set_status_on_exception=False,
            ) as span:
                code = 0
                try:
                    return await call(raw, context)
                except asyncio.CancelledError:
                    code = _CANCELLED
                    raise
                finally:
                    status = context.code()
                    if isinstance(status, grpc.StatusCode):
                        code = status.value[0] or code
                    span.set_attribute("rpc.grpc.status_code", code)
                    if code in _SERVER_ERRORS:
                        span.set_status(StatusCode.ERROR)

        return traced

    def client_interceptors(self) -> list[Any]:
        return list(aio_client_interceptors())  # type: ignore[no-untyped-call]

    @contextmanager
    def consuming(self, consumer: str, payloads: Iterable[bytes]) -> Iterator[None]:
        spans = {}
        for payload in payloads:
            try:
                event = Event.FromString(payload)
            except DecodeError:
                continue
            spans[event.id] = self._tracer.start_span(
                f"{event.type} {consumer}",
                context=_W3C.extract({"traceparent": event.trace_parent}, Context()),
                kind=SpanKind.CONSUMER,
                attributes={
                    "messaging.system": "nats",
                    "messaging.operation.type": "process",
                    "messaging.consumer.group.name": consumer,
                    "messaging.message.id": event.id,
                },
            )
        self._handled |= spans
        try:
            with self.within(next(iter(spans))) if len(spans) == 1 else nullcontext():
                yield
        except BaseException:
            for span in spans.values():
                span.set_status(StatusCode.ERROR)
            raise
        finally:
            for event_id, span in spans.items():
                self._handled.pop(event_id, None)
                span.end()

    def within(self, event_id: str) -> AbstractContextManager[object]:
        span = self._handled.get(event_id)
        if span is None:
            return nullcontext()
        return trace.use_span(span, record_exception=False, set_status_on_exception=False)

    def trace_parent(self, event_id: str | None) -> str:
        span = self._handled.get(event_id) if event_id else trace.get_current_span()
        carrier: dict[str, str] = {}
        if span is not None:
            _W3C.inject(carrier, trace.set_span_in_context(span, Context()))
        return carrier.get("traceparent", "")


class _WithoutTexts(SpanExporter):
    """Removes events and status texts from spans: the text of an exception can quote what people wrote."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return self._exporter.export([_without_texts(span) for span in spans])

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def _without_texts(span: ReadableSpan) -> ReadableSpan:
    return ReadableSpan(
        span.name,
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=span.attributes,
        links=span.links,
        kind=span.kind,
        status=Status(span.status.status_code),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _resource(process: str) -> Resource:
    """The process's description in traces, from OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES.

    Without OTEL_SERVICE_NAME the service name is `taskflow-<process>`.
    """
    resource = Resource.create({"taskflow.process": process})
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        return resource.merge(Resource({SERVICE_NAME: f"taskflow-{process}"}))
    return resource


def _exporters() -> Iterator[SpanExporter]:
    """The exporters that OTEL_TRACES_EXPORTER names, found by the entry points of installed packages."""
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get(
        "OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"
    )
    otlp = "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"
    for name in (os.environ.get("OTEL_TRACES_EXPORTER") or "otlp").split(","):
        wanted = otlp if name.strip() == "otlp" else name.strip()
        found = list(entry_points(group="opentelemetry_traces_exporter", name=wanted))
        if not found:
            raise SystemExit(f"configuration: no package offers the trace exporter {wanted!r}")
        yield found[0].load()()
