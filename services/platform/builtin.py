"""gRPC's own services, health and reflection, and methods that don't exist: with our words for what goes wrong.

By itself grpcio tells the class and the text of an exception, of unreadable bytes as well.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from services.platform.errors import DomainError, abort, public
from taskflow.error.v1 import error_reason_pb2 as reasons

# grpc.RpcMethodHandler and grpc.aio.ServicerContext, which are generic for the type checker only.
Handler = Any
Context = Any


def guarded(inner: Handler) -> Handler:
    """The handler of a servicer that isn't ours. Nobody's data, and not to be refused when it's busy."""

    def read(raw: bytes) -> Any:
        try:
            return inner.request_deserializer(raw)
        except (DecodeError, ValueError, RecursionError):
            raise DomainError(reasons.ERROR_REASON_UNREADABLE_REQUEST) from None

    async def one(raw: bytes, context: Context) -> Any:
        try:
            if inner.response_streaming:
                return await inner.unary_stream(read(raw), context)
            return await inner.unary_unary(read(raw), context)
        except Exception as error:
            await _abort(context, error)

    async def many(raws: AsyncIterator[bytes], context: Context) -> AsyncGenerator[Any, None]:
        try:
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
