"""taskflow watch"""

from typing import Annotated

import typer

from taskflow_client.cli.choices import Status
from taskflow_client.cli.command import Cli, connected


@connected()
async def watch(
    cli: Cli,
    project: Annotated[
        list[str] | None, typer.Option("--project", "-p", help="Key; can be repeated.")
    ] = None,
    status: Annotated[
        list[Status] | None, typer.Option(case_sensitive=False, help="Can be repeated.")
    ] = None,
    assignee: Annotated[
        list[str] | None, typer.Option(help="E-mail, me, or nobody; can be repeated.")
    ] = None,
    cursor: Annotated[
        str, typer.Option(help="Continue after this cursor instead of showing the current tasks.")
    ] = "",
) -> None:
    """Shows the current tasks, then each change, until Ctrl-C.

    JSON output has one stream message per line; each has a cursor to continue from.
    """
    from taskflow_client.cli import lookup, stream_output
    from taskflow_client.cli.task import task_filter

    workspace = await lookup.workspace_id(cli)
    wanted = await task_filter(cli, project or [], status or [], assignee or [])
    await stream_output.board(cli, workspace, wanted, cursor)
