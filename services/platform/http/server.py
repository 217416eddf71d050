"""The HTTP server of a process. It serves the routes that it is given, such as /healthz and /metrics.

Starlette routes and uvicorn's protocol parses. uvicorn's own server isn't used: it installs signal handlers and wakes
up ten times a second.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import h11
from starlette.applications import Starlette
from starlette.routing import BaseRoute
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

# Time limit (seconds) for a client to send its request, and for a pause in which it doesn't read the answer.
_CLIENT_TIMEOUT = 5.0
# Connections whose request isn't complete yet, and all connections. Answers may last, as event streams do.
_MOST_WAITING = 100
_MOST_CONNECTIONS = 1000
_MOST_HEAD_BYTES = 16 * 1024
# Seconds that answers under way may still take when the server stops.
_LAST_ANSWERS = 1.0


@asynccontextmanager
async def http_server(host: str, port: int, routes: Sequence[BaseRoute]) -> AsyncIterator[None]:
    """Serves the routes while its block runs. Raises OSError when the port is taken."""
    app = Starlette(routes=routes)
    app.router.redirect_slashes = False
    config = Config(
        app,
        http=_Connection,
        ws="none",
        lifespan="off",
        proxy_headers=False,
        log_config=None,
        # uvicorn warns of each malformed request, and anybody can send those.
        log_level="error",
        access_log=False,
        h11_max_incomplete_event_size=_MOST_HEAD_BYTES,
    )
    config.load()
    state = ServerState()
    # One request per connection: an idle connection would take the place of another client.
    state.default_headers = [(b"connection", b"close")]
    server = await asyncio.get_running_loop().create_server(
        lambda: _Connection(config, state, {}), host, port
    )
    try:
        yield
    finally:
        server.close()
        if state.tasks:
            await asyncio.wait(state.tasks, timeout=_LAST_ANSWERS)
        for connection in list(state.connections):
            connection.transport.abort()


class _Connection(H11Protocol):
    """Aborts a connection whose client is slow to send its request, or doesn't read the answer."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > _MOST_CONNECTIONS or self._waiting() > _MOST_WAITING:
            transport.abort()
            return
        # Makes the transport call `pause_writing` as soon as the client is slower than the server.
        transport.set_write_buffer_limits(0)
        self._set_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keeps the connection open for a client that closed its side and waits for the answer."""
        return not self._request_is_incomplete()

    def handle_events(self) -> None:
        super().handle_events()
        self._set_timer()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._set_timer()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._set_timer()

    def _waiting(self) -> int:
        """The number of connections whose request isn't complete yet, this one included."""
        return sum(
            isinstance(other, _Connection) and other._request_is_incomplete()
            for other in self.connections
        )

    def _request_is_incomplete(self) -> bool:
        return self.conn.their_state in (h11.IDLE, h11.SEND_BODY)

    def _set_timer(self) -> None:
        """The timer runs exactly while the server waits for the client; single bytes don't restart it."""
        if not (self.flow.write_paused or self._request_is_incomplete()):
            self._stop_timer()
        elif self._timer is None:
            self._timer = self.loop.call_later(_CLIENT_TIMEOUT, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
