"""Security promises 5, 8, 9 and 10, by their numbers; 1 to 4 are in test_security_accounts.py, 6 and 7 in
test_security_model.py."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from sqlalchemy import Uuid, bindparam, select
from temporalio.client import Client, WorkflowExecutionStatus

from deploy.local.ports import free_ports
from deploy.local.stack import Stack, running_stack
from services.platform.config import Settings
from services.platform.data.db import Statement
from services.platform.rpc.directory import users
from services.platform.rpc.identity import SERVICE_HEADER
from taskflow.auth.v1 import auth_service_pb2
from taskflow.auth.v1.workspace_pb2 import ROLE_ADMIN, ROLE_OWNER
from taskflow.options.v1.options_pb2 import ACCESS_SERVICE
from taskflow.task.v1 import task_service_pb2, task_service_pb2_grpc
from taskflow.task.v1.task_pb2 import Due, Task
from tests.conftest import serving, settings_for
from tests.faults.malformed_bytes import sized, tag, varint
from tests.faults.rpcs import Rpc, every_rpc
from tests.faults.samples import Samples, new_samples
from tests.integration.people import Person, refusal
from tests.unit import test_deploy_files

_REPOSITORY = Path(__file__).parents[2]
# Fields that change with every update.
_FOLLOWS = {"etag", "update_time", "revision", "text_revision", "due_time", "finish_time"}
_OPERATOR = Statement(
    select(users.c.operator).where(users.c.id == bindparam("user_id", type_=Uuid))
)
_Code = grpc.StatusCode


@pytest.fixture(scope="module")
async def samples(services: Settings) -> AsyncIterator[Samples]:
    async with new_samples(services) as samples:
        await samples.team.set_role(
            samples.owner, samples.workspace_id, samples.member.id, ROLE_ADMIN
        )
        yield samples


# --- 5: mask or extra fields can't set role, workspace, owner or revision

_UPDATES = [rpc for rpc in every_rpc() if "update_mask" in rpc.method.input_type.fields_by_name]


def _documented_mask(rpc: Rpc) -> set[str]:
    """The settable fields that the proto comment lists: `Names fields among title, description, …`."""
    text = "\n".join(
        path.read_text() for path in (_REPOSITORY / "protos/taskflow").rglob("*.proto")
    )
    message = text.partition(f"message {rpc.method.input_type.name} {{")[2]
    said = re.search(r"// Names fields among ([a-z_, \n/]*)\.", message)
    assert said, rpc.name
    return set(re.findall(r"[a-z_]+", said[1]))


def _resource(rpc: Rpc) -> Any:
    (field,) = (
        field
        for field in rpc.method.input_type.fields
        if field.message_type is not None and field.name != "update_mask"
    )
    return field


def _forge(resource: Any, fields: set[str], samples: Samples) -> None:
    """Fill in another user's ids, the highest role, and old times and revisions."""
    for field in resource.DESCRIPTOR.fields:
        if field.name not in fields:
            continue
        if field.message_type is not None:
            getattr(resource, field.name).seconds = 1
        elif field.enum_type is not None:
            setattr(resource, field.name, ROLE_OWNER)
        elif field.cpp_type == field.CPPTYPE_STRING:
            value = samples.operator.id if field.name.endswith("id") else "FORGED"
            setattr(resource, field.name, value)
        else:
            setattr(resource, field.name, 999)


@pytest.mark.parametrize("rpc", [pytest.param(rpc, id=rpc.name) for rpc in _UPDATES])
async def test_5_no_mask_sets_a_field_that_the_proto_does_not_allow(
    samples: Samples, rpc: Rpc
) -> None:
    name = _resource(rpc).name
    every = {field.name for field in _resource(rpc).message_type.fields}
    writable = _documented_mask(rpc)
    assert writable < every
    forged = every - writable - {"id", "etag"}
    request: Any = rpc.request()
    getattr(request, name).SetInParent()
    if name != "user":
        getattr(request, name).id = samples.ids[name][0]
    # The unchanged name, so that the update sets something without changing anything.
    first = await _ask(samples, rpc, request, name, samples.member)
    for mask in (["*"], sorted(every), [], *([field] for field in sorted(forged | {"id"}))):
        request = rpc.request()
        kept = {field for field in writable if first.DESCRIPTOR.fields_by_name[field]}
        for field in kept & {"title", "display_name"}:
            setattr(getattr(request, name), field, getattr(first, field))
        if name == "user":
            getattr(request, name).id = samples.operator.id
        else:
            getattr(request, name).id = first.id
        _forge(getattr(request, name), forged, samples)
        request.update_mask.paths.extend(mask)
        after = await _ask(samples, rpc, request, name, samples.member)
        for field in every - writable - _FOLLOWS:
            assert getattr(after, field) == getattr(first, field), (mask, field)
        if "revision" in every:
            assert after.revision < first.revision + 10
        if "update_time" in every:
            assert after.update_time.seconds >= first.update_time.seconds


async def _ask(samples: Samples, rpc: Rpc, request: Any, name: str, by: Person) -> Any:
    call: Any = samples.channels[rpc.process].unary_unary(
        rpc.path, rpc.request.SerializeToString, rpc.response.FromString
    )
    return getattr(await call(request, metadata=by.credentials), name)


def _extra(message: type[Message]) -> bytes:
    """Fields that the message lacks but the database row has."""
    unused = max((field.number for field in message.DESCRIPTOR.fields), default=0)
    return b"".join(
        tag(number, 0) + varint(ROLE_OWNER) + sized(number + 50, b"true")
        for number in range(unused + 1, unused + 40)
    )


async def test_5_unknown_request_fields_set_nothing(samples: Samples) -> None:
    channel = samples.channels["auth"]
    request = auth_service_pb2.RegisterRequest(
        email=f"{uuid4().hex}@example.com", password="correct horse battery", display_name="Eve"
    )
    register: Any = channel.unary_unary(
        "/taskflow.auth.v1.AuthService/Register",
        None,
        auth_service_pb2.RegisterResponse.FromString,
    )
    answer = await register(request.SerializeToString() + _extra(auth_service_pb2.RegisterRequest))
    async with samples.db.read() as tx:
        row = await tx.one(_OPERATOR, user_id=answer.user.id)
    assert row is not None
    assert row.operator is False
    create = task_service_pb2.CreateTaskRequest(
        project_id=samples.ids["project"][0],
        task=Task(
            title="Mine",
            id=str(uuid4()),
            workspace_id=str(uuid4()),
            project_id=samples.ids["project"][1],
            key="OPS-1",
            creator_id=samples.owner.id,
            revision=99,
        ),
    )
    call: Any = samples.channels["task"].unary_unary(
        "/taskflow.task.v1.TaskService/CreateTask",
        None,
        task_service_pb2.CreateTaskResponse.FromString,
    )
    raw = create.SerializeToString() + _extra(task_service_pb2.CreateTaskRequest)
    task = (await call(raw, metadata=samples.member.credentials)).task
    assert task.id != create.task.id
    assert (task.workspace_id, task.project_id) == (samples.workspace_id, samples.ids["project"][0])
    assert (task.creator_id, task.revision) == (samples.member.id, 1)


# --- 8: no secret and no user text in logs and histories


@pytest.fixture(scope="module")
async def whole(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Services and worker as separate processes, on the shared infrastructure."""
    programs = {"auth", "task", "notification", "relay", "worker"}
    names = [f"{program}_{kind}" for program in programs for kind in ("port", "http_port")]
    known = [name for name in names if name in Settings.model_fields]
    settings = Settings(
        **stack.settings.model_dump()
        | dict(zip(known, free_ports(len(known)), strict=True))
        | {"data_dir": tmp_path_factory.mktemp("security"), "log_level": "debug"}
    )
    async with running_stack(settings, only=programs) as running:
        yield running


async def test_8_no_workflow_history_and_no_log_contains_user_texts(whole: Stack) -> None:
    async with new_samples(whole.settings) as samples:
        due = Due()
        due.date.year, due.date.month, due.date.day = 2031, 5, 6
        stub = task_service_pb2_grpc.TaskServiceStub(samples.channels["task"])
        task = Task(
            title=samples.mark, description=samples.mark, assignee_id=samples.member.id, due=due
        )
        task.payload.update({"handler": "message", "text": samples.mark})
        answer = await stub.CreateTask(
            task_service_pb2.CreateTaskRequest(project_id=samples.ids["project"][0], task=task),
            metadata=samples.owner.credentials,
        )
        client = await Client.connect(whole.settings.temporal)
        found = await _histories(client, answer.task.id, samples.member.id)
        forbidden = [
            *(samples.mark, "@example.com", samples.owner.user.display_name),
            *samples.secrets,
        ]
        for name, history in found.items():
            assert [text for text in forbidden if text in history] == [], name
        for log in (whole.settings.data_dir / "logs").glob("*.log"):
            said = log.read_text()
            assert [text for text in forbidden if text in said] == [], log.name


async def _histories(client: Client, task_id: str, assignee_id: str) -> dict[str, str]:
    """All workflow ids and events of the namespace as text, once a workflow of each kind has finished."""
    wanted = {f"enrich/{task_id}/1", f"reminder/{task_id}", f"email/{assignee_id}"}
    async with asyncio.timeout(60):
        while True:
            runs = [run async for run in client.list_workflows()]
            busy = [run.id for run in runs if run.status is WorkflowExecutionStatus.RUNNING]
            quiet = not any(name.startswith(("enrich/", "job/", "email/")) for name in busy)
            names = {run.id for run in runs}
            if quiet and wanted <= names and any(name.startswith("job/") for name in names):
                break
            await asyncio.sleep(0.5)
    found = {}
    for run in runs:
        history = await client.get_workflow_handle(run.id, run_id=run.run_id).fetch_history()
        texts = [event.SerializeToString().decode(errors="replace") for event in history.events]
        found[run.id] = "\n".join([run.id, *texts])
    return found


# --- 9: closed surfaces


@pytest.mark.parametrize(
    "rpc",
    [pytest.param(rpc, id=rpc.name) for rpc in every_rpc() if rpc.access == ACCESS_SERVICE],
)
async def test_9_internal_methods_require_the_service_secret(samples: Samples, rpc: Rpc) -> None:
    secret = samples.settings.service_secret.get_secret_value()
    call: Any = samples.channels[rpc.process].unary_unary(rpc.path)
    for metadata in (
        (),
        samples.owner.credentials,
        samples.operator.credentials,
        ((SERVICE_HEADER, ""),),
        ((SERVICE_HEADER, secret[:-1]),),
        ((SERVICE_HEADER, f"{secret} "), ("authorization", f"Bearer {secret}")),
        ((SERVICE_HEADER, secret), (SERVICE_HEADER, secret)),
        ((f"{SERVICE_HEADER}-bin", secret.encode()),),
        (("authorization", f"Bearer {secret}"),),
    ):
        refused = await refusal(call(b"", metadata=metadata))
        assert (refused.code, refused.reason) == (_Code.PERMISSION_DENIED, "NOT_FOR_CALLER")
    # With the right secret the call is authenticated, and its empty request then fails validation.
    refused = await refusal(call(b"", metadata=samples.service))
    assert refused.code is _Code.INVALID_ARGUMENT


async def test_9_reflection_is_closed_where_it_is_switched_off(services: Settings) -> None:
    ports = dict(zip(("auth_port", "auth_http_port"), free_ports(2), strict=True))
    closed = Settings(**services.model_dump() | ports | {"reflection": False, "auth_address": None})
    async with serving("auth", closed), grpc.aio.insecure_channel(closed.auth) as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)  # type: ignore[arg-type]
        asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.ServerReflectionInfo(iter(asked)).read()
        assert refused.value.code() is _Code.UNIMPLEMENTED


class _EchoUpstream(grpc.GenericRpcHandler):
    """A healthy upstream behind the gateway that answers every call with the metadata it received."""

    def service(self, details: Any) -> Any:
        if details.method.startswith("/grpc.health"):
            serving = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)

            async def check(_: bytes, __: Any) -> bytes:
                return serving.SerializeToString()

            return grpc.unary_unary_rpc_method_handler(check)

        async def tell(_: bytes, context: Any) -> bytes:
            lines = [f"{key}: {value}" for key, value in context.invocation_metadata()]
            return "\n".join([details.method, *lines]).encode()

        return grpc.unary_unary_rpc_method_handler(tell)


@pytest.fixture(scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Settings]:
    """Envoy in front of the echo upstream."""
    settings = settings_for(tmp_path_factory.mktemp("gateway"))
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_EchoUpstream(),))
    for port in (settings.auth_port, settings.task_port, settings.notification_port):
        server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    async with running_stack(settings, only={"envoy"}):
        yield settings
    await server.stop(0)


@pytest.fixture
async def outside(gateway: Settings) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.gateway_port}") as channel:
        yield channel


async def test_9_forged_identity_headers_do_not_reach_a_service(outside: grpc.aio.Channel) -> None:
    call: Any = outside.unary_unary("/taskflow.task.v1.TaskService/GetTask")
    told = (
        await call(
            b"",
            metadata=(
                (SERVICE_HEADER, "forged"),
                (SERVICE_HEADER, "forged again"),
                ("x-forwarded-for", "203.0.113.7"),
                ("x-envoy-external-address", "203.0.113.8"),
                ("authorization", "Bearer mine"),
            ),
            timeout=10,
        )
    ).decode()
    assert "authorization: Bearer mine" in told
    assert SERVICE_HEADER not in told
    # The gateway's own address of the caller comes last, and only that one counts.
    (hops,) = re.findall(r"^x-forwarded-for: (.*)$", told, re.M)
    assert hops.split(",")[0] == "203.0.113.7"
    assert hops.rpartition(",")[2].strip() != "203.0.113.7"
    assert "203.0.113.8" not in told


@pytest.mark.parametrize(
    "path",
    [
        "/taskflow.task.v1.JobInternalService/ClaimJob",
        "//taskflow.task.v1.JobInternalService/ClaimJob",
        "/./taskflow.task.v1.JobInternalService/ClaimJob",
        "/taskflow.task.v1.TaskService/../taskflow.task.v1.JobInternalService/ClaimJob",
        "/taskflow.task.v1.TaskService/..%2ftaskflow.task.v1.JobInternalService/ClaimJob",
        "/taskflow.task.v1.TaskService/%2e%2e/taskflow.task.v1.JobInternalService/ClaimJob",
        "/taskflow.task.v1.JobInternal%53ervice/ClaimJob",
        "/taskflow.task.v1.JobInternalService/ClaimJob?x=y",
        "/taskflow.task.v1.JobInternalService//ClaimJob",
        "/taskflow.task.v1.JobInternalService%2fClaimJob",
        "/taskflow.notification.v1.EmailInternalService/PrepareEmailBatch",
        "/taskflow.event.v1.DeadLetterInternalService/ParkEvent",
        "/metrics",
        "/healthz",
        "/stats",
        "/quitquitquit",
    ],
)
async def test_9_no_spelling_of_an_internal_path_passes_the_gateway(
    outside: grpc.aio.Channel, path: str
) -> None:
    call: Any = outside.unary_unary(path)
    running = call(b"", metadata=((SERVICE_HEADER, "x"),), timeout=10)
    if await running.code() is not _Code.OK:
        assert await running.code() in (_Code.UNIMPLEMENTED, _Code.INTERNAL)
        return
    # The path that the service then receives is none of its internal methods.
    told = (await running).decode()
    inner = {rpc.path for rpc in every_rpc() if rpc.access == ACCESS_SERVICE}
    assert told.splitlines()[0] not in inner


# --- 10: installed dependencies are the locked ones


def test_10_every_requirement_is_pinned_by_version_and_hash() -> None:
    text = (_REPOSITORY / "requirements.lock").read_text()
    blocks = re.findall(r"^[^\s#].*(?:\n[ \t]+.*)*", text, re.M)
    assert len(blocks) > 50
    for block in blocks:
        assert re.match(r"[A-Za-z0-9._-]+(\[[a-z,]+\])?==\S+", block), block.splitlines()[0]
        assert "--hash=sha256:" in block, block.splitlines()[0]


def test_10_containers_run_without_root_read_only_without_capabilities_and_speak_tls_1_2() -> None:
    test_deploy_files.test_the_image_installs_locked_versions_and_runs_without_root()
    test_deploy_files.test_containers_have_no_privileges_beyond_their_need()
    test_deploy_files.test_pods_meet_the_restricted_pod_security_standard()
    test_deploy_files.test_the_gateway_speaks_tls_1_2_or_newer_and_keeps_reflection_closed()
