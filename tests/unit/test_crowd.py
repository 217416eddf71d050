"""Promises of overload protection in a process: an outage is told at once, and isn't called overload."""

from services.platform.config import Settings
from services.platform.crowd import Crowd
from taskflow.error.v1 import error_reason_pb2 as reasons

_MOST = 50
# Half of the usual calls.
_FEW = 5


class Calls:
    """A crowd on a clock of its own (seconds)."""

    def __init__(self) -> None:
        self.crowd = Crowd(Settings(usual_calls=2 * _FEW, max_calls=_MOST))
        self.now = 1e9

    def come(self, count: int) -> list[str]:
        """The reasons by which they are refused; empty for those that may go on."""
        answers = [self.crowd.enter(self.now) for _ in range(count)]
        return [
            reasons.ErrorReason.Name(answer.reason)[13:] if answer else "" for answer in answers
        ]

    def come_one_by_one(self, seconds: float, every: float = 0.02) -> list[str]:
        """For so long; those that may go on fail at once."""
        answers: list[str] = []
        for _ in range(round(seconds / every)):
            self.now += every
            answers += self.come(1)
            if not answers[-1]:
                self.end(1, well=False)
        return answers

    def end(self, count: int, *, well: bool = True) -> None:
        for _ in range(count):
            self.crowd.leave(answered=well)


def test_a_burst_passes_up_to_the_most_calls_there_may_be() -> None:
    calls = Calls()
    assert calls.come(_MOST + 1) == [""] * _MOST + ["OVERLOADED"]
    calls.end(1)
    assert calls.come(1) == [""]


def test_many_calls_pass_for_as_long_as_they_are_answered() -> None:
    calls = Calls()
    calls.come(_MOST - 1)
    for _ in range(1000):
        assert calls.come(1) == [""]
        calls.now += 0.01
        calls.end(1)


def test_while_nothing_is_answered_a_call_is_told_of_an_outage_and_not_of_overload() -> None:
    calls = Calls()
    calls.come(_FEW)
    assert set(calls.come_one_by_one(0.4)) == {""}
    assert calls.come_one_by_one(0.4)[-10:] == ["DEPENDENCY_UNAVAILABLE"] * 10
    calls.end(1)
    assert set(calls.come_one_by_one(0.4)) == {""}


def test_a_few_slow_calls_are_no_outage() -> None:
    calls = Calls()
    calls.come(_FEW - 1)
    assert set(calls.come_one_by_one(10)) == {""}


def test_a_process_that_did_not_run_is_no_outage() -> None:
    calls = Calls()
    calls.come(_FEW)
    for _ in range(5):
        calls.now += 3
        assert calls.come(1) == [""]
        calls.end(1, well=False)
