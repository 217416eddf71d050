"""Promises of TLS on every hop, with real servers and certificates that the test makes."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import grpc.aio
import psycopg
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult
from pydantic import SecretStr
from temporalio.api.workflowservice.v1 import GetSystemInfoRequest, GetSystemInfoResponse

from deploy.local import nats as nats_program
from deploy.local.ports import free_ports
from deploy.local.process import Process
from deploy.local.stack import running_stack
from services.migrations import wait_until_current
from services.migrations.upgrade import upgrade
from services.platform.config import Settings
from services.platform.data.db import Database
from services.platform.events.bus import Bus
from taskflow.auth.v1 import auth_service_pb2, auth_service_pb2_grpc
from taskflow.task.v1.internal_service_pb2 import PlanReminderRequest
from tests.conftest import settings_for
from tests.fakes.certificates import Authority, Pair
from workflows import worker
from workflows.email.registration import _smtp_settings
from workflows.email.smtp import Mailer, TemporaryMailError
from workflows.service_stubs import ServiceStubs


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def server(authority: Authority) -> Pair:
    return authority.pair("server")


@pytest.fixture(scope="module")
def client(authority: Authority) -> Pair:
    return authority.pair("client")


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    """An authority that signed none of these certificates."""
    return Authority(tmp_path / "stranger", "stranger")


async def test_postgres_is_reached_by_tls_and_an_unknown_server_is_refused(
    settings: Settings, authority: Authority, server: Pair, stranger: Authority
) -> None:
    """The embedded PostgreSQL is built without TLS, so a listener in front of it speaks TLS as PostgreSQL does."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*server)
    encrypted = 0

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal encrypted
        # Length and code of an SSLRequest, and of nothing else.
        if await reader.readexactly(8) != b"\x00\x00\x00\x08\x04\xd2\x16\x2f":
            writer.close()
            return
        writer.write(b"S")
        try:
            await writer.start_tls(context)
        except OSError:
            return
        encrypted += 1
        up = await asyncio.open_connection("127.0.0.1", settings.postgres_port)
        await asyncio.gather(_pass_on(reader, up[1]), _pass_on(up[0], writer))

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]

    def by_tls(url: str, known: Authority) -> SecretStr:
        # A host that doesn't answer comes first. libpq also knows this beginning of an address.
        (nobody,) = free_ports(1)
        here = url.replace("postgresql://", "postgres://").replace(
            f"127.0.0.1:{settings.postgres_port}", f"127.0.0.1:{nobody},127.0.0.1:{port}"
        )
        return SecretStr(f"{here}?sslmode=verify-full&sslrootcert={known.file}")

    secured = Settings(
        data_dir=settings.data_dir,
        database_url=by_tls(settings.postgres, authority),
        database_owner_url=by_tls(settings.postgres_owner, authority),
    )
    await asyncio.to_thread(upgrade, secured)
    assert encrypted == 1
    db = Database(secured, application="test")
    await db.open()
    await wait_until_current(db)
    await db.ping()
    await db.close()
    assert encrypted >= 2
    before = encrypted
    assert await _refused(by_tls(settings.postgres, stranger).get_secret_value())
    assert encrypted == before
    listener.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def _refused(url: str) -> bool:
    try:
        async with await psycopg.AsyncConnection.connect(url, connect_timeout=5):
            return False
    except psycopg.OperationalError:
        return True


@asynccontextmanager
async def _nats(folder: Path, port: int, more: str) -> AsyncIterator[None]:
    """The embedded NATS with more of a configuration."""
    await asyncio.to_thread(_make_folders, folder)
    program = nats_program.program(folder, port)
    assert program.prepare is not None
    await program.prepare()
    configuration = folder / "nats.conf"
    configuration.write_text(configuration.read_text() + more)
    running = Process(replace(program, prepare=None), {}, folder, lambda name, text: None)
    task = asyncio.create_task(running.run())
    try:
        await asyncio.wait_for(running.ready.wait(), 20)
        yield
    finally:
        running.stop()
        await task


def _make_folders(folder: Path) -> None:
    for part in (folder / "run", folder / "logs"):
        part.mkdir(parents=True)


def _tls_of(server: Pair, authority: Authority) -> str:
    files = {"cert_file": server.certificate, "key_file": server.key, "ca_file": authority.file}
    lines = "\n".join(f"{name}: {json.dumps(str(file))}" for name, file in files.items())
    return f"tls {{\n{lines}\nverify: true\n}}\n"


async def _connects(settings: Settings) -> bool:
    """Whether the process gets a connection soon. It never stops trying."""
    bus = Bus(settings, name="test")
    connecting = asyncio.create_task(bus.connect())
    await asyncio.wait({connecting}, timeout=2)
    connected = bus.connected
    connecting.cancel()
    await asyncio.gather(connecting, return_exceptions=True)
    await bus.close()
    return connected


async def test_nats_is_reached_by_tls_with_a_client_certificate(
    tmp_path: Path, authority: Authority, server: Pair, client: Pair, stranger: Authority
) -> None:
    (port,) = free_ports(1)
    async with _nats(tmp_path / "data", port, _tls_of(server, authority)):
        known: dict[str, Any] = {
            "nats_url": f"tls://127.0.0.1:{port}",
            "nats_user": "taskflow",
            "nats_password": (tmp_path / "data" / "nats.password").read_text().strip(),
            "nats_tls_ca": authority.file,
            "nats_tls_cert": client.certificate,
            "nats_tls_key": client.key,
        }
        assert await _connects(Settings(**known))
        assert not await _connects(Settings(**known | {"nats_tls_ca": stranger.file}))
        assert not await _connects(Settings(**known | {"nats_password": "wrong"}))
        without = {name: value for name, value in known.items() if "tls_" not in name}
        assert not await _connects(Settings(**without | {"nats_tls_ca": authority.file}))


@pytest.mark.parametrize("demand", ["scheme", "authority"])
async def test_a_password_is_not_sent_to_a_broker_without_tls_where_tls_is_demanded(
    authority: Authority, demand: str
) -> None:
    """As when somebody between strips TLS from the server's first message."""
    received = bytearray()

    async def clear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","max_payload":1000,"auth_required":true}\r\n')
        received.extend(await reader.read(1000))
        writer.close()

    server = await asyncio.start_server(clear, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    scheme = "tls" if demand == "scheme" else "nats"
    settings = Settings(
        nats_url=f"{scheme}://taskflow:secret@127.0.0.1:{port}",
        nats_tls_ca=authority.file if demand == "authority" else None,
    )
    assert not await _connects(settings)
    server.close()
    assert b"secret" not in received


async def test_temporal_is_reached_by_tls_with_a_client_certificate_and_the_api_key(
    authority: Authority, server: Pair, client: Pair, stranger: Authority
) -> None:
    """Temporal's development server speaks no TLS, so a server in this process answers the first call."""
    keys: list[str] = []

    async def system_info(_: Any, context: Any) -> GetSystemInfoResponse:
        keys.extend(v for k, v in context.invocation_metadata() if k == "authorization")
        return GetSystemInfoResponse()

    double = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        system_info,
        request_deserializer=GetSystemInfoRequest.FromString,
        response_serializer=GetSystemInfoResponse.SerializeToString,
    )
    service = "temporal.api.workflowservice.v1.WorkflowService"
    double.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {"GetSystemInfo": handler}),)
    )
    credentials = grpc.ssl_server_credentials(
        [(server.key.read_bytes(), server.certificate.read_bytes())],
        authority.file.read_bytes(),
        require_client_auth=True,
    )
    port = double.add_secure_port("127.0.0.1:0", credentials)
    await double.start()
    known: dict[str, Any] = {
        "temporal_address": f"127.0.0.1:{port}",
        "temporal_tls": True,
        "temporal_tls_ca": authority.file,
        "temporal_tls_cert": client.certificate,
        "temporal_tls_key": client.key,
        "temporal_api_key": "the-key",
    }
    async with asyncio.timeout(10):
        await worker.connect(Settings(**known))
    assert keys == ["Bearer the-key"]
    for wrong in (
        {"temporal_tls_ca": stranger.file},
        {"temporal_tls_cert": None, "temporal_tls_key": None},
        {
            "temporal_tls": False,
            "temporal_tls_ca": None,
            "temporal_tls_cert": None,
            "temporal_tls_key": None,
        },
    ):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2):
                await worker.connect(Settings(**known | wrong))
    assert keys == ["Bearer the-key"]
    await double.stop(0)


@pytest.mark.parametrize("mode", ["tls", "starttls"])
async def test_mail_and_the_login_go_by_tls_only(
    authority: Authority, server: Pair, stranger: Authority, mode: str
) -> None:
    logins: list[bool] = []
    received: list[Any] = []

    class Handler:
        async def handle_DATA(self, smtp: SMTP, session: Any, envelope: Any) -> str:
            received.append(envelope)
            return "250 OK"

    def authenticator(smtp: SMTP, session: Any, *_: Any) -> AuthResult:
        logins.append(session.ssl is not None or mode == "tls")
        return AuthResult(success=True)

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*server)
    (port,) = free_ports(1)
    options: dict[str, Any] = (
        {"ssl_context": context, "auth_require_tls": False}
        if mode == "tls"
        else {"tls_context": context, "require_starttls": True}
    )
    catcher = Controller(
        Handler(), "127.0.0.1", port, authenticator=authenticator, auth_required=True, **options
    )
    await asyncio.to_thread(catcher.start)
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "a@example.com", "b@example.com", "Hello"
    known: dict[str, Any] = {
        "smtp_host": "127.0.0.1",
        "smtp_port": port,
        "smtp_tls": mode,
        "smtp_username": "taskflow",
        "smtp_password": "secret",
    }
    try:
        settings = Settings(**known, smtp_tls_ca=authority.file)
        await Mailer(_smtp_settings(settings)).send(message)
        for unknown in (stranger.file, None):
            mailer = Mailer(_smtp_settings(Settings(**known, smtp_tls_ca=unknown)))
            with pytest.raises(TemporaryMailError):
                await mailer.send(message)
    finally:
        await asyncio.to_thread(catcher.stop)
    assert logins == [True]
    assert len(received) == 1


async def test_services_and_the_gateway_know_each_other_by_their_certificates(
    tmp_path: Path, settings: Settings, authority: Authority, server: Pair, stranger: Authority
) -> None:
    public = stranger.pair("gateway")
    secured = Settings(
        **settings.model_dump()
        | settings_for(tmp_path).model_dump(
            include={n for n in Settings.model_fields if "port" in n}
        )
        | {
            "postgres_port": settings.postgres_port,
            "data_dir": tmp_path / "data",
            "service_tls_ca": authority.file,
            "service_tls_cert": server.certificate,
            "service_tls_key": server.key,
            "gateway_tls_cert": public.certificate,
            "gateway_tls_key": public.key,
        }
    )
    request = auth_service_pb2.GetSigningKeysRequest()
    root = stranger.file.read_bytes()

    async with running_stack(secured, only={"auth", "task", "notification", "envoy"}):
        # By the gateway, whose certificate is another authority's.
        async with grpc.aio.secure_channel(
            f"127.0.0.1:{secured.gateway_port}", grpc.ssl_channel_credentials(root)
        ) as channel:
            stub = auth_service_pb2_grpc.AuthServiceStub(channel)
            assert (await stub.GetSigningKeys(request, timeout=10, wait_for_ready=True)).keys
        # As the worker: with a certificate, and the secret.
        stubs = ServiceStubs(secured)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stubs.reminders.PlanReminder(PlanReminderRequest(task_id="none"))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        await stubs.close()
        # Without a certificate of ours, or in clear text, nobody reaches a service.
        known = authority.file.read_bytes()
        other = stranger.pair("service")
        for credentials in (
            grpc.ssl_channel_credentials(known),
            grpc.ssl_channel_credentials(
                known, other.key.read_bytes(), other.certificate.read_bytes()
            ),
            None,
        ):
            async with (
                grpc.aio.secure_channel(secured.auth, credentials)
                if credentials
                else grpc.aio.insecure_channel(secured.auth)
            ) as channel:
                stub = auth_service_pb2_grpc.AuthServiceStub(channel)
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await stub.GetSigningKeys(request, timeout=5)
                assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
