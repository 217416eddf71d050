"""Types of grpc.aio, which are generic for the type checker only."""

from typing import Any

import grpc.aio

Context = grpc.aio.ServicerContext[Any, Any]
# grpc.RpcMethodHandler: a method's function with its (de)serializers.
Handler = Any
