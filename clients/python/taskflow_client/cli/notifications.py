"""taskflow notifications …"""

from typing import Annotated

import typer

from taskflow_client.cli.running import Cli, connected, group

app = group("What you were told.")


@app.command("list")
@connected()
async def list_notifications(
    cli: Cli,
    unread: Annotated[bool, typer.Option("--unread", help="Unread ones only.")] = False,
    limit: Annotated[int, typer.Option(min=0, help="0 shows all.")] = 0,
) -> None:
    """Lists notifications, newest first; a dot marks the unread ones."""
    from taskflow.notification.v1.notification_service_pb2 import ListNotificationsRequest
    from taskflow_client.cli import lookup, tables

    found = await lookup.everything(
        cli.client.notifications.ListNotifications,
        ListNotificationsRequest(unread_only=unread),
        "notifications",
        limit,
    )
    cli.output.many(found, tables.NOTIFICATIONS)


@app.command()
@connected()
async def read(cli: Cli, ids: Annotated[list[str], typer.Argument(metavar="ID...")]) -> None:
    """Marks notifications as read."""
    from taskflow.notification.v1.notification_service_pb2 import MarkReadRequest

    response = await cli.client.notifications.MarkRead(MarkReadRequest(ids=ids))
    cli.output.done(response, f"{response.marked_count} marked as read.")


@app.command("read-all")
@connected()
async def read_all(
    cli: Cli,
    up_to: Annotated[
        int, typer.Option(min=0, help="Only what came up to this sequence; 0 means all.")
    ] = 0,
) -> None:
    """Marks all notifications as read."""
    from taskflow.notification.v1.notification_service_pb2 import MarkAllReadRequest

    request = MarkAllReadRequest(up_to_sequence=up_to)
    response = await cli.client.notifications.MarkAllRead(request)
    cli.output.done(response, f"{response.marked_count} marked as read.")


@app.command()
@connected()
async def watch(
    cli: Cli,
    cursor: Annotated[str, typer.Option(help="Go on from here instead of from now.")] = "",
) -> None:
    """Shows notifications as they come, until Ctrl-C. As JSON: one message of the stream a line."""
    from taskflow.notification.v1.notification_service_pb2 import GetUnreadCountRequest
    from taskflow_client.cli import watching

    count = await cli.client.notifications.GetUnreadCount(GetUnreadCountRequest())
    cli.output.remark(f"{count.unread_count} unread; waiting for more, Ctrl-C ends")
    await watching.notifications(cli, cursor)
