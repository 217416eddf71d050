"""What operators see of a running stack: one trace, moving metrics, correct health, and logs without secrets."""

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import grpc.aio
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from prometheus_client.parser import text_string_to_metric_families

from deploy.local.ports import free_ports
from deploy.local.probes import http_get
from deploy.local.stack import Stack, running_stack
from services.platform.config import Settings
from services.platform.http.probes import probes
from services.platform.http.server import http_server
from services.platform.observe import tracing
from services.platform.rpc.identity import SERVICE_HEADER
from taskflow.auth.v1.workspace_pb2 import Role
from taskflow.event.v1 import dead_letter_service_pb2, dead_letter_service_pb2_grpc
from taskflow.notification.v1 import notification_service_pb2, notification_service_pb2_grpc
from taskflow.task.v1 import (
    project_pb2,
    project_service_pb2,
    project_service_pb2_grpc,
    task_pb2,
    task_service_pb2,
    task_service_pb2_grpc,
)
from tests.conftest import settings_for
from tests.integration.people import PASSWORD, Person, Team

# Time limit (seconds) of every wait: far more than any wait takes, even on a busy machine.
PATIENCE = 40.0

PYTHON_PROCESSES = ("auth", "task", "notification", "relay", "worker")
TITLE = "Ask Zenobia about the planted-5d1e budget"


class Collector(TraceServiceServicer):
    """Receives the spans of the processes, like an operator's trace collector."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Span]] = []

    async def Export(
        self, request: ExportTraceServiceRequest, context: Any
    ) -> ExportTraceServiceResponse:
        for sent in request.resource_spans:
            named = {pair.key: pair.value.string_value for pair in sent.resource.attributes}
            self.spans += [
                (named["service.name"], span) for scope in sent.scope_spans for span in scope.spans
            ]
        return ExportTraceServiceResponse()

    def trace(self, trace_id: str) -> list[tuple[str, Span]]:
        return [(name, span) for name, span in self.spans if span.trace_id.hex() == trace_id]


@dataclass
class ObservedStack:
    """A stack behind its gateway, and two users in one workspace."""

    stack: Stack
    collector: Collector
    channel: grpc.aio.Channel
    owner: Person
    member: Person
    project_id: str

    @property
    def settings(self) -> Settings:
        return self.stack.settings

    async def create(self, *metadata: tuple[str, str], **fields: Any) -> task_pb2.Task:
        tasks = task_service_pb2_grpc.TaskServiceStub(self.channel)
        answer = await tasks.CreateTask(
            task_service_pb2.CreateTaskRequest(
                project_id=self.project_id, task=task_pb2.Task(**({"title": TITLE} | fields))
            ),
            metadata=(*self.owner.credentials, *metadata),
        )
        return answer.task

    async def figure(self, process: str, name: str, **labels: str) -> float:
        """The sum of one process's metric samples with these labels."""
        return sum(
            sample.value
            for family in text_string_to_metric_families(await self.page(process, "/metrics", 200))
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    async def page(self, process: str, path: str, status: int) -> str:
        port = getattr(self.settings, f"{process}_http_port")
        answered, body = await http_get(self.settings.host, port, path)
        assert answered == status, body
        return body.decode()

    def logs(self, process: str) -> str:
        return (self.settings.data_dir / "logs" / f"{process}.log").read_text()

    def lines(self, process: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.logs(process).splitlines()]


def _with_children(process: int) -> list[int]:
    children = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [process, *map(int, children.split())]


async def eventually(holds: Callable[[], Awaitable[bool]], seconds: float = PATIENCE) -> None:
    async with asyncio.timeout(seconds):
        while not await holds():
            await asyncio.sleep(0.1)


@pytest.fixture(scope="module")
async def collector() -> AsyncIterator[tuple[Collector, int]]:
    collector = Collector()
    server = grpc.aio.server()
    add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    (port,) = free_ports(1)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    yield collector, port
    await server.stop(0)


@pytest.fixture(scope="module")
async def world(
    tmp_path_factory: pytest.TempPathFactory, collector: tuple[Collector, int]
) -> AsyncIterator[ObservedStack]:
    spans, port = collector
    settings = settings_for(
        tmp_path_factory.mktemp("observed") / "data", log_format="json", log_level="debug"
    )
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        environment.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        async with running_stack(settings) as stack:
            address = f"{stack.settings.host}:{stack.settings.gateway_port}"
            async with grpc.aio.insecure_channel(address) as channel:
                yield await _populated(stack, spans, channel)


async def _populated(stack: Stack, spans: Collector, channel: grpc.aio.Channel) -> ObservedStack:
    team = Team(channel)
    owner, member = await team.person("zenobia"), await team.person("yusuf")
    workspace = await team.workspace(owner)
    await team.add(owner, workspace.id, member.email, Role.ROLE_MEMBER)
    answer = await project_service_pb2_grpc.ProjectServiceStub(channel).CreateProject(
        project_service_pb2.CreateProjectRequest(
            workspace_id=workspace.id,
            project=project_pb2.Project(key="OPS", display_name="Operations"),
        ),
        metadata=owner.credentials,
    )
    return ObservedStack(stack, spans, channel, owner, member, answer.project.id)


async def test_one_trace_covers_request_notification_suggestion_and_mail(
    world: ObservedStack,
) -> None:
    trace_id, client_span = secrets.token_hex(16), secrets.token_hex(8)
    await world.create(
        ("traceparent", f"00-{trace_id}-{client_span}-01"), assignee_id=world.member.id
    )
    expected = {
        ("taskflow-task", "taskflow.task.v1.TaskService/CreateTask"),
        ("taskflow-notification", "task.created notification"),
        ("taskflow-worker", "task.created dispatcher"),
        ("taskflow-worker", "StartWorkflow:EnrichTask"),
        ("taskflow-worker", "RunWorkflow:EnrichTask"),
        ("taskflow-worker", "RunActivity:enrichment.suggest"),
        ("taskflow-task", "taskflow.task.v1.SuggestionInternalService/StoreSuggestions"),
        ("taskflow-worker", "notification.created dispatcher"),
        ("taskflow-worker", "RunActivity:email.send"),
        ("taskflow-notification", "taskflow.notification.v1.EmailInternalService/FinishEmailBatch"),
    }

    async def complete() -> bool:
        return expected <= {(name, span.name) for name, span in world.collector.trace(trace_id)}

    try:
        await eventually(complete)
    except TimeoutError:
        seen = {(name, span.name) for name, span in world.collector.trace(trace_id)}
        pytest.fail(f"missing: {expected - seen}; seen: {sorted(seen)}")
    spans = {span.span_id.hex(): span for _, span in world.collector.trace(trace_id)}
    by_name = {span.name: span for span in spans.values()}

    def lineage(name: str) -> list[str]:
        names, span = [], by_name[name]
        while span.parent_span_id.hex() in spans:
            span = spans[span.parent_span_id.hex()]
            names.append(span.name)
        # Every span descends from the client's own span.
        assert span.parent_span_id.hex() == client_span
        return names

    create = "taskflow.task.v1.TaskService/CreateTask"
    assert lineage(create) == []
    assert by_name[create].kind == Span.SPAN_KIND_SERVER
    assert lineage("task.created notification") == [create]
    assert by_name["task.created notification"].kind == Span.SPAN_KIND_CONSUMER
    assert lineage("notification.created dispatcher") == ["task.created notification", create]
    stored = lineage("taskflow.task.v1.SuggestionInternalService/StoreSuggestions")
    assert stored[-2:] == ["task.created dispatcher", create]
    assert "RunActivity:enrichment.suggest" in stored
    finished = lineage("taskflow.notification.v1.EmailInternalService/FinishEmailBatch")
    assert finished[-3:] == ["notification.created dispatcher", "task.created notification", create]


async def test_spans_contain_codes_but_no_texts(world: ObservedStack) -> None:
    trace_id = secrets.token_hex(16)
    with pytest.raises(grpc.aio.AioRpcError):
        await world.create(
            ("traceparent", f"00-{trace_id}-{secrets.token_hex(8)}-01"), assignee_id=str(uuid4())
        )

    async def arrived() -> bool:
        return bool(world.collector.trace(trace_id))

    await eventually(arrived)
    ((_, span),) = world.collector.trace(trace_id)
    codes = {pair.key: pair.value.int_value for pair in span.attributes}
    assert codes["rpc.grpc.status_code"] == grpc.StatusCode.FAILED_PRECONDITION.value[0]
    for _, any_span in world.collector.spans:
        assert not any_span.events
        assert not any_span.status.message
        assert b"planted-5d1e" not in any_span.SerializeToString()
        assert b"@example.com" not in any_span.SerializeToString()


@pytest.mark.parametrize("sent", ["", "garbage", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
async def test_an_invalid_trace_context_is_ignored(world: ObservedStack, sent: str) -> None:
    assert (await world.create(("traceparent", sent))).title == TITLE


def test_without_its_variables_opentelemetry_is_not_imported() -> None:
    script = (
        "import sys, services.app, services.platform.observe.tracing as tracing, workflows.__main__\n"
        "tracing.start('test')\n"
        "assert not tracing.active()\n"
        "assert tracing.client_interceptors() == [] and tracing.trace_parent() == ''\n"
        "sys.exit([name for name in sys.modules if 'opentelemetry' in name] or 0)\n"
    )
    plain = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    subprocess.run([sys.executable, "-c", script], env=plain, check=True, timeout=60)


@pytest.mark.parametrize(
    ("environment", "on"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "tasks"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4317"}, True),
        ({"OTEL_TRACES_EXPORTER": "console"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317"}, False),
        ({"OTEL_SDK_DISABLED": "True", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317"}, False),
        ({"OTEL_SDK_DISABLED": "false", "OTEL_TRACES_EXPORTER": "otlp"}, True),
    ],
)
def test_traces_are_switched_on_and_off_by_the_standard_variables(
    environment: dict[str, str], on: bool
) -> None:
    assert tracing.wanted(environment) is on


async def test_calls_are_counted_by_method_and_code_with_their_durations(
    world: ObservedStack,
) -> None:
    method = "/taskflow.task.v1.TaskService/CreateTask"
    before = {
        code: await world.figure("task", "taskflow_calls_seconds_count", method=method, code=code)
        for code in ("OK", "INVALID_ARGUMENT")
    }
    await world.create()
    with pytest.raises(grpc.aio.AioRpcError):
        await world.create(title="")
    for code, count in before.items():
        now = await world.figure("task", "taskflow_calls_seconds_count", method=method, code=code)
        assert now == count + 1
    assert await world.figure("task", "taskflow_calls_seconds_sum", method=method, code="OK") > 0


async def test_unknown_methods_create_no_new_metric_series(world: ObservedStack) -> None:
    before = len((await world.page("task", "/metrics", 200)).splitlines())
    async with grpc.aio.insecure_channel(world.settings.task) as channel:
        for number in range(20):
            call: Any = channel.unary_unary(f"/taskflow.task.v1.TaskService/Guess{number}")
            with pytest.raises(grpc.aio.AioRpcError):
                await call(b"", metadata=world.owner.credentials)
    page = await world.page("task", "/metrics", 200)
    assert "Guess" not in page
    # A garbage collection or another call may add a few series.
    assert len(page.splitlines()) < before + 100


async def test_open_streams_and_their_messages_are_counted(world: ObservedStack) -> None:
    method = "/taskflow.notification.v1.NotificationService/WatchNotifications"
    stub = notification_service_pb2_grpc.NotificationServiceStub(world.channel)

    async def open_streams() -> float:
        return await world.figure("notification", "taskflow_streams_open", method=method)

    assert await open_streams() == 0
    stream = stub.WatchNotifications(
        notification_service_pb2.WatchNotificationsRequest(), metadata=world.owner.credentials
    )
    await stream.read()
    assert await open_streams() == 1
    assert await world.figure("notification", "taskflow_stream_messages_total", method=method) >= 1
    stream.cancel()

    async def closed() -> bool:
        return await open_streams() == 0

    await eventually(closed)
    assert await world.figure("notification", "taskflow_streams_ended_total", method=method) >= 1


async def test_events_jobs_activities_and_workflows_are_measured(world: ObservedStack) -> None:
    measured = {
        ("relay", "taskflow_events_published_total"): {},
        ("notification", "taskflow_events_consumed_total"): {"result": "done"},
        ("worker", "taskflow_events_consumed_total"): {
            "consumer": "dispatcher",
            "result": "done",
        },
        ("task", "taskflow_job_seconds_count"): {"state": "DONE"},
        ("worker", "taskflow_activity_seconds_count"): {"activity": "job.process", "result": "ok"},
        ("worker", "taskflow_workflow_seconds_count"): {"workflow": "ProcessJob", "result": "done"},
    }

    async def now() -> list[float]:
        return [await world.figure(*where, **labels) for where, labels in measured.items()]

    before = await now()
    await world.create(assignee_id=world.member.id, payload={"message": "hello"})

    async def moved() -> bool:
        return all(a > b for a, b in zip(await now(), before, strict=True))

    try:
        await eventually(moved)
    except TimeoutError:
        still = [k for k, a, b in zip(measured, await now(), before, strict=True) if a <= b]
        pytest.fail(f"not moved: {still}")
    (job,) = (line for line in world.lines("worker") if line["event"] == "job")
    assert job["state"] == "DONE"
    assert job["duration"] >= 0
    assert job["task_id"]


async def test_dead_letters_are_counted_by_consumer(world: ObservedStack) -> None:
    parked = ("notification", "taskflow_dead_letters_total")
    before = await world.figure(*parked, consumer="dispatcher")
    secret = world.settings.service_secret.get_secret_value()
    async with grpc.aio.insecure_channel(world.settings.notification) as channel:
        await dead_letter_service_pb2_grpc.DeadLetterInternalServiceStub(channel).ParkEvent(
            dead_letter_service_pb2.ParkEventRequest(
                consumer="dispatcher",
                subject="taskflow._.task.created",
                event_id=str(uuid4()),
                payload=b"?",
                error="it can't be read",
            ),
            metadata=((SERVICE_HEADER, secret),),
        )
    assert await world.figure(*parked, consumer="dispatcher") == before + 1


async def test_the_outbox_metric_grows_while_nats_hangs(world: ObservedStack) -> None:
    async def waiting(least: int, age: float) -> bool:
        depth = await world.figure("relay", "taskflow_outbox_depth")
        return depth >= least and await world.figure("relay", "taskflow_outbox_age_seconds") >= age

    world.stack.kill("nats", signal.SIGSTOP)
    try:
        for _ in range(5):
            await world.create()
        await eventually(lambda: waiting(5, age=2))
    finally:
        world.stack.kill("nats", signal.SIGCONT)

    async def drained() -> bool:
        return await world.figure("relay", "taskflow_outbox_depth") == 0

    await eventually(drained)


async def test_the_workers_health_and_lag_show_a_temporal_outage(world: ObservedStack) -> None:
    lag = ("relay", "taskflow_consumer_lag")

    async def behind() -> bool:
        return await world.figure(*lag, consumer="dispatcher") > 0

    async def says(status: int, line: str) -> bool:
        port = world.settings.worker_http_port
        answered, body = await http_get(world.settings.host, port, "/healthz")
        return answered == status and line in body.decode().splitlines()

    assert await says(200, "temporal ok")
    world.stack.kill("temporal", signal.SIGSTOP)
    try:
        await world.create()
        await eventually(lambda: says(503, "temporal unavailable"))
        assert await says(503, "nats ok")
        await eventually(behind)
    finally:
        world.stack.kill("temporal", signal.SIGCONT)

    async def caught_up() -> bool:
        return await world.figure(*lag, consumer="dispatcher") == 0

    await eventually(lambda: says(200, "temporal ok"))
    await eventually(caught_up)


async def test_the_health_of_services_and_relay_shows_a_postgres_outage(
    world: ObservedStack,
) -> None:
    dependent = ("auth", "task", "notification", "relay")

    async def say(status: int, line: str) -> bool:
        ports = [getattr(world.settings, f"{name}_http_port") for name in dependent]
        answers = [await http_get(world.settings.host, port, "/healthz") for port in ports]
        return all(
            answered == status and line in body.decode().splitlines() for answered, body in answers
        )

    assert await say(200, "postgres ok")
    # Stop Postgres's backends too, because they would keep answering.
    frozen = _with_children(world.stack.pid("postgres"))
    try:
        for process in frozen:
            os.kill(process, signal.SIGSTOP)
        await eventually(lambda: say(503, "postgres unavailable"), seconds=10)
    finally:
        for process in frozen:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)
    await eventually(lambda: say(200, "postgres ok"))


async def test_a_service_is_healthy_only_once_it_can_verify_tokens(world: ObservedStack) -> None:
    async def waits() -> bool:
        with suppress(OSError):
            port = world.settings.task_http_port
            answered, body = await http_get(world.settings.host, port, "/healthz")
            return answered == 503 and "signing_keys unavailable" in body.decode().splitlines()
        return False

    made = await world.create()
    await world.stack.hold("auth")
    try:
        await world.stack.hold("task")
        world.stack.release("task")
        await eventually(waits)
        world.stack.release("auth")
        await world.stack.wait_ready("task")
        # The service needs the auth service only once: it keeps the keys that it fetched.
        await world.stack.hold("auth")
        async with grpc.aio.insecure_channel(world.settings.task) as channel:
            found = await task_service_pb2_grpc.TaskServiceStub(channel).GetTask(
                task_service_pb2.GetTaskRequest(id=made.id), metadata=world.owner.credentials
            )
        assert found.task.id == made.id
    finally:
        world.stack.release("auth")
        await world.stack.wait_ready("auth")


async def test_each_log_line_is_json_and_each_call_can_be_found_by_its_id(
    world: ObservedStack,
) -> None:
    tasks = task_service_pb2_grpc.TaskServiceStub(world.channel)
    missing = task_service_pb2.GetTaskRequest(id=str(uuid4()))
    with pytest.raises(grpc.aio.AioRpcError):
        await tasks.GetTask(missing, metadata=world.owner.credentials)
    async with grpc.aio.insecure_channel(world.settings.task) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await task_service_pb2_grpc.TaskServiceStub(channel).GetTask(
                missing, metadata=(*world.owner.credentials, ("x-request-id", "told-by-us"))
            )
    for process in PYTHON_PROCESSES:
        lines = world.lines(process)
        assert lines
        for line in lines:
            assert {"timestamp", "level", "event", "process"} <= line.keys()
    calls: list[dict[str, Any]] = []

    async def written() -> bool:
        calls[:] = (line for line in world.lines("task") if line["event"] == "call")
        return any(line["request_id"] == "told-by-us" for line in calls)

    # The line is written after the answer was sent.
    await eventually(written)
    assert all({"request_id", "method", "code", "milliseconds"} <= line.keys() for line in calls)
    (ours,) = (line for line in calls if line["request_id"] == "told-by-us")
    assert (ours["level"], ours["code"]) == ("info", "NOT_FOUND")
    assert ours["method"] == "/taskflow.task.v1.TaskService/GetTask"
    # Envoy gives each call an id of its own.
    creates = [line["request_id"] for line in calls if line["method"].endswith("/CreateTask")]
    assert len(set(creates)) == len(creates) > 0
    assert all(len(name) == 36 for name in creates)


async def test_no_log_contains_user_texts_or_secrets(world: ObservedStack) -> None:
    forbidden = {
        "title": "planted-5d1e",
        "e-mail": "@example.com",
        "password": PASSWORD,
        "access token": world.owner.tokens.access_token,
        "refresh token": world.owner.tokens.refresh_token,
        "token secret": world.settings.token_secret.get_secret_value(),
        "database": world.settings.postgres,
    }
    for process in (*PYTHON_PROCESSES, "envoy", "migrate"):
        said = world.logs(process)
        assert [what for what, text in forbidden.items() if text in said] == [], process


async def _raw(port: int, sent: bytes, *, finish: bool = True) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    if finish:
        writer.write_eof()
    try:
        return await asyncio.wait_for(reader.read(), 10)
    except ConnectionError:
        return b""
    finally:
        writer.close()


@pytest.fixture
async def pages() -> AsyncIterator[int]:
    """The port of a /healthz page with two dependencies, one of them down."""
    (port,) = free_ports(1)
    async with http_server("127.0.0.1", port, probes(lambda: {"postgres": True, "nats": False})):
        yield port


async def test_the_health_page_has_a_line_for_each_dependency(pages: int) -> None:
    answer = await _raw(pages, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert body == b"postgres ok\nnats unavailable\n"


async def test_a_head_request_returns_the_headers_of_get_without_a_body(pages: int) -> None:
    got = await _raw(pages, b"GET /healthz?verbose HTTP/1.1\r\nHost: x\r\n\r\n")
    headed = await _raw(pages, b"HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert headed == got.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /healthz/ HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
        (b"GET /healthz/../secrets HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nabcd", b"405"),
        (b"GET\r\n\r\n", b"400"),
        (b"\r\n\r\n", b"400"),
        (b"GET /healthz\r\n\r\n", b"400"),
        (b"GET /healthz SMTP/1.1\r\n\r\n", b"400"),
        (b"GET /h\xff\xfe HTTP/1.1\r\n\r\n", b"400"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"404"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400"),
        (b"", b""),
    ],
)
async def test_unsupported_http_requests_are_refused(
    pages: int, sent: bytes, status: bytes
) -> None:
    answer = await _raw(pages, sent)
    assert answer.split(b" ")[1:2] == ([status] if status else [])


async def test_an_endless_http_header_is_cut_off(pages: int) -> None:
    answer = await _raw(pages, b"GET /healthz HTTP/1.1\r\n" + b"x: " + b"y" * 1_000_000)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")


async def test_silent_http_clients_are_disconnected_and_block_nobody(pages: int) -> None:
    silent = [asyncio.create_task(_raw(pages, b"GET /hea", finish=False)) for _ in range(50)]
    await asyncio.sleep(0.1)
    async with asyncio.timeout(1):
        assert b"503" in await _raw(pages, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert set(await asyncio.gather(*silent)) == {b""}
