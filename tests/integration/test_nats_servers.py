"""Promises about reaching NATS: several servers, servers that are down at first, and accounts by credentials file."""

import asyncio
import base64
import binascii
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from deploy.local import binaries
from deploy.local.ports import free_ports
from services.platform.config import Settings
from services.platform.events.bus import Bus

# First letters of NATS's public keys, as numbers.
_OPERATOR, _ACCOUNT, _USER, _SEED = 14 << 3, 0, 20 << 3, 18 << 3


@asynccontextmanager
async def _server(port: int, *options: str) -> AsyncIterator[None]:
    command = [str(binaries.script("nats-server")), "--addr", "127.0.0.1", "--port", str(port)]
    process = await asyncio.create_subprocess_exec(
        *command, *options, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


@asynccontextmanager
async def _connecting(**values: Any) -> AsyncIterator[tuple[Bus, asyncio.Task[None]]]:
    bus = Bus(Settings(**values), name="test")
    connecting = asyncio.create_task(bus.connect())
    try:
        yield bus, connecting
    finally:
        connecting.cancel()
        await asyncio.gather(connecting, return_exceptions=True)
        await bus.close()


async def _hears_itself(bus: Bus) -> None:
    async with asyncio.timeout(20):
        subscription = await bus.client.subscribe("hello")
        await bus.client.publish("hello", b"there")
        assert (await subscription.next_msg(timeout=20)).data == b"there"


@pytest.mark.parametrize("place", ["first", "last"])
async def test_a_process_connects_to_whichever_server_of_the_list_is_up(place: str) -> None:
    up, down = free_ports(2)
    ports = [up, down] if place == "first" else [down, up]
    urls = ", ".join(f"nats://127.0.0.1:{port}" for port in ports)
    async with _server(up), _connecting(nats_url=urls) as (bus, connecting):
        await asyncio.wait_for(connecting, 20)
        await _hears_itself(bus)


async def test_a_process_started_while_its_only_server_is_down_connects_when_that_comes_up() -> (
    None
):
    (port,) = free_ports(1)
    async with _connecting(nats_url=f"nats://127.0.0.1:{port}") as (bus, connecting):
        done, _ = await asyncio.wait({connecting}, timeout=1.5)
        assert not done
        assert not bus.connected
        async with _server(port):
            await asyncio.wait_for(connecting, 20)
            await _hears_itself(bus)


async def test_the_password_of_the_address_goes_to_every_server_that_the_first_one_names() -> None:
    first, second, one, two = free_ports(4)

    def cluster(own: int, other: int) -> list[str]:
        routes = ["--cluster_name", "c", "--cluster", f"nats://127.0.0.1:{own}"]
        return [*routes, "--routes", f"nats://127.0.0.1:{other}", "--user", "me", "--pass", "mine"]

    async with _server(second, *cluster(two, one)), AsyncExitStack() as leaving:
        await leaving.enter_async_context(_server(first, *cluster(one, two)))
        url = f"nats://me:mine@127.0.0.1:{first}"
        async with _connecting(nats_url=url) as (bus, connecting):
            await asyncio.wait_for(connecting, 20)
            async with asyncio.timeout(20):
                while not bus.client.discovered_servers:
                    await asyncio.sleep(0.05)
            await leaving.aclose()
            async with asyncio.timeout(20):
                while bus.connections == 1:
                    await asyncio.sleep(0.05)
            await _hears_itself(bus)


def _coded(prefix: bytes, key: bytes) -> str:
    """A key as NATS writes it: base32 with a checksum."""
    checksum = binascii.crc_hqx(prefix + key, 0).to_bytes(2, "little")
    return base64.b32encode(prefix + key + checksum).decode().rstrip("=")


def _public(key: Ed25519PrivateKey, kind: int) -> str:
    return _coded(bytes([kind]), key.public_key().public_bytes_raw())


def _token(by: Ed25519PrivateKey, issuer: str, subject: str, claims: dict[str, Any]) -> str:
    def part(value: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    head = part({"typ": "JWT", "alg": "ed25519-nkey"})
    whole = {"jti": subject, "iat": 1_700_000_000, "iss": issuer, "sub": subject, "name": "test"}
    signed = f"{head}.{part(whole | {'nats': claims | {'version': 2}})}"
    signature = base64.urlsafe_b64encode(by.sign(signed.encode())).decode().rstrip("=")
    return f"{signed}.{signature}"


async def test_an_account_with_a_credentials_file_is_let_in_and_none_without(
    tmp_path: Path,
) -> None:
    operator, account, user = (Ed25519PrivateKey.generate() for _ in range(3))
    of_operator, of_account = _public(operator, _OPERATOR), _public(account, _ACCOUNT)
    unlimited = {"subs": -1, "data": -1, "payload": -1}
    limits = unlimited | {"conn": -1, "leaf": -1, "imports": -1, "exports": -1, "wildcards": True}
    operator_token = _token(operator, of_operator, of_operator, {"type": "operator"})
    account_token = _token(operator, of_operator, of_account, {"type": "account", "limits": limits})
    user_token = _token(account, of_account, _public(user, _USER), {"type": "user", **unlimited})
    seed = _coded(bytes([_SEED | _USER >> 5, (_USER & 31) << 3]), user.private_bytes_raw())
    credentials = tmp_path / "taskflow.creds"
    credentials.write_text(
        f"-----BEGIN NATS USER JWT-----\n{user_token}\n------END NATS USER JWT------\n\n"
        "************************* IMPORTANT *************************\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
    configuration = tmp_path / "nats.conf"
    configuration.write_text(
        f"operator: {operator_token}\nresolver: MEMORY\n"
        f"resolver_preload: {{ {of_account}: {account_token} }}\n"
    )
    (port,) = free_ports(1)
    url = f"nats://127.0.0.1:{port}"
    async with _server(port, "--config", str(configuration)):
        async with _connecting(nats_url=url, nats_credentials=credentials) as (bus, connecting):
            await asyncio.wait_for(connecting, 20)
            await _hears_itself(bus)
        async with _connecting(nats_url=url) as (bus, connecting):
            await asyncio.wait({connecting}, timeout=1.5)
            assert not bus.connected
