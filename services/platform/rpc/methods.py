"""The options that every RPC declares in its proto (protos/taskflow/options/v1): access, capacity, process and more.

Importing this module loads all protos of TaskFlow and raises UndeclaredMethod for an RPC whose options are incomplete.
"""

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.descriptor import FileDescriptor, MethodDescriptor

import taskflow
from taskflow.auth.v1.workspace_pb2 import ROLE_UNSPECIFIED, Role
from taskflow.options.v1 import options_pb2
from taskflow.options.v1.options_pb2 import Access, Capacity, MethodRules

_ROLES = {
    options_pb2.ACCESS_VIEWER,
    options_pb2.ACCESS_MEMBER,
    options_pb2.ACCESS_ADMIN,
    options_pb2.ACCESS_OWNER,
}
# Methods that take no access token, so they need no scope.
_WITHOUT_SCOPE = {options_pb2.ACCESS_OPEN, options_pb2.ACCESS_SERVICE}


class UndeclaredMethod(Exception):
    """Raised for an RPC whose options are missing or contradict each other."""


@dataclass(frozen=True, slots=True)
class Method:
    """An RPC with its declared options. `path` is "/<package>.<service>/<method>"."""

    path: str
    descriptor: MethodDescriptor
    access: Access.ValueType
    capacity: Capacity.ValueType
    # The process that serves the RPC: "auth", "task" or "notification".
    process: str

    @property
    def service(self) -> str:
        """The full name of the RPC's service."""
        return self.path[1:].partition("/")[0]

    @property
    def role(self) -> Role.ValueType:
        """The least role in the workspace that a caller needs; ROLE_UNSPECIFIED for RPCs without membership."""
        if self.access not in _ROLES:
            return ROLE_UNSPECIFIED
        return Role.Value(Access.Name(self.access).replace("ACCESS_", "ROLE_"))

    @property
    def internal(self) -> bool:
        """Whether only processes of TaskFlow may call the RPC."""
        return self.access == options_pb2.ACCESS_SERVICE

    @property
    def streams(self) -> bool:
        return self.descriptor.server_streaming


def proto_files() -> Iterator[FileDescriptor]:
    """Every proto file of TaskFlow."""
    for root in map(Path, taskflow.__path__):
        for file in sorted(root.rglob("*_pb2.py")):
            name = ".".join(file.relative_to(root.parent).with_suffix("").parts)
            yield importlib.import_module(name).DESCRIPTOR


def _declared() -> Iterator[Method]:
    for file in proto_files():
        for service in file.services_by_name.values():
            process = service.GetOptions().Extensions[options_pb2.process]
            if not process:
                raise UndeclaredMethod(f"{service.full_name} doesn't say which process serves it")
            for method in service.methods:
                yield _method(f"/{service.full_name}/{method.name}", method, process)


def _method(path: str, method: MethodDescriptor, process: str) -> Method:
    rules = method.GetOptions().Extensions[options_pb2.method]
    if missing := _missing(rules, method):
        raise UndeclaredMethod(f"{path} {missing}")
    return Method(path, method, rules.access, rules.capacity, process)


def _missing(rules: MethodRules, method: MethodDescriptor) -> str:
    """What is wrong with an RPC's options, as the end of a sentence; empty when they are complete."""
    if not rules.access:
        return "doesn't say who may call it (access)"
    if not rules.repeat:
        return "doesn't say whether a repeat is safe (repeat)"
    if bool(rules.scope) == (rules.access in _WITHOUT_SCOPE):
        return "needs a token scope (scope), unless it is open or for services"
    fields = method.input_type.fields_by_name
    with_field = rules.repeat == options_pb2.REPEAT_SAFE_WITH_FIELD
    if with_field != bool(rules.repeat_field) or (with_field and rules.repeat_field not in fields):
        return "has to name a field of its request that makes a repeat safe (repeat_field)"
    if "request_id" in fields and rules.repeat_field != "request_id":
        return "takes a request_id, so that is what makes a repeat safe (repeat_field)"
    internal = method.containing_service.name.endswith("InternalService")
    if internal != (rules.access == options_pb2.ACCESS_SERVICE):
        return "is for services exactly if its service is named *InternalService"
    return ""


# Every RPC of TaskFlow, by path.
METHODS = {method.path: method for method in _declared()}


def services_of(process: str) -> list[str]:
    """Full names of the services that a process serves."""
    return sorted({method.service for method in METHODS.values() if method.process == process})


def public_services() -> list[str]:
    """Full names of the services that the gateway routes."""
    return sorted({method.service for method in METHODS.values() if not method.internal})
