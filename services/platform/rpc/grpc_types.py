"""Aliases of grpc.aio's generic types, with the type parameters that the type checker requires."""

from typing import Any

import grpc.aio

Context = grpc.aio.ServicerContext[Any, Any]
# grpc.RpcMethodHandler: a method's function with its (de)serializers.
Handler = Any
