"""The list of scenarios: one per module of tests/faults/scenarios."""

import importlib
import pkgutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from tests.faults import scenarios
from tests.faults.harness.scenario import Profile, Run, Tally

# The runner aborts a scenario after this time (seconds) and counts it as broken: it hangs, or the machine is too busy.
_LIMIT_SECONDS: Mapping[Profile, float] = {"short": 300.0, "long": 3600.0}


@dataclass(frozen=True)
class Scenario:
    name: str
    promise: str
    run: Callable[[Run, Tally], Awaitable[None]]
    limit: Mapping[Profile, float]


def names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(scenarios.__path__))


def load(chosen: list[str]) -> list[Scenario]:
    """The named scenarios, ordered by their constant ORDER, or else by name."""
    found = []
    for name in chosen:
        module = importlib.import_module(f"{scenarios.__name__}.{name}")
        limit = getattr(module, "LIMIT_SECONDS", _LIMIT_SECONDS)
        order = getattr(module, "ORDER", name)
        found.append((order, Scenario(name, module.PROMISE, module.run, limit)))
    return [scenario for _, scenario in sorted(found, key=lambda pair: pair[0])]
