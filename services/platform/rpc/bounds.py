"""Limits on the number of items in a request, checked before the rules of the protos.

protovalidate checks every item of a list and makes an object for every violation, whatever `max_items` says: 127,000
empty items take seconds. So the gate first compares the length of each list and map with the field's `max_items` or
`max_pairs`. Google's messages have no such rules; their size is limited instead.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from buf.validate import validate_pb2

# Requests up to this size (bytes) need no check here: their few items take protovalidate milliseconds at most.
SMALL = 512

# Largest size (bytes) of messages whose fields have no rules, because they aren't ours.
MESSAGE_BYTES = {
    "google.protobuf.FieldMask": 4 * 1024,
    "google.protobuf.Struct": 64 * 1024,
    "google.type.DateTime": 1024,
}


@dataclass(frozen=True, slots=True)
class _Plan:
    """What to check in messages of a type.

    `counts` are pairs (field, most items), `sizes` are pairs (field, most bytes). `messages` and `lists` are pairs of a
    field with one message or several, and the plan of these messages.
    """

    counts: tuple[tuple[str, int], ...]
    sizes: tuple[tuple[str, int], ...]
    messages: tuple[tuple[str, "_Plan"], ...]
    lists: tuple[tuple[str, "_Plan"], ...]


def exceeded(request: Message) -> list[tuple[str, str]]:
    """The lists, maps and messages that are too large, as pairs of field path and problem."""
    plan = _plan(request.DESCRIPTOR)
    return list(_exceeded(request, plan, "")) if plan else []


def rules(field: FieldDescriptor) -> Any:
    """The field's protovalidate rules (buf.validate.FieldRules)."""
    return field.GetOptions().Extensions[validate_pb2.field]


def most_items(field: FieldDescriptor) -> int | None:
    """How many items or pairs the list or map may have; None where its rules don't say."""
    found = rules(field)
    if is_map(field):
        return found.map.max_pairs if found.map.HasField("max_pairs") else None
    return found.repeated.max_items if found.repeated.HasField("max_items") else None


def is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


@cache
def _plan(request: Any) -> _Plan | None:
    """The plan of a request type, made once; None for a type without lists, maps or limited messages of Google's.

    Raises LookupError for a list or map without a limit.
    """
    return _planned(request, ())


def _planned(message: Descriptor, above: tuple[Descriptor, ...]) -> _Plan | None:
    if message in above:
        raise LookupError(f"{message.full_name} holds itself: it needs a limit in MESSAGE_BYTES")
    counts: list[tuple[str, int]] = []
    sizes: list[tuple[str, int]] = []
    messages: list[tuple[str, _Plan]] = []
    lists: list[tuple[str, _Plan]] = []
    for field in message.fields:
        if field.is_repeated:
            most = most_items(field)
            if most is None:
                raise LookupError(f"{field.full_name} has no max_items or max_pairs")
            counts.append((field.name, most))
        if field.message_type is None or is_map(field):
            continue
        size = MESSAGE_BYTES.get(field.message_type.full_name)
        if size is not None:
            sizes.append((field.name, size))
        elif inner := _planned(field.message_type, (*above, message)):
            (lists if field.is_repeated else messages).append((field.name, inner))
    if not (counts or sizes or messages or lists):
        return None
    return _Plan(tuple(counts), tuple(sizes), tuple(messages), tuple(lists))


def _exceeded(message: Any, plan: _Plan, path: str) -> Iterator[tuple[str, str]]:
    long = set()
    for name, most in plan.counts:
        if len(getattr(message, name)) > most:
            long.add(name)
            yield path + name, f"must contain no more than {most} item(s)"
    for name, most in plan.sizes:
        if message.HasField(name) and getattr(message, name).ByteSize() > most:
            yield path + name, f"is larger than {most} bytes"
    for name, inner in plan.messages:
        if message.HasField(name):
            yield from _exceeded(getattr(message, name), inner, f"{path}{name}.")
    for name, inner in plan.lists:
        # The gate doesn't look into a list that is too long.
        if name not in long:
            for index, item in enumerate(getattr(message, name)):
                yield from _exceeded(item, inner, f"{path}{name}[{index}].")
