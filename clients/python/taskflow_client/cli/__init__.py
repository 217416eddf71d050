"""The `taskflow` command. To start fast, commands import grpc, protobuf and rich only when they run."""

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.exceptions import TyperException

from taskflow_client.cli import (
    account,
    dead_letters,
    importing,
    jobs,
    me,
    notifications,
    project,
    suggestions,
    task,
    watch,
    workspace,
)
from taskflow_client.cli.command import Format, Options, Problem, ReaderGone, group

EPILOG = (
    "The options above work before and after the command.\n\n"
    "Exit codes: 0 done, 1 unexpected, 2 usage or invalid input, 3 not found, 4 not logged in or"
    " not allowed, 5 conflict with the current state, 6 unavailable or too busy. Errors go to"
    " stderr, with --output json as JSON."
)

_VALUED = {"--server", "--output", "-o", "--workspace", "-w"}
# A short option with its value right behind it.
_JOINED = {f"-o{each}": ["-o", each.value] for each in Format}

app = group("Tasks for teams, from the terminal.", "taskflow", EPILOG)


@app.callback()
def options(
    context: typer.Context,
    server: Annotated[
        str,
        typer.Option(
            envvar="TASKFLOW_SERVER",
            help="host:port, or a URL; https:// means TLS.",
        ),
    ] = "localhost:8080",
    output: Annotated[
        Format, typer.Option("--output", "-o", help="A table to read, or JSON for scripts.")
    ] = Format.TABLE,
    workspace: Annotated[
        str,
        typer.Option(
            "--workspace",
            "-w",
            envvar="TASKFLOW_WORKSPACE",
            help="Name or id. Default: see `taskflow workspace use`.",
        ),
    ] = "",
    debug: Annotated[bool, typer.Option(help="Show the traceback of an error.")] = False,
) -> None:
    context.obj = Options(server, output, workspace, debug)


app.command("register")(account.register)
app.command("login")(account.login)
app.command("logout")(account.logout)
app.command("whoami")(account.whoami)
app.add_typer(me.app, name="me")
app.add_typer(workspace.app, name="workspace")
app.add_typer(project.app, name="project")
app.add_typer(task.app, name="task")
app.command("import")(importing.import_tasks)
app.command("watch")(watch.watch)
app.add_typer(notifications.app, name="notifications")
app.add_typer(suggestions.app, name="suggestions")
app.add_typer(jobs.app, name="jobs")
app.add_typer(dead_letters.app, name="dead-letters")


def main(args: Sequence[str] | None = None) -> int:
    """Runs a command line and returns its exit code."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # hides its connection notices
    arguments = hoisted(sys.argv[1:] if args is None else args)
    if sys.stderr is None:  # closed by the shell, with 2>&-
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if sys.stdout is None:
        return _report(Problem("the standard output is closed"), arguments)
    # JSON is UTF-8 in every locale (RFC 8259). A terminal may not support every character.
    encoding = "utf-8" if _value(arguments, "--output", "-o") == "json" else None
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding=encoding, errors="replace")
    try:
        code = typer.main.get_command(app).main(
            arguments, prog_name="taskflow", standalone_mode=False
        )
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except KeyboardInterrupt:
        return _report(Problem("canceled", exit_code=130), arguments)
    except (BrokenPipeError, ReaderGone):
        # Python must not flush to the closed pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except typer.Abort:
        return _report(Problem("canceled"), arguments)
    except TyperException as error:
        if (message := error.format_message()).startswith("Usage:"):  # a group without a command
            print(message, file=sys.stderr)
            return error.exit_code
        return _report(error, arguments)
    except Exception as error:
        return _report(error, arguments)


def hoisted(args: Sequence[str]) -> list[str]:
    """Moves the global options to the front, so that they also work after the command."""
    front: list[str] = []
    rest = list(args)
    end = rest.index("--") if "--" in rest else len(rest)
    index = 0
    while index < end:
        name, equals, _ = rest[index].partition("=")
        taken = 0
        if name in _VALUED:
            taken = 1 if equals else 2
        elif rest[index] == "--debug" or rest[index] in _JOINED:
            taken = 1
        front += _JOINED.get(rest[index]) or rest[index : index + taken]
        del rest[index : index + taken]
        end -= taken
        index += not taken
    return front + rest


def _report(error: Exception, arguments: list[str]) -> int:
    from taskflow_client.cli import failures

    return failures.report(
        error,
        as_json=_value(arguments, "--output", "-o") == "json",
        server=_value(arguments, "--server")
        or os.environ.get("TASKFLOW_SERVER", "")
        or "localhost:8080",
        debug="--debug" in arguments,
    )


def _value(arguments: list[str], *names: str) -> str:
    """Returns a global option's value, for errors raised before the options are parsed."""
    for index, arg in enumerate(arguments):
        name, equals, value = arg.partition("=")
        if name in names:
            return value if equals else "".join(arguments[index + 1 : index + 2])
    return ""
