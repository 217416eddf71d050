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
from taskflow_client.credentials import RENEWAL_LIMIT, Credentials, SessionStore
from taskflow_client.errors import Unauthenticated
from taskflow_client.interceptors import interceptors
from taskflow_client.session import MemorySessions, Session, session_of
from taskflow_client.streams import OnCursor, OnReconnect, watch_notifications, watch_tasks

_OPTIONS: list[tuple[str, int]] = [
    # Milliseconds. Servers allow a ping every 20 s; only while a call is open, as an idle
    # connection can be reopened.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.min_reconnect_backoff_ms", 5_000),  # the time limit of one attempt to connect
    (
        "grpc.max_receive_message_length",
        -1,
    ),  # a page of 1000 long tasks is larger than the default of 4 MiB
]


class TaskFlow:
    """A connection to a TaskFlow server. Make it inside a running event loop, and use it there.

        async with TaskFlow("localhost:8080") as client:
            await client.login("ada@example.com", password)
            await client.tasks.GetTask(GetTaskRequest(id="OPS-12", workspace_id=...))

    The attributes are the generated stubs. Around each of their calls the client sends the access
    token and renews it, limits the time (30 s, or the call's `timeout`), fills in an empty
    request_id, repeats what is safe to repeat, and raises a TaskFlowError.

    Args:
        server: host:port, or a URL. "https://…" means TLS, "http://…" none; without a scheme it's
            TLS except for this machine. The port defaults to that of the scheme, without one to
            8080.
        session_store: where the login is kept; by default in memory. FileSessions() shares it with
            the CLI.
        tls: overrules what the address says.
        root_certificates: PEM, instead of the well-known authorities.
        timeout: seconds that a unary call may take, retries included.
        retry_for: seconds after a call's beginning in which it's tried again.
        heartbeat_timeout: seconds without a message after which a stream is reopened. Servers send
            one every 15 s.
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
        # A proxy can't reach this machine's own addresses.
        options = [*_OPTIONS, ("grpc.enable_http_proxy", 0)] if local else _OPTIONS
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
        """Closes the connection; calls and streams under way are cancelled."""
        await self._credentials.close()
        await self._channel.close()

    @property
    def session(self) -> Session | None:
        """Who is logged in, as far as the client knows; None for nobody."""
        return self._credentials.session

    async def register(
        self, email: str, password: str, display_name: str, time_zone: str = "UTC"
    ) -> user_pb2.User:
        """Creates an account; it doesn't log in.

        Raises AlreadyExists, or InvalidArgument with the fields at fault.
        """
        response = await self.auth.Register(
            auth_service_pb2.RegisterRequest(
                email=email, password=password, display_name=display_name, time_zone=time_zone
            )
        )
        return response.user

    async def login(self, email: str, password: str, device: str = "") -> user_pb2.User:
        """Starts a session, keeps its tokens, and returns who it belongs to.

        `device` names it in the user's list of sessions; by default this machine's name. Raises
        Unauthenticated for a wrong e-mail or password, ResourceExhausted after too many of them.
        """
        request = auth_service_pb2.LoginRequest(
            email=email, password=password, device=(device or socket.gethostname())[:100]
        )
        response = await self.auth.Login(request)
        user = response.user
        await self._credentials.set(session_of(user.id, user.email, response.tokens))
        return user

    async def logout(self) -> None:
        """Ends the session on the server and forgets its tokens; does nothing without one."""
        if self.session is None:
            return
        with suppress(Unauthenticated):  # it had ended before
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

        Starts after `cursor`, or now. After a lost connection, 45 s of silence, a slow-down or an
        expired token it goes on from the last message that it yielded; changes come in order, each
        sequence once. A `reset` message means that the server can't continue from the cursor: list
        again, the stream goes on from there.

        `on_cursor`, a function or coroutine function, gets a message's cursor when the next message
        is asked for: what it stores has been processed. Start from it after a crash and nothing is
        missing; the last message may come again. `on_reconnect` gets the failure before each
        attempt to resume.

        Raises Unauthenticated when the session has ended, and whatever else can't pass by itself.
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

        Resumes like watch_notifications; a change can come twice, never be missing. With `snapshot`
        the current tasks come first, then `snapshot_complete`, then changes. `reset` means: forget
        what you have. With `snapshot` the tasks then follow anew; it also comes when a connection
        was lost within a snapshot. Without, list them again.

        `on_cursor` isn't called before a snapshot is complete: its messages' cursors lie behind all
        of it.

        Raises Unauthenticated when the session has ended, PermissionDenied when the membership has,
        NotFound for an unknown workspace, ValueError for a snapshot and a cursor together.
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


def _parse(server: str) -> tuple[str, bool, bool]:
    """Returns the target as host:port, whether it's this machine, and whether TLS is meant."""
    if server.startswith("unix:"):
        return server, True, False
    try:
        url = urlsplit(server if "://" in server else f"//{server}")
        port = url.port
    except ValueError:
        raise ValueError(f"not an address of a server: {server!r}") from None
    if url.scheme not in ("", "http", "https") or not url.hostname or url.path.strip("/"):
        raise ValueError(f"not an address of a server: {server!r}")
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
