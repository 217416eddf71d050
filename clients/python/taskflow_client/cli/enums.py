"""Converts enums of the protos from and to the words of the command line."""

from taskflow.auth.v1.workspace_pb2 import Role
from taskflow.task.v1.job_pb2 import JobState
from taskflow.task.v1.suggestion_pb2 import SuggestionState
from taskflow.task.v1.task_pb2 import TaskPriority, TaskStatus
from taskflow.task.v1.task_service_pb2 import TaskOrderField
from taskflow_client.cli import choices


def status(choice: choices.Status) -> TaskStatus.ValueType:
    return TaskStatus.Value(f"TASK_STATUS_{choice.name}")


def priority(choice: choices.Priority) -> TaskPriority.ValueType:
    name = "UNSPECIFIED" if choice is choices.Priority.NONE else choice.name
    return TaskPriority.Value(f"TASK_PRIORITY_{name}")


def role(choice: choices.Role) -> Role.ValueType:
    return Role.Value(f"ROLE_{choice.name}")


def suggestion_state(choice: choices.SuggestionState) -> SuggestionState.ValueType:
    return SuggestionState.Value(f"SUGGESTION_STATE_{choice.name}")


def job_state(choice: choices.JobState) -> JobState.ValueType:
    return JobState.Value(f"JOB_STATE_{choice.name}")


def order(choice: choices.Order) -> TaskOrderField.ValueType:
    names = {"CREATED": "CREATE_TIME", "UPDATED": "UPDATE_TIME", "DUE": "DUE_TIME"}
    return TaskOrderField.Value(f"TASK_ORDER_FIELD_{names.get(choice.name, choice.name)}")


def status_word(value: TaskStatus.ValueType) -> str:
    return _word(TaskStatus.Name(value), "TASK_STATUS_")


def priority_word(value: TaskPriority.ValueType) -> str:
    return _word(TaskPriority.Name(value), "TASK_PRIORITY_")


def role_word(value: Role.ValueType) -> str:
    return _word(Role.Name(value), "ROLE_")


def suggestion_state_word(value: SuggestionState.ValueType) -> str:
    return _word(SuggestionState.Name(value), "SUGGESTION_STATE_")


def job_state_word(value: JobState.ValueType) -> str:
    return _word(JobState.Name(value), "JOB_STATE_")


def _word(name: str, prefix: str) -> str:
    word = name.removeprefix(prefix).lower().replace("_", "-")
    return "" if word == "unspecified" else word
