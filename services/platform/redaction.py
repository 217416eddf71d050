"""What may stand in a line of the log.

Plain values: strings, numbers, ids. An exception is reduced to its kind and place, because its text can quote a row, a
parameter or a connection string (psycopg's do).
"""

import json
import re
import sys
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import UUID

import structlog
from pydantic import SecretStr

from services.platform.config import Settings

# Exceptions whose texts name code, addresses and files, and no values.
_TELLING = (NameError, AttributeError, ImportError, OSError)
# Packages whose exceptions are worded without values: ours, and NATS's.
_WORDED = ("services.", "workflows.", "deploy.", "nats.")
_ROOT = Path(__file__).resolve().parents[2]
_FRAMES = 30
# Causes of causes, and the exceptions of a group.
_CHAIN = 8

# A second net, under the rule that none of it is logged: JSON Web Tokens and the passwords in URLs. The possessive
# quantifiers (*+, ++) never go back over a long line.
_CREDENTIALS = re.compile(
    r"eyJ[\w-]{8,}+\.[\w-]++\.[\w-]*+|(?<=://)[^/@\s\"':]*+:[^/@\s\"']++(?=@)", re.ASCII
)
_HIDDEN = "[hidden]"
# Shorter ones would hide words that mean nothing secret.
_SHORTEST_SECRET = 6

Line = structlog.typing.EventDict


def describe(error: BaseException) -> str:
    """An exception's kind and place, which hold nothing personal; the text of our own."""
    kind = _kind(error)
    if text := _text(error):
        return f"{kind}: {text}"
    frames = _frames(error.__traceback__)
    ours = [frame for frame in frames if "site-packages" not in frame] or frames
    return f"{kind} at {ours[-1]}" if ours else kind


def _kind(error: BaseException) -> str:
    """Its class, and the code that databases (SQLSTATE) and gRPC give it."""
    kind = type(error).__name__
    code = getattr(error, "sqlstate", None)
    if code is None and kind == "AioRpcError":
        code = error.code().name  # type: ignore[attr-defined]
    return f"{kind} {code}" if code else kind


def _text(error: BaseException) -> str:
    module = type(error).__module__
    if module.startswith(_WORDED) or (module == "builtins" and isinstance(error, _TELLING)):
        return str(error)
    return ""


def _frames(traceback: TracebackType | None) -> list[str]:
    """`file:line in function`, the innermost last; no source and no values."""
    frames = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        _, packaged, file = code.co_filename.rpartition("site-packages/")
        file = packaged + file.removeprefix(f"{_ROOT}/")
        frames.append(f"{file}:{traceback.tb_lineno} in {code.co_name}")
        traceback = traceback.tb_next
    return frames[-_FRAMES:]


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception, those it's a group of, and what caused them."""
    waiting: list[BaseException] = [error]
    for _ in range(_CHAIN):
        if not waiting:
            return
        current = waiting.pop(0)
        yield current
        if isinstance(current, BaseExceptionGroup):
            waiting.extend(current.exceptions)
        cause = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
        if cause is not None:
            waiting.append(cause)


def _exception(line: Line) -> BaseException | None:
    given = line.pop("exc_info", None)
    if given is True:
        given = sys.exc_info()
    if isinstance(given, tuple):
        given = given[1]
    return given if isinstance(given, BaseException) else None


def plain_exception(_: Any, __: str, line: Line) -> Line:
    error = _exception(line)
    if error is not None:
        line["exception"] = [
            {"kind": _kind(one), "frames": _frames(one.__traceback__)}
            | ({"text": text} if (text := _text(one)) else {})
            for one in _chain(error)
        ]
    line.pop("stack_info", None)
    return line


def shown_exception(_: Any, __: str, line: Line) -> Line:
    error = _exception(line)
    if error is not None:
        shown = []
        for one in _chain(error):
            text = _text(one)
            shown.append(f"{_kind(one)}: {text}" if text else _kind(one))
            shown.extend(f"  {frame}" for frame in _frames(one.__traceback__))
        line["exception"] = "\n".join(shown)
    line.pop("stack_info", None)
    return line


def plain_values(_: Any, __: str, line: Line) -> Line:
    return {name: _plain(value) for name, value in line.items()}


def _plain(value: Any) -> Any:
    """The value if it's of a kind that says no more than it seems to; a message or a row could hold anything."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case UUID() | Path() | datetime() | date():
            return str(value)
        case BaseException():
            return describe(value)
        case dict():
            return {str(name): _plain(item) for name, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_plain(item) for item in value]
        case _:
            return f"<{type(value).__name__}>"


class Hide:
    """Takes secrets out of a finished line, should one have got there against the rule."""

    def __init__(self, settings: Settings) -> None:
        values = [getattr(settings, name) for name in type(settings).model_fields]
        secret = {v.get_secret_value() for v in values if isinstance(v, SecretStr)}
        known = {form for s in secret for form in (s, json.dumps(s)[1:-1], repr(s)[1:-1])}
        # Longer ones first: one may be a part of another.
        usable = sorted((s for s in known if len(s) >= _SHORTEST_SECRET), key=len, reverse=True)
        patterns = [*map(re.escape, usable), _CREDENTIALS.pattern]
        self._secret = re.compile("|".join(patterns), re.ASCII)

    def __call__(self, _: Any, __: str, line: Any) -> str:
        return self._secret.sub(_HIDDEN, line)
