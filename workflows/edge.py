"""What happens around every activity: it beats, it's measured, and nothing private leaves it for a history or a log.
Runs of workflows are measured, too."""

import asyncio
import time
from typing import Any

import grpc.aio
import structlog
from temporalio import activity, workflow
from temporalio.exceptions import ApplicationError, CancelledError, FailureError
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    ExecuteWorkflowInput,
    Interceptor,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
)

from services.platform import telemetry
from workflows.front_door import is_final

log = structlog.get_logger()


class _Run(WorkflowInboundInterceptor):
    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:
        try:
            answer = await self.next.execute_workflow(input)
        except FailureError:
            _measure("failed")
            raise
        # Nothing else ends a run: it goes on in another one, is taken out of memory, or its task is tried again.
        _measure("done")
        return answer


def _measure(result: str) -> None:
    # A replay has been measured when it wasn't one.
    if not workflow.unsafe.is_replaying():
        info = workflow.info()
        seconds = (workflow.now() - info.workflow_start_time).total_seconds()
        telemetry.WORKFLOW_SECONDS.labels(info.workflow_type, result).observe(seconds)


class Edge(Interceptor):
    """For workers: see the module."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Activity(next)

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[_Run]:
        return _Run


class _Activity(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        info = activity.info()
        started = time.perf_counter()
        result = "ok"
        beating = asyncio.ensure_future(_beat())
        try:
            return await self.next.execute_activity(input)
        except (asyncio.CancelledError, CancelledError):
            result = "cancelled"
            raise
        except Exception as error:
            result = "failed"
            raise _tellable(error) from None
        finally:
            beating.cancel()
            seconds = time.perf_counter() - started
            telemetry.ACTIVITY_SECONDS.labels(info.activity_type, result).observe(seconds)
            log.debug(
                "activity",
                activity=info.activity_type,
                workflow=info.workflow_id,
                attempt=info.attempt,
                result=result,
                duration=round(seconds, 4),
            )


async def _beat() -> None:
    """Tells Temporal again and again that the worker lives, if it waits for that."""
    timeout = activity.info().heartbeat_timeout
    while timeout:
        await asyncio.sleep(timeout.total_seconds() / 3)
        activity.heartbeat()


def _tellable(error: Exception) -> ApplicationError:
    """An error that may be kept: a code, or a text that was written for it, and no cause."""
    info = activity.info()
    where = {"activity": info.activity_type, "workflow": info.workflow_id, "attempt": info.attempt}
    if isinstance(error, ApplicationError):
        log.warning("activity failed", **where, error=str(error))
        return error
    if isinstance(error, grpc.aio.AioRpcError):
        code = error.code().name
        log.warning("activity failed", **where, error=code)
        return ApplicationError(
            f"a service answered {code}", type=code, non_retryable=is_final(error)
        )
    name = type(error).__name__
    # Without its text and the values in it: where it came from is in the frames.
    log.error("activity failed unexpectedly", **where, error=name, frames=_frames(error))
    return ApplicationError(f"the activity failed with {name}", type=name)


def _frames(error: BaseException) -> list[str]:
    frames = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        frames.append(f"{code.co_qualname}:{trace.tb_lineno}")
        trace = trace.tb_next
    return frames[-5:]
