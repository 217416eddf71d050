"""python -m services <auth|task|notification|relay|migrate|recover|grant-operator|rotate-keys>"""

import argparse
import asyncio
import sys

from services.platform import config, generated_secrets
from services.platform.observe import logging, tracing


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m services")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("auth", "task", "notification"):
        commands.add_parser(name, help=f"run the {name} service")
    commands.add_parser("relay", help="publish the outbox to JetStream")
    commands.add_parser("migrate", help="migrate the database to the newest schema")
    commands.add_parser("recover", help="after a restore: fill NATS and Temporal from the database")
    grant = commands.add_parser("grant-operator", help="let a user see and replay dead letters")
    grant.add_argument("email")
    rotate = commands.add_parser("rotate-keys", help="create a new key for signing access tokens")
    rotate.add_argument(
        "--ahead",
        type=int,
        default=0,
        metavar="SECONDS",
        help="start signing this much later, to leave time for copying the folder to other machines",
    )
    arguments = parser.parse_args()
    settings = config.load()
    if arguments.command in ("auth", "task", "notification"):
        settings = generated_secrets.or_exit(settings)
    logging.configure(settings, arguments.command)
    if arguments.command == "migrate":
        from services.migrations.upgrade import upgrade

        upgrade(settings)
    elif arguments.command == "rotate-keys":
        from services.auth.sessions import keyfiles

        file = keyfiles.create(settings.keys, arguments.ahead)
        print(
            f"{file} signs in {60 + arguments.ahead} seconds. "
            "The key before it stays published until its tokens expire."
        )
    elif arguments.command in ("recover", "grant-operator"):
        asyncio.run(_command(arguments, settings))
    else:
        asyncio.run(_run(arguments.command, settings))


async def _run(name: str, settings: config.Settings) -> None:
    # Imported here, so that `migrate` starts quickly: every process waits for it, and it doesn't need these modules.
    from services import app
    from services.platform.background import stop_signal
    from services.platform.data.session_check import UnsuitableDatabase

    tracing.start(name)
    try:
        if name == "relay":
            await app.run_relay(settings, stop_signal())
        else:
            await app.run_service(name, settings, stop_signal())
    except UnsuitableDatabase as error:
        sys.exit(f"configuration: {error}")


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
