"""The HTTP client for addresses that people configure: it refuses addresses in TaskFlow's own network.

The client resolves the name itself, checks every address, and connects to a checked address. So a name that resolves
differently a moment later (DNS rebinding) has no effect. It follows no redirects and uses no proxies from the
environment, because both change the target.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final

import httpx2

# The most bytes in a response. A description of 20,000 characters takes up to 240,000 bytes as JSON within JSON, and
# models that reason send more.
MAX_RESPONSE: Final = 1024 * 1024

_NAT64: Final = IPv6Network("64:ff9b::/96")
_IPV4_COMPATIBLE: Final = IPv6Network("::/96")


class ForbiddenAddress(Exception):
    """Raised when a name resolves to an address that isn't public, and private addresses aren't allowed."""


class UnfitResponse(Exception):
    """Raised for a response that is too large, or that is compressed: its full size isn't known beforehand."""


def guarded_client(timeout: float, allow_private: bool = False) -> httpx2.AsyncClient:
    """A client that reads at most `MAX_RESPONSE` bytes of a response.

    Requests raise ForbiddenAddress before anything is sent, and UnfitResponse. `timeout` (seconds) holds for each of
    connect, read and write.
    """
    transport = _BoundedTransport() if allow_private else _GuardedTransport()
    return httpx2.AsyncClient(
        transport=transport, timeout=timeout, trust_env=False, follow_redirects=False
    )


class _BoundedTransport(httpx2.AsyncHTTPTransport):
    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        request.headers["accept-encoding"] = "identity"
        response = await super().handle_async_request(request)
        if response.headers.get("content-encoding", "identity") != "identity":
            await response.aclose()
            raise UnfitResponse("compressed")
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _BoundedStream(response.stream)
        return response


class _BoundedStream(httpx2.AsyncByteStream):
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


class _GuardedTransport(_BoundedTransport):
    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        host = request.url.host
        addresses = await _resolve(request)
        if not all(is_public(address) for address in addresses):
            raise ForbiddenAddress("the address is loopback, private, link-local or multicast")
        # The certificate has to be valid for the name, although the URL holds an address from here on.
        request.extensions = {**request.extensions, "sni_hostname": host}
        for address in addresses[:-1]:
            try:
                return await super().handle_async_request(_addressed(request, address))
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                continue
        return await super().handle_async_request(_addressed(request, addresses[-1]))


def is_public(address: str) -> bool:
    """Whether a literal address is on the public internet.

    An IPv6 address that embeds an IPv4 address is judged by the IPv4 address.
    """
    ip = ip_address(address.partition("%")[0])
    embedded = _embedded(ip) if isinstance(ip, IPv6Address) else None
    if embedded is not None:
        return is_public(str(embedded))
    # ipaddress counts the deprecated site-local addresses as global, but networks may still route them.
    if isinstance(ip, IPv6Address) and ip.is_site_local:
        return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved and not ip.is_unspecified


def _embedded(ip: IPv6Address) -> IPv4Address | None:
    if ip.teredo is not None:
        return ip.teredo[1]
    if ip in _NAT64 or (ip in _IPV4_COMPATIBLE and int(ip) > 1):
        return IPv4Address(int(ip) & 0xFFFF_FFFF)
    return ip.ipv4_mapped or ip.sixtofour


async def _resolve(request: httpx2.Request) -> list[str]:
    url = request.url
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            url.host, url.port or url.scheme, type=socket.SOCK_STREAM
        )
    except OSError as error:
        raise httpx2.ConnectError("the name can't be resolved", request=request) from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _addressed(request: httpx2.Request, address: str) -> httpx2.Request:
    """A copy of the request that goes to `address`. Its Host header still holds the name."""
    return httpx2.Request(
        request.method,
        request.url.copy_with(host=address),
        headers=request.headers,
        stream=request.stream,
        extensions=request.extensions,
    )
