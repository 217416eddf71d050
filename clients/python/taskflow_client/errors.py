"""What calls raise: one exception per gRPC code, with the public reason of the failure."""

from collections.abc import Iterable
from typing import NamedTuple

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

_DETAILS_KEY = "grpc-status-details-bin"


class FieldViolation(NamedTuple):
    """A field of the request that breaks a rule."""

    field: str
    description: str


class TaskFlowError(Exception):
    """A call failed.

    Attributes:
        reason: a name of `taskflow.error.v1.ErrorReason` without its prefix, such as
            "ETAG_MISMATCH"; empty when the failure didn't come from TaskFlow itself, such as a lost
            connection.
        code: the gRPC status code.
        message: one sentence for people.
        metadata: facts about the failure, see the comments in error_reason.proto.
        field_violations: the fields that broke a rule.
        resource: kind and name of what wasn't found, such as ("task", "OPS-12"); empty strings
            otherwise.
        retry_after: seconds after which trying again can help, or None.
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
    """CANCELLED: the call was given up."""


class InvalidArgument(TaskFlowError):
    """INVALID_ARGUMENT: the request breaks a rule; field_violations say which."""


class DeadlineExceeded(TaskFlowError):
    """DEADLINE_EXCEEDED: no answer in time. A write may have happened."""


class NotFound(TaskFlowError):
    """NOT_FOUND: it doesn't exist, or the caller may not know of it."""


class AlreadyExists(TaskFlowError):
    """ALREADY_EXISTS."""


class PermissionDenied(TaskFlowError):
    """PERMISSION_DENIED: the caller's role doesn't allow this."""


class ResourceExhausted(TaskFlowError):
    """RESOURCE_EXHAUSTED: too much or too often; retry_after says when to try again."""


class FailedPrecondition(TaskFlowError):
    """FAILED_PRECONDITION: the state of things doesn't allow this."""


class Aborted(TaskFlowError):
    """ABORTED: it changed since its etag was read."""


class Unimplemented(TaskFlowError):
    """UNIMPLEMENTED: the server has no such method."""


class Internal(TaskFlowError):
    """INTERNAL: a fault of the server; metadata["reference"] stands in its log."""


class Unavailable(TaskFlowError):
    """UNAVAILABLE: the server, or a store it needs, can't be reached. A write may have happened."""


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
    """Returns the typed exception; a code without a class of its own gives TaskFlowError."""
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
                break  # a proxy's or a foreign server's: code and message are still good
    return status_pb2.Status()
