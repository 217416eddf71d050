"""taskflow register, login, logout, whoami."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from taskflow_client.cli.command import Cli, connected, is_interactive, usage

Email = Annotated[str, typer.Argument(help="Default: ask for it.")]
PasswordStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from standard input.")
]


@connected()
async def register(
    cli: Cli,
    email: Email = "",
    name: Annotated[
        str, typer.Option(help="What other users see. Default: the e-mail up to the @.")
    ] = "",
    time_zone: Annotated[
        str, typer.Option(help="Such as Europe/Berlin. Default: this machine's.")
    ] = "",
    password_stdin: PasswordStdin = False,
) -> None:
    """Creates an account and logs in."""
    email = email or _ask_email()
    password = _read_password(password_stdin, confirm=True)
    await cli.client.register(
        email, password, name or email.partition("@")[0], time_zone or _local_zone()
    )
    user = await cli.client.login(email, password)
    cli.output.done(user, f"Welcome, {user.display_name}. You are logged in as {user.email}.")


@connected()
async def login(cli: Cli, email: Email = "", password_stdin: PasswordStdin = False) -> None:
    """Logs in. Stores the session in a file that only you can read."""
    email = email or _ask_email()
    user = await cli.client.login(email, _read_password(password_stdin, confirm=False))
    cli.output.done(user, f"Logged in as {user.email}.")


@connected()
async def logout(cli: Cli) -> None:
    """Ends the session, on this machine and on the server."""
    session = cli.client.session
    await cli.client.logout()
    email = session.email if session else ""
    cli.output.done({"email": email}, f"Logged out {email}." if email else "Nobody is logged in.")


@connected()
async def whoami(cli: Cli) -> None:
    """Shows who is logged in."""
    from taskflow.auth.v1.user_service_pb2 import GetCurrentUserRequest
    from taskflow_client.cli.tables import USER

    response = await cli.client.users.GetCurrentUser(GetCurrentUserRequest())
    cli.output.one(response.user, USER)


def _ask_email() -> str:
    if not is_interactive():
        raise usage("the e-mail is missing", "write it after the command")
    return str(typer.prompt("E-mail", err=True))


def _read_password(from_stdin: bool, confirm: bool) -> str:
    if from_stdin:
        return sys.stdin.read().removesuffix("\n").removesuffix("\r")
    if not is_interactive():
        raise usage("there is no terminal to ask for the password", "use --password-stdin")
    prompt = "Password (10 characters or more)" if confirm else "Password"
    return str(typer.prompt(prompt, hide_input=True, confirmation_prompt=confirm, err=True))


def _local_zone() -> str:
    """Returns the IANA name of this machine's time zone, or UTC if it is unknown."""
    from zoneinfo import available_timezones

    link = str(Path("/etc/localtime").resolve()).partition("/zoneinfo/")[2]
    named = os.environ.get("TZ", "")
    # A name, or a path to a zone's file; posix/ and right/ hold the same zones once more.
    zone = (named.removeprefix(":").partition("/zoneinfo/")[2] or named.removeprefix(":")) or link
    zone = zone.removeprefix("posix/").removeprefix("right/")
    if zone in available_timezones() - {"localtime"}:
        return zone
    if named:
        raise usage(f"TZ={named} names no IANA time zone", "use --time-zone, such as Europe/Berlin")
    return "UTC"
