"""The timers of reminders: runs of DeadlineReminder in Temporal."""

from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError

from workflows.reminders.contract import reminder_id


async def has_timer(temporal: Client, task_id: str) -> bool:
    """Whether a workflow waits for the task's next reminder."""
    try:
        described = await temporal.get_workflow_handle(reminder_id(task_id)).describe()
    except RPCError:
        return False
    return described.status is WorkflowExecutionStatus.RUNNING
