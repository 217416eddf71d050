"""The circuit breaker around the model endpoint, on a clock that the test moves."""

from __future__ import annotations

import asyncio

import pytest

from workflows.enrichment.enrichers.circuit import FAILURES_TO_OPEN, OPEN_SECONDS, Circuit
from workflows.enrichment.enrichers.types import (
    InvalidModelOutput,
    ModelRefused,
    RetryableModelError,
)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def fail(circuit: Circuit, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(RetryableModelError, match="endpoint failed"), circuit.attempt():
            raise RetryableModelError("endpoint failed")


def refused_for(circuit: Circuit) -> float | None:
    with pytest.raises(RetryableModelError) as caught, circuit.attempt():
        pytest.fail("the call went through")
    return caught.value.retry_after


def test_calls_pass_until_five_failures_in_a_row() -> None:
    circuit = Circuit(clock=Clock())
    fail(circuit, FAILURES_TO_OPEN - 1)
    with circuit.attempt():
        pass
    fail(circuit, FAILURES_TO_OPEN)
    assert refused_for(circuit) == OPEN_SECONDS


def test_an_open_circuit_fails_fast_and_says_when_to_retry() -> None:
    clock = Clock()
    circuit = Circuit(clock=clock)
    fail(circuit, FAILURES_TO_OPEN)
    clock.now += 12
    assert refused_for(circuit) == pytest.approx(OPEN_SECONDS - 12)


def test_after_the_pause_a_single_call_probes_and_an_answer_closes_it() -> None:
    clock = Clock()
    circuit = Circuit(clock=clock)
    fail(circuit, FAILURES_TO_OPEN)
    clock.now += OPEN_SECONDS
    with circuit.attempt():
        assert refused_for(circuit) == OPEN_SECONDS
    fail(circuit, FAILURES_TO_OPEN - 1)
    with circuit.attempt():
        pass


def test_a_failed_probe_opens_it_for_another_pause() -> None:
    clock = Clock()
    circuit = Circuit(clock=clock)
    fail(circuit, FAILURES_TO_OPEN)
    clock.now += OPEN_SECONDS
    fail(circuit)
    assert refused_for(circuit) == OPEN_SECONDS


@pytest.mark.parametrize("answer", [InvalidModelOutput, ModelRefused])
def test_invalid_answers_and_refusals_count_as_a_reachable_endpoint(
    answer: type[Exception],
) -> None:
    circuit = Circuit(clock=Clock())
    fail(circuit, FAILURES_TO_OPEN - 1)
    with pytest.raises(answer), circuit.attempt():
        raise answer("answered")
    fail(circuit, FAILURES_TO_OPEN - 1)
    with circuit.attempt():
        pass


def test_a_cancelled_probe_leaves_the_probe_to_the_next_call() -> None:
    clock = Clock()
    circuit = Circuit(clock=clock)
    fail(circuit, FAILURES_TO_OPEN)
    clock.now += OPEN_SECONDS
    with pytest.raises(asyncio.CancelledError), circuit.attempt():
        raise asyncio.CancelledError
    with circuit.attempt():
        pass


def test_a_late_answer_to_an_earlier_call_does_not_close_an_open_circuit() -> None:
    circuit = Circuit(clock=Clock())
    with circuit.attempt():
        fail(circuit, FAILURES_TO_OPEN)
    assert refused_for(circuit) == OPEN_SECONDS
