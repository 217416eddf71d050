"""gRPC channels between TaskFlow's processes."""

import json
from collections.abc import Sequence
from typing import Final

import grpc.aio

from services.platform.config import Settings
from services.platform.observe import tracing
from services.platform.rpc.service_tls import client_credentials

_SERVICE_CONFIG: Final = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})
_OPTIONS: Final = [
    ("grpc.service_config", _SERVICE_CONFIG),
    # By default gRPC waits between one second and two minutes before it reconnects.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # Milliseconds between keepalive pings; the services allow pings this often (server.py).
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # By default gRPC waits a minute, whatever the keepalive says.
    ("grpc.http2.ping_timeout_ms", 10_000),
]


def internal_channel(
    settings: Settings,
    address: str,
    interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
    *,
    traced: bool = True,
) -> grpc.aio.Channel:
    """A channel to the service at `address` ("host:port"), by TLS where the settings say so."""
    every = [*interceptors, *(tracing.client_interceptors() if traced else [])]
    credentials = client_credentials(settings)
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=_OPTIONS, interceptors=every)
    return grpc.aio.secure_channel(address, credentials, options=_OPTIONS, interceptors=every)
