"""Channels to our own services."""

import json
from collections.abc import Sequence
from typing import Final

import grpc.aio

from services.platform import tracing

_SERVICE_CONFIG: Final = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})
_OPTIONS: Final = [
    ("grpc.service_config", _SERVICE_CONFIG),
    # By default gRPC waits for a second, and up to two minutes, before it tries a lost server again.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # Agrees with what the services allow.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
]


def internal_channel(
    address: str, interceptors: Sequence[grpc.aio.ClientInterceptor] = ()
) -> grpc.aio.Channel:
    """To the service at `address` ("host:port"); its calls are traced."""
    return grpc.aio.insecure_channel(
        address, options=_OPTIONS, interceptors=[*interceptors, *tracing.client_interceptors()]
    )
