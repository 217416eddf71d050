"""Requests of the maximum size, made from the descriptors: each field of each message, filled in many ways."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from services.platform.rpc import bounds
from tests.faults.large_structs import STRUCTS
from tests.faults.malformed_bytes import sized, tag
from tests.faults.rpcs import FieldPlace, Rpc, places
from tests.faults.samples import Samples
from tests.faults.valid_requests import valid, violations

# Bytes: the default of max_request_bytes.
LIMIT = 256 * 1024
# The most bytes that the tag and length of one nested message take.
_FRAME = 8
_UNKNOWN = 15_000
_TEXTS = {
    "letters": "a",
    "blanks": " ",
    "dots": ".",
    "combining marks": "e\u0301",
    "two marks in turn": "\u0301\u0316",
    "composed of several": "\u0344\ufb2c",
    "labels of a domain": "a@b.",
    "wide": "\U0001f600",
}


@dataclass(frozen=True)
class Filled:
    """`way` names the filled field and its content."""

    rpc: Rpc
    way: str
    raw: bytes


def filled(rpc: Rpc, samples: Samples, rng: random.Random) -> Iterator[Filled]:
    """Valid requests with one field filled up to LIMIT bytes; then one with all fields at their bounds."""
    base = valid(rpc, samples, rng)
    if hasattr(base, "update_mask"):
        # Without a mask the server reads every populated field.
        base.ClearField("update_mask")
    raw = base.SerializeToString()
    for fields, way, content in _ways(rpc, LIMIT - len(raw) - 64):
        for field in reversed(fields):
            content = sized(field.number, content)
        path = ".".join(field.name for field in fields)
        yield Filled(rpc, f"{path}: {way}" if path else way, raw + content)
    if rpc.ours:
        yield Filled(rpc, "everything at its bounds", _at_its_bounds(rpc, base, rng))


def _ways(rpc: Rpc, room: int) -> Iterator[tuple[tuple[FieldDescriptor, ...], str, bytes]]:
    """The path to a field, how it is filled, and the bytes to put there."""
    for way, content in _of_message(rpc.method.input_type, room):
        yield (), way, content
    for place in places(rpc):
        above = place.fields[:-1]
        space = room - _FRAME * len(place.fields)
        for way, content in _of_field(place.field, space):
            yield above, f"{place.field.name}: {way}", content
        if place.field.message_type is not None:
            for way, content in _of_message(place.field.message_type, space):
                yield place.fields, way, content


def _of_message(message: Descriptor, room: int) -> Iterator[tuple[str, bytes]]:
    """Fillings for any message; for a Struct, fillings of Structs too."""
    yield "unknown numbers", _many(tag(_UNKNOWN, 0) + b"\x01", room)
    yield "unknown empty messages", _many(sized(_UNKNOWN, b""), room)
    yield "unknown groups", _many(tag(_UNKNOWN, 3) * 50 + tag(_UNKNOWN, 4) * 50, room)
    yield "one unknown message", sized(_UNKNOWN, bytes(room - _FRAME))
    for oneof in message.oneofs:
        flips = b"".join(_smallest(field) for field in oneof.fields)
        yield f"{oneof.name} changed again and again", _many(flips, room)
    if message.full_name == "google.protobuf.Struct":
        allowed = bounds.MESSAGE_BYTES[message.full_name]
        for name, make in STRUCTS.items():
            yield f"{name}, as large as allowed", make(allowed)
            yield f"{name}, to the limit", make(room)


def _of_field(field: FieldDescriptor, room: int) -> Iterator[tuple[str, bytes]]:
    yield "again and again", _many(_smallest(field), room)
    if field.message_type is not None:
        if field.message_type.fields:
            each = _smallest(field.message_type.fields[0])
            yield "merged again and again", _many(sized(field.number, each), room)
        return
    if field.type in (field.TYPE_STRING, field.TYPE_BYTES):
        yield "tiny texts", _many(sized(field.number, b"a"), room)
        yield "ids", _many(sized(field.number, str(UUID(int=1)).encode()), room)
        for name, text in _TEXTS.items():
            yield name, sized(field.number, _many(text.encode(), room - _FRAME))
    elif field.is_repeated:
        for name, number in {
            "zeros": b"\0",
            "ones": b"\1",
            "negative": b"\xff" * 9 + b"\1",
        }.items():
            yield f"packed {name}", sized(field.number, _many(number, room - _FRAME))
            yield f"unpacked {name}", _many(tag(field.number, 0) + number, room)


def _smallest(field: FieldDescriptor) -> bytes:
    """The field in the fewest bytes possible."""
    match field.type:
        case field.TYPE_STRING | field.TYPE_BYTES | field.TYPE_MESSAGE:
            return sized(field.number, b"")
        case field.TYPE_DOUBLE | field.TYPE_FIXED64 | field.TYPE_SFIXED64:
            return tag(field.number, 1) + bytes(8)
        case field.TYPE_FLOAT | field.TYPE_FIXED32 | field.TYPE_SFIXED32:
            return tag(field.number, 5) + bytes(4)
    return tag(field.number, 0) + b"\x01"


def _many(unit: bytes, room: int) -> bytes:
    return unit * (room // len(unit))


def _at_its_bounds(rpc: Rpc, base: Any, rng: random.Random) -> bytes:
    """Each list and text at its maximum length, if the request stays valid with it."""
    raw: bytes = base.SerializeToString()
    for place in places(rpc):
        request = rpc.request.FromString(raw)
        if _extend(place, place.parent(request), rng) and not violations(request):
            raw = request.SerializeToString()
    return raw


def _extend(place: FieldPlace, parent: Any, rng: random.Random) -> bool:
    field = place.field
    if field.is_repeated:
        values = getattr(parent, field.name)
        most = bounds.most_items(field) or 0
        if field.message_type is not None:
            if values:
                values.extend([values[0]] * (most - len(values)))
            return bool(values)
        while len(values) < most:
            values.append(_item(field, len(values), rng))
        return True
    most = bounds.rules(field).string.max_len
    if field.type != field.TYPE_STRING or not most:
        return False
    if field.containing_oneof is not None and not parent.HasField(field.name):
        return False
    # A simple NFC implementation sorts these marks in quadratic time.
    setattr(parent, field.name, ("\u0301\u0316" * most)[:most])
    return True


def _item(field: FieldDescriptor, number: int, rng: random.Random) -> Any:
    if field.enum_type is not None:
        return 1
    if bounds.rules(field).repeated.items.string.uuid:
        return str(UUID(int=rng.getrandbits(128), version=4))
    return f"{number}".rjust(60, "x")
