"""A client's access token. One call at a time renews it, before it expires or when the server rejects it."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import grpc

from taskflow.auth.v1 import auth_service_pb2
from taskflow_client.errors import TaskFlowError, Unauthenticated
from taskflow_client.session_store import FileSessions, MemorySessions, Session, session_of

# Time limit (seconds) of a renewal with its retries. The server accepts a refresh token again within 10 s of its first
# use; later it treats a repeat as theft.
RENEWAL_LIMIT = 8.0

SessionStore = FileSessions | MemorySessions
Refresh = Callable[[str], Awaitable[auth_service_pb2.Tokens]]


class Credentials:
    """The session of a client on one server, and its tokens."""

    def __init__(self, store: SessionStore, server: str, refresh: Refresh) -> None:
        self._store = store
        self._server = server
        self._refresh = refresh
        self._session = store.read(server)
        self._renewal: asyncio.Task[Session] | None = None

    @property
    def session(self) -> Session | None:
        return self._session

    async def access_token(self) -> str | None:
        """Returns a token that doesn't expire soon, or None when logged out.

        Raises Unauthenticated when the session has ended.
        """
        session = self._session
        if session is None or time.time() < session.renew_after:
            return session.access_token if session else None
        try:
            return (await self._renew()).access_token
        except Unauthenticated:
            raise
        except TaskFlowError:
            if session.renew_after == 0:
                raise
            return session.access_token  # it hasn't expired; the next call tries to renew it

    def reject(self, access_token: str) -> None:
        """Makes the next call renew the token, if the rejected one is the current one."""
        if self._session is not None and self._session.access_token == access_token:
            self._session = replace(self._session, renew_after=0)

    async def set(self, session: Session | None) -> None:
        """Stores the tokens of a login; None deletes them."""
        async with self._store.locked():
            self._store.write(self._server, session)
            self._session = session

    async def close(self) -> None:
        """Waits for a running renewal: its tokens must be stored, because the old one is used up."""
        if self._renewal is not None:
            await asyncio.wait([self._renewal])

    async def _renew(self) -> Session:
        if self._renewal is None:
            self._renewal = asyncio.create_task(self._renew_locked())
            self._renewal.add_done_callback(self._renewed)
        # Cancelling one caller must not cancel the renewal that other callers wait for.
        return await asyncio.shield(self._renewal)

    def _renewed(self, renewal: asyncio.Task[Session]) -> None:
        self._renewal = None
        if not renewal.cancelled():
            renewal.exception()  # retrieved, so that asyncio doesn't warn if all callers are gone

    async def _renew_locked(self) -> Session:
        async with self._store.locked():
            mine, stored = self._session, self._store.read(self._server)
            if mine is None:
                raise Unauthenticated(
                    "", grpc.StatusCode.UNAUTHENTICATED, "logged out in the meantime"
                )
            if (
                stored
                and stored.user_id == mine.user_id
                and stored.refresh_token != mine.refresh_token
            ):
                mine = self._session = stored  # another process has renewed the tokens
                if time.time() < stored.renew_after:
                    return stored
            # Write the store only if it holds this session, not another login or none.
            shared = stored is not None and stored.refresh_token == mine.refresh_token
            try:
                tokens = await self._refresh(mine.refresh_token)
            except Unauthenticated:
                self._session = None
                if shared:
                    self._store.write(self._server, None)
                raise
            self._session = session_of(mine.user_id, mine.email, tokens)
            if shared:
                self._store.write(self._server, self._session)
            return self._session
