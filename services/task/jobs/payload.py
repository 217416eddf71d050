"""Converts payloads and results between google.protobuf.Struct and JSON for the database."""

import json
import math
from collections.abc import Mapping
from typing import Any

from google.protobuf.struct_pb2 import Struct, Value

from services.platform.rpc.bounds import MESSAGE_BYTES
from services.platform.rpc.errors import invalid

MAX_LEVELS = 16
# The most bytes of a serialized payload. The gate rejects larger payloads before this module sees them.
MAX_BYTES = MESSAGE_BYTES[Struct.DESCRIPTOR.full_name]


def parse(struct: Struct, field: str) -> dict[str, Any]:
    """Converts a Struct into a JSON object.

    Raises INVALID_REQUEST if the Struct is too deep or too large, or if JSON or Postgres can't represent it.
    """
    if struct.ByteSize() > MAX_BYTES:
        raise invalid(field, f"is larger than {MAX_BYTES} bytes")
    try:
        return _object(struct, 1)
    except ValueError as error:
        raise invalid(field, str(error)) from None


def dump(value: Mapping[str, Any] | None) -> str | None:
    """The text of a JSONB parameter with this value."""
    return None if value is None else json.dumps(value, ensure_ascii=False, allow_nan=False)


def struct(value: Mapping[str, Any]) -> Struct:
    message = Struct()
    message.update(value)
    return message


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal for clients, which receive every number as a double."""
    match one, other:
        case dict(), dict():
            return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
        case list(), list():
            return len(one) == len(other) and all(map(same, one, other))
        case (bool() | None, _) | (_, bool() | None):
            return one is other
        case (int() | float(), int() | float()):
            return float(one) == float(other)
        case _:
            return bool(one == other)


def _object(message: Struct, level: int) -> dict[str, Any]:
    if level > MAX_LEVELS:
        raise ValueError(f"has more than {MAX_LEVELS} levels")
    return {_text(key): _value(value, level) for key, value in message.fields.items()}


def _value(value: Value, level: int) -> Any:
    match value.WhichOneof("kind"):
        case "null_value":
            return None
        case "bool_value":
            return value.bool_value
        case "number_value":
            if not math.isfinite(value.number_value):
                raise ValueError("holds a number that isn't finite")
            return value.number_value
        case "string_value":
            return _text(value.string_value)
        case "struct_value":
            return _object(value.struct_value, level + 1)
        case "list_value":
            if level == MAX_LEVELS:
                raise ValueError(f"has more than {MAX_LEVELS} levels")
            return [_value(item, level + 1) for item in value.list_value.values]
        case _:
            raise ValueError("holds a value of no kind")


def _text(text: str) -> str:
    if "\0" in text:
        raise ValueError("holds a NUL character")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("holds half of a surrogate pair")
    return text
