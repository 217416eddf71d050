"""taskflow workspace …"""

from typing import Annotated

import typer

from taskflow_client.cli.choices import Role
from taskflow_client.cli.command import Cli, connected, group

app = group("Workspaces and their members.")


@app.command()
@connected()
async def create(cli: Cli, name: str) -> None:
    """Creates a workspace that you own. Your first one becomes the default."""
    from taskflow.auth.v1.workspace_service_pb2 import CreateWorkspaceRequest
    from taskflow_client.cli import lookup

    request = CreateWorkspaceRequest(display_name=name)
    made = (await cli.client.workspaces.CreateWorkspace(request)).workspace
    if not lookup.default_workspace(cli):
        lookup.set_default_workspace(cli, made.id)
    cli.output.done(made, f"Created the workspace {made.display_name} ({made.id}).")


@app.command("list")
@connected()
async def list_workspaces(cli: Cli) -> None:
    """Lists your workspaces."""
    from taskflow_client.cli import lookup, tables

    chosen = lookup.default_workspace(cli)
    cli.output.many(await lookup.workspaces(cli), tables.workspaces(chosen))


@app.command()
@connected()
async def use(cli: Cli, workspace: Annotated[str, typer.Argument(help="Name or id.")]) -> None:
    """Makes a workspace the default for all commands."""
    from taskflow_client.cli import lookup

    found = await lookup.workspace_named(cli, workspace)
    lookup.set_default_workspace(cli, found.id)
    cli.output.done(found, f"{found.display_name} is the default workspace now.")


@app.command()
@connected()
async def members(cli: Cli) -> None:
    """Lists the members."""
    from taskflow_client.cli import lookup, tables

    everyone = await lookup.members(cli, await lookup.workspace_id(cli))
    cli.output.many(everyone, tables.MEMBERS)


@app.command("add-member")
@connected()
async def add_member(
    cli: Cli,
    email: str,
    role: Annotated[Role, typer.Option(case_sensitive=False)] = Role.MEMBER,
) -> None:
    """Makes the user with this e-mail a member."""
    from taskflow.auth.v1.workspace_service_pb2 import AddMemberRequest
    from taskflow_client.cli import enums, lookup

    request = AddMemberRequest(
        workspace_id=await lookup.workspace_id(cli), email=email, role=enums.role(role)
    )
    added = (await cli.client.workspaces.AddMember(request)).member
    cli.output.done(added, f"{added.display_name} is a {role.value} of the workspace now.")
