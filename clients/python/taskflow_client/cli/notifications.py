"""taskflow notifications …"""

from typing import Annotated

import typer

from taskflow_client.cli.command import Cli, connected, group

app = group("Your notifications.")


@app.command("list")
@connected()
async def list_notifications(
    cli: Cli,
    unread: Annotated[bool, typer.Option("--unread", help="Only unread ones.")] = False,
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
        int, typer.Option(min=0, help="Only those up to this sequence number; 0 means all.")
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
    cursor: Annotated[
        str, typer.Option(help="Continue after this cursor instead of starting now.")
    ] = "",
) -> None:
    """Shows notifications as they arrive, until Ctrl-C. JSON output has one stream message per line."""
    from taskflow.notification.v1.notification_service_pb2 import GetUnreadCountRequest
    from taskflow_client.cli import stream_output

    count = await cli.client.notifications.GetUnreadCount(GetUnreadCountRequest())
    cli.output.remark(f"{count.unread_count} unread; waiting for new ones, press Ctrl-C to end")
    await stream_output.notifications(cli, cursor)
