"""Promises about other users of the machine, and about whoever reaches a service's port instead of the gateway's."""

from collections.abc import AsyncIterator
from uuid import uuid4

import grpc
import nats
import nats.errors
import pytest

from deploy.local.envoy import admin_socket, configuration
from services.platform.config import Settings
from services.platform.rpc.identity import SERVICE_HEADER
from taskflow.notification.v1.internal_service_pb2 import PrepareEmailBatchRequest
from taskflow.notification.v1.internal_service_pb2_grpc import EmailInternalServiceStub
from tests.conftest import serving
from tests.integration.notification_world import other_ports
from tests.integration.people import Team, guess, refusal, team_at

# What the services accepted everywhere, before each data folder had its own.
_ONCE_PUBLIC = "taskflow-development-secret-not-for-production"


@pytest.mark.parametrize("login", ["", "taskflow@", "taskflow:taskflow@", "taskflow:@"])
async def test_nobody_reads_events_from_the_local_broker_without_its_password(
    settings: Settings, login: str
) -> None:
    with pytest.raises(nats.errors.Error, match="Authorization Violation"):
        await nats.connect(f"nats://{login}127.0.0.1:{settings.nats_port}", allow_reconnect=False)


async def test_what_the_local_stack_keeps_is_readable_by_its_owner_only(settings: Settings) -> None:
    folder = settings.data_dir
    assert folder.stat().st_mode & 0o077 == 0
    secrets = [*folder.glob("*.secret"), *folder.glob("*.password"), folder / "nats.conf"]
    assert len(secrets) == 7
    for file in secrets:
        assert file.stat().st_mode & 0o777 == 0o600, file.name


def test_the_gateways_administration_listens_on_no_port(settings: Settings) -> None:
    text = configuration(settings, "127.0.0.1", {"auth": [1], "task": [2], "notification": [3]})
    admin = text.partition("\nadmin:")[2].partition("\n\n")[0]
    assert f'pipe: {{ path: "{admin_socket(settings.data_dir)}", mode: 0600 }}' in admin
    assert "socket_address" not in admin


@pytest.mark.parametrize("secret", ["", _ONCE_PUBLIC, "wrong"])
async def test_a_service_call_with_a_guessed_secret_is_refused(
    services: Settings, secret: str
) -> None:
    async with grpc.aio.insecure_channel(services.notification) as channel:
        call = EmailInternalServiceStub(channel).PrepareEmailBatch(
            PrepareEmailBatchRequest(), metadata=((SERVICE_HEADER, secret),)
        )
        assert (await refusal(call)).reason == "NOT_FOR_CALLER"


@pytest.fixture
async def exposed(services: Settings) -> AsyncIterator[Team]:
    """An auth service that callers reach directly, while the gateway is in another network."""
    beside = other_ports(services, "auth")
    limits = {
        "gateway_networks": "10.9.8.0/24",
        "login_attempts_per_address": 3,
        # The throttle hashes addresses with this secret, so the attempts of other tests don't count here.
        "token_secret": uuid4().hex,
    }
    settings = Settings(**beside.model_dump() | limits)
    async with serving("auth", settings), team_at(settings) as team:
        yield team


async def test_guesses_from_another_network_than_the_gateways_cannot_forge_their_address(
    exposed: Team,
) -> None:
    codes = [
        await guess(exposed, f"nobody{number}@example.com", f"203.0.113.{number}")
        for number in range(5)
    ]
    assert codes[:3] == [grpc.StatusCode.UNAUTHENTICATED] * 3
    assert codes[3:] == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 2
