"""Errors with a public reason, and the one place where exceptions become google.rpc.Status."""

import secrets
from collections.abc import Mapping, Sequence
from typing import NoReturn

import grpc
import psycopg
import psycopg_pool
import structlog
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from services.platform.observe.logging import request_id
from taskflow.error.v1 import error_reason_pb2 as reasons
from taskflow.error.v1.error_reason_pb2 import ErrorReason

DOMAIN = "taskflow"

log = structlog.get_logger()

_Code = grpc.StatusCode
# Code and default message of every reason; the comments in error_reason.proto say when each is used.
_MEANING: dict[ErrorReason.ValueType, tuple[grpc.StatusCode, str]] = {
    reasons.ERROR_REASON_INTERNAL: (_Code.INTERNAL, "something went wrong on our side"),
    reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE: (
        _Code.UNAVAILABLE,
        "a store doesn't answer at present; try again",
    ),
    reasons.ERROR_REASON_DRAINING: (_Code.UNAVAILABLE, "the server is shutting down; try again"),
    reasons.ERROR_REASON_OVERLOADED: (
        _Code.RESOURCE_EXHAUSTED,
        "too many calls at once; try again",
    ),
    reasons.ERROR_REASON_REQUEST_TOO_LARGE: (_Code.RESOURCE_EXHAUSTED, "the request is too large"),
    reasons.ERROR_REASON_CALL_TIMED_OUT: (_Code.DEADLINE_EXCEEDED, "the call took too long"),
    reasons.ERROR_REASON_UNKNOWN_METHOD: (_Code.UNIMPLEMENTED, "there is no such method"),
    reasons.ERROR_REASON_CALLER_LIMIT_REACHED: (
        _Code.RESOURCE_EXHAUSTED,
        "you have reached a limit that leaves room for other callers; try again",
    ),
    reasons.ERROR_REASON_INVALID_REQUEST: (_Code.INVALID_ARGUMENT, "the request is invalid"),
    reasons.ERROR_REASON_UNREADABLE_REQUEST: (
        _Code.INVALID_ARGUMENT,
        "the request can't be read as a message of this type",
    ),
    reasons.ERROR_REASON_INVALID_PAGE_TOKEN: (
        _Code.INVALID_ARGUMENT,
        "the page token doesn't belong to this request",
    ),
    reasons.ERROR_REASON_INVALID_CURSOR: (
        _Code.INVALID_ARGUMENT,
        "the cursor doesn't belong to this stream",
    ),
    reasons.ERROR_REASON_REQUEST_ID_REUSED: (
        _Code.INVALID_ARGUMENT,
        "the request_id was used for another request",
    ),
    reasons.ERROR_REASON_CREDENTIALS_MISSING: (
        _Code.UNAUTHENTICATED,
        "send `authorization: Bearer <access token>`",
    ),
    reasons.ERROR_REASON_TOKEN_INVALID: (_Code.UNAUTHENTICATED, "the token isn't valid"),
    reasons.ERROR_REASON_SESSION_REVOKED: (_Code.UNAUTHENTICATED, "the session has ended"),
    reasons.ERROR_REASON_CREDENTIALS_WRONG: (
        _Code.UNAUTHENTICATED,
        "e-mail or password is wrong",
    ),
    reasons.ERROR_REASON_LOGIN_THROTTLED: (
        _Code.RESOURCE_EXHAUSTED,
        "too many wrong passwords; try again later",
    ),
    reasons.ERROR_REASON_REFRESH_TOKEN_REUSED: (
        _Code.UNAUTHENTICATED,
        "the refresh token was used twice; the session has ended",
    ),
    reasons.ERROR_REASON_RESOURCE_NOT_FOUND: (_Code.NOT_FOUND, "not found"),
    reasons.ERROR_REASON_ROLE_TOO_LOW: (_Code.PERMISSION_DENIED, "your role doesn't allow this"),
    reasons.ERROR_REASON_NOT_FOR_CALLER: (_Code.PERMISSION_DENIED, "this isn't for you to call"),
    reasons.ERROR_REASON_MEMBERSHIP_LOST: (
        _Code.PERMISSION_DENIED,
        "you are no longer a member of the workspace",
    ),
    reasons.ERROR_REASON_EMAIL_TAKEN: (_Code.ALREADY_EXISTS, "an account with this e-mail exists"),
    reasons.ERROR_REASON_PROJECT_KEY_TAKEN: (
        _Code.ALREADY_EXISTS,
        "a project with this key exists",
    ),
    reasons.ERROR_REASON_ALREADY_MEMBER: (_Code.ALREADY_EXISTS, "the user is a member already"),
    reasons.ERROR_REASON_TASK_NOT_DELETED: (_Code.ALREADY_EXISTS, "the task isn't deleted"),
    reasons.ERROR_REASON_ETAG_MISMATCH: (
        _Code.ABORTED,
        "it changed since you read it; read it again",
    ),
    reasons.ERROR_REASON_ASSIGNEE_NOT_MEMBER: (
        _Code.FAILED_PRECONDITION,
        "the assignee isn't a member of the workspace",
    ),
    reasons.ERROR_REASON_PROJECT_ARCHIVED: (
        _Code.FAILED_PRECONDITION,
        "the project is archived",
    ),
    reasons.ERROR_REASON_PARENT_INVALID: (
        _Code.FAILED_PRECONDITION,
        "the parent has to be a live task of the same project, and not below the task",
    ),
    reasons.ERROR_REASON_TASK_DELETED: (_Code.FAILED_PRECONDITION, "the task is deleted"),
    reasons.ERROR_REASON_LAST_OWNER: (
        _Code.FAILED_PRECONDITION,
        "a workspace keeps at least one owner",
    ),
    reasons.ERROR_REASON_SUGGESTION_STALE: (
        _Code.FAILED_PRECONDITION,
        "the text changed since the suggestion was made",
    ),
    reasons.ERROR_REASON_SUGGESTION_RESOLVED: (
        _Code.FAILED_PRECONDITION,
        "the suggestion has been decided",
    ),
    reasons.ERROR_REASON_JOB_STATE_INVALID: (
        _Code.FAILED_PRECONDITION,
        "the job's state doesn't allow this",
    ),
    reasons.ERROR_REASON_AI_DISABLED: (
        _Code.FAILED_PRECONDITION,
        "AI is switched off in this workspace",
    ),
    reasons.ERROR_REASON_AI_LIMIT_REACHED: (
        _Code.RESOURCE_EXHAUSTED,
        "no AI calls are left for this hour; try again later",
    ),
    reasons.ERROR_REASON_READER_TOO_SLOW: (
        _Code.RESOURCE_EXHAUSTED,
        "the stream wasn't read for too long; resume from the last cursor",
    ),
    reasons.ERROR_REASON_SERVICE_UNAVAILABLE: (
        _Code.UNAVAILABLE,
        "the service doesn't answer at present; try again",
    ),
    reasons.ERROR_REASON_PROTOCOL_UNSUPPORTED: (
        _Code.UNIMPLEMENTED,
        "the server doesn't support this compression; send gzip, deflate or none",
    ),
    reasons.ERROR_REASON_METADATA_TOO_LARGE: (
        _Code.RESOURCE_EXHAUSTED,
        "the metadata is too large",
    ),
}

# Delay that clients are told before they retry (seconds): long enough for a restarted store or process to serve again.
_RETRY_AFTER = 1.0
_RETRYABLE = {
    reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE,
    reasons.ERROR_REASON_DRAINING,
    reasons.ERROR_REASON_OVERLOADED,
    reasons.ERROR_REASON_SERVICE_UNAVAILABLE,
}


class DomainError(Exception):
    """A failure with a public reason.

    `metadata` holds the values that the reason's comment in error_reason.proto promises. `fields` are pairs of field
    path and problem, `resource` is (type, name) of what wasn't found, `retry_after` is in seconds.
    """

    def __init__(
        self,
        reason: ErrorReason.ValueType,
        metadata: Mapping[str, str] | None = None,
        *,
        message: str | None = None,
        fields: Sequence[tuple[str, str]] = (),
        resource: tuple[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.reason = reason
        self.code, default = _MEANING[reason]
        self.message = message or default
        super().__init__(self.message)
        self.metadata = metadata or {}
        self.fields = fields
        self.resource = resource
        self.retry_after = _RETRY_AFTER if reason in _RETRYABLE else retry_after

    def status(self) -> status_pb2.Status:
        details: list[any_pb2.Any] = [_any(self._info())]
        if self.fields:
            details.append(
                _any(
                    error_details_pb2.BadRequest(
                        field_violations=[
                            error_details_pb2.BadRequest.FieldViolation(
                                field=field, description=text
                            )
                            for field, text in self.fields
                        ]
                    )
                )
            )
        if self.resource:
            kind, name = self.resource
            details.append(
                _any(error_details_pb2.ResourceInfo(resource_type=kind, resource_name=name))
            )
        if self.retry_after is not None:
            delay = duration_pb2.Duration()
            delay.FromMilliseconds(int(self.retry_after * 1000))
            details.append(_any(error_details_pb2.RetryInfo(retry_delay=delay)))
        code: int = self.code.value[0]
        return status_pb2.Status(code=code, message=self.message, details=details)

    def _info(self) -> error_details_pb2.ErrorInfo:
        name = ErrorReason.Name(self.reason).removeprefix("ERROR_REASON_")
        return error_details_pb2.ErrorInfo(reason=name, domain=DOMAIN, metadata=self.metadata)


def _any(message: object) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message, deterministic=True)  # type: ignore[arg-type]
    return packed


def not_found(kind: str, name: object) -> DomainError:
    """The NOT_FOUND error. It is the same for a missing resource and for a resource that the caller may not see."""
    return DomainError(reasons.ERROR_REASON_RESOURCE_NOT_FOUND, resource=(kind, str(name)))


def invalid(field: str, problem: str) -> DomainError:
    return DomainError(reasons.ERROR_REASON_INVALID_REQUEST, fields=[(field, problem)])


# SQLSTATEs, or their prefixes, after which the same statement can succeed later.
_TRANSIENT = (
    # Connection, resources, operator intervention, conflict with a transaction, lock.
    *("08", "53", "57", "40", "55"),
    # The server is a read-only standby, as after a failover; the transaction reached a time limit.
    *("25006", "25P03", "25P04"),
)
# Prefixes of SQLSTATEs after which a statement has had no effect: Postgres rejected the rows or cancelled it.
_REJECTED = ("21", "22", "23", "40", "44", "54", "55", "57014")
# SQLSTATE and prefix of conflicts: a unique value is taken, a deadlock, a serialization failure.
_CONFLICT = ("23505", "40")


def is_unavailable(error: Exception) -> bool:
    """Whether Postgres or another dependency is temporarily unavailable, so that the same request can succeed later."""
    if isinstance(error, DomainError):
        return error.reason == reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE
    if isinstance(error, psycopg_pool.PoolTimeout | psycopg_pool.PoolClosed):
        return True
    if isinstance(error, psycopg.Error):
        if error.sqlstate is None:
            # An error of libpq itself, not of the server: the connection was lost.
            return (
                isinstance(error, psycopg.OperationalError) or type(error) is psycopg.DatabaseError
            )
        return error.sqlstate.startswith(_TRANSIENT)
    return False


def is_rejected(error: Exception) -> bool:
    """Whether Postgres rejected or cancelled the statement, so that it had no effect.

    If it wrote several rows, the caller may retry them one by one.
    """
    if isinstance(error, psycopg.DataError):
        return True
    return isinstance(error, psycopg.Error) and (error.sqlstate or "").startswith(_REJECTED)


def is_conflict(error: Exception) -> bool:
    """Whether Postgres rejected a statement because of another transaction, so that another try may succeed."""
    return isinstance(error, psycopg.Error) and (error.sqlstate or "").startswith(_CONFLICT)


def public(error: Exception) -> DomainError:
    """The error with which a call answers an exception.

    An unexpected exception is logged with a reference, and the client gets only the reference.
    """
    if isinstance(error, DomainError):
        return error
    if is_unavailable(error):
        log.warning(
            "database unavailable",
            error=type(error).__name__,
            sqlstate=getattr(error, "sqlstate", None),
        )
        return DomainError(reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE)
    reference = request_id() or secrets.token_hex(8)
    log.error("unforeseen error", reference=reference, exc_info=error)
    return DomainError(reasons.ERROR_REASON_INTERNAL, {"reference": reference})


async def abort(
    context: "grpc.aio.ServicerContext[object, object]", error: DomainError
) -> NoReturn:
    """Ends the call with the error's status; its details are in the trailing metadata."""
    # gRPC's exception refers to this error and lives until the call's timer ends (30 s). A traceback would keep the
    # request in memory for that time.
    error.__traceback__ = error.__context__ = error.__cause__ = None
    details = error.status().SerializeToString()
    # Tracing reads the status code from the context later.
    context.set_code(error.code)
    await context.abort(
        error.code, error.message, trailing_metadata=(("grpc-status-details-bin", details),)
    )
