"""gRPC's own services, health and reflection, and methods that don't exist: with our words for what goes wrong.

By itself grpcio tells the class and the text of an exception, of unreadable bytes as well.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from services.platform.errors import DomainError, abort, public
from taskflow.error.v1 import error_reason_pb2 as reasons

# Far more than the names and numbers that are asked for have (bytes).
_MOST_BYTES = 1024
# Of each streaming method, at once.
_MOST_STREAMS = 500

# grpc.RpcMethodHandler and grpc.aio.ServicerContext, which are generic for the type checker only.
Handler = Any
Context = Any


def guarded(inner: Handler) -> Handler:
    """The handler of a servicer that isn't ours. Nobody's data, and not to be refused when it's busy; but anybody may
    call it, so that what it takes is little."""
    streams = 0

    @contextmanager
    def place() -> Iterator[None]:
        nonlocal streams
        if streams >= _MOST_STREAMS:
            raise DomainError(reasons.ERROR_REASON_OVERLOADED)
        streams += 1
        try:
            yield
        finally:
            streams -= 1

    def read(raw: bytes) -> Any:
        if len(raw) > _MOST_BYTES:
            raise DomainError(
                reasons.ERROR_REASON_REQUEST_TOO_LARGE, {"limit_bytes": str(_MOST_BYTES)}
            )
        try:
            return inner.request_deserializer(raw)
        except (DecodeError, ValueError, RecursionError):
            raise DomainError(reasons.ERROR_REASON_UNREADABLE_REQUEST) from None

    async def one(raw: bytes, context: Context) -> Any:
        try:
            if inner.response_streaming:
                with place():
                    return await inner.unary_stream(read(raw), context)
            return await inner.unary_unary(read(raw), context)
        except Exception as error:
            await _abort(context, error)

    async def many(raws: AsyncIterator[bytes], context: Context) -> AsyncGenerator[Any, None]:
        try:
            with place():
                async for answer in inner.stream_stream(_each(read, raws), context):
                    yield answer
        except Exception as error:
            await _abort(context, error)

    write = inner.response_serializer
    if inner.request_streaming:
        return grpc.stream_stream_rpc_method_handler(many, None, write)
    if inner.response_streaming:
        return grpc.unary_stream_rpc_method_handler(one, None, write)
    return grpc.unary_unary_rpc_method_handler(one, None, write)


async def _each(read: Any, raws: AsyncIterator[bytes]) -> AsyncGenerator[Any, None]:
    async for raw in raws:
        yield read(raw)


async def _abort(context: Context, error: Exception) -> None:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if isinstance(error, grpc.aio.BaseError):
        # The client has gone, and nobody is left to tell: grpcio would log any other exception as an error.
        raise asyncio.CancelledError from None
    if isinstance(error, NotImplementedError):
        error = DomainError(reasons.ERROR_REASON_UNKNOWN_METHOD)
    await abort(context, public(error))


async def _refuse(_: AsyncIterator[bytes], context: Context) -> None:
    await abort(context, DomainError(reasons.ERROR_REASON_UNKNOWN_METHOD))


# Answers without reading what is sent.
UNKNOWN: Handler = grpc.stream_stream_rpc_method_handler(_refuse)
