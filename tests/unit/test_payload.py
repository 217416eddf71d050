"""When two payloads count as equal."""

from typing import Any

import pytest

from services.task.jobs import payload

_LARGE = 10**300


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"a": 1}, {"a": 1.0}, True),
        ({"a": [1, {"b": None}], "c": "x"}, {"c": "x", "a": [1.0, {"b": None}]}, True),
        ({"a": _LARGE}, {"a": float(_LARGE)}, True),
        ({"a": True}, {"a": 1}, False),
        ({"a": False}, {"a": 0.0}, False),
        ({"a": None}, {"a": False}, False),
        ({"a": None}, {}, False),
        ({"a": [1, 2]}, {"a": [1]}, False),
        ({"a": []}, {"a": {}}, False),
        ({"a": "1"}, {"a": 1}, False),
        ({}, None, False),
        (None, None, True),
    ],
)
def test_payloads_are_equal_when_clients_read_the_same_values(
    one: Any, other: Any, same: bool
) -> None:
    assert payload.same(one, other) is same
    assert payload.same(other, one) is same
    if one is not None and other is not None:
        assert (payload.struct(one) == payload.struct(other)) is same
