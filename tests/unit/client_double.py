"""An in-memory TaskFlow server for client tests: it fails on demand and counts calls.

It is a real gRPC server on a free port; only the logic behind the calls is simplified.
"""

import asyncio
import itertools
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from taskflow.auth.v1 import (
    auth_service_pb2,
    user_pb2,
    user_service_pb2,
    workspace_pb2,
    workspace_service_pb2,
)
from taskflow.event.v1 import dead_letter_service_pb2
from taskflow.notification.v1 import notification_pb2, notification_service_pb2
from taskflow.task.v1 import (
    job_pb2,
    job_service_pb2,
    project_pb2,
    project_service_pb2,
    suggestion_pb2,
    suggestion_service_pb2,
    task_pb2,
    task_service_pb2,
)

OPEN = {"Register", "Login", "RefreshToken", "GetSigningKeys"}
GRACE = 10.0
WORKSPACE = "01900000-0000-7000-8000-000000000001"
ADA = "01900000-0000-7000-8000-00000000000a"
PASSWORD = "correct horse battery"
BEN = "01900000-0000-7000-8000-00000000000b"
SERVICES = [
    (auth_service_pb2, "AuthService"),
    (user_service_pb2, "UserService"),
    (workspace_service_pb2, "WorkspaceService"),
    (project_service_pb2, "ProjectService"),
    (task_service_pb2, "TaskService"),
    (suggestion_service_pb2, "SuggestionService"),
    (job_service_pb2, "JobService"),
    (notification_service_pb2, "NotificationService"),
    (dead_letter_service_pb2, "DeadLetterService"),
]


class Failure(Exception):
    """A failed call. With `after` the call is carried out and only its answer is lost."""

    def __init__(
        self,
        code: str,
        reason: str = "",
        *,
        retry_after: float | None = None,
        metadata: dict[str, str] | None = None,
        fields: dict[str, str] | None = None,
        resource: tuple[str, str] | None = None,
        after: bool = False,
    ) -> None:
        self.after = after
        details: list[Message] = []
        if reason:
            details.append(
                error_details_pb2.ErrorInfo(reason=reason, domain="taskflow", metadata=metadata)
            )
        if fields:
            violations = [
                error_details_pb2.BadRequest.FieldViolation(field=name, description=text)
                for name, text in fields.items()
            ]
            details.append(error_details_pb2.BadRequest(field_violations=violations))
        if resource:
            details.append(
                error_details_pb2.ResourceInfo(resource_type=resource[0], resource_name=resource[1])
            )
        if retry_after is not None:
            delay = duration_pb2.Duration()
            delay.FromNanoseconds(int(retry_after * 1e9))
            details.append(error_details_pb2.RetryInfo(retry_delay=delay))
        self.status = status_pb2.Status(
            code=code_pb2.Code.Value(code), message=f"because of {reason or code}"
        )
        for detail in details:
            packed = any_pb2.Any()
            packed.Pack(detail)
            self.status.details.append(packed)


@dataclass
class Cut:
    """How one stream ends: after this many messages, with a failure. With None it goes silent instead."""

    messages: int
    failure: Failure | None


@dataclass
class Double:
    """The server's state, and the faults it is to produce."""

    port: int = 0
    token_lifetime: float = 900.0
    # Method name → failures of its next calls, in order; None lets a call succeed.
    failures: dict[str, list[Failure | None]] = field(default_factory=lambda: defaultdict(list))
    cuts: list[Cut] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    requests: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    accounts: dict[str, str] = field(default_factory=dict)
    access: dict[str, float] = field(default_factory=dict)
    refresh: dict[str, tuple[float, Any]] = field(default_factory=dict)
    session_ended: bool = False
    email_bounced: bool = False
    tasks: list[Any] = field(default_factory=list)
    projects: list[Any] = field(default_factory=list)
    suggestions: list[Any] = field(default_factory=list)
    jobs: list[Any] = field(default_factory=list)
    notifications: list[Any] = field(default_factory=list)
    changes: list[Any] = field(default_factory=list)
    task_changes: list[Any] = field(default_factory=list)
    by_request_id: dict[str, tuple[bytes, Any]] = field(default_factory=dict)
    epoch: str = "e1"
    numbers: Any = field(default_factory=lambda: itertools.count(1))
    heartbeat: float = 15.0
    # How long (seconds) the double waits before it executes a call, and before it sends the answer.
    delay: float = 0.0
    answer_delay: float = 0.0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def expire_access(self) -> None:
        self.access = dict.fromkeys(self.access, 0.0)

    def tokens(self) -> Any:
        number = next(self.numbers)
        now = time.time()
        tokens = auth_service_pb2.Tokens(
            access_token=f"access-{number}", refresh_token=f"refresh-{number}"
        )
        tokens.access_expire_time.FromMilliseconds(int((now + self.token_lifetime) * 1000))
        self.access[tokens.access_token] = now + self.token_lifetime
        self.refresh[tokens.refresh_token] = (0.0, None)
        return tokens

    def user(self, user_id: str = ADA) -> Any:
        name = {ADA: "ada", BEN: "ben"}[user_id]
        return user_pb2.User(
            id=user_id,
            email=f"{name}@example.com",
            display_name=name.title(),
            time_zone="Europe/Berlin",
            email_notifications=True,
            email_bounce_time=Timestamp(seconds=1790000000) if self.email_bounced else None,
        )

    def once(self, request: Any, make: Callable[[], Any]) -> Any:
        """Answers a repeated request_id with the first answer."""
        body = type(request)()
        body.CopyFrom(request)
        body.request_id = ""
        if "validate_only" in body.DESCRIPTOR.fields_by_name:
            body.validate_only = False
        known = self.by_request_id.get(request.request_id)
        if known is None:
            known = (body.SerializeToString(deterministic=True), make())
            self.by_request_id[request.request_id] = known
        elif known[0] != body.SerializeToString(deterministic=True):
            raise Failure("INVALID_ARGUMENT", "REQUEST_ID_REUSED")
        return known[1]

    def find(self, kind: str, things: list[Any], wanted: str) -> Any:
        for thing in things:
            if wanted in (thing.id, getattr(thing, "key", "")):
                return thing
        raise Failure("NOT_FOUND", "RESOURCE_NOT_FOUND", resource=(kind, wanted))

    def authenticate(self, context: Any) -> None:
        header = dict(context.invocation_metadata()).get("authorization", "")
        if not header:
            raise Failure("UNAUTHENTICATED", "CREDENTIALS_MISSING")
        if self.session_ended:
            raise Failure("UNAUTHENTICATED", "SESSION_REVOKED")
        if self.access.get(header.removeprefix("Bearer "), 0.0) < time.time():
            raise Failure("UNAUTHENTICATED", "TOKEN_INVALID")

    # Auth

    async def Register(self, request: Any) -> Any:
        if request.email in self.accounts:
            raise Failure("ALREADY_EXISTS", "EMAIL_TAKEN")
        self.accounts[request.email] = request.password
        return auth_service_pb2.RegisterResponse(user=self.user())

    async def Login(self, request: Any) -> Any:
        if self.accounts.get(request.email) != request.password:
            raise Failure("UNAUTHENTICATED", "CREDENTIALS_WRONG")
        return auth_service_pb2.LoginResponse(user=self.user(), tokens=self.tokens())

    async def RefreshToken(self, request: Any) -> Any:
        if self.session_ended or request.refresh_token not in self.refresh:
            raise Failure("UNAUTHENTICATED", "TOKEN_INVALID")
        used_at, successor = self.refresh[request.refresh_token]
        if successor is None:
            successor = self.tokens()
            self.refresh[request.refresh_token] = (time.time(), successor)
        elif time.time() - used_at > GRACE:
            self.session_ended = True
            raise Failure("UNAUTHENTICATED", "REFRESH_TOKEN_REUSED")
        return auth_service_pb2.RefreshTokenResponse(tokens=successor)

    async def Logout(self, request: Any) -> Any:
        self.session_ended = True
        return auth_service_pb2.LogoutResponse()

    async def GetCurrentUser(self, request: Any) -> Any:
        return user_service_pb2.GetCurrentUserResponse(user=self.user())

    async def UpdateCurrentUser(self, request: Any) -> Any:
        return user_service_pb2.UpdateCurrentUserResponse(user=self.user())

    async def ListWorkspaces(self, request: Any) -> Any:
        workspace = workspace_pb2.Workspace(
            id=WORKSPACE, display_name="Harbour", role=workspace_pb2.ROLE_OWNER
        )
        return workspace_service_pb2.ListWorkspacesResponse(workspaces=[workspace])

    async def ListMembers(self, request: Any) -> Any:
        members = [
            workspace_pb2.Member(
                workspace_id=WORKSPACE,
                user_id=user.id,
                email=user.email,
                display_name=user.display_name,
                role=workspace_pb2.ROLE_MEMBER,
            )
            for user in (self.user(ADA), self.user(BEN))
        ]
        start = int(request.page_token or 0)  # pages of one member
        end = str(start + 1) if start + 1 < len(members) else ""
        return workspace_service_pb2.ListMembersResponse(
            members=members[start : start + 1], next_page_token=end
        )

    # Tasks

    def add_project(self, key: str) -> Any:
        project = project_pb2.Project(
            id=str(uuid.uuid4()), workspace_id=WORKSPACE, key=key, display_name=key.title()
        )
        self.projects.append(project)
        return project

    def add_task(self, title: str, project: Any = None, task: Any = None) -> Any:
        created = task_pb2.Task(title=title)
        if task is not None:
            created.CopyFrom(task)
        project = project or self.projects[0]
        created.id = str(uuid.uuid4())
        created.workspace_id = WORKSPACE
        created.project_id = project.id
        created.key = f"{project.key}-{len(self.tasks) + 1}"
        created.status = created.status or task_pb2.TASK_STATUS_TODO
        created.revision = 1
        created.etag = "1"
        self.tasks.append(created)
        return created

    async def CreateProject(self, request: Any) -> Any:
        make = lambda: self.add_project(request.project.key)  # noqa: E731
        return project_service_pb2.CreateProjectResponse(project=self.once(request, make))

    async def ListProjects(self, request: Any) -> Any:
        return project_service_pb2.ListProjectsResponse(projects=self.projects)

    async def CreateTask(self, request: Any) -> Any:
        project = self.find("project", self.projects, request.project_id)
        if "INVALID" in request.task.title:
            raise Failure("INVALID_ARGUMENT", "INVALID_REQUEST", fields={"task.title": "is bad"})
        if request.validate_only and request.request_id not in self.by_request_id:
            return task_service_pb2.CreateTaskResponse()
        made = self.once(request, lambda: self.add_task(request.task.title, project, request.task))
        return task_service_pb2.CreateTaskResponse(task=made)

    async def GetTask(self, request: Any) -> Any:
        task = self.find("task", self.tasks, request.id)
        return task_service_pb2.GetTaskResponse(task=task)

    async def ListTasks(self, request: Any) -> Any:
        start = int(request.page_token or 0)
        size = request.page_size or 50
        end = str(start + size) if start + size < len(self.tasks) else ""
        return task_service_pb2.ListTasksResponse(
            tasks=self.tasks[start : start + size], next_page_token=end
        )

    async def UpdateTask(self, request: Any) -> Any:
        task = self.find("task", self.tasks, request.task.id)
        if request.task.etag and request.task.etag != task.etag:
            raise Failure("ABORTED", "ETAG_MISMATCH", metadata={"etag": task.etag})
        request.update_mask.MergeMessage(request.task, task, replace_repeated_field=True)
        return task_service_pb2.UpdateTaskResponse(task=task)

    async def AssignTask(self, request: Any) -> Any:
        task = self.find("task", self.tasks, request.id)
        task.assignee_id = request.assignee_id
        return task_service_pb2.AssignTaskResponse(task=task)

    async def ChangeTaskStatus(self, request: Any) -> Any:
        task = self.find("task", self.tasks, request.id)
        task.status = request.status
        return task_service_pb2.ChangeTaskStatusResponse(task=task)

    async def DeleteTask(self, request: Any) -> Any:
        task = self.find("task", self.tasks, request.id)
        if task.HasField("delete_time"):
            raise Failure("NOT_FOUND", "RESOURCE_NOT_FOUND", resource=("task", request.id))
        task.delete_time.GetCurrentTime()
        return task_service_pb2.DeleteTaskResponse(task=task)

    async def ListSuggestions(self, request: Any) -> Any:
        return suggestion_service_pb2.ListSuggestionsResponse(suggestions=self.suggestions)

    async def AcceptSuggestion(self, request: Any) -> Any:
        suggestion = self.find("suggestion", self.suggestions, request.id)
        if suggestion.state != suggestion_pb2.SUGGESTION_STATE_PENDING:
            raise Failure(
                "FAILED_PRECONDITION", "SUGGESTION_RESOLVED", metadata={"state": "ACCEPTED"}
            )
        suggestion.state = suggestion_pb2.SUGGESTION_STATE_ACCEPTED
        task = self.find("task", self.tasks, suggestion.task_id)
        task.priority = request.edit.priority or suggestion.priority
        return suggestion_service_pb2.AcceptSuggestionResponse(suggestion=suggestion, task=task)

    async def ListJobs(self, request: Any) -> Any:
        jobs = [job for job in self.jobs if not request.states or job.state in request.states]
        return job_service_pb2.ListJobsResponse(jobs=jobs)

    async def RetryJob(self, request: Any) -> Any:
        job = self.find("job", self.jobs, request.id)
        job.state = job_pb2.JOB_STATE_PENDING
        return job_service_pb2.RetryJobResponse(job=job)

    async def ListDeadLetters(self, request: Any) -> Any:
        raise Failure("PERMISSION_DENIED", "NOT_FOR_CALLER")

    # Notifications and streams

    def notify(self, headline: str) -> None:
        sequence = len(self.changes) + 1
        notification = notification_pb2.Notification(
            id=str(uuid.uuid4()),
            sequence=sequence,
            headline=headline,
            task_title="Fix the crane",
            kind=notification_pb2.NOTIFICATION_KIND_ASSIGNED,
        )
        self.notifications.append(notification)
        self.changes.append(
            notification_pb2.NotificationChange(sequence=sequence, created=notification)
        )

    async def ListNotifications(self, request: Any) -> Any:
        return notification_service_pb2.ListNotificationsResponse(
            notifications=self.notifications[::-1], cursor=f"{self.epoch}:{len(self.changes)}"
        )

    async def GetUnreadCount(self, request: Any) -> Any:
        return notification_service_pb2.GetUnreadCountResponse(unread_count=len(self.notifications))

    async def MarkRead(self, request: Any) -> Any:
        return notification_service_pb2.MarkReadResponse(marked_count=len(request.ids))

    async def MarkAllRead(self, request: Any) -> Any:
        return notification_service_pb2.MarkAllReadResponse(marked_count=len(self.notifications))

    async def WatchNotifications(self, request: Any) -> AsyncIterator[Any]:
        kind = notification_service_pb2.WatchNotificationsResponse
        async for position, change in self._changes(request.cursor, self.changes):
            cursor = f"{self.epoch}:{position}"
            if isinstance(change, str):
                yield kind(cursor=cursor, **{change: getattr(kind, change.title())()})
            else:
                yield kind(cursor=cursor, change=change)

    async def WatchTasks(self, request: Any) -> AsyncIterator[Any]:
        kind = task_service_pb2.WatchTasksResponse
        start = request.cursor
        if request.snapshot:
            start = f"{self.epoch}:{len(self.task_changes)}"
            for task in list(self.tasks):
                yield kind(cursor=start, snapshot=task)
            yield kind(cursor=start, snapshot_complete=kind.SnapshotComplete())
        async for position, change in self._changes(start, self.task_changes):
            cursor = f"{self.epoch}:{position}"
            if isinstance(change, str):
                yield kind(cursor=cursor, **{change: getattr(kind, change.title())()})
            else:
                yield kind(cursor=cursor, change=change)

    async def _changes(self, cursor: str, changes: list[Any]) -> AsyncIterator[tuple[int, Any]]:
        """Yields each position with its change, or with "heartbeat" or "reset"."""
        epoch, _, number = cursor.partition(":")
        position = int(number) if number else len(changes)
        if cursor and epoch != self.epoch:
            position = len(changes)
            yield position, "reset"
        elif not cursor:
            yield position, "heartbeat"
        beat = time.monotonic() + self.heartbeat
        while True:
            while position < len(changes):
                position += 1
                yield position, changes[position - 1]
            if time.monotonic() >= beat:
                beat += self.heartbeat
                yield position, "heartbeat"
            await asyncio.sleep(0.002)


def _unary(double: Double, name: str) -> Callable[[Any, Any], Any]:
    method = getattr(double, name)

    async def handle(request: Any, context: Any) -> Any:
        double.calls[name] += 1
        double.requests[name].append(request)
        queue = double.failures[name]
        failure = queue.pop(0) if queue else None
        await asyncio.sleep(double.delay)
        try:
            if failure is not None and not failure.after:
                raise failure
            if name not in OPEN:
                double.authenticate(context)
            response = await method(request)
            await asyncio.sleep(double.answer_delay)
            if failure is not None:
                raise failure
        except Failure as error:
            await context.abort_with_status(rpc_status.to_status(error.status))
        return response

    return handle


def _stream(double: Double, name: str) -> Callable[[Any, Any], AsyncIterator[Any]]:
    method = getattr(double, name)

    async def handle(request: Any, context: Any) -> AsyncIterator[Any]:
        double.calls[name] += 1
        double.requests[name].append(request)
        cut = double.cuts.pop(0) if double.cuts else Cut(1 << 60, None)
        try:
            double.authenticate(context)
            left = cut.messages
            async for response in method(request):
                if left == 0:
                    if cut.failure is None:
                        await asyncio.sleep(3600)
                    else:
                        raise cut.failure
                left -= 1
                double.authenticate(context)
                yield response
        except Failure as error:
            await context.abort_with_status(rpc_status.to_status(error.status))

    return handle


def _handler(double: Double, method: MethodDescriptor) -> Any:
    streaming = method.name.startswith("Watch")
    make = (
        grpc.unary_stream_rpc_method_handler if streaming else grpc.unary_unary_rpc_method_handler
    )
    wrap = _stream if streaming else _unary
    return make(
        wrap(double, method.name),
        request_deserializer=GetMessageClass(method.input_type).FromString,
        response_serializer=lambda message: message.SerializeToString(),
    )


@asynccontextmanager
async def serving(double: Double) -> AsyncIterator[Double]:
    """Run the double on its port, or on a free one."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    for module, name in SERVICES:
        service = module.DESCRIPTOR.services_by_name[name]
        handlers = {
            method.name: _handler(double, method)
            for method in service.methods
            if hasattr(double, method.name)
        }
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service.full_name, handlers),)
        )
    double.port = server.add_insecure_port(f"127.0.0.1:{double.port}")
    await server.start()
    try:
        yield double
    finally:
        await server.stop(None)
