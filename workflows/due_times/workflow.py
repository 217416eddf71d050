"""MoveDueTimes: moves the due times of a user's tasks after a change of the user's time zone."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    import workflows.history_limit as history_limit
    from workflows.contract import CALL_RETRIES, CALL_TIMEOUT
    from workflows.due_times.activities import DueTimesActivities
    from workflows.due_times.contract import STEP_PAUSE, UserZone


@workflow.defn
class MoveDueTimes:
    """Moves them in small steps with pauses, so that one user's thousands of tasks hold up nobody else.

    A user has one run at a time. A signal only means "look again": the Task service reads the user's zone at each step.
    However often the zone changes, only the newest one counts.
    """

    def __init__(self) -> None:
        self._changed = False

    @workflow.signal
    def changed(self) -> None:
        """The user's time zone has changed."""
        self._changed = True

    @workflow.run
    async def run(self, user: UserZone) -> None:
        more = True
        while more or self._changed:
            self._changed = False
            more = await workflow.execute_activity_method(
                DueTimesActivities.move,
                user,
                start_to_close_timeout=CALL_TIMEOUT,
                retry_policy=CALL_RETRIES,
            )
            # Checked before the pause as well, because signals make the history longer, too.
            if history_limit.exceeded():
                workflow.continue_as_new(user)
            if more:
                await workflow.sleep(STEP_PAUSE)
