"""Promises of load shedding in one process: an outage is reported at once, and not as overload."""

from services.platform.config import Settings
from services.platform.rpc.load_shedding import LoadShedder
from taskflow.error.v1 import error_reason_pb2 as reasons

_MOST = 50
# Half of the usual number of calls.
_FEW = 5


class SimulatedCalls:
    """Calls in flight, on a simulated clock (seconds)."""

    def __init__(self) -> None:
        self.shedder = LoadShedder(Settings(gateway_calls=2 * _FEW, max_calls=_MOST))
        self.now = 1e9

    def come(self, count: int) -> list[str]:
        """The reason of each refused call; empty for admitted ones."""
        answers = [self.shedder.enter(self.now) for _ in range(count)]
        return [
            reasons.ErrorReason.Name(answer.reason)[13:] if answer else "" for answer in answers
        ]

    def come_one_by_one(self, seconds: float) -> list[str]:
        """Start calls for this long (seconds); admitted ones fail at once."""
        answers: list[str] = []
        for _ in range(round(seconds / 0.02)):
            self.now += 0.02
            answers += self.come(1)
            if not answers[-1]:
                self.end(1, well=False)
        return answers

    def end(self, count: int, *, well: bool = True) -> None:
        for _ in range(count):
            self.shedder.leave(answered=well)


def test_a_burst_is_admitted_up_to_the_call_limit() -> None:
    calls = SimulatedCalls()
    assert calls.come(_MOST + 1) == [""] * _MOST + ["OVERLOADED"]
    calls.end(1)
    assert calls.come(1) == [""]


def test_many_calls_are_admitted_while_calls_are_answered() -> None:
    calls = SimulatedCalls()
    calls.come(_MOST - 1)
    for _ in range(1000):
        assert calls.come(1) == [""]
        calls.now += 0.01
        calls.end(1)


def test_while_nothing_is_answered_calls_are_refused_as_outage_and_not_as_overload() -> None:
    calls = SimulatedCalls()
    calls.come(_FEW)
    assert set(calls.come_one_by_one(0.4)) == {""}
    assert calls.come_one_by_one(0.4)[-10:] == ["DEPENDENCY_UNAVAILABLE"] * 10
    calls.end(1)
    assert set(calls.come_one_by_one(0.4)) == {""}


def test_a_few_slow_calls_do_not_count_as_an_outage() -> None:
    calls = SimulatedCalls()
    calls.come(_FEW - 1)
    assert set(calls.come_one_by_one(10)) == {""}


def test_a_stalled_process_does_not_count_as_an_outage() -> None:
    calls = SimulatedCalls()
    calls.come(_FEW)
    for _ in range(5):
        calls.now += 3
        assert calls.come(1) == [""]
        calls.end(1, well=False)
