"""What every call goes through, in this order:

1. shutdown and overload: what can't be served is refused before it costs anything;
2. authentication: nobody unknown gets to know what a well-formed request looks like;
3. parsing and the proto's rules: the handler sees only well-formed requests;
4. the handler, which authorises first and looks at stored state then;
5. around all of it: one mapping of exceptions to a public status, the time limit, metrics and the log.

It's one interceptor, built once per method: grpc.aio would otherwise wrap every call anew in each of them.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import grpc
import grpc.aio
import protovalidate
import structlog
from google.protobuf.message import DecodeError, Message

from services.platform import telemetry
from services.platform.access import ACCESS, Access
from services.platform.config import Settings
from services.platform.errors import DomainError, abort, public
from services.platform.identity import SERVICE_HEADER, Caller, Identity
from taskflow.error.v1 import error_reason_pb2 as reasons

log = structlog.get_logger()

Context = grpc.aio.ServicerContext[Any, Any]

_caller: ContextVar[Caller] = ContextVar("caller")
_validator = protovalidate.Validator()


def current_caller() -> Caller:
    """The user that the current call is made for. Not for RPCs that are open or for services."""
    return _caller.get()


class Gate(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """The way in, see above. `draining` is set when the process shuts down; streams end then by themselves."""

    def __init__(self, settings: Settings, identity: Identity) -> None:
        self._settings = settings
        self._identity = identity
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any] | None] = {}
        self._calls = 0
        self._streams = 0
        self.draining = asyncio.Event()

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]
        ],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        method: str = details.method  # type: ignore[assignment]
        try:
            return self._handlers[method]
        except KeyError:
            inner = await continuation(details)
            # Unknown methods aren't remembered: there is no end of them.
            if inner is None:
                return None
            self._handlers[method] = self._wrap(method, inner)
            return self._handlers[method]

    def _wrap(
        self, method: str, inner: grpc.RpcMethodHandler[Any, Any]
    ) -> grpc.RpcMethodHandler[Any, Any]:
        if method.startswith("/grpc."):
            # Health and reflection: nobody's data, and not to be refused when it's busy.
            return inner
        access = ACCESS[method]
        parse: Callable[[bytes], Message] = inner.request_deserializer  # type: ignore[assignment]
        write: Callable[[Any], bytes] = inner.response_serializer  # type: ignore[assignment]

        def serialize(message: Message | bytes) -> bytes:
            # A stream may hand out what was serialized once for all its readers.
            return message if isinstance(message, bytes) else write(message)

        async def admit(raw: bytes, context: Context) -> Message:
            if access is not Access.OPEN:
                await self._authenticate(access, context)
            return self._read(parse, raw)

        if inner.response_streaming:
            handler = self._stream(method, inner.unary_stream, admit)
            return grpc.unary_stream_rpc_method_handler(handler, None, serialize)
        handler = self._unary(method, inner.unary_unary, admit)
        return grpc.unary_unary_rpc_method_handler(handler, None, serialize)

    def _unary(
        self,
        method: str,
        behave: Callable[[Message, Context], Awaitable[Message]],
        admit: Callable[[bytes, Context], Awaitable[Message]],
    ) -> Callable[[bytes, Context], Awaitable[Message]]:
        settings = self._settings
        durations: dict[str, Any] = {}

        async def call(raw: bytes, context: Context) -> Message:
            started = time.perf_counter()
            code = "OK"
            self._calls += 1
            try:
                if self._calls > settings.max_calls:
                    raise DomainError(reasons.ERROR_REASON_OVERLOADED)
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
                self._calls -= 1
                elapsed = time.perf_counter() - started
                histogram = durations.get(code)
                if histogram is None:
                    histogram = durations[code] = telemetry.CALLS.labels(method, code)
                histogram.observe(elapsed)
                log.debug("call", method=method, code=code, milliseconds=round(elapsed * 1e3, 1))

        return call

    def _stream(
        self,
        method: str,
        behave: Callable[[Message, Context], AsyncIterator[Message | bytes]],
        admit: Callable[[bytes, Context], Awaitable[Message]],
    ) -> Callable[[bytes, Context], AsyncIterator[Message | bytes]]:
        settings = self._settings
        counted = telemetry.STREAM_MESSAGES.labels(method)
        gauge = telemetry.STREAMS_OPEN.labels(method)

        async def call(raw: bytes, context: Context) -> AsyncIterator[Message | bytes]:
            code = "OK"
            self._streams += 1
            gauge.inc()
            try:
                if self.draining.is_set():
                    raise DomainError(reasons.ERROR_REASON_DRAINING)
                if self._streams > settings.max_streams:
                    raise DomainError(reasons.ERROR_REASON_OVERLOADED)
                async for message in behave(await admit(raw, context), context):
                    yield message
                    counted.inc()
            except (asyncio.CancelledError, GeneratorExit):
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
                self._streams -= 1
                gauge.dec()
                telemetry.STREAMS_ENDED.labels(method, code).inc()
                log.debug("stream ended", method=method, code=code)

        return call

    async def _authenticate(self, access: Access, context: Context) -> None:
        sent: dict[str, list[str | bytes]] = {}
        for key, value in context.invocation_metadata() or ():
            sent.setdefault(key, []).append(value)
        if access is Access.SERVICE:
            match sent.get(SERVICE_HEADER):
                case [str(secret)] if self._identity.is_service(secret):
                    return
            raise DomainError(reasons.ERROR_REASON_NOT_FOR_CALLER)
        match sent.get("authorization"):
            case [str(value)] if value[:7].lower() == "bearer ":
                _caller.set(await self._identity.caller(value[7:].strip(), access.role))
            case _:
                raise DomainError(reasons.ERROR_REASON_CREDENTIALS_MISSING)

    def _read(self, parse: Callable[[bytes], Message], raw: bytes) -> Message:
        limit = self._settings.max_request_bytes
        if len(raw) > limit:
            raise DomainError(
                reasons.ERROR_REASON_REQUEST_TOO_LARGE, {"limit_bytes": str(limit)}
            )
        try:
            request = parse(raw)
        except (DecodeError, ValueError, RecursionError):
            raise DomainError(reasons.ERROR_REASON_UNREADABLE_REQUEST) from None
        # The validator's own messages quote rules, not values.
        violations = _validator.collect_violations(request)
        if violations:
            raise DomainError(
                reasons.ERROR_REASON_INVALID_REQUEST,
                fields=[_field(violation.proto) for violation in violations[:50]],
            )
        return request


def _field(violation: Any) -> tuple[str, str]:
    path = ""
    elements = violation.field.elements if violation.field else ()
    for element in elements:
        path += ("." if path else "") + element.field_name
        if element.subscript is not None and element.subscript.field == "index":
            path += f"[{element.subscript.value}]"
    return path, violation.message
