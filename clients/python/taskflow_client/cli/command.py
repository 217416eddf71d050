"""Runs a command: options, a connected client, and its output."""

import asyncio
import inspect
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

import typer

if TYPE_CHECKING:
    from taskflow_client import TaskFlow
    from taskflow_client.cli.output import Output

P = ParamSpec("P")

# The CLI retries calls for this long (seconds): briefly, because a user is waiting and can repeat the command.
_IMPATIENT = 3.0


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"


@dataclass(frozen=True)
class Options:
    server: str
    output: Format
    workspace: str
    debug: bool


class Problem(Exception):
    """Raised when the command itself finds an error. cli.EPILOG lists the exit codes."""

    def __init__(self, message: str, hint: str = "", exit_code: int = 1, **facts: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code
        self.facts = facts  # further fields of the error's JSON output


class ReaderGone(Exception):
    """Raised when the program that reads the output, such as `head`, has ended."""


def group(help: str, name: str | None = None, epilog: str | None = None) -> typer.Typer:
    """Returns an empty group of commands."""
    return typer.Typer(
        name=name,
        help=help,
        epilog=epilog,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # with rich, --help takes twice as long
        context_settings={"help_option_names": ["--help", "-h"]},
    )


def usage(message: str, hint: str = "", **facts: Any) -> Problem:
    return Problem(message, hint, 2, **facts)


def counted(number: int, noun: str) -> str:
    """Returns "1 task" or "2 tasks"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def missing(message: str, hint: str = "") -> Problem:
    return Problem(message, hint, 3)


@dataclass(frozen=True)
class Cli:
    """The client, the output and the options of a running command."""

    client: "TaskFlow"
    output: "Output"
    options: Options


def connected(
    retry_for: float = _IMPATIENT,
) -> Callable[[Callable[Concatenate[Cli, P], Awaitable[None]]], Callable[P, None]]:
    """Turns a coroutine function into a command. Its first parameter is the Cli; typer reads the
    others from the command line.
    """

    def decorate(body: Callable[Concatenate[Cli, P], Awaitable[None]]) -> Callable[P, None]:
        @wraps(body)
        def command(*args: P.args, **kwargs: P.kwargs) -> None:
            found: Any = kwargs.pop("context")
            options: Options = found.obj
            try:
                asyncio.run(_run(options, retry_for, lambda cli: body(cli, *args, **kwargs)))
            except BrokenPipeError:
                # typer would end the process with exit code 1.
                raise ReaderGone from None

        # The signature that typer reads: without the parameter for the Cli, and with typer's context.
        first, *others = inspect.signature(body).parameters.values()
        own = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
        hints = {**body.__annotations__, "context": typer.Context}
        del hints[first.name]
        command.__annotations__ = hints
        command.__signature__ = inspect.Signature([*others, own])  # type: ignore[attr-defined]
        return command

    return decorate


async def _run(options: Options, retry_for: float, body: Callable[[Cli], Awaitable[None]]) -> None:
    from taskflow_client import FileSessions, TaskFlow
    from taskflow_client.cli.output import Output

    output = Output(options.output is Format.JSON)
    try:
        client = TaskFlow(options.server, session_store=FileSessions(), retry_for=retry_for)
    except ValueError as error:
        raise usage(str(error), "write it as host:port, or as a URL") from None
    async with client:
        await body(Cli(client, output, options))


def is_interactive() -> bool:
    return sys.stdin.isatty()
