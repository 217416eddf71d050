"""Short names for types of grpc.aio that the type checker wants with parameters."""

from typing import Any

import grpc.aio

Context = grpc.aio.ServicerContext[Any, Any]
# grpc.RpcMethodHandler: a method's function with its (de)serializers.
Handler = Any
