"""taskflow jobs …"""

from typing import Annotated

import typer

from taskflow_client.cli.choices import JobState
from taskflow_client.cli.command import Cli, connected, group

app = group("Background work for tasks.")

JobId = Annotated[str, typer.Argument(metavar="ID")]


@app.command("list")
@connected()
async def list_jobs(
    cli: Cli,
    task: Annotated[str, typer.Option(help="Only of this task; key or id.")] = "",
    state: Annotated[
        list[JobState] | None,
        typer.Option(
            case_sensitive=False, help="Can be repeated. Failed jobs are the dead letters."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="0 shows all.")] = 0,
) -> None:
    """Lists jobs, newest first."""
    from taskflow.task.v1.job_service_pb2 import ListJobsRequest
    from taskflow_client.cli import enums, lookup, tables

    request = ListJobsRequest(
        workspace_id=await lookup.workspace_id(cli),
        task_id=await lookup.task_id(cli, task) if task else "",
        states=[enums.job_state(each) for each in state or []],
    )
    found = await lookup.everything(cli.client.jobs.ListJobs, request, "jobs", limit)
    cli.output.many(found, tables.jobs(await lookup.tasks_of(cli, found)))


@app.command()
@connected()
async def show(cli: Cli, job: JobId) -> None:
    """Shows a job with its result or error."""
    from taskflow.task.v1.job_service_pb2 import GetJobRequest
    from taskflow_client.cli import tables

    response = await cli.client.jobs.GetJob(GetJobRequest(id=job))
    cli.output.one(response.job, tables.JOB)


@app.command()
@connected()
async def retry(cli: Cli, job: JobId) -> None:
    """Starts the next attempt of a failed job."""
    from taskflow.task.v1.job_service_pb2 import RetryJobRequest

    response = await cli.client.jobs.RetryJob(RetryJobRequest(id=job))
    cli.output.done(response.job, f"Job {response.job.id} starts again.")
