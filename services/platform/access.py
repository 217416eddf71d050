"""Who may call what: the one table of roles and RPCs. A test fails for an RPC without a row."""

from enum import Enum

from taskflow.auth.v1 import workspace_pb2
from taskflow.auth.v1.workspace_pb2 import Role


class Access(Enum):
    """Who may call an RPC. Roles are the least one needed in the workspace that the request is about."""

    OPEN = "anyone"
    SIGNED_IN = "any user"
    VIEWER = workspace_pb2.ROLE_VIEWER
    MEMBER = workspace_pb2.ROLE_MEMBER
    ADMIN = workspace_pb2.ROLE_ADMIN
    OWNER = workspace_pb2.ROLE_OWNER
    OPERATOR = "operators of the installation"
    SERVICE = "other services"

    @property
    def role(self) -> Role.ValueType:
        """The least role; UNSPECIFIED where no membership is asked for."""
        if isinstance(self.value, int):
            return Role.ValueType(self.value)
        return workspace_pb2.ROLE_UNSPECIFIED


_AUTH = "/taskflow.auth.v1."
_TASK = "/taskflow.task.v1."
_NOTIFICATION = "/taskflow.notification.v1."
_EVENT = "/taskflow.event.v1."

ACCESS: dict[str, Access] = {
    "/grpc.health.v1.Health/Check": Access.OPEN,
    "/grpc.health.v1.Health/Watch": Access.OPEN,
    "/grpc.health.v1.Health/List": Access.OPEN,
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": Access.OPEN,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Access.OPEN,
    _AUTH + "AuthService/Register": Access.OPEN,
    _AUTH + "AuthService/Login": Access.OPEN,
    _AUTH + "AuthService/RefreshToken": Access.OPEN,
    _AUTH + "AuthService/Logout": Access.SIGNED_IN,
    _AUTH + "AuthService/GetSigningKeys": Access.OPEN,
    _AUTH + "UserService/GetCurrentUser": Access.SIGNED_IN,
    _AUTH + "UserService/UpdateCurrentUser": Access.SIGNED_IN,
    _AUTH + "UserService/BatchGetUsers": Access.SIGNED_IN,
    _AUTH + "WorkspaceService/CreateWorkspace": Access.SIGNED_IN,
    _AUTH + "WorkspaceService/GetWorkspace": Access.VIEWER,
    _AUTH + "WorkspaceService/ListWorkspaces": Access.SIGNED_IN,
    _AUTH + "WorkspaceService/UpdateWorkspace": Access.ADMIN,
    _AUTH + "WorkspaceService/AddMember": Access.ADMIN,
    _AUTH + "WorkspaceService/ListMembers": Access.VIEWER,
    _AUTH + "WorkspaceService/UpdateMember": Access.ADMIN,
    # Members may remove themselves; logic.py asks for ADMIN where somebody else is removed.
    _AUTH + "WorkspaceService/RemoveMember": Access.VIEWER,
    _TASK + "ProjectService/CreateProject": Access.MEMBER,
    _TASK + "ProjectService/GetProject": Access.VIEWER,
    _TASK + "ProjectService/ListProjects": Access.VIEWER,
    _TASK + "ProjectService/UpdateProject": Access.MEMBER,
    _TASK + "ProjectService/ArchiveProject": Access.MEMBER,
    _TASK + "ProjectService/UnarchiveProject": Access.MEMBER,
    _TASK + "TaskService/CreateTask": Access.MEMBER,
    _TASK + "TaskService/GetTask": Access.VIEWER,
    _TASK + "TaskService/ListTasks": Access.VIEWER,
    _TASK + "TaskService/UpdateTask": Access.MEMBER,
    _TASK + "TaskService/AssignTask": Access.MEMBER,
    _TASK + "TaskService/ChangeTaskStatus": Access.MEMBER,
    _TASK + "TaskService/DeleteTask": Access.MEMBER,
    _TASK + "TaskService/UndeleteTask": Access.MEMBER,
    _TASK + "TaskService/WatchTasks": Access.VIEWER,
    _TASK + "SuggestionService/RequestSuggestions": Access.MEMBER,
    _TASK + "SuggestionService/ListSuggestions": Access.VIEWER,
    _TASK + "SuggestionService/AcceptSuggestion": Access.MEMBER,
    _TASK + "SuggestionService/RejectSuggestion": Access.MEMBER,
    _TASK + "JobService/GetJob": Access.VIEWER,
    _TASK + "JobService/ListJobs": Access.VIEWER,
    _TASK + "JobService/RetryJob": Access.MEMBER,
    _TASK + "SuggestionInternalService/GetEnrichmentInput": Access.SERVICE,
    _TASK + "SuggestionInternalService/StoreSuggestions": Access.SERVICE,
    _TASK + "SuggestionInternalService/FailEnrichment": Access.SERVICE,
    _TASK + "JobInternalService/ClaimJob": Access.SERVICE,
    _TASK + "JobInternalService/FinishJob": Access.SERVICE,
    _TASK + "ReminderInternalService/PlanReminder": Access.SERVICE,
    _TASK + "ReminderInternalService/EmitReminder": Access.SERVICE,
    _TASK + "ReminderInternalService/MoveDueTimes": Access.SERVICE,
    _NOTIFICATION + "NotificationService/ListNotifications": Access.SIGNED_IN,
    _NOTIFICATION + "NotificationService/GetUnreadCount": Access.SIGNED_IN,
    _NOTIFICATION + "NotificationService/MarkRead": Access.SIGNED_IN,
    _NOTIFICATION + "NotificationService/MarkAllRead": Access.SIGNED_IN,
    _NOTIFICATION + "NotificationService/WatchNotifications": Access.SIGNED_IN,
    _NOTIFICATION + "EmailInternalService/PrepareEmailBatch": Access.SERVICE,
    _NOTIFICATION + "EmailInternalService/FinishEmailBatch": Access.SERVICE,
    _EVENT + "DeadLetterService/ListDeadLetters": Access.OPERATOR,
    _EVENT + "DeadLetterService/ReplayDeadLetter": Access.OPERATOR,
    _EVENT + "DeadLetterInternalService/ParkEvent": Access.SERVICE,
}
