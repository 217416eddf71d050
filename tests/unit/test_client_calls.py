"""What the client adds to each call: tokens, retries, time limits and typed errors."""

import asyncio
import time
from collections.abc import AsyncIterator

import grpc
import pytest

from taskflow.auth.v1.user_service_pb2 import GetCurrentUserRequest
from taskflow.auth.v1.workspace_service_pb2 import ListMembersRequest
from taskflow.notification.v1.notification_service_pb2 import GetUnreadCountRequest
from taskflow.task.v1.suggestion_service_pb2 import AcceptSuggestionRequest
from taskflow.task.v1.task_pb2 import Task
from taskflow.task.v1.task_service_pb2 import (
    CreateTaskRequest,
    DeleteTaskRequest,
    GetTaskRequest,
    UpdateTaskRequest,
)
from taskflow_client import (
    Aborted,
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    TaskFlow,
    TaskFlowError,
    Unauthenticated,
    Unavailable,
    Unimplemented,
    pages,
)
from taskflow_client.client import _parse
from tests.unit.client_double import PASSWORD, WORKSPACE, Double, Failure


@pytest.fixture
async def client(double: Double) -> AsyncIterator[TaskFlow]:
    async with TaskFlow(double.address) as connected:
        await connected.login("ada@example.com", PASSWORD)
        yield connected


def create(double: Double, title: str = "Grease the crane") -> CreateTaskRequest:
    return CreateTaskRequest(project_id=double.projects[0].id, task=Task(title=title))


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("INVALID_ARGUMENT", InvalidArgument),
        ("NOT_FOUND", NotFound),
        ("ALREADY_EXISTS", AlreadyExists),
        ("PERMISSION_DENIED", PermissionDenied),
        ("UNAUTHENTICATED", Unauthenticated),
        ("RESOURCE_EXHAUSTED", ResourceExhausted),
        ("FAILED_PRECONDITION", FailedPrecondition),
        ("ABORTED", Aborted),
        ("UNIMPLEMENTED", Unimplemented),
        ("INTERNAL", Internal),
        ("DATA_LOSS", TaskFlowError),
    ],
)
async def test_each_code_raises_its_own_exception(
    client: TaskFlow, double: Double, code: str, kind: type[TaskFlowError]
) -> None:
    double.failures["GetCurrentUser"] = [Failure(code, "SOME_REASON")]
    with pytest.raises(TaskFlowError) as caught:
        await client.users.GetCurrentUser(GetCurrentUserRequest())
    assert type(caught.value) is kind
    assert caught.value.reason == "SOME_REASON"
    assert caught.value.code is getattr(grpc.StatusCode, code)
    assert caught.value.message == "because of SOME_REASON"


async def test_an_error_carries_every_detail_that_the_server_sent(
    client: TaskFlow, double: Double
) -> None:
    double.failures["CreateTask"] = [
        Failure(
            "INVALID_ARGUMENT",
            "INVALID_REQUEST",
            metadata={"a": "b"},
            fields={"task.title": "too long"},
            resource=("task", "OPS-1"),
            retry_after=1.5,
        )
    ]
    with pytest.raises(InvalidArgument) as caught:
        await client.tasks.CreateTask(create(double))
    assert caught.value.metadata == {"a": "b"}
    assert caught.value.field_violations == (("task.title", "too long"),)
    assert caught.value.resource == ("task", "OPS-1")
    assert caught.value.retry_after == 1.5


async def test_a_stream_raises_typed_errors_as_well(client: TaskFlow, double: Double) -> None:
    from taskflow.notification.v1.notification_service_pb2 import WatchNotificationsRequest
    from tests.unit.client_double import Cut

    double.cuts = [Cut(1, Failure("PERMISSION_DENIED", "MEMBERSHIP_LOST"))]
    double.heartbeat = 0.01
    with pytest.raises(PermissionDenied) as caught:
        async for _ in client.notifications.WatchNotifications(WatchNotificationsRequest()):
            pass
    assert caught.value.reason == "MEMBERSHIP_LOST"


async def test_reads_are_repeated_while_the_server_is_unavailable(
    client: TaskFlow, double: Double
) -> None:
    double.failures["GetUnreadCount"] = [Failure("UNAVAILABLE"), Failure("UNAVAILABLE")]
    await client.notifications.GetUnreadCount(GetUnreadCountRequest())
    assert double.calls["GetUnreadCount"] == 3


async def test_a_create_whose_answers_are_lost_happens_once(
    client: TaskFlow, double: Double
) -> None:
    double.failures["CreateTask"] = [Failure("UNAVAILABLE", after=True) for _ in range(3)]
    request = create(double)
    made = await client.tasks.CreateTask(request)
    assert [task.id for task in double.tasks] == [made.task.id]
    assert len({sent.request_id for sent in double.requests["CreateTask"]}) == 1
    assert request.request_id == ""  # sending the same message again is a new request
    await client.tasks.CreateTask(request)
    assert len(double.tasks) == 2


async def test_a_request_id_of_the_caller_is_kept(client: TaskFlow, double: Double) -> None:
    request = create(double)
    request.request_id = "11111111-1111-4111-8111-111111111111"
    first = await client.tasks.CreateTask(request)
    second = await client.tasks.CreateTask(request)
    assert first == second
    assert double.requests["CreateTask"][0].request_id == request.request_id


async def test_writes_that_are_unsafe_to_repeat_are_not_retried(
    client: TaskFlow, double: Double
) -> None:
    task = double.add_task("Once")
    lost = Failure("UNAVAILABLE", "DEPENDENCY_UNAVAILABLE", retry_after=0.01)
    double.failures["DeleteTask"] = [lost]
    double.failures["AcceptSuggestion"] = [lost]
    double.failures["UpdateTask"] = [lost]
    with pytest.raises(Unavailable):
        await client.tasks.DeleteTask(DeleteTaskRequest(id=task.id))
    with pytest.raises(Unavailable):
        await client.suggestions.AcceptSuggestion(AcceptSuggestionRequest(id=task.id))
    with_etag = Task(id=task.id, title="Two", etag="1")
    with pytest.raises(Unavailable):
        await client.tasks.UpdateTask(UpdateTaskRequest(task=with_etag))
    assert double.calls["DeleteTask"] == double.calls["AcceptSuggestion"] == 1
    assert double.calls["UpdateTask"] == 1


async def test_idempotent_writes_are_retried(client: TaskFlow, double: Double) -> None:
    task = double.add_task("Again")
    double.failures["UpdateTask"] = [Failure("UNAVAILABLE", after=True)]
    await client.tasks.UpdateTask(UpdateTaskRequest(task=Task(id=task.id, title="Anew")))
    assert double.calls["UpdateTask"] == 2


async def test_calls_refused_by_a_draining_server_are_always_retried(
    client: TaskFlow, double: Double
) -> None:
    task = double.add_task("Gone")
    double.failures["DeleteTask"] = [Failure("UNAVAILABLE", "DRAINING", retry_after=0.01)]
    await client.tasks.DeleteTask(DeleteTaskRequest(id=task.id))
    assert double.calls["DeleteTask"] == 2


async def test_retries_wait_as_long_as_the_server_asks(client: TaskFlow, double: Double) -> None:
    double.failures["DeleteTask"] = [Failure("RESOURCE_EXHAUSTED", "OVERLOADED", retry_after=0.6)]
    task = double.add_task("Busy")
    started = time.monotonic()
    await client.tasks.DeleteTask(DeleteTaskRequest(id=task.id))
    assert 0.6 <= time.monotonic() - started < 5


async def test_resource_exhausted_without_a_retry_delay_is_raised(
    client: TaskFlow, double: Double
) -> None:
    double.failures["GetUnreadCount"] = [Failure("RESOURCE_EXHAUSTED", "REQUEST_TOO_LARGE")]
    with pytest.raises(ResourceExhausted):
        await client.notifications.GetUnreadCount(GetUnreadCountRequest())


async def test_a_throttled_login_is_raised_at_once(double: Double) -> None:
    double.failures["Login"] = [Failure("RESOURCE_EXHAUSTED", "LOGIN_THROTTLED", retry_after=0.1)]
    async with TaskFlow(double.address) as client:
        with pytest.raises(ResourceExhausted) as caught:
            await client.login("ada@example.com", PASSWORD)
    assert caught.value.retry_after == 0.1
    assert double.calls["Login"] == 1


async def test_retries_end_at_the_time_limit_of_the_call(double: Double) -> None:
    double.failures["Login"] = [Failure("UNAVAILABLE") for _ in range(100)]
    started = time.monotonic()
    async with TaskFlow(double.address, retry_for=1.0) as client:
        with pytest.raises(Unavailable):
            await client.login("ada@example.com", PASSWORD)
    assert time.monotonic() - started < 1.5
    assert double.calls["Login"] > 2


async def test_a_retry_delay_beyond_the_time_limit_is_not_waited_for(
    client: TaskFlow, double: Double
) -> None:
    double.failures["GetUnreadCount"] = [Failure("UNAVAILABLE", "DRAINING", retry_after=300)]
    started = time.monotonic()
    with pytest.raises(Unavailable) as caught:
        await client.notifications.GetUnreadCount(GetUnreadCountRequest())
    assert caught.value.retry_after == 300
    assert time.monotonic() - started < 1


async def test_unary_calls_have_a_time_limit(double: Double) -> None:
    async with TaskFlow(double.address, timeout=0.3) as client:
        await client.login("ada@example.com", PASSWORD)
        double.delay = 5
        with pytest.raises(DeadlineExceeded):
            await client.users.GetCurrentUser(GetCurrentUserRequest())


async def test_the_time_limit_of_a_call_wins_over_the_default(double: Double) -> None:
    async with TaskFlow(double.address) as client:
        await client.login("ada@example.com", PASSWORD)
        double.delay = 5
        with pytest.raises(DeadlineExceeded):
            await client.users.GetCurrentUser(GetCurrentUserRequest(), timeout=0.2)


async def test_an_unreachable_server_is_unavailable() -> None:
    async with TaskFlow("127.0.0.1:1", retry_for=0.5) as client:
        with pytest.raises(Unavailable):
            await client.login("ada@example.com", PASSWORD)


async def test_a_cancelled_call_is_cancelled_on_the_server_connection(
    client: TaskFlow, double: Double
) -> None:
    double.delay = 5
    call = asyncio.ensure_future(client.users.GetCurrentUser(GetCurrentUserRequest()))
    await asyncio.sleep(0.1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    double.delay = 0
    assert (await client.users.GetCurrentUser(GetCurrentUserRequest())).user.display_name == "Ada"


async def test_pages_go_through_the_whole_list(client: TaskFlow) -> None:
    request = ListMembersRequest(workspace_id=WORKSPACE)
    names = [
        member.display_name
        async for page in pages(client.workspaces.ListMembers, request)
        for member in page.members
    ]
    assert names == ["Ada", "Ben"]
    assert request.page_token == ""


async def test_a_not_found_error_names_the_resource(client: TaskFlow) -> None:
    with pytest.raises(NotFound) as caught:
        await client.tasks.GetTask(GetTaskRequest(id="OPS-99", workspace_id=WORKSPACE))
    assert caught.value.resource == ("task", "OPS-99")


@pytest.mark.parametrize(
    ("address", "meaning"),
    [
        ("localhost:8080", ("localhost:8080", True, False)),
        ("localhost", ("localhost:8080", True, False)),
        ("127.0.0.1:9", ("127.0.0.1:9", True, False)),
        ("[::1]:9", ("[::1]:9", True, False)),
        ("tasks.example.com", ("tasks.example.com:8080", False, True)),
        ("tasks.example.com:9000", ("tasks.example.com:9000", False, True)),
        ("http://gateway:8080", ("gateway:8080", False, False)),
        ("http://gateway", ("gateway:80", False, False)),
        ("https://tasks.example.com/", ("tasks.example.com:443", False, True)),
        ("https://localhost:8443", ("localhost:8443", True, True)),
    ],
)
async def test_passwords_are_sent_without_tls_only_when_configured(
    address: str, meaning: tuple[str, bool, bool]
) -> None:
    assert _parse(address) == meaning


@pytest.mark.parametrize("address", ["", "ftp://x", "https://x/path", "host:port", "http://"])
async def test_an_invalid_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="address"):
        TaskFlow(address)
