"""What commands print: tables and lines for people, JSON for scripts."""

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console
from rich.table import Table
from rich.text import Text

Column = tuple[str, Callable[[Any], str]]

# Texts of others mustn't steer the terminal: control characters but line feed and tab, and those
# that reorder text.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
# Columns of a table that isn't shown on a terminal, so that nothing is cut off in a pipe.
_PIPE_WIDTH = 10_000


class Output:
    """Writes results to stdout and remarks for people to stderr."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self._console = _console(sys.stdout)

    def many(self, messages: Sequence[Message], columns: Sequence[Column]) -> None:
        """Shows a list: a JSON array, or a table."""
        if self.as_json:
            _print_json([as_dict(message) for message in messages])
        elif messages:
            table = Table(box=None, pad_edge=False, header_style="bold")
            for name, _ in columns:
                table.add_column(name, overflow="fold")
            for message in messages:
                table.add_row(*(Text(plain(read(message))) for _, read in columns))
            self._console.print(table)
        else:
            self.remark("nothing there")

    def one(self, message: Message, columns: Sequence[Column]) -> None:
        """Shows one thing with its fields, the empty ones left out."""
        if self.as_json:
            _print_json(as_dict(message))
            return
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        for name, read in columns:
            if text := read(message):
                table.add_row(name, Text(plain(text)))
        self._console.print(table)

    def done(self, message: Message | Mapping[str, Any], sentence: str) -> None:
        """Says what has happened, in one line."""
        if self.as_json:
            _print_json(as_dict(message) if isinstance(message, Message) else message)
        else:
            self.line(sentence)

    def event(self, message: Message, line: str) -> None:
        """Shows a message of a stream at once, in one line; people don't see it without a text."""
        if self.as_json:
            print(json.dumps(as_dict(message), ensure_ascii=False), flush=True)
        elif line:
            self.line(line)

    def line(self, text: str) -> None:
        self._console.print(Text(plain(text)), soft_wrap=True)
        self._console.file.flush()

    def remark(self, text: str) -> None:
        """Tells people something that isn't the result."""
        if not self.as_json:
            print(plain(text), file=sys.stderr, flush=True)


def as_dict(message: Message) -> dict[str, Any]:
    """Returns protobuf JSON with the names of the protos; fields at their default are there too."""
    return MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def plain(text: str) -> str:
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)


def _console(file: Any) -> Console:
    width = None if file.isatty() else _PIPE_WIDTH
    return Console(file=file, width=width, highlight=False, markup=False, emoji=False)


def _print_json(value: Mapping[str, Any] | Iterable[Mapping[str, Any]]) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2))
