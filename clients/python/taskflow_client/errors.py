"""The exceptions of calls: one class per gRPC status code, with the reason of the failure."""

from collections.abc import Iterable
from typing import NamedTuple

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

_DETAILS_KEY = "grpc-status-details-bin"


class FieldViolation(NamedTuple):
    """A field of the request that breaks a validation rule."""

    field: str
    description: str


class TaskFlowError(Exception):
    """A call failed.

    Attributes:
        reason: a name of `taskflow.error.v1.ErrorReason` without its prefix, such as
            "ETAG_MISMATCH"; empty when the failure isn't TaskFlow's, such as a lost connection.
        code: the gRPC status code.
        message: one sentence for people.
        metadata: details of the failure, as error_reason.proto describes them.
        field_violations: the fields that broke a validation rule.
        resource: kind and name of the resource that wasn't found, such as ("task", "OPS-12");
            empty strings otherwise.
        retry_after: seconds to wait before a retry, or None if the server didn't say.
    """

    def __init__(
        self,
        reason: str,
        code: grpc.StatusCode,
        message: str,
        metadata: dict[str, str] | None = None,
        field_violations: tuple[FieldViolation, ...] = (),
        resource: tuple[str, str] = ("", ""),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{reason or code.name}: {message}")
        self.reason = reason
        self.code = code
        self.message = message
        self.metadata = metadata or {}
        self.field_violations = field_violations
        self.resource = resource
        self.retry_after = retry_after


class Canceled(TaskFlowError):
    """CANCELLED: the caller cancelled the call."""


class InvalidArgument(TaskFlowError):
    """INVALID_ARGUMENT: the request breaks a validation rule; field_violations names the fields."""


class DeadlineExceeded(TaskFlowError):
    """DEADLINE_EXCEEDED: no response in time. The server may have executed a write."""


class NotFound(TaskFlowError):
    """NOT_FOUND: the resource doesn't exist, or the caller may not see it."""


class AlreadyExists(TaskFlowError):
    """ALREADY_EXISTS: the resource, or the state asked for, exists already."""


class PermissionDenied(TaskFlowError):
    """PERMISSION_DENIED: the caller's role doesn't allow this."""


class ResourceExhausted(TaskFlowError):
    """RESOURCE_EXHAUSTED: a size or rate limit was reached; retry_after says when to retry."""


class FailedPrecondition(TaskFlowError):
    """FAILED_PRECONDITION: the resource's current state doesn't allow this."""


class Aborted(TaskFlowError):
    """ABORTED: the resource changed since its etag was read."""


class Unimplemented(TaskFlowError):
    """UNIMPLEMENTED: the server has no such method."""


class Internal(TaskFlowError):
    """INTERNAL: an unexpected server error; its log has an entry with metadata["reference"]."""


class Unavailable(TaskFlowError):
    """UNAVAILABLE: the server or its database can't be reached. A write may have happened."""


class Unauthenticated(TaskFlowError):
    """UNAUTHENTICATED: not logged in, wrong credentials, or a session that has ended."""


_BY_CODE: dict[grpc.StatusCode, type[TaskFlowError]] = {
    grpc.StatusCode.CANCELLED: Canceled,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.ABORTED: Aborted,
    grpc.StatusCode.UNIMPLEMENTED: Unimplemented,
    grpc.StatusCode.INTERNAL: Internal,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
}


def from_rpc_error(error: grpc.aio.AioRpcError) -> TaskFlowError:
    """Returns the exception for the status code; TaskFlowError for a code without its own class."""
    reason, metadata = "", dict[str, str]()
    violations: list[FieldViolation] = []
    resource = ("", "")
    retry_after: float | None = None
    for detail in _status(error.trailing_metadata()).details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo.FromString(detail.value)
            if info.domain == "taskflow":
                reason, metadata = info.reason, dict(info.metadata)
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad = error_details_pb2.BadRequest.FromString(detail.value)
            violations += [FieldViolation(v.field, v.description) for v in bad.field_violations]
        elif detail.Is(error_details_pb2.ResourceInfo.DESCRIPTOR):
            missing = error_details_pb2.ResourceInfo.FromString(detail.value)
            resource = (missing.resource_type, missing.resource_name)
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            delay = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay
            retry_after = max(0.0, delay.seconds + delay.nanos / 1e9)
    kind = _BY_CODE.get(error.code(), TaskFlowError)
    return kind(
        reason,
        error.code(),
        error.details() or "",
        metadata,
        tuple(violations),
        resource,
        retry_after,
    )


def _status(trailers: Iterable[tuple[str, str | bytes]] | None) -> status_pb2.Status:
    for key, value in trailers or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                break  # not from TaskFlow: use only code and message
    return status_pb2.Status()
