"""The output of commands: tables and lines of text, or JSON for scripts."""

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

Column = tuple[str, Callable[[Any], str]]

# Characters in other users' texts that could control the terminal: control characters except line
# feed and tab, and characters that reorder text.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
# Those among them that JSON encoders don't escape, and the separators at which some readers break lines.
_UNESCAPED = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
# Characters that a table leaves to its first long column, if the terminal is narrow.
_READABLE = 24
_GAP = 2
# Width of a table in a pipe, in characters: wide enough to cut nothing off.
_PIPE_WIDTH = 10_000


class Output:
    """Writes results to stdout and remarks to stderr."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self._console = _console(sys.stdout)

    def many(self, messages: Sequence[Message], columns: Sequence[Column]) -> None:
        """Shows a list: a JSON array, or a table."""
        if self.as_json:
            _print_json([as_dict(message) for message in messages])
        elif messages:
            cells = [[plain(read(message)) for _, read in columns] for message in messages]
            shown = fitting([name for name, _ in columns], cells, self._console.width)
            table = Table(box=None, pad_edge=False, header_style="bold")
            for name, _ in columns[:shown]:
                table.add_column(name, overflow="fold")
            for row in cells:
                table.add_row(*map(Text, row[:shown]))
            self._console.print(table)
            if shown < len(columns):
                hidden = ", ".join(name for name, _ in columns[shown:])
                self.remark(f"the terminal is too narrow for {hidden}")
        else:
            self.remark("nothing found")

    def one(self, message: Message, columns: Sequence[Column]) -> None:
        """Shows the fields of one message, without empty ones."""
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
        """Prints the result of a change: `message` as JSON, or `sentence`."""
        if self.as_json:
            _print_json(as_dict(message) if isinstance(message, Message) else message)
        else:
            self.line(sentence)

    def event(self, message: Message, line: str) -> None:
        """Prints a stream message at once: as one line of JSON, or `line` if it isn't empty."""
        if self.as_json:
            print(json_text(as_dict(message)), flush=True)
        elif line:
            self.line(line)

    def line(self, text: str) -> None:
        self._console.print(Text(plain(text)), soft_wrap=True)
        self._console.file.flush()

    def remark(self, text: str) -> None:
        """Prints a text that isn't part of the result; not with JSON output."""
        if not self.as_json:
            print(plain(text), file=sys.stderr, flush=True)


def as_dict(message: Message) -> dict[str, Any]:
    """Returns protobuf JSON with the protos' field names, including fields with default values."""
    return MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def plain(text: str) -> str:
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)


def json_text(value: Any, indent: int | None = None) -> str:
    """Returns JSON in which no character can control a terminal or break a line."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return _UNESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def fitting(names: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> int:
    """Returns how many columns to show, so that none has to be narrower than its words, or than is readable."""
    needed = 0
    for index, name in enumerate(names):
        longest = max(cell_len(line) for row in rows for line in row[index].splitlines() or [""])
        needed += min(max(cell_len(name), longest), _READABLE) + (_GAP if index else 0)
        if needed > width and index > 1:
            return index
    return len(names)


def _console(file: Any) -> Console:
    width = None if file.isatty() else _PIPE_WIDTH
    return Console(file=file, width=width, highlight=False, markup=False, emoji=False)


def _print_json(value: Mapping[str, Any] | Iterable[Mapping[str, Any]]) -> None:
    print(json_text(value, indent=2))
