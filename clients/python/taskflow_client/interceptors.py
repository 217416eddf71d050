"""Interceptors of every call; `interceptors` gives their order and why."""

import asyncio
import random
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import Message

from taskflow_client.errors import (
    ResourceExhausted,
    TaskFlowError,
    Unauthenticated,
    Unavailable,
    from_rpc_error,
)
from taskflow_client.methods import is_open, is_repeatable
from taskflow_client.token_renewal import Credentials

# Seconds before the first retry, and the most between two retries. The backoff doubles each time;
# jitter takes 50 to 100 % of it.
FIRST_BACKOFF = 0.1
LAST_BACKOFF = 5.0

# Error reasons after which a repeat with a renewed access token can succeed.
RENEWABLE = {"TOKEN_INVALID", "SESSION_REVOKED"}

_Details = grpc.aio.ClientCallDetails
_Continue = Callable[[_Details, Any], Awaitable[Any]]


def interceptors(
    credentials: Credentials, timeout: float, retry_for: float
) -> list[grpc.aio.ClientInterceptor]:
    """Returns the interceptors in order, the outermost first."""
    return [
        RequestIds(),  # outside Retries, so that all attempts have the same id
        Retries(
            timeout, retry_for
        ),  # outside UnaryToken, which can renew the token between attempts
        UnaryToken(credentials),
        UnaryErrors(),  # innermost, so that the outer ones see typed exceptions
        StreamToken(credentials),
        StreamErrors(),
    ]


class RequestIds(grpc.aio.UnaryUnaryClientInterceptor):
    """Sets a missing request_id, so that the request is safe to repeat."""

    async def intercept_unary_unary(
        self, continuation: _Continue, client_call_details: _Details, request: Any
    ) -> Any:
        if "request_id" in request.DESCRIPTOR.fields_by_name and not request.request_id:
            original, request = request, type(request)()
            request.CopyFrom(original)  # the caller may reuse its message for another request
            request.request_id = str(uuid.uuid4())
        return await continuation(client_call_details, request)


class Retries(grpc.aio.UnaryUnaryClientInterceptor):
    """Limits the time of a call, and retries it within that time.

    Retries UNAVAILABLE when a repeat is safe or the server didn't start the call, and
    RESOURCE_EXHAUSTED when the server says how long to wait. No attempt starts later than
    `retry_for` seconds after the first.
    """

    def __init__(self, timeout: float, retry_for: float) -> None:
        self._timeout = timeout
        self._retry_for = retry_for

    async def intercept_unary_unary(
        self, continuation: _Continue, client_call_details: _Details, request: Any
    ) -> Any:
        timeout = (
            self._timeout if client_call_details.timeout is None else client_call_details.timeout
        )
        started = time.monotonic()
        attempt = 0
        while True:
            spent = time.monotonic() - started
            details = _changed(client_call_details, timeout=max(0.0, timeout - spent))
            try:
                return await continuation(details, request)
            except TaskFlowError as error:
                if not _can_retry(error, _method(client_call_details), request):
                    raise
                wait = max(error.retry_after or 0.0, backoff(attempt))
                if time.monotonic() + wait - started > min(self._retry_for, timeout):
                    raise
            await asyncio.sleep(wait)
            attempt += 1


class UnaryToken(grpc.aio.UnaryUnaryClientInterceptor):
    """Sends the access token. If the server rejects it, renews it and repeats the call once."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    async def intercept_unary_unary(
        self, continuation: _Continue, client_call_details: _Details, request: Any
    ) -> Any:
        if is_open(_method(client_call_details)):
            return await continuation(client_call_details, request)
        token = await self._credentials.access_token()
        try:
            return await continuation(_with_token(client_call_details, token), request)
        except Unauthenticated as error:
            if token is None or error.reason not in RENEWABLE:
                raise
            self._credentials.reject(token)
        token = await self._credentials.access_token()
        return await continuation(_with_token(client_call_details, token), request)


class UnaryErrors(grpc.aio.UnaryUnaryClientInterceptor):
    """Raises a typed exception instead of grpc's AioRpcError."""

    async def intercept_unary_unary(
        self, continuation: _Continue, client_call_details: _Details, request: Any
    ) -> Any:
        call = await continuation(client_call_details, request)
        try:
            await call
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        return call


class StreamToken(grpc.aio.UnaryStreamClientInterceptor):
    """Sends the access token. If the server rejects it, the next call renews it."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    async def intercept_unary_stream(
        self, continuation: _Continue, client_call_details: _Details, request: Any
    ) -> AsyncIterator[Any]:
        token = await self._credentials.access_token()
        call = await continuation(_with_token(client_call_details, token), request)
        return self._responses(call, token)

    async def _responses(self, call: Any, token: str | None) -> AsyncIterator[Any]:
        try:
            async for response in call:
                yield response
        except Unauthenticated as error:
            if token is not None and error.reason in RENEWABLE:
                self._credentials.reject(token)
            raise


class StreamErrors(grpc.aio.UnaryStreamClientInterceptor):
    """Raises a typed exception instead of grpc's AioRpcError."""

    async def intercept_unary_stream(
        self, continuation: _Continue, client_call_details: _Details, request: Any
    ) -> AsyncIterator[Any]:
        return self._responses(await continuation(client_call_details, request))

    async def _responses(self, call: Any) -> AsyncIterator[Any]:
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error


def backoff(attempt: int, first: float = FIRST_BACKOFF) -> float:
    """Returns the seconds to wait after a failed attempt (counted from 0), with jitter."""
    ceiling: float = min(LAST_BACKOFF, first * 2 ** min(attempt, 16))
    return ceiling * random.uniform(0.5, 1.0)


def _can_retry(error: TaskFlowError, method: str, request: Message) -> bool:
    if isinstance(error, ResourceExhausted):
        # The server rejected the call before executing it. A throttled login isn't retried: the
        # user should see the error.
        return error.retry_after is not None and error.reason != "LOGIN_THROTTLED"
    if isinstance(error, Unavailable):
        return error.reason == "DRAINING" or is_repeatable(method, request)
    return False


def _method(details: _Details) -> str:
    method: str | bytes = details.method  # typed as str, but bytes at run time
    return method.decode() if isinstance(method, bytes) else method


def _with_token(details: _Details, token: str | None) -> _Details:
    if token is None:
        return details
    metadata = grpc.aio.Metadata(*(details.metadata or ()), ("authorization", f"Bearer {token}"))
    return _changed(details, metadata=metadata)


def _changed(details: _Details, **changes: Any) -> _Details:
    values = {
        name: getattr(details, name)
        for name in ("method", "timeout", "metadata", "credentials", "wait_for_ready")
    }
    return grpc.aio.ClientCallDetails(**(values | changes))
