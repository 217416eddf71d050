"""Parses task payloads: JSON objects from the command line or from a file."""

import json
from pathlib import Path
from typing import Any, Final

from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.struct_pb2 import Struct

from taskflow_client.cli.command import usage

# Doubles hold every integer up to this one.
_LARGEST_EXACT: Final = 2**53


def parse(text: str) -> Struct:
    """Returns the JSON object in `text`, or in the file for a text of the form @FILE."""
    if text.startswith("@"):
        text = read(Path(text[1:]))
    return from_json(text)


def from_json(text: str) -> Struct:
    """Returns the JSON object in `text`."""
    try:
        value = json.loads(text)
        if not isinstance(value, dict):
            raise usage(
                "the payload isn't a JSON object", """write something like '{"message": "hi"}'"""
            )
        payload = ParseDict(value, Struct())
    except (ValueError, RecursionError, ParseError) as error:
        raise usage(f"the payload isn't JSON: {error}") from None
    if path := inexact(value):
        raise usage(
            f"the number at {path} in the payload has too many digits to be stored exactly",
            "write it as a text, in quotes",
        )
    return payload


def inexact(value: Any, path: str = "") -> str:
    """Returns the path of the first integer that a Struct, whose numbers are doubles, would change."""
    match value:
        case dict():
            items = [(f"{path}.{key}" if path else str(key), item) for key, item in value.items()]
        case list():
            items = [(f"{path}[{index}]", item) for index, item in enumerate(value)]
        case int() if abs(value) > _LARGEST_EXACT and int(float(value)) != value:
            return path
        case _:
            return ""
    return next(filter(None, (inexact(item, place) for place, item in items)), "")


def read(path: Path) -> str:
    """Returns the text of a file in UTF-8, with or without a byte order mark."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise usage(f"{path} isn't UTF-8", "save it again with the encoding UTF-8") from None
