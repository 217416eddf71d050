"""taskflow project …"""

from typing import Annotated

import typer

from taskflow_client.cli.command import Cli, connected, group

app = group("Projects of the workspace.")

Key = Annotated[str, typer.Argument(help="Such as OPS, for tasks OPS-1, OPS-2, …")]


@app.command()
@connected()
async def create(
    cli: Cli,
    key: Key,
    name: Annotated[str, typer.Argument(help="Default: the key.")] = "",
    description: str = "",
) -> None:
    """Creates a project."""
    from taskflow.task.v1.project_pb2 import Project
    from taskflow.task.v1.project_service_pb2 import CreateProjectRequest
    from taskflow_client.cli import lookup

    request = CreateProjectRequest(
        workspace_id=await lookup.workspace_id(cli),
        project=Project(key=key.upper(), display_name=name or key, description=description),
    )
    made = (await cli.client.projects.CreateProject(request)).project
    cli.output.done(made, f"Created the project {made.key}: {made.display_name}.")


@app.command("list")
@connected()
async def list_projects(
    cli: Cli,
    archived: Annotated[bool, typer.Option("--archived", help="Include archived ones.")] = False,
) -> None:
    """Lists the projects."""
    from taskflow_client.cli import lookup, tables

    there = await lookup.projects(cli, await lookup.workspace_id(cli), archived)
    cli.output.many(there, tables.PROJECTS)


@app.command()
@connected()
async def archive(cli: Cli, key: Key) -> None:
    """Archives a project: its tasks become read-only."""
    from taskflow.task.v1.project_service_pb2 import ArchiveProjectRequest
    from taskflow_client.cli import lookup

    request = ArchiveProjectRequest(id=await lookup.project_id(cli, key))
    project = (await cli.client.projects.ArchiveProject(request)).project
    cli.output.done(project, f"{project.key} is archived.")


@app.command()
@connected()
async def unarchive(cli: Cli, key: Key) -> None:
    """Takes a project out of the archive."""
    from taskflow.task.v1.project_service_pb2 import UnarchiveProjectRequest
    from taskflow_client.cli import lookup

    request = UnarchiveProjectRequest(id=await lookup.project_id(cli, key))
    project = (await cli.client.projects.UnarchiveProject(request)).project
    cli.output.done(project, f"{project.key} is open again.")
