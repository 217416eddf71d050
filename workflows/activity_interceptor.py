"""Wraps every activity: heartbeats, metrics, and errors without private text. Workflow runs are measured, too."""

from __future__ import annotations

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

from services.platform.observe import metrics
from workflows.service_stubs import is_final

log = structlog.get_logger()


class ActivityInterceptor(Interceptor):
    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Activity(next)

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[_Workflow]:
        return _Workflow


class _Workflow(WorkflowInboundInterceptor):
    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:
        try:
            result = await self.next.execute_workflow(input)
        except FailureError:
            _measure_run("failed")
            raise
        # Any other exception doesn't end the run: the run continues as new, is evicted from memory, or its workflow
        # task is retried.
        _measure_run("done")
        return result


def _measure_run(result: str) -> None:
    # When a worker replays a run, the metrics don't count its end a second time.
    if not workflow.unsafe.is_replaying():
        info = workflow.info()
        seconds = (workflow.now() - info.workflow_start_time).total_seconds()
        metrics.WORKFLOW_SECONDS.labels(info.workflow_type, result).observe(seconds)


class _Activity(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        info = activity.info()
        started = time.perf_counter()
        result = "ok"
        heartbeats = asyncio.ensure_future(_send_heartbeats())
        try:
            return await self.next.execute_activity(input)
        except (asyncio.CancelledError, CancelledError):
            result = "cancelled"
            raise
        except Exception as error:
            result = "failed"
            raise _without_private_text(error) from None
        finally:
            heartbeats.cancel()
            seconds = time.perf_counter() - started
            metrics.ACTIVITY_SECONDS.labels(info.activity_type, result).observe(seconds)
            log.debug(
                "activity",
                activity=info.activity_type,
                workflow=info.workflow_id,
                attempt=info.attempt,
                result=result,
                duration=round(seconds, 4),
            )


async def _send_heartbeats() -> None:
    """Sends heartbeats until cancelled. Returns at once when the activity has no heartbeat timeout."""
    timeout = activity.info().heartbeat_timeout
    while timeout:
        await asyncio.sleep(timeout.total_seconds() / 3)
        activity.heartbeat()


def _without_private_text(error: Exception) -> ApplicationError:
    """The error for the workflow history, without a cause: a gRPC status code, or a text that our activity wrote."""
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
    # Only stack frames are logged: the exception's text and values may be private.
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
