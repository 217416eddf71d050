"""The client: one channel, one login, one attribute per service."""

import ipaddress
import socket
from collections.abc import AsyncGenerator
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import grpc

from taskflow.auth.v1 import (
    auth_service_pb2,
    auth_service_pb2_grpc,
    user_pb2,
    user_service_pb2_grpc,
    workspace_service_pb2_grpc,
)
from taskflow.event.v1 import dead_letter_service_pb2_grpc
from taskflow.notification.v1 import notification_service_pb2_grpc
from taskflow.notification.v1.notification_service_pb2 import WatchNotificationsResponse
from taskflow.task.v1 import (
    job_service_pb2_grpc,
    project_service_pb2_grpc,
    suggestion_service_pb2_grpc,
    task_service_pb2_grpc,
)
from taskflow.task.v1.task_pb2 import TaskFilter
from taskflow.task.v1.task_service_pb2 import WatchTasksResponse
from taskflow_client.errors import Unauthenticated
from taskflow_client.interceptors import interceptors
from taskflow_client.session_store import MemorySessions, Session, session_of
from taskflow_client.streams import OnCursor, OnReconnect, watch_notifications, watch_tasks
from taskflow_client.token_renewal import RENEWAL_LIMIT, Credentials, SessionStore

_OPTIONS: list[tuple[str, int]] = [
    # Pings only while a call is open: an idle connection can be reopened.
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.min_reconnect_backoff_ms", 5_000),  # the time limit of one attempt to connect
    # No size limit on responses: a list page of 3 MiB plus its last item can approach the default of 4 MiB.
    ("grpc.max_receive_message_length", -1),
]
# A silent connection is pinged after this part of `heartbeat_timeout`, and given up after another
# part: 30 s and 10 s by default. So a stream that is reopened gets a new connection.
_PING_AFTER = 2 / 3
_PING_TIMEOUT = 2 / 9
# The least values of both (seconds). Servers allow a ping every 10 s, and a busy server may answer after some seconds.
_LEAST_PING_AFTER = 10.0
_LEAST_PING_TIMEOUT = 4.0


class TaskFlow:
    """A connection to a TaskFlow server. Create it inside a running event loop, and use it there.

        async with TaskFlow("localhost:8080") as client:
            await client.login("ada@example.com", password)
            await client.tasks.GetTask(GetTaskRequest(id="OPS-12", workspace_id=...))

    The attributes are the generated stubs. For each call the client sends the access token and
    renews it, limits the time (30 s, or the call's `timeout`), and sets a missing request_id. It
    retries calls that are safe to repeat, and raises TaskFlowError for failed ones.

    Args:
        server: host:port, or a URL. "https://…" means TLS, "http://…" means no TLS. Without a
            scheme, TLS is used except for this machine. The default port is the scheme's, or 8080
            without a scheme.
        session_store: where to keep the session; by default in memory. FileSessions() shares it
            with the CLI.
        tls: whether to use TLS, whatever the address says.
        root_certificates: trusted certificates as PEM, instead of gRPC's default ones.
        timeout: seconds that a unary call may take, retries included.
        retry_for: no retry starts later than this many seconds after the call started.
        heartbeat_timeout: reopens a stream after this many seconds without a message. Servers send
            one every 15 s. A connection on which nothing arrives at all is replaced earlier.
    """

    def __init__(
        self,
        server: str = "localhost:8080",
        *,
        session_store: SessionStore | None = None,
        tls: bool | None = None,
        root_certificates: bytes | None = None,
        timeout: float = 30.0,
        retry_for: float = 20.0,
        heartbeat_timeout: float = 45.0,
    ) -> None:
        self.server, local, secure = _parse(server)
        secure = secure if tls is None else tls
        self._credentials = Credentials(
            session_store or MemorySessions(), self.server, self._refresh
        )
        around = interceptors(self._credentials, timeout, retry_for)
        # An HTTP proxy can't reach this machine's loopback addresses.
        options = [*_OPTIONS, *_keepalive(heartbeat_timeout)]
        if local:
            options.append(("grpc.enable_http_proxy", 0))
        if secure:
            tls_credentials = grpc.ssl_channel_credentials(root_certificates)
            channel = grpc.aio.secure_channel(
                self.server, tls_credentials, options=options, interceptors=around
            )
        else:
            channel = grpc.aio.insecure_channel(self.server, options=options, interceptors=around)
        self._channel = channel
        self._heartbeat_timeout = heartbeat_timeout
        self.auth = auth_service_pb2_grpc.AuthServiceStub(channel)
        self.users = user_service_pb2_grpc.UserServiceStub(channel)
        self.workspaces = workspace_service_pb2_grpc.WorkspaceServiceStub(channel)
        self.projects = project_service_pb2_grpc.ProjectServiceStub(channel)
        self.tasks = task_service_pb2_grpc.TaskServiceStub(channel)
        self.suggestions = suggestion_service_pb2_grpc.SuggestionServiceStub(channel)
        self.jobs = job_service_pb2_grpc.JobServiceStub(channel)
        self.notifications = notification_service_pb2_grpc.NotificationServiceStub(channel)
        self.dead_letters = dead_letter_service_pb2_grpc.DeadLetterServiceStub(channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection and cancels open calls and streams."""
        await self._credentials.close()
        await self._channel.close()

    @property
    def session(self) -> Session | None:
        """The current session, as far as the client knows; None when logged out."""
        return self._credentials.session

    async def register(
        self, email: str, password: str, display_name: str, time_zone: str = "UTC"
    ) -> user_pb2.User:
        """Creates an account, without logging in.

        Raises AlreadyExists for a taken e-mail, or InvalidArgument with the invalid fields.
        """
        response = await self.auth.Register(
            auth_service_pb2.RegisterRequest(
                email=email, password=password, display_name=display_name, time_zone=time_zone
            )
        )
        return response.user

    async def login(self, email: str, password: str, device: str = "") -> user_pb2.User:
        """Starts a session, stores its tokens, and returns the user.

        `device` names the session in the user's list of sessions; by default this machine's name.
        Raises Unauthenticated for a wrong e-mail or password, ResourceExhausted after too many.
        """
        request = auth_service_pb2.LoginRequest(
            email=email, password=password, device=(device or socket.gethostname())[:100]
        )
        response = await self.auth.Login(request)
        user = response.user
        await self._credentials.set(session_of(user.id, user.email, response.tokens))
        return user

    async def logout(self) -> None:
        """Ends the session on the server and deletes its tokens. Does nothing when logged out."""
        if self.session is None:
            return
        with suppress(Unauthenticated):  # the session has ended already
            await self.auth.Logout(auth_service_pb2.LogoutRequest())
        await self._credentials.set(None)

    def watch_notifications(
        self,
        cursor: str | None = None,
        on_cursor: OnCursor | None = None,
        *,
        on_reconnect: OnReconnect | None = None,
    ) -> AsyncGenerator[WatchNotificationsResponse, None]:
        """Yields the changes of the caller's notifications, and heartbeats, without end.

        Starts after `cursor`, or now. Reconnects after a lost connection, 45 s without a message,
        an overload or an expired token, and resumes after the last yielded message. Changes arrive
        in order, each sequence number once. A `reset` message means that the cursor is too old:
        list the notifications again; the stream continues by itself.

        `on_cursor`, a function or coroutine function, gets a message's cursor once the consumer
        asks for the next message. Store it, and start from it after a crash: no change is missing,
        and the last message may come again. `on_reconnect` gets the failure before each reconnect.

        Raises Unauthenticated when the session has ended, and other errors that a retry can't help.
        """
        return watch_notifications(
            self.notifications, cursor or "", on_cursor, on_reconnect, self._heartbeat_timeout
        )

    def watch_tasks(
        self,
        workspace_id: str,
        filter: TaskFilter | None = None,
        cursor: str | None = None,
        snapshot: bool = False,
        *,
        on_cursor: OnCursor | None = None,
        on_reconnect: OnReconnect | None = None,
    ) -> AsyncGenerator[WatchTasksResponse, None]:
        """Yields the changes of a workspace's tasks, jobs and suggestions, without end.

        Resumes like watch_notifications. No change is missing; a change can come twice. With
        `snapshot` the current tasks come first, then `snapshot_complete`, then changes.

        A `reset` message means that the tasks received so far are outdated. With `snapshot`, a new
        snapshot follows by itself; this also happens when the connection is lost within a snapshot.
        Without `snapshot`, list the tasks again.

        `on_cursor` isn't called for messages of a snapshot: it can't be resumed halfway.

        Raises Unauthenticated when the session has ended, PermissionDenied when the membership has
        ended, NotFound for an unknown workspace, ValueError for a snapshot together with a cursor.
        """
        return watch_tasks(
            self.tasks,
            workspace_id,
            filter,
            cursor or "",
            snapshot,
            on_cursor,
            on_reconnect,
            self._heartbeat_timeout,
        )

    async def _refresh(self, refresh_token: str) -> auth_service_pb2.Tokens:
        request = auth_service_pb2.RefreshTokenRequest(refresh_token=refresh_token)
        response = await self.auth.RefreshToken(request, timeout=RENEWAL_LIMIT)
        return response.tokens


def _keepalive(heartbeat_timeout: float) -> list[tuple[str, int]]:
    after = max(_LEAST_PING_AFTER, _PING_AFTER * heartbeat_timeout)
    timeout = max(_LEAST_PING_TIMEOUT, _PING_TIMEOUT * heartbeat_timeout)
    return [
        ("grpc.keepalive_time_ms", round(1000 * after)),
        ("grpc.keepalive_timeout_ms", round(1000 * timeout)),
        # By default gRPC waits a minute for the answer, whatever the keepalive says.
        ("grpc.http2.ping_timeout_ms", round(1000 * timeout)),
    ]


def _parse(server: str) -> tuple[str, bool, bool]:
    """Returns the target as host:port, whether it is this machine, and whether to use TLS."""
    if server.startswith("unix:"):
        return server, True, False
    try:
        url = urlsplit(server if "://" in server else f"//{server}")
        port = url.port
    except ValueError:
        raise ValueError(f"not a server address: {server!r}") from None
    if url.scheme not in ("", "http", "https") or not url.hostname or url.path.strip("/"):
        raise ValueError(f"not a server address: {server!r}")
    local = _is_local(url.hostname)
    secure = url.scheme == "https" or (not url.scheme and not local)
    port = port or {"http": 80, "https": 443}.get(url.scheme, 8080)
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return f"{host}:{port}", local, secure


def _is_local(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
