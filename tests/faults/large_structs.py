"""Serialized google.protobuf.Structs of a given size: wide, deep, or full of the smallest values."""

from collections.abc import Callable

from tests.faults.malformed_bytes import sized

# Bytes reserved for tags and lengths around the repeated part.
_FRAMES = 64

_NULL = b"\x08\x00"
_TRUE = b"\x20\x01"
_NUMBER = b"\x11" + bytes(8)
_EMPTY_TEXT = b"\x1a\x00"
_EMPTY_STRUCT = b"\x2a\x00"
_EMPTY_LIST = b"\x32\x00"


def _entry(key: bytes, value: bytes) -> bytes:
    return sized(1, sized(1, key) + sized(2, value))


def _list_of(value: bytes) -> Callable[[int], bytes]:
    item = sized(1, value)
    return lambda size: _entry(b"a", sized(6, item * ((size - _FRAMES) // len(item))))


def _keys(size: int) -> bytes:
    found = bytearray()
    number = 0
    while len(found) < size - _FRAMES:
        found += _entry(f"{number:x}".encode(), _NULL)
        number += 1
    return bytes(found)


def _same_key(size: int) -> bytes:
    entry = _entry(b"a", _NULL)
    return entry * ((size - _FRAMES) // len(entry))


def _text(character: str) -> Callable[[int], bytes]:
    unit = character.encode()
    return lambda size: _entry(b"a", sized(3, unit * ((size - _FRAMES) // len(unit))))


def _long_key(size: int) -> bytes:
    return _entry(b"k" * (size - _FRAMES), _NULL)


def _chains(levels: int) -> Callable[[int], bytes]:
    """A list of deeply nested Structs."""

    def make(size: int) -> bytes:
        value = _EMPTY_STRUCT
        for _ in range(levels):
            value = sized(5, _entry(b"", value))
        return _list_of(value)(size)

    return make


STRUCTS: dict[str, Callable[[int], bytes]] = {
    "keys": _keys,
    "one key again and again": _same_key,
    "values of no kind": _list_of(b""),
    "nulls": _list_of(_NULL),
    "booleans": _list_of(_TRUE),
    "numbers": _list_of(_NUMBER),
    "empty texts": _list_of(_EMPTY_TEXT),
    "empty structs": _list_of(_EMPTY_STRUCT),
    "empty lists": _list_of(_EMPTY_LIST),
    "a long text": _text("x"),
    "a long text of wide characters": _text("\u20ac"),
    "combining marks": _text("e\u0301"),
    "a long key": _long_key,
    "chains of 13 levels": _chains(13),
    "chains of 30 levels": _chains(30),
}
