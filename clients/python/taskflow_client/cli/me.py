"""taskflow me, me set."""

from enum import StrEnum
from typing import Annotated

import typer

from taskflow_client.cli.command import Cli, connected, group, usage

app = group("Your account.")


class Switch(StrEnum):
    ON = "on"
    OFF = "off"


@app.command()
@connected()
async def show(cli: Cli) -> None:
    """Shows your account."""
    from taskflow.auth.v1.user_service_pb2 import GetCurrentUserRequest
    from taskflow_client.cli.tables import USER

    response = await cli.client.users.GetCurrentUser(GetCurrentUserRequest())
    cli.output.one(response.user, USER)


@app.command("set")
@connected()
async def change(
    cli: Cli,
    name: Annotated[str, typer.Option(help="What other users see.")] = "",
    time_zone: Annotated[str, typer.Option(help="Such as Europe/Berlin.")] = "",
    mail: Annotated[
        Switch | None,
        typer.Option(
            case_sensitive=False,
            help="Whether you get notifications by e-mail. On also tries a refused address again.",
        ),
    ] = None,
) -> None:
    """Changes your name, time zone, or whether you get mail."""
    from taskflow.auth.v1.user_pb2 import User
    from taskflow.auth.v1.user_service_pb2 import UpdateCurrentUserRequest
    from taskflow_client.cli.tables import USER

    given = {"display_name": name, "time_zone": time_zone, "email_notifications": mail}
    paths = [path for path, value in given.items() if value]
    if not paths:
        raise usage("there is nothing to set", "use --name, --time-zone or --mail")
    request = UpdateCurrentUserRequest(
        user=User(display_name=name, time_zone=time_zone, email_notifications=mail is Switch.ON)
    )
    request.update_mask.paths.extend(paths)
    response = await cli.client.users.UpdateCurrentUser(request)
    cli.output.one(response.user, USER)
