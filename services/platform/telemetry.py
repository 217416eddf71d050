"""What operators see: Prometheus metrics and /healthz."""

import asyncio
from collections.abc import Callable, Mapping

from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, Histogram, generate_latest

# Seconds; an order of magnitude below and above what a call takes.
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
# Seconds; a reminder waits for weeks, and what's made of a text comes within moments.
_LONG_BUCKETS = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600, 86400, 7 * 86400)

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
CONSUMER_UNREAD = Gauge(
    "taskflow_consumer_unread_share",
    "Part of what the event stream may hold, in bytes or in age, that a consumer has yet to process",
    ["consumer"],
)
EVENTS_COPIED = Counter(
    "taskflow_events_copied_total",
    "Events that a consumer got from the outbox, because it was about to miss them in the stream",
    ["consumer"],
)
EVENTS_LOST = Counter(
    "taskflow_events_lost_total",
    "Events that were deleted at the end of their retention before a consumer processed them",
    ["consumer"],
)
DEAD_LETTERS = Counter("taskflow_dead_letters_total", "Events parked", ["consumer"])
ROWS_DELETED = Counter(
    "taskflow_rows_deleted_total", "Rows deleted because their time was over", ["kind"]
)
JOB_SECONDS = Histogram(
    "taskflow_job_seconds",
    "Time from claiming a payload job to its end",
    ["state"],
    buckets=_LONG_BUCKETS,
)
ACTIVITY_SECONDS = Histogram(
    "taskflow_activity_seconds", "Duration of activities", ["activity", "result"], buckets=_BUCKETS
)
WORKFLOW_SECONDS = Histogram(
    "taskflow_workflow_seconds",
    "Duration of workflow runs that ended",
    ["workflow", "result"],
    buckets=_LONG_BUCKETS,
)

# How long a client may take to ask, and to take the answer (seconds), and how many may try at once.
_HTTP_TIMEOUT = 5.0
_HTTP_CLIENTS = 100
_HTTP_HEAD_BYTES = 16 * 1024

_PLAIN = "text/plain; charset=utf-8"
# Status, content type, body.
_Answer = tuple[str, str, bytes]


async def serve_http(
    host: str, port: int, healthy: Callable[[], Mapping[str, bool]]
) -> asyncio.Server:
    """Answers GET /healthz (200 or 503, a line for each dependency) and GET /metrics; nothing else."""
    clients = 0

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal clients
        clients += 1
        try:
            if clients <= _HTTP_CLIENTS:
                async with asyncio.timeout(_HTTP_TIMEOUT):
                    await _converse(reader, writer, healthy)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            # Whoever asked has gone, or won't say what it wants.
            pass
        finally:
            clients -= 1
            if writer.transport.get_write_buffer_size():
                # `close` would wait for ever for a client that doesn't read.
                writer.transport.abort()
            else:
                writer.close()

    return await asyncio.start_server(respond, host, port, limit=_HTTP_HEAD_BYTES)


async def _converse(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    healthy: Callable[[], Mapping[str, bool]],
) -> None:
    method = ""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, version = head.partition(b"\r\n")[0].decode("ascii").split(" ")
        if not version.startswith("HTTP/1."):
            raise ValueError
        status, kind, body = _answer(method, target.partition("?")[0], healthy)
    except (ValueError, asyncio.LimitOverrunError):
        status, kind, body = "400 Bad Request", _PLAIN, b"this isn't a request\n"
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    ).encode()
    writer.write(head if method == "HEAD" else head + body)
    # With what the buffer takes at once, `drain` would return before the client has read anything.
    writer.transport.set_write_buffer_limits(0)
    await writer.drain()


def _answer(method: str, path: str, healthy: Callable[[], Mapping[str, bool]]) -> _Answer:
    if path not in ("/healthz", "/metrics"):
        return "404 Not Found", _PLAIN, b"there are /healthz and /metrics\n"
    if method not in ("GET", "HEAD"):
        return "405 Method Not Allowed\r\nAllow: GET, HEAD", _PLAIN, b"only GET and HEAD\n"
    if path == "/metrics":
        return "200 OK", CONTENT_TYPE_LATEST, generate_latest()
    state = healthy()
    lines = [f"{name} {'ok' if ok else 'unavailable'}\n" for name, ok in state.items()]
    status = "200 OK" if all(state.values()) else "503 Service Unavailable"
    return status, _PLAIN, "".join(lines).encode()
