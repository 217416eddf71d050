"""Malformed request bytes that no library would send."""

import random
import re
from collections.abc import Callable

from google.protobuf.message import Message

from tests.faults.rpcs import FieldPlace, Rpc, places

_NOT_UTF_8 = (
    *(
        b"\xff\xfe",
        b"\xc0\x80",
        b"\xed\xa0\x80",
        b"\xed\xa0\xbd\xed\xb8\x80",
        b"\xf4\x90\x80\x80",
        b"\x80",
        b"\xe2\x82",
    ),
)
_STAND_IN = "Qz"


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def tag(number: int, wire_type: int) -> bytes:
    return varint(number << 3 | wire_type)


def sized(number: int, body: bytes) -> bytes:
    return tag(number, 2) + varint(len(body)) + body


def random_bytes(rng: random.Random, _: bytes, __: Rpc) -> bytes:
    return rng.randbytes(rng.choice((1, 2, 5, 17, 100, 1000, 10_000)))


def truncated(rng: random.Random, raw: bytes, _: Rpc) -> bytes:
    return raw[: rng.randrange(len(raw))] if raw else b"\x0a"


def flipped(rng: random.Random, raw: bytes, _: Rpc) -> bytes:
    changed = bytearray(raw or b"\x00")
    for _round in range(rng.choice((1, 1, 2, 8))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def spliced(rng: random.Random, raw: bytes, _: Rpc) -> bytes:
    """Repeat and reorder parts: later fields win, lists grow, messages merge."""
    cut = rng.randrange(len(raw) + 1)
    return rng.choice((raw + raw, raw[cut:] + raw[:cut], raw[:cut] + raw, raw * 20))


def wrong_types(rng: random.Random, raw: bytes, rpc: Rpc) -> bytes:
    """Repeat each field of the request with another wire type."""
    values = {
        0: varint(rng.getrandbits(63)),
        1: rng.randbytes(8),
        5: rng.randbytes(4),
        2: b"\x03abc",
    }
    numbers = [field.number for field in rpc.method.input_type.fields] or [1]
    return raw + b"".join(
        tag(number, kind) + values[kind] for number in numbers for kind in rng.sample([*values], 2)
    )


def nested(rng: random.Random, raw: bytes, rpc: Rpc) -> bytes:
    """Nest messages far deeper than parsers accept: known ones if the request has any, else groups."""
    depth = rng.choice((101, 200, 1000, 20_000))
    top = [field.number for field in rpc.method.input_type.fields if field.message_type] or [15]
    number = rng.choice(top)
    if rng.random() < 0.5:
        return (
            raw + tag(number, 3) * depth + (tag(number, 4) * depth if rng.random() < 0.5 else b"")
        )
    body = b""
    for _ in range(min(depth, 1000)):
        # Field numbers of nested Structs; for other messages an unknown field.
        body = sized(1, b"\x0a\x01a" + sized(2, sized(5, body)))
    for place in places(rpc):
        inner = place.field.message_type
        if inner is not None and inner.full_name == "google.protobuf.Struct":
            for field in reversed(place.fields):
                body = sized(field.number, body)
            return raw + body
    return raw + sized(number, body)


def malformed(rng: random.Random, raw: bytes, _: Rpc) -> bytes:
    """Invalid tags, lengths and numbers."""
    return raw + rng.choice(
        (
            *(
                b"\x00",
                b"\x07",
                b"\x0e\x00",
                tag(1, 4),
                tag(19_000, 0) + b"\x01",
                tag(2**29, 0) + b"\x01",
            ),
            *(
                b"\xff" * 11,
                b"\x08" + b"\xff" * 10 + b"\x01",
                sized(1, b"")[:1] + varint(2**31),
                b"\x0a" + varint(2**63),
            ),
            *(b"\x0a\xff\xff\xff\xff\x0f", tag(1, 1) + b"\x00", tag(536_870_911, 2) + b"\x00"),
        )
    )


def extended(rng: random.Random, raw: bytes, _: Rpc) -> bytes:
    """Add undefined fields, as a newer client would send."""
    return raw + b"".join(
        sized(rng.randrange(900, 18_000), rng.randbytes(rng.randrange(200)))
        for _ in range(rng.choice((1, 50)))
    )


def not_utf_8(rng: random.Random, request: Message, rpc: Rpc) -> bytes:
    """Put invalid UTF-8 into a text of the request, including surrogates as in CESU-8."""
    texts = [place for place in places(rpc) if _holds_text(place)]
    if not texts:
        return request.SerializeToString() + b"\x0a\x01\xff"
    place = rng.choice(texts)
    bad = rng.choice(_NOT_UTF_8)
    stand_in = (_STAND_IN * len(bad))[: len(bad)] * 8
    parent = place.parent(request)
    if place.field.is_repeated:
        getattr(parent, place.field.name).append(stand_in)
    else:
        setattr(parent, place.field.name, stand_in)
    return re.sub(re.escape(stand_in.encode()), lambda _: bad * 8, request.SerializeToString())


def _holds_text(place: FieldPlace) -> bool:
    return place.field.type == place.field.TYPE_STRING


OF_BYTES: dict[str, Callable[[random.Random, bytes, Rpc], bytes]] = {
    "random bytes": random_bytes,
    "truncated": truncated,
    "bits flipped": flipped,
    "spliced": spliced,
    "wrong wire types": wrong_types,
    "nested deeply": nested,
    "malformed tags": malformed,
    "unknown fields": extended,
}
