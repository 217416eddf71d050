"""Update masks after AIP-134."""

from collections.abc import Iterable, Set
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from services.platform.errors import invalid


def fields(resource: Message, mask: FieldMask, writable: Set[str]) -> frozenset[str]:
    """The top-level fields that an update sets.

    Without a mask those that are populated; with "*" all writable ones. A path that the resource doesn't have raises
    INVALID_REQUEST; one that is output-only is passed over. A path below a field means the whole field.
    """
    if not mask.paths:
        return frozenset(field.name for field, _ in resource.ListFields()) & writable
    if "*" in mask.paths:
        if len(mask.paths) > 1:
            raise invalid("update_mask", '"*" stands alone')
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
