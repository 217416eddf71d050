"""Interprets the update masks of requests as AIP-134 says."""

from collections.abc import Iterable, Set
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from services.platform.rpc.errors import invalid


def fields(resource: Message, mask: FieldMask, writable: Set[str]) -> frozenset[str]:
    """The names of the resource's top-level fields that an update request sets.

    Without a mask: the populated fields. With "*": all writable fields. A path below a field means the whole field.
    Output-only fields are ignored. Raises INVALID_REQUEST for a path that the resource doesn't have.
    """
    if not mask.paths:
        return frozenset(field.name for field, _ in resource.ListFields()) & writable
    if "*" in mask.paths:
        if len(mask.paths) > 1:
            raise invalid("update_mask", '"*" has to be the only path')
        return frozenset(writable)
    named = set()
    for path in mask.paths:
        if not _exists(resource, path.split(".")):
            raise invalid("update_mask", f"there is no field {path[:100]!r}")
        named.add(path.partition(".")[0])
    return frozenset(named & writable)


def _exists(resource: Message, path: Iterable[str]) -> bool:
    descriptor: Any = resource.DESCRIPTOR
    for name in path:
        field = descriptor.fields_by_name.get(name) if descriptor is not None else None
        if field is None:
            return False
        descriptor = field.message_type
    return True
