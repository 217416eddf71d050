"""The open streams of a process: opens them, and ends them for slow readers, ended sessions and shutdown."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import grpc.aio
from google.protobuf.message import Message

from services.platform.config import Settings
from services.platform.data.db import Database
from services.platform.observe import logging, metrics
from services.platform.rpc import directory
from services.platform.rpc.call_log import CallLog
from services.platform.rpc.caller_limits import is_limit
from services.platform.rpc.errors import DomainError, abort, public
from services.platform.rpc.grpc_types import Context
from services.platform.rpc.identity import Caller, current_caller
from services.platform.rpc.shares import Held, Shares
from taskflow.error.v1 import error_reason_pb2 as reasons

# Seconds that ending a stream waits for a client that doesn't read.
_ABORT_TIMEOUT = 1.0


@dataclass(eq=False, slots=True)
class _Stream:
    task: asyncio.Task[Any] | None
    caller: Caller | None = None
    # time.monotonic() at the start of the current write, which doesn't end while the client doesn't read.
    writing_since: float | None = None
    ended_by: DomainError | None = None

    def end(self, reason: DomainError) -> None:
        if self.ended_by is None and self.task is not None:
            self.ended_by = reason
            self.task.cancel()


class Streams:
    """Opens streams. Ends the streams of slow readers and ended sessions, and all streams on shutdown."""

    def __init__(self, settings: Settings, log: CallLog, shares: Shares) -> None:
        self._settings = settings
        self._log = log
        self._shares = shares
        self._open: set[_Stream] = set()
        self._draining = False

    def opening(
        self,
        method: str,
        serve: Callable[[Message, Context], AsyncGenerator[Message | bytes, None]],
        admit: Callable[[bytes, Context, Held], Awaitable[Message]],
    ) -> Callable[[bytes, Context], Awaitable[None]]:
        """Wraps a streaming method; returns the function that grpc.aio calls for each new stream.

        `admit` authenticates the caller and parses the request; `serve` is the servicer's method.
        """
        sent = metrics.STREAM_MESSAGES.labels(method)
        gauge = metrics.STREAMS_OPEN.labels(method)

        async def call(raw: bytes, context: Context) -> None:
            started = time.perf_counter()
            code = "OK"
            limited = False
            logging.serve(method, context)
            stream = _Stream(asyncio.current_task())
            held = Held(self._shares, stream=True)
            gauge.inc()
            self._open.add(stream)
            try:
                self._check_capacity()
                request = await admit(raw, context, held)
                # At once, because the first message can take its time.
                await context.send_initial_metadata(())
                # An open stream keeps only what it needs.
                raw = b""
                request.DiscardUnknownFields()
                stream.caller = current_caller()
                async with aclosing(serve(request, context)) as messages:
                    async for message in messages:
                        if not held.proven:
                            # The servicer sends a first message to members only, so this caller is one.
                            held.succeeded()
                        if stream.ended_by is not None:
                            # `end` cancelled this task, but the cancellation got lost, see `run_background`.
                            raise stream.ended_by
                        stream.writing_since = time.monotonic()
                        await context.write(message)
                        stream.writing_since = None
                        sent.inc()
            except asyncio.CancelledError:
                if stream.ended_by is None:
                    code = "CANCELLED"
                    raise
                # This process ended the stream, not the client.
                asyncio.current_task().uncancel()  # type: ignore[union-attr]
                code = stream.ended_by.code.name
                await _abort(context, stream.ended_by)
            except grpc.aio.BaseError:
                # The client disconnected during a write, so nobody reads a status.
                code = "CANCELLED"
                raise asyncio.CancelledError from None
            except Exception as error:
                failure = public(error)
                code = failure.code.name
                limited = is_limit(failure)
                await _abort(context, failure)
            finally:
                raw = b""
                held.leave()
                self._open.discard(stream)
                gauge.dec()
                metrics.STREAMS_ENDED.labels(method, code).inc()
                # A caller's limit can refuse thousands of streams a second; a metric counts them.
                if not limited:
                    self._log.ended("stream ended", code, time.perf_counter() - started)

        return call

    def _check_capacity(self) -> None:
        if self._draining:
            raise DomainError(reasons.ERROR_REASON_DRAINING)
        if len(self._open) > self._settings.max_streams:
            raise DomainError(reasons.ERROR_REASON_OVERLOADED)

    async def supervise(self, db: Database) -> None:
        """Background loop: ends streams whose client doesn't read or whose session has ended."""
        while True:
            await asyncio.sleep(self._settings.session_check_interval)
            try:
                self._end_slow_readers()
                await self._end_sessions(db)
            except Exception as error:
                # Logs the error. The next round checks the sessions again.
                public(error)

    def _end_slow_readers(self) -> None:
        limit = time.monotonic() - self._settings.reader_timeout
        for stream in list(self._open):
            if stream.writing_since is not None and stream.writing_since < limit:
                stream.end(DomainError(reasons.ERROR_REASON_READER_TOO_SLOW))

    async def _end_sessions(self, db: Database) -> None:
        sessions = {stream.caller.session_id for stream in self._open if stream.caller}
        if not sessions:
            return
        async with db.read() as tx:
            ended = sessions - await directory.live_sessions(tx, sessions)
        for stream in list(self._open) if ended else ():
            if stream.caller and stream.caller.session_id in ended:
                stream.end(DomainError(reasons.ERROR_REASON_SESSION_REVOKED))

    def drain(self) -> None:
        """Ends all streams and rejects new ones. Unary calls are served until the server stops."""
        self._draining = True
        for stream in list(self._open):
            stream.end(DomainError(reasons.ERROR_REASON_DRAINING))


async def _abort(context: Context, failure: DomainError) -> None:
    """Ends a stream with an error. A client that doesn't read gets the status when it reads again."""
    try:
        async with asyncio.timeout(_ABORT_TIMEOUT):
            await abort(context, failure)
    except TimeoutError:
        pass
