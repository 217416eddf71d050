"""gRPC's own services (health, reflection), unknown methods and large metadata, with TaskFlow's limits and errors.

grpcio itself would answer a failed call with the class and the text of the exception.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import grpc.aio

from services.platform.rpc.errors import DomainError, abort, public
from services.platform.rpc.grpc_types import Context, Handler
from services.platform.rpc.validation import parsed
from taskflow.error.v1 import error_reason_pb2 as reasons

# Largest request (bytes) for health and reflection: far more than the name of a service or symbol needs.
_MOST_BYTES = 1024
# Of a call's metadata, keys and values together (bytes). grpcio rejects above 16 KiB by default, with its own text.
MAX_METADATA_BYTES = 16 * 1024
# Open streams of each streaming method.
_MOST_STREAMS = 500


def guarded(inner: Handler) -> Handler:
    """Wraps a method of grpcio's own health or reflection service with limits and with TaskFlow's errors.

    The method needs no token. Because anybody may call it, it takes only small requests and few streams.
    """
    streams = 0

    @contextmanager
    def reserved_stream() -> Iterator[None]:
        nonlocal streams
        if streams >= _MOST_STREAMS:
            raise DomainError(reasons.ERROR_REASON_OVERLOADED)
        streams += 1
        try:
            yield
        finally:
            streams -= 1

    def read(raw: bytes) -> Any:
        return parsed(inner.request_deserializer, raw, _MOST_BYTES)

    async def one_request(raw: bytes, context: Context) -> Any:
        try:
            if inner.response_streaming:
                with reserved_stream():
                    await context.send_initial_metadata(())
                    return await inner.unary_stream(read(raw), context)
            return await inner.unary_unary(read(raw), context)
        except Exception as error:
            await _abort(context, error)

    async def many_requests(
        raws: AsyncIterator[bytes], context: Context
    ) -> AsyncGenerator[Any, None]:
        try:
            with reserved_stream():
                await context.send_initial_metadata(())
                async for answer in inner.stream_stream(_each(read, raws), context):
                    yield answer
        except Exception as error:
            await _abort(context, error)

    write = inner.response_serializer
    if inner.request_streaming:
        return grpc.stream_stream_rpc_method_handler(many_requests, None, write)
    if inner.response_streaming:
        return grpc.unary_stream_rpc_method_handler(one_request, None, write)
    return grpc.unary_unary_rpc_method_handler(one_request, None, write)


async def _each(
    read: Callable[[bytes], Any], raws: AsyncIterator[bytes]
) -> AsyncGenerator[Any, None]:
    async for raw in raws:
        yield read(raw)


async def _abort(context: Context, error: Exception) -> None:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if isinstance(error, grpc.aio.BaseError):
        # The client disconnected, so nobody reads a status. grpcio would log any other exception as an error.
        raise asyncio.CancelledError from None
    if isinstance(error, NotImplementedError):
        # The gRPC library's own servicers raise this for declared methods that they don't serve, such as Health/List.
        error = DomainError(reasons.ERROR_REASON_UNKNOWN_METHOD)
    await abort(context, public(error))


def _rejecting(error: DomainError) -> Handler:
    """A handler that answers with the error, without reading the request."""

    async def reject(_: AsyncIterator[bytes], context: Context) -> None:
        await abort(context, error)

    return grpc.stream_stream_rpc_method_handler(reject)


# The handlers of unknown methods, and of calls with too much metadata.
UNKNOWN = _rejecting(DomainError(reasons.ERROR_REASON_UNKNOWN_METHOD))
TOO_MUCH_METADATA = _rejecting(
    DomainError(reasons.ERROR_REASON_METADATA_TOO_LARGE, {"limit_bytes": str(MAX_METADATA_BYTES)})
)
