"""python -m services <auth|task|notification|relay|migrate|recover|grant-operator|rotate-keys>"""

import argparse
import asyncio
import sys

from services.platform import config, logging, tracing


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m services")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("auth", "task", "notification"):
        commands.add_parser(name, help=f"run the {name} service")
    commands.add_parser("relay", help="publish the outbox to JetStream")
    commands.add_parser("migrate", help="bring the database to the newest schema")
    commands.add_parser("recover", help="after the database was restored: begin all else again")
    grant = commands.add_parser("grant-operator", help="let a user see and replay dead letters")
    grant.add_argument("email")
    rotate = commands.add_parser("rotate-keys", help="make a new key to sign access tokens with")
    rotate.add_argument(
        "--ahead",
        type=int,
        default=0,
        metavar="SECONDS",
        help="sign with it that much later, when the folder is copied to where it's read",
    )
    arguments = parser.parse_args()
    settings = config.load()
    logging.configure(settings, arguments.command)
    if arguments.command == "migrate":
        from services.migrations.upgrade import upgrade

        upgrade(settings)
    elif arguments.command == "rotate-keys":
        from services.auth import keyfiles

        file = keyfiles.create(settings.keys, arguments.ahead)
        print(
            f"{file} signs in {60 + arguments.ahead} seconds; the key before it is listed while its tokens last."
        )
    elif arguments.command in ("recover", "grant-operator"):
        asyncio.run(_command(arguments, settings))
    else:
        asyncio.run(_run(arguments.command, settings))


async def _run(name: str, settings: config.Settings) -> None:
    # Not needed by migrate, whose start everything else waits for.
    from services import app
    from services.platform.server import stop_signal

    tracing.start(name)
    if name == "relay":
        await app.run_relay(settings, stop_signal())
    else:
        await app.run_service(name, settings, stop_signal())


async def _command(arguments: argparse.Namespace, settings: config.Settings) -> None:
    from psycopg import OperationalError

    from services import app

    try:
        if arguments.command == "recover":
            await app.recover(settings)
        elif not await app.grant_operator(settings, arguments.email):
            sys.exit(1)
    except OperationalError:
        sys.exit("PostgreSQL doesn't answer. Nothing was changed; see TASKFLOW_DATABASE_URL.")


if __name__ == "__main__":
    main()
