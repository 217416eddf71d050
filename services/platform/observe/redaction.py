"""Keeps secrets and personal data out of the log.

A line holds plain values: strings, numbers, ids. The log gets only an exception's kind and place. The text can quote a
row, a parameter or a connection string, as psycopg's texts do.
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

# Built-in exceptions whose texts name code, addresses and files, but no values.
_SAFE_BUILTINS = (NameError, AttributeError, ImportError, OSError)
# Packages whose exceptions have texts without values.
_SAFE_PACKAGES = ("services.", "workflows.", "deploy.", "nats.")
_ROOT = Path(__file__).resolve().parents[3]
# The most frames per exception in a log line, and the most exceptions: the error, its causes, and members of groups.
_MOST_FRAMES = 30
_MOST_EXCEPTIONS = 8

# Finds JSON Web Tokens, and passwords in URLs. No code logs them on purpose; a line could still get one by mistake.
# Matching takes linear time: possessive quantifiers (*+, ++) and the atomic group (?>…) never backtrack, and a run of
# letters is scanned only from its beginning. `keep` is the part of the run before the token, such as the "n" of "\\n".
_CREDENTIALS = re.compile(
    r"(?<![\w-])(?P<keep>(?>[\w-]*?(?=eyJ)))eyJ[\w-]{8,}+\.[\w-]++\.[\w-]*+"
    r"|(?<=://)[^/@\s\"':]*+:[^/@\s\"']++(?=@)",
    re.ASCII,
)
_HIDDEN = "[hidden]"
# Secrets with fewer characters aren't hidden, because parts of ordinary words would be hidden with them.
_SHORTEST_SECRET = 6

Line = structlog.typing.EventDict


def describe(error: BaseException) -> str:
    """An exception for a log line: its class with its text if that text is safe, else with its place in the code."""
    kind = _kind(error)
    if text := _text(error):
        return f"{kind}: {text}"
    frames = _frames(error.__traceback__)
    ours = [frame for frame in frames if "site-packages" not in frame] or frames
    return f"{kind} at {ours[-1]}" if ours else kind


def _kind(error: BaseException) -> str:
    """The exception's class, with its SQLSTATE or gRPC status if it has one."""
    kind = type(error).__name__
    code = getattr(error, "sqlstate", None)
    if code is None and kind == "AioRpcError":
        code = error.code().name  # type: ignore[attr-defined]
    return f"{kind} {code}" if code else kind


def _text(error: BaseException) -> str:
    module = type(error).__module__
    if module.startswith(_SAFE_PACKAGES) or (
        module == "builtins" and isinstance(error, _SAFE_BUILTINS)
    ):
        return str(error)
    return ""


def _frames(traceback: TracebackType | None) -> list[str]:
    """`file:line in function` for each frame, the innermost last; no source and no values."""
    frames = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        _, packaged, file = code.co_filename.rpartition("site-packages/")
        file = packaged + file.removeprefix(f"{_ROOT}/")
        frames.append(f"{file}:{traceback.tb_lineno} in {code.co_name}")
        traceback = traceback.tb_next
    return frames[-_MOST_FRAMES:]


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception, the members of its group, and their causes."""
    waiting: list[BaseException] = [error]
    for _ in range(_MOST_EXCEPTIONS):
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
    value = line.pop("exc_info", None)
    if value is True:
        value = sys.exc_info()
    if isinstance(value, tuple):
        value = value[1]
    return value if isinstance(value, BaseException) else None


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
    """The value if its type shows what it holds. A message or a row could hold anything, so only its type is kept."""
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
    """Hides configured secrets and credentials in a finished line, in case code logged them by mistake."""

    def __init__(self, settings: Settings) -> None:
        values = [getattr(settings, name) for name in type(settings).model_fields]
        secret = {v.get_secret_value() for v in values if isinstance(v, SecretStr)}
        known = {form for s in secret for form in (s, json.dumps(s)[1:-1], repr(s)[1:-1])}
        # Longer secrets first, because one may be a part of another.
        usable = sorted((s for s in known if len(s) >= _SHORTEST_SECRET), key=len, reverse=True)
        self._secret = re.compile("|".join(map(re.escape, usable))) if usable else None

    def __call__(self, _: Any, __: str, line: Any) -> str:
        if self._secret is not None:
            line = self._secret.sub(_HIDDEN, line)
        return _CREDENTIALS.sub(rf"\g<keep>{_HIDDEN}", line)
