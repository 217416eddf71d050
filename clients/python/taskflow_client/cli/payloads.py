"""Parses task payloads: JSON objects from the command line or from a file."""

import json
from pathlib import Path

from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.struct_pb2 import Struct

from taskflow_client.cli.command import usage


def parse(text: str) -> Struct:
    """Returns the JSON object in `text`, or in the file for a text of the form @FILE."""
    if text.startswith("@"):
        text = Path(text[1:]).read_text(encoding="utf-8")
    try:
        value = json.loads(text)
        if not isinstance(value, dict):
            raise usage(
                "the payload isn't a JSON object", """write something like '{"message": "hi"}'"""
            )
        return ParseDict(value, Struct())
    except (ValueError, ParseError) as error:
        raise usage(f"the payload isn't JSON: {error}") from None
