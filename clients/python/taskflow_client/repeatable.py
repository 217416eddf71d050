"""Which calls may be sent twice, when it isn't known whether the first one was carried out."""

from typing import Any

from google.protobuf.message import Message

_READS = ("Get", "List", "BatchGet", "Watch")

# Writes whose second execution changes nothing and answers like the first. Not among them, though
# harmless: what answers the second time that there's nothing left to do (DeleteTask, UndeleteTask,
# RemoveMember, AcceptSuggestion, RejectSuggestion, RetryJob). The caller would take a success for a
# failure.
_REPEATABLE_WRITES = {
    "/taskflow.auth.v1.AuthService/Login",  # may leave a session that nobody has
    "/taskflow.auth.v1.AuthService/RefreshToken",  # within RENEWAL_LIMIT
    "/taskflow.auth.v1.AuthService/Logout",
    "/taskflow.auth.v1.UserService/UpdateCurrentUser",
    "/taskflow.auth.v1.WorkspaceService/UpdateWorkspace",
    "/taskflow.auth.v1.WorkspaceService/UpdateMember",
    "/taskflow.task.v1.ProjectService/UpdateProject",
    "/taskflow.task.v1.ProjectService/ArchiveProject",
    "/taskflow.task.v1.ProjectService/UnarchiveProject",
    "/taskflow.task.v1.TaskService/UpdateTask",
    "/taskflow.task.v1.TaskService/AssignTask",
    "/taskflow.task.v1.TaskService/ChangeTaskStatus",
    "/taskflow.task.v1.SuggestionService/RequestSuggestions",
    "/taskflow.notification.v1.NotificationService/MarkRead",
    "/taskflow.notification.v1.NotificationService/MarkAllRead",
    "/taskflow.event.v1.DeadLetterService/ReplayDeadLetter",
}


def is_repeatable(method: str, request: Message) -> bool:
    """Tells whether a call may be sent again although the first one may have been carried out.

    Reads may. Writes may with a request_id, or when repeating changes nothing; not with an etag,
    because after a first success the second would be told that it's out of date; and not when they
    mean "all until now".
    """
    if method.rpartition("/")[2].startswith(_READS):
        return True
    if getattr(request, "request_id", ""):
        return True
    if method not in _REPEATABLE_WRITES or _has_etag(request):
        return False
    return not method.endswith("/MarkAllRead") or bool(getattr(request, "up_to_sequence", 0))


def _has_etag(request: Message) -> bool:
    # In the request itself, or in the resource that it carries.
    values: list[Any] = [request, *(value for _, value in request.ListFields())]
    return any(isinstance(value, Message) and getattr(value, "etag", "") for value in values)
