"""All RPCs from the descriptors and their options, and the documented code of each error reason."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

import services.app  # noqa: F401 — loads gRPC's own protos
from services.platform.rpc.methods import METHODS
from taskflow.options.v1.options_pb2 import ACCESS_OPEN, Access

_REASONS = Path(__file__).parents[2] / "protos/taskflow/error/v1/error_reason.proto"
# gRPC's own services, open to all callers at every process.
_FOREIGN = ("grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection")


@dataclass(frozen=True)
class Rpc:
    path: str
    access: Access.ValueType
    method: MethodDescriptor
    # The process that serves the RPC.
    process: str

    @property
    def name(self) -> str:
        return self.method.name

    @property
    def request(self) -> type[Message]:
        return GetMessageClass(self.method.input_type)

    @property
    def response(self) -> type[Message]:
        return GetMessageClass(self.method.output_type)

    @property
    def ours(self) -> bool:
        """Whether the RPC belongs to TaskFlow, not to gRPC's health or reflection service."""
        return self.path.startswith("/taskflow.")


@cache
def every_rpc() -> tuple[Rpc, ...]:
    """All RPCs of TaskFlow, and gRPC's own health and reflection."""
    ours = [
        Rpc(path, method.access, method.descriptor, method.process)
        for path, method in METHODS.items()
    ]
    foreign = [
        Rpc(f"/{name}/{method.name}", ACCESS_OPEN, method, "auth")
        for name in _FOREIGN
        for method in descriptor_pool.Default().FindServiceByName(name).methods
    ]
    return (*ours, *foreign)


@cache
def documented_reasons() -> dict[str, str]:
    """The documented code of each reason: the first word of its comment in error_reason.proto."""
    text = _REASONS.read_text()
    blocks = re.findall(r"// ([A-Z_]+)\. (?:.*\n\s*// )*.*\n\s*ERROR_REASON_(\w+) =", text)
    return {reason: code for code, reason in blocks}


@dataclass(frozen=True)
class FieldPlace:
    """A field of a request, as the path to it from the top."""

    fields: tuple[FieldDescriptor, ...]

    @property
    def field(self) -> FieldDescriptor:
        return self.fields[-1]

    @property
    def path(self) -> str:
        return ".".join(field.name for field in self.fields)

    def parent(self, message: Message) -> Any:
        """The message that contains the field, created if missing; in lists the first element."""
        for field in self.fields[:-1]:
            inner = getattr(message, field.name)
            if field.is_repeated:
                message = inner[0] if inner else inner.add()
            else:
                inner.SetInParent()
                message = inner
        return message


@cache
def places(rpc: Rpc) -> tuple[FieldPlace, ...]:
    """All fields of the request at any depth, except inside a Struct."""
    return tuple(_places((), rpc.method.input_type))


def _places(above: tuple[FieldDescriptor, ...], message: Any) -> list[FieldPlace]:
    found = []
    for field in message.fields:
        here = (*above, field)
        found.append(FieldPlace(here))
        inner = field.message_type
        if inner is not None and inner.full_name != "google.protobuf.Struct" and len(here) < 6:
            found += _places(here, inner)
    return found


def message_of(field: FieldDescriptor) -> Descriptor:
    """The message of the field. Only extensions have none."""
    assert field.containing_type is not None
    return field.containing_type


def is_id(field: FieldDescriptor) -> bool:
    """Whether the field holds the id of an object of ours, unlike request_id, event_id and the id of a time zone."""
    if field.type != field.TYPE_STRING or field.name in ("request_id", "event_id"):
        return False
    if not message_of(field).full_name.startswith("taskflow."):
        return False
    return field.name in ("id", "ids") or field.name.endswith(("_id", "_ids"))


_PEOPLE = ("user", "assignee", "creator", "actor", "resolver")


def kind_of(rpc: Rpc, field: FieldDescriptor, kinds: frozenset[str]) -> str:
    """The kind of object that an id names: `task`, `project`, … From the name of the field, the message or the RPC.

    LookupError for an unknown kind: the samples then need an object of that kind.
    """
    stem = re.sub(r"_?ids?$", "", field.name)
    if stem:
        kind = "user" if stem in _PEOPLE else "task" if stem == "parent" else stem
        if kind in kinds:
            return kind
        raise LookupError(f"nothing is known of {field.full_name}")
    for name in (message_of(field).name, rpc.name, rpc.method.containing_service.name):
        said = re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
        if fitting := [kind for kind in kinds if kind in said]:
            # Several kinds can match; take the one whose name ends last, such as "user" in BatchGetUsers.
            return max(fitting, key=lambda kind: (said.rfind(kind) + len(kind), len(kind)))
    raise LookupError(f"nothing is known of {field.full_name}")
