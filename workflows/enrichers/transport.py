"""An HTTP client for addresses that people configure: it stays out of the network it runs in.

The name is resolved here, every address is judged, and the connection goes to the judged address
itself, so that a name which changes its answer in between (rebinding) changes nothing. Redirects
are not followed and proxies from the environment are not used: both would move the target.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final

import httpx2

# Bytes. A description of 20,000 characters takes up to 240,000 in JSON within JSON; models that think say more.
MAX_RESPONSE: Final = 1024 * 1024

_NAT64: Final = IPv6Network("64:ff9b::/96")
_IPV4_COMPATIBLE: Final = IPv6Network("::/96")


class ForbiddenAddress(Exception):
    """The address isn't public, and private ones are not allowed here."""


class UnfitResponse(Exception):
    """A response whose size has no bound that this side knows."""


class BoundedTransport(httpx2.AsyncHTTPTransport):
    """Reads at most `MAX_RESPONSE` bytes of a response.

    Raises `UnfitResponse` for a longer one. A compressed one is refused, as little of it can be much to read.
    """

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        request.headers["accept-encoding"] = "identity"
        response = await super().handle_async_request(request)
        if response.headers.get("content-encoding", "identity") != "identity":
            await response.aclose()
            raise UnfitResponse("compressed")
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _Bounded(response.stream)
        return response


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for part in self._stream:
            size += len(part)
            if size > MAX_RESPONSE:
                raise UnfitResponse("too large")
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()


class GuardedTransport(BoundedTransport):
    """Connects to public addresses only.

    Raises `ForbiddenAddress` before anything is sent when one of the name's addresses is not.
    """

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        host = request.url.host
        addresses = await _resolve(host, request.url.port, request.url.scheme, request)
        if not all(is_public(address) for address in addresses):
            raise ForbiddenAddress("the address is loopback, private, link-local or multicast")
        # The certificate still has to be the name's, and the Host header already is.
        request.extensions = {**request.extensions, "sni_hostname": host}
        for address in addresses[:-1]:
            try:
                return await super().handle_async_request(_aimed(request, address))
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                continue
        return await super().handle_async_request(_aimed(request, addresses[-1]))


def guarded_client(timeout: float, allow_private: bool = False) -> httpx2.AsyncClient:
    """`timeout` in seconds, for each of connect, read and write."""
    transport = BoundedTransport() if allow_private else GuardedTransport()
    return httpx2.AsyncClient(
        transport=transport, timeout=timeout, trust_env=False, follow_redirects=False
    )


def is_public(address: str) -> bool:
    """Whether a literal address lies in the public internet, seen through embedded IPv4 ones."""
    ip = ip_address(address.partition("%")[0])
    embedded = _embedded(ip) if isinstance(ip, IPv6Address) else None
    if embedded is not None:
        return is_public(str(embedded))
    # Site-local addresses are deprecated, count as global, and may still be routed inside.
    if isinstance(ip, IPv6Address) and ip.is_site_local:
        return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved and not ip.is_unspecified


def _embedded(ip: IPv6Address) -> IPv4Address | None:
    if ip.teredo is not None:
        return ip.teredo[1]
    if ip in _NAT64 or (ip in _IPV4_COMPATIBLE and int(ip) > 1):
        return IPv4Address(int(ip) & 0xFFFF_FFFF)
    return ip.ipv4_mapped or ip.sixtofour


async def _resolve(host: str, port: int | None, scheme: str, request: httpx2.Request) -> list[str]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port or scheme, type=socket.SOCK_STREAM
        )
    except OSError as error:
        raise httpx2.ConnectError("the name can't be resolved", request=request) from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _aimed(request: httpx2.Request, address: str) -> httpx2.Request:
    return httpx2.Request(
        request.method,
        request.url.copy_with(host=address),
        headers=request.headers,
        stream=request.stream,
        extensions=request.extensions,
    )
