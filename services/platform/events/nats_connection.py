"""How every process connects to NATS: its servers, TLS and the account."""

import base64
import re
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nats.errors
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nats.aio.client import Client

from services.platform.config import Settings


class NatsClient(Client):
    """Refuses a server without TLS where the settings demand it.

    nats-py itself would go on in clear text, and send it the password.
    """

    needs_tls = False

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if initial_connection and self.needs_tls and not info.get("tls_required"):
            raise nats.errors.SecureConnRequiredError
        await super()._process_info(info, initial_connection)


async def connect(
    client: NatsClient,
    settings: Settings,
    *,
    name: str,
    connected: Callable[[], Awaitable[None]],
    disconnected: Callable[[], Awaitable[None]],
    failed: Callable[[Exception], Awaitable[None]],
) -> None:
    """Returns once one of the servers has accepted the client, however long that takes, and reconnects for ever.

    Raises OSError and ssl.SSLError for certificates that can't be read.
    """
    servers = settings.nats_servers
    context = _tls(settings)
    client.needs_tls = context is not None
    await client.connect(
        servers,
        name=f"taskflow-{name}",
        allow_reconnect=True,
        max_reconnect_attempts=-1,
        # Annotated as int, but nats-py accepts fractions of a second.
        reconnect_time_wait=0.5,  # type: ignore[arg-type]
        connect_timeout=2,
        ping_interval=10,
        max_outstanding_pings=2,
        reconnected_cb=connected,
        disconnected_cb=disconnected,
        error_cb=failed,
        tls=context,
        **_account(settings, servers),
    )
    await connected()


def _tls(settings: Settings) -> ssl.SSLContext | None:
    certificates = settings.nats_tls_ca or settings.nats_tls_cert
    if not certificates and not any(url.startswith("tls://") for url in settings.nats_servers):
        return None
    context = ssl.create_default_context(cafile=settings.nats_tls_ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.nats_tls_cert:
        context.load_cert_chain(settings.nats_tls_cert, settings.nats_tls_key)
    return context


def _account(settings: Settings, servers: list[str]) -> dict[str, Any]:
    """User and password, token, or the credentials file, for all servers.

    Those of an address count for every server: nats-py wouldn't send them to servers that it learns of from the first.
    """
    if settings.nats_credentials:
        return _credentials(settings.nats_credentials)
    if settings.nats_user and settings.nats_password:
        return {"user": settings.nats_user, "password": settings.nats_password.get_secret_value()}
    for url in map(urlsplit, servers):
        if url.username and url.password:
            return {"user": url.username, "password": url.password}
        if url.username:
            return {"token": url.username}
    return {}


# A section of a credentials file: its title, and the token or seed in it.
_SECTION = re.compile(r"^-+BEGIN ([A-Z ]+)-+\s+(\S+)\s+-+END", re.MULTILINE)
# A seed in base32 is two bytes for its kind, the Ed25519 seed, and two bytes for its checksum.
_SEED = slice(2, 34)


def _credentials(file: Path) -> dict[str, Any]:
    """Callbacks that answer a server's challenge. Each connection reads the file again, as it may have been renewed.

    nats-py would need another library for that.
    """

    def section(title: str) -> str:
        sections: dict[str, str] = dict(_SECTION.findall(file.read_text()))
        return sections[title]

    def token() -> bytes:
        return section("NATS USER JWT").encode()

    def signature(nonce: str) -> bytes:
        seed = section("USER NKEY SEED")
        raw = base64.b32decode(seed + "=" * (-len(seed) % 8))
        return base64.b64encode(
            Ed25519PrivateKey.from_private_bytes(raw[_SEED]).sign(nonce.encode())
        )

    return {"user_jwt_cb": token, "signature_cb": signature}
