"""What operators see: Prometheus metrics, /healthz, and W3C trace context."""

import asyncio
from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, Histogram, generate_latest

# Seconds; an order of magnitude below and above what a call takes.
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

CALLS = Histogram(
    "taskflow_calls_seconds", "Duration of unary calls", ["method", "code"], buckets=_BUCKETS
)
STREAMS_ENDED = Counter("taskflow_streams_ended_total", "Ended streams", ["method", "code"])
STREAMS_OPEN = Gauge("taskflow_streams_open", "Open streams", ["method"])
STREAM_MESSAGES = Counter("taskflow_stream_messages_total", "Messages sent on streams", ["method"])
OUTBOX_DEPTH = Gauge("taskflow_outbox_depth", "Events that wait to be published")
OUTBOX_AGE = Gauge("taskflow_outbox_age_seconds", "Age of the oldest of them")
EVENTS_PUBLISHED = Counter("taskflow_events_published_total", "Events that JetStream took")
EVENTS_CONSUMED = Counter(
    "taskflow_events_consumed_total", "Events by consumer and result", ["consumer", "result"]
)
CONSUMER_LAG = Gauge(
    "taskflow_consumer_lag", "Events that a consumer has yet to process", ["consumer"]
)
DEAD_LETTERS = Counter("taskflow_dead_letters_total", "Events parked", ["consumer"])
JOB_SECONDS = Histogram(
    "taskflow_job_seconds", "Duration of payload jobs", ["state"], buckets=_BUCKETS
)
WORKFLOW_SECONDS = Histogram(
    "taskflow_workflow_seconds", "Duration of activities", ["activity", "result"], buckets=_BUCKETS
)


def trace_parent() -> str:
    """The current span as a W3C traceparent; empty while tracing is off."""
    return _trace_parent()


def _no_trace() -> str:
    return ""


_trace_parent: Callable[[], str] = _no_trace


async def serve_http(
    host: str, port: int, healthy: Callable[[], dict[str, bool]]
) -> asyncio.Server:
    """Answers GET /healthz (200 or 503, a line for each dependency) and GET /metrics; nothing else."""

    def answer(path: str) -> tuple[str, str, bytes]:
        if path == "/metrics":
            return "200 OK", CONTENT_TYPE_LATEST, generate_latest()
        if path == "/healthz":
            state = healthy()
            lines = [f"{name} {'ok' if ok else 'unavailable'}" for name, ok in state.items()]
            status = "200 OK" if all(state.values()) else "503 Service Unavailable"
            return status, "text/plain; charset=utf-8", "\n".join([*lines, ""]).encode()
        return "404 Not Found", "text/plain", b"not found\n"

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(5):
                head = await reader.readuntil(b"\r\n\r\n")
                method, path, *_ = head.split(b" ", 2)
                if method in (b"GET", b"HEAD"):
                    status, kind, body = answer(path.decode("latin-1").partition("?")[0])
                else:
                    status, kind, body = "405 Method Not Allowed", "text/plain", b""
                writer.write(
                    f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n"
                    f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
                )
                if method != b"HEAD":
                    writer.write(body)
                await writer.drain()
        except (
            OSError,
            TimeoutError,
            ValueError,
            asyncio.IncompleteReadError,
            asyncio.LimitOverrunError,
        ):
            # Whoever asked has gone, or didn't speak HTTP.
            pass
        finally:
            writer.close()

    return await asyncio.start_server(respond, host, port)
