"""gRPC reflection (v1 and v1alpha), through which clients such as grpcurl discover services and messages."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio
from google.protobuf import descriptor_pool
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import aio

_POOL = descriptor_pool.Default()


class _Servicer(aio.ReflectionServicer):
    """grpcio's reflection servicer, extended to find methods too: grpcio finds every other kind of symbol."""

    def _file_containing_symbol(self, request: Any, fully_qualified_name: str) -> Any:
        symbol = fully_qualified_name
        with suppress(KeyError):
            symbol = _POOL.FindMethodByName(symbol).containing_service.full_name
        return super()._file_containing_symbol(request, symbol)  # type: ignore[misc]


def add_reflection(server: grpc.aio.Server, services: Sequence[str]) -> None:
    """Serves reflection of these services, given by their full names."""
    servicer = _Servicer(services)
    handler: Any = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    # grpcio has messages of v1alpha only. Those of v1 have the same fields and numbers.
    for version in ("v1", "v1alpha"):
        name = f"grpc.reflection.{version}.ServerReflection"
        methods = {"ServerReflectionInfo": handler}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, methods),))
