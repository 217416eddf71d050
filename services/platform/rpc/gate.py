"""Every call passes the gate, in this order:

1. Shutdown and overload: the gate rejects calls that the process can't serve, before any other work on them.
2. Authentication: an unknown caller doesn't learn whether the request is well-formed.
3. The caller's share: calls and streams beyond it are refused, or wait for their turn (shares.py).
4. Validation: parsing, the number of items, the rules of the protos (validation.py).
5. The servicer, which first authorises the caller and then reads stored state.
6. Around all of it: exceptions become a public status, and the time limit, the metrics and the log line apply.

The gate is one interceptor and wraps each method once. With several interceptors grpc.aio would wrap every call.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message

from services.platform.config import Settings
from services.platform.observe import logging, metrics, tracing
from services.platform.rpc import grpc_services
from services.platform.rpc.call_log import CallLog
from services.platform.rpc.caller_limits import is_limit
from services.platform.rpc.errors import DomainError, abort, public
from services.platform.rpc.grpc_types import Context, Handler
from services.platform.rpc.identity import Identity, current_caller
from services.platform.rpc.load_shedding import LoadShedder
from services.platform.rpc.methods import METHODS
from services.platform.rpc.shares import Held, Shares
from services.platform.rpc.streams import Streams
from services.platform.rpc.validation import validated
from taskflow.error.v1 import error_reason_pb2 as reasons
from taskflow.options.v1.options_pb2 import ACCESS_OPEN, ACCESS_SERVICE

# A call that ends with one of these codes doesn't prove that Postgres and other dependencies respond.
_UNANSWERED = frozenset(("UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL", "CANCELLED"))


class Gate(grpc.aio.ServerInterceptor):
    """The interceptor that wraps every method of a server with authentication, validation, limits and metrics."""

    def __init__(self, settings: Settings, identity: Identity) -> None:
        self._settings = settings
        self._identity = identity
        self._handlers: dict[str, Handler] = {}
        self._load_shedder = LoadShedder(settings)
        self.shares = Shares(settings)
        self._log = CallLog(settings)
        self.streams = Streams(settings, self._log, self.shares)
        # When the last call arrived through the gateway (time.monotonic()).
        self.last_arrival = 0.0

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        method = details.method
        size = sum(len(key) + len(value) for key, value in details.invocation_metadata)
        if size > grpc_services.MAX_METADATA_BYTES:
            return grpc_services.TOO_MUCH_METADATA
        try:
            return self._handlers[method]
        except KeyError:
            inner = await continuation(details)
            # Unknown methods aren't kept: clients can make up any number of them.
            if inner is None:
                return grpc_services.UNKNOWN
            self._handlers[method] = self._wrap(method, inner)
            return self._handlers[method]

    def _wrap(self, method: str, inner: Handler) -> Handler:
        if method.startswith("/grpc."):
            return grpc_services.guarded(inner)
        declared = METHODS[method]
        parse: Callable[[bytes], Message] = inner.request_deserializer
        write: Callable[[Any], bytes] = inner.response_serializer
        most_bytes = self._settings.max_request_bytes

        def serialize(message: Message | bytes) -> bytes:
            # A stream may send bytes that were serialized once for all its readers.
            return message if isinstance(message, bytes) else write(message)

        shared = declared.access not in (ACCESS_OPEN, ACCESS_SERVICE)
        in_workspace = "workspace_id" in declared.descriptor.input_type.fields_by_name

        async def admit(raw: bytes, context: Context, held: Held) -> Message:
            if not declared.internal:
                self.last_arrival = time.monotonic()
            if declared.access != ACCESS_OPEN:
                await self._identity.authenticate(declared, context)
            if not shared:
                return validated(parse, raw, most_bytes)
            held.take(current_caller().user_id.int)
            request = validated(parse, raw, most_bytes)
            if in_workspace:
                held.join(request.workspace_id)  # type: ignore[attr-defined]
            await held.turn()
            return request

        if inner.response_streaming:
            stream = self.streams.opening(method, inner.unary_stream, admit)
            return grpc.unary_stream_rpc_method_handler(
                tracing.serving(method, stream), None, serialize
            )
        unary = self._unary(method, inner.unary_unary, admit)
        return grpc.unary_unary_rpc_method_handler(tracing.serving(method, unary), None, serialize)

    def _unary(
        self,
        method: str,
        serve: Callable[[Message, Context], Awaitable[Message]],
        admit: Callable[[bytes, Context, Held], Awaitable[Message]],
    ) -> Callable[[bytes, Context], Awaitable[Message]]:
        limit = self._settings.max_call_seconds
        durations: dict[str, Any] = {}

        def observe(code: str, seconds: float) -> None:
            histogram = durations.get(code)
            if histogram is None:
                histogram = durations[code] = metrics.CALLS.labels(method, code)
            histogram.observe(seconds)

        async def call(raw: bytes, context: Context) -> Message:
            started = time.perf_counter()
            code = "OK"
            if refusal := self._load_shedder.enter(started):
                # Rejected calls have no log line: there can be thousands a second.
                self.last_arrival = time.monotonic()
                observe(refusal.code.name, time.perf_counter() - started)
                await abort(context, refusal)
            logging.serve(method, context)
            held = Held(self.shares)
            answered = True
            try:
                try:
                    async with asyncio.timeout(limit):
                        answer = await serve(await admit(raw, context, held), context)
                        held.succeeded()
                        return answer
                except TimeoutError:
                    raise DomainError(
                        reasons.ERROR_REASON_CALL_TIMED_OUT, {"limit_seconds": f"{limit:g}"}
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
                answered = not is_limit(failure)
                if failure.reason == reasons.ERROR_REASON_RESOURCE_NOT_FOUND:
                    held.not_found()
                await abort(context, failure)
            finally:
                held.leave()
                # The exception of a rejected call keeps this frame alive, see `abort`.
                raw = b""
                elapsed = time.perf_counter() - started
                self._load_shedder.leave(answered=answered and code not in _UNANSWERED)
                observe(code, elapsed)
                # A caller's limit can refuse thousands of calls a second; a metric counts them.
                if answered:
                    self._log.ended("call", code, elapsed)

        return call
