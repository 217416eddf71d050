"""Every list, map, text and byte string of a request is bounded; items are counted before any is validated."""

from uuid import uuid4

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from services.platform.config import Settings
from services.platform.rpc import bounds
from services.platform.rpc.errors import DomainError
from services.platform.rpc.validation import validated
from taskflow.auth.v1.user_service_pb2 import BatchGetUsersRequest, UpdateCurrentUserRequest
from taskflow.task.v1.internal_service_pb2 import StoreSuggestionsRequest, SuggestionDraft
from taskflow.task.v1.task_pb2 import Task
from taskflow.task.v1.task_service_pb2 import (
    CreateTaskRequest,
    ListTasksRequest,
    ListTasksResponse,
)
from tests.faults.rpcs import Rpc, every_rpc, places

_OURS = [rpc for rpc in every_rpc() if rpc.ours]


def _refusal(request: Message) -> dict[str, str]:
    """The field violations that the gate answers with."""
    with pytest.raises(DomainError) as refused:
        validated(
            type(request).FromString, request.SerializeToString(), Settings().max_request_bytes
        )
    assert refused.value.code.name == "INVALID_ARGUMENT"
    return dict(refused.value.fields)


def _is_bounded(field: FieldDescriptor) -> bool:
    """Whether the rules of a text or byte string limit its length."""
    rules = bounds.rules(field)
    if field.is_repeated:
        rules = rules.repeated.items
    if field.type == field.TYPE_BYTES:
        return bool(rules.bytes.HasField("max_len"))
    text = rules.string
    # A pattern without these repeat operators matches only short texts.
    short = text.HasField("pattern") and not set(text.pattern) & set("*+")
    return bool(text.HasField("max_len") or short or text.WhichOneof("well_known") == "uuid")


@pytest.mark.parametrize("rpc", _OURS, ids=lambda rpc: rpc.name)
def test_every_list_map_text_and_byte_string_of_a_request_has_a_bound(rpc: Rpc) -> None:
    for place in places(rpc):
        field = place.field
        # Messages in MESSAGE_BYTES have a limit on their total size instead of limits on their fields.
        if any(above.message_type.full_name in bounds.MESSAGE_BYTES for above in place.fields[:-1]):  # type: ignore[union-attr]
            continue
        if field.is_repeated:
            assert bounds.most_items(field) is not None, place.path
        if field.type in (field.TYPE_STRING, field.TYPE_BYTES):
            assert _is_bounded(field), place.path


@pytest.mark.parametrize("rpc", _OURS, ids=lambda rpc: rpc.name)
def test_a_request_within_its_bounds_breaks_at_most_a_few_hundred_rules(rpc: Rpc) -> None:
    most = 0
    for place in places(rpc):
        times = 1
        for field in place.fields:
            if field.is_repeated and field.containing_type.full_name not in bounds.MESSAGE_BYTES:  # type: ignore[union-attr]
                times *= bounds.most_items(field) or 0
        most += times
    assert most < 500


def test_an_overlong_list_is_refused_by_its_count_without_validating_its_items() -> None:
    assert _refusal(BatchGetUsersRequest(ids=["no id"] * 1000)) == {
        "ids": "must contain no more than 100 item(s)"
    }


def test_every_overlong_list_is_named_with_its_path() -> None:
    request = ListTasksRequest(workspace_id="no id")
    request.filter.labels.extend([""] * 600)
    request.filter.project_ids.extend([""] * 600)
    assert set(_refusal(request)) == {"filter.labels", "filter.project_ids"}


def test_an_overlong_list_of_messages_is_refused_by_its_count() -> None:
    assert set(_refusal(StoreSuggestionsRequest(suggestions=[SuggestionDraft()] * 300))) == {
        "suggestions"
    }


def test_a_mask_and_a_payload_are_limited_in_bytes() -> None:
    update = UpdateCurrentUserRequest()
    update.update_mask.paths.extend(["display_name"] * 5000)
    assert _refusal(update) == {"update_mask": "is larger than 4096 bytes"}
    create = CreateTaskRequest(project_id=str(uuid4()), task=Task(title="Large"))
    create.task.payload.update({"text": "x" * 70_000})
    assert _refusal(create) == {"task.payload": "is larger than 65536 bytes"}


def test_a_small_request_gets_all_its_violations_in_one_answer() -> None:
    fields = _refusal(BatchGetUsersRequest(ids=["no id"] * 3))
    assert set(fields) == {"ids[0]", "ids[1]", "ids[2]"}


def test_a_list_without_a_limit_fails_when_the_validation_plan_is_built() -> None:
    with pytest.raises(LookupError, match=r"ListTasksResponse\.tasks has no max_items"):
        bounds.exceeded(ListTasksResponse())
