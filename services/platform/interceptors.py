"""What every call goes through, in this order:

1. shutdown and overload: what can't be served is refused before it costs anything;
2. authentication: nobody unknown gets to know what a well-formed request looks like;
3. parsing, how many items there are (bounds.py), then the proto's rules: the handler sees only well-formed requests;
4. the handler, which authorises first and looks at stored state then;
5. around all of it: one mapping of exceptions to a public status, the time limit, metrics and the log.

It's one interceptor, built once per method: grpc.aio would otherwise wrap every call anew in each of them.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import protovalidate
import structlog
from google.protobuf.message import DecodeError, Message

from services.platform import bounds, builtin, directory, logging, telemetry, tracing
from services.platform.config import Settings
from services.platform.crowd import Crowd
from services.platform.db import Database
from services.platform.errors import DomainError, abort, public
from services.platform.identity import SERVICE_HEADER, Caller, Identity
from services.platform.methods import METHODS, Method
from taskflow.error.v1 import error_reason_pb2 as reasons
from taskflow.options.v1.options_pb2 import ACCESS_OPEN

log = structlog.get_logger()

# Ends that are nobody's concern: what succeeded, and what the client no longer wanted.
_UNREMARKABLE = frozenset(("OK", "CANCELLED"))

# Ends of calls that say nothing of whether what calls need answers, or that it doesn't.
_UNANSWERED = frozenset(("UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL", "CANCELLED"))

# Field violations that an answer names.
_SHOWN = 50

# How long the end of a stream waits for its reader (seconds).
_ABORT_TIMEOUT = 1.0

Context = grpc.aio.ServicerContext[Any, Any]
# grpc.RpcMethodHandler, which is generic for the type checker only.
Handler = Any

_caller: ContextVar[Caller] = ContextVar("caller")
_validator = protovalidate.Validator()


def current_caller() -> Caller:
    """The user that the current call is made for. Not for RPCs that are open or for services."""
    return _caller.get()


@dataclass(eq=False, slots=True)
class _Stream:
    """An open stream, for those who may have to end it."""

    task: asyncio.Task[Any] | None
    caller: Caller | None = None
    # time.monotonic() while a message is being written; a reader that doesn't read leaves it so.
    writing_since: float | None = None
    ended_by: DomainError | None = None

    def end(self, reason: DomainError) -> None:
        if self.ended_by is None and self.task is not None:
            self.ended_by = reason
            self.task.cancel()


class Gate(grpc.aio.ServerInterceptor):
    """The way in, see above; and the end of every stream that must not go on."""

    def __init__(self, settings: Settings, identity: Identity) -> None:
        self._settings = settings
        self._identity = identity
        self._handlers: dict[str, Handler] = {}
        self._crowd = Crowd(settings)
        self._streams: set[_Stream] = set()
        self._draining = False
        # When somebody called last who comes through the gateway (time.monotonic()).
        self.last_arrival = 0.0
        # Asked before each line: building one that isn't written costs as much as the rest of the gate.
        self._log_all = settings.log_level == "debug"

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        method = details.method
        try:
            return self._handlers[method]
        except KeyError:
            inner = await continuation(details)
            # Unknown methods aren't remembered: there is no end of them.
            if inner is None:
                return builtin.UNKNOWN
            self._handlers[method] = self._wrap(method, inner)
            return self._handlers[method]

    def _wrap(self, method: str, inner: Any) -> Any:
        if method.startswith("/grpc."):
            return builtin.guarded(inner)
        declared = METHODS[method]
        parse: Callable[[bytes], Message] = inner.request_deserializer
        write: Callable[[Any], bytes] = inner.response_serializer

        def serialize(message: Message | bytes) -> bytes:
            # A stream may hand out what was serialized once for all its readers.
            return message if isinstance(message, bytes) else write(message)

        async def admit(raw: bytes, context: Context) -> Message:
            if not declared.internal:
                self.last_arrival = time.monotonic()
            if declared.access != ACCESS_OPEN:
                await self._authenticate(declared, context)
            return self._read(parse, raw)

        if inner.response_streaming:
            stream: Any = tracing.serving(method, self._stream(method, inner.unary_stream, admit))
            return grpc.unary_stream_rpc_method_handler(stream, None, serialize)
        unary: Any = tracing.serving(method, self._unary(method, inner.unary_unary, admit))
        return grpc.unary_unary_rpc_method_handler(unary, None, serialize)

    def _unary(
        self,
        method: str,
        behave: Callable[[Message, Context], Awaitable[Message]],
        admit: Callable[[bytes, Context], Awaitable[Message]],
    ) -> Callable[[bytes, Context], Awaitable[Message]]:
        settings = self._settings
        durations: dict[str, Any] = {}

        def observe(code: str, seconds: float) -> None:
            histogram = durations.get(code)
            if histogram is None:
                histogram = durations[code] = telemetry.CALLS.labels(method, code)
            histogram.observe(seconds)

        async def call(raw: bytes, context: Context) -> Message:
            started = time.perf_counter()
            code = "OK"
            if refusal := self._crowd.enter(started):
                # Without a line for each: there can be thousands a second.
                self.last_arrival = time.monotonic()
                observe(refusal.code.name, time.perf_counter() - started)
                await abort(context, refusal)
            logging.serve(method, context)
            try:
                try:
                    async with asyncio.timeout(settings.max_call_seconds):
                        return await behave(await admit(raw, context), context)
                except TimeoutError:
                    raise DomainError(
                        reasons.ERROR_REASON_CALL_TIMED_OUT,
                        {"limit_seconds": f"{settings.max_call_seconds:g}"},
                    ) from None
            except asyncio.CancelledError:
                code = "CANCELLED"
                raise
            except grpc.aio.AbortError:
                code = "ABORTED_BY_HANDLER"
                raise
            except Exception as error:
                failure = public(error)
                code = failure.code.name
                await abort(context, failure)
            finally:
                # A refused call's exception keeps this frame, see `abort`.
                raw = b""
                elapsed = time.perf_counter() - started
                self._crowd.leave(answered=code not in _UNANSWERED)
                observe(code, elapsed)
                if self._log_all or code not in _UNREMARKABLE:
                    _log_end("call", code, elapsed)

        return call

    def _stream(
        self,
        method: str,
        behave: Callable[[Message, Context], AsyncGenerator[Message | bytes, None]],
        admit: Callable[[bytes, Context], Awaitable[Message]],
    ) -> Callable[[bytes, Context], Awaitable[None]]:
        settings = self._settings
        counted = telemetry.STREAM_MESSAGES.labels(method)
        gauge = telemetry.STREAMS_OPEN.labels(method)

        async def call(raw: bytes, context: Context) -> None:
            started = time.perf_counter()
            code = "OK"
            logging.serve(method, context)
            stream = _Stream(asyncio.current_task())
            gauge.inc()
            self._streams.add(stream)
            try:
                if self._draining:
                    raise DomainError(reasons.ERROR_REASON_DRAINING)
                if len(self._streams) > settings.max_streams:
                    raise DomainError(reasons.ERROR_REASON_OVERLOADED)
                request = await admit(raw, context)
                # What a stream doesn't need isn't kept while it's open.
                raw = b""
                request.DiscardUnknownFields()
                stream.caller = current_caller()
                async with aclosing(behave(request, context)) as messages:
                    async for message in messages:
                        if stream.ended_by is not None:
                            # The cancellation was lost on its way, see `beside`.
                            raise stream.ended_by
                        stream.writing_since = time.monotonic()
                        await context.write(message)
                        stream.writing_since = None
                        counted.inc()
            except asyncio.CancelledError:
                if stream.ended_by is None:
                    code = "CANCELLED"
                    raise
                # Ended by us, not by the client.
                asyncio.current_task().uncancel()  # type: ignore[union-attr]
                code = stream.ended_by.code.name
                await _abort_unread(context, stream.ended_by)
            except grpc.aio.BaseError:
                # The client has gone while something was written to it, and nobody is left to tell.
                code = "CANCELLED"
                raise asyncio.CancelledError from None
            except Exception as error:
                failure = public(error)
                code = failure.code.name
                await _abort_unread(context, failure)
            finally:
                raw = b""
                self._streams.discard(stream)
                gauge.dec()
                telemetry.STREAMS_ENDED.labels(method, code).inc()
                if self._log_all or code not in _UNREMARKABLE:
                    _log_end("stream ended", code, time.perf_counter() - started)

        return call

    async def guard_streams(self, db: Database) -> None:
        """Ends, for ever, the streams that aren't read and those whose session has ended."""
        while True:
            await asyncio.sleep(self._settings.session_check_interval)
            try:
                await self.guard_streams_once(db)
            except Exception as error:
                # While Postgres is away nobody can log out either.
                public(error)

    async def guard_streams_once(self, db: Database) -> None:
        limit = time.monotonic() - self._settings.reader_timeout
        for stream in list(self._streams):
            if stream.writing_since is not None and stream.writing_since < limit:
                stream.end(DomainError(reasons.ERROR_REASON_READER_TOO_SLOW))
        sessions = {stream.caller.session_id for stream in self._streams if stream.caller}
        if sessions:
            async with db.read() as tx:
                ended = sessions - await directory.live_sessions(tx, sessions)
            for stream in list(self._streams) if ended else ():
                if stream.caller and stream.caller.session_id in ended:
                    stream.end(DomainError(reasons.ERROR_REASON_SESSION_REVOKED))

    def drain(self) -> None:
        """Ends all streams; new ones are refused. Calls are served until the server stops."""
        self._draining = True
        for stream in list(self._streams):
            stream.end(DomainError(reasons.ERROR_REASON_DRAINING))

    async def _authenticate(self, method: Method, context: Context) -> None:
        wanted = SERVICE_HEADER if method.internal else "authorization"
        sent = [value for key, value in context.invocation_metadata() or () if key == wanted]
        if method.internal:
            match sent:
                case [str(secret)] if self._identity.is_service(secret):
                    return
            raise DomainError(reasons.ERROR_REASON_NOT_FOR_CALLER)
        match sent:
            case [str(value)] if value[:7].lower() == "bearer ":
                _caller.set(await self._identity.caller(value[7:].strip(), method.role))
            case _:
                raise DomainError(reasons.ERROR_REASON_CREDENTIALS_MISSING)

    def _read(self, parse: Callable[[bytes], Message], raw: bytes) -> Message:
        limit = self._settings.max_request_bytes
        if len(raw) > limit:
            raise DomainError(reasons.ERROR_REASON_REQUEST_TOO_LARGE, {"limit_bytes": str(limit)})
        try:
            request = parse(raw)
        except (DecodeError, ValueError, RecursionError):
            raise DomainError(reasons.ERROR_REASON_UNREADABLE_REQUEST) from None
        if len(raw) > bounds.SMALL and (too_large := bounds.exceeded(request)):
            raise DomainError(reasons.ERROR_REASON_INVALID_REQUEST, fields=too_large[:_SHOWN])
        # The validator's own messages quote rules, not values.
        violations = _validator.collect_violations(request)
        if violations:
            raise DomainError(
                reasons.ERROR_REASON_INVALID_REQUEST,
                fields=[_field(violation.proto) for violation in violations[:_SHOWN]],
            )
        return request


def _log_end(event: str, code: str, seconds: float) -> None:
    """The one line of each call: refusals are the client's business, what went wrong has a line of its own besides."""
    write = log.debug if code in _UNREMARKABLE else log.info
    write(event, code=code, milliseconds=round(seconds * 1e3, 1))


async def _abort_unread(context: Context, failure: DomainError) -> None:
    """Aborts a stream; doesn't wait for a reader that doesn't read. The status reaches it if it ever does."""
    try:
        async with asyncio.timeout(_ABORT_TIMEOUT):
            await abort(context, failure)
    except TimeoutError:
        pass


def _field(violation: Any) -> tuple[str, str]:
    path = ""
    elements = violation.field.elements if violation.field else ()
    for element in elements:
        path += ("." if path else "") + element.field_name
        if element.subscript is not None and element.subscript.field == "index":
            path += f"[{element.subscript.value}]"
    return path, violation.message
