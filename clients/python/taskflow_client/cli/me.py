"""taskflow me …"""

from typing import Annotated

import typer

from taskflow_client.cli.command import Cli, connected, group, usage

app = group("Your account.")


@app.command()
@connected()
async def show(cli: Cli) -> None:
    """Shows who is logged in, like `taskflow whoami`."""
    from taskflow.auth.v1.user_service_pb2 import GetCurrentUserRequest
    from taskflow_client.cli.tables import USER

    response = await cli.client.users.GetCurrentUser(GetCurrentUserRequest())
    cli.output.one(response.user, USER)


@app.command("set")
@connected()
async def change(
    cli: Cli,
    name: Annotated[str | None, typer.Option(help="What other users see.")] = None,
    time_zone: Annotated[str | None, typer.Option(help="Such as Europe/Berlin.")] = None,
    mail: Annotated[
        bool | None, typer.Option("--mail/--no-mail", help="Notifications by e-mail.")
    ] = None,
) -> None:
    """Changes the given settings; others stay as they are."""
    from google.protobuf.field_mask_pb2 import FieldMask

    from taskflow.auth.v1.user_pb2 import User
    from taskflow.auth.v1.user_service_pb2 import UpdateCurrentUserRequest
    from taskflow_client.cli.tables import USER

    given = {"display_name": name, "time_zone": time_zone, "email_notifications": mail}
    mask = FieldMask(paths=[path for path, value in given.items() if value is not None])
    if not mask.paths:
        raise usage("nothing to change", "see `taskflow me set --help`")
    user = User(display_name=name or "", time_zone=time_zone or "", email_notifications=bool(mail))
    response = await cli.client.users.UpdateCurrentUser(
        UpdateCurrentUserRequest(user=user, update_mask=mask)
    )
    cli.output.one(response.user, USER)
