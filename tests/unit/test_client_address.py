"""The address that logins and registrations are counted under."""

from ipaddress import ip_network
from typing import Any

import pytest

from services.auth.sessions.throttle import client_address


class _Call:
    """A call from this peer with these x-forwarded-for headers."""

    def __init__(self, peer: str, *forwarded: str) -> None:
        self._peer = peer
        self._forwarded = forwarded

    def peer(self) -> str:
        return self._peer

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return [("x-forwarded-for", entry) for entry in self._forwarded]


def _address(call: Any, hops: int = 0) -> str:
    gateways = [ip_network("10.0.0.0/24"), ip_network("::1/128")]
    return client_address(call, gateways, hops)


def test_behind_the_gateway_it_is_the_entry_that_the_gateway_wrote() -> None:
    assert _address(_Call("ipv4:10.0.0.2:4711", "203.0.113.9, 198.51.100.7")) == "198.51.100.7"
    assert _address(_Call("ipv4:10.0.0.2:4711", "203.0.113.9", "198.51.100.7")) == "198.51.100.7"


def test_behind_a_balancer_it_is_the_entry_that_the_balancer_wrote() -> None:
    call = _Call("ipv4:10.0.0.2:4711", "203.0.113.9, 198.51.100.7, 10.0.0.1")
    assert _address(call, 1) == "198.51.100.7"
    assert _address(
        _Call("ipv4:10.0.0.2:4711", "1.1.1.1, 198.51.100.7, 10.0.0.3, 10.0.0.1"), 2
    ) == ("198.51.100.7")


def test_a_call_that_came_past_the_balancer_counts_under_its_own_address() -> None:
    assert _address(_Call("ipv4:10.0.0.2:4711", "198.51.100.7"), 1) == "198.51.100.7"


@pytest.mark.parametrize("hops", [0, 1])
def test_a_peer_that_is_no_gateway_cant_choose_another_one(hops: int) -> None:
    call = _Call("ipv4:9.9.9.9:4711", "203.0.113.9, 203.0.113.10")
    assert _address(call, hops) == "9.9.9.9"


def test_an_ipv6_client_counts_by_its_prefix() -> None:
    call = _Call("ipv6:%5B::1%5D:4711", "2001:db8:1:2:ffff::1")
    assert _address(call) == "2001:db8:1:2::/64"
