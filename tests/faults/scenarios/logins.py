"""200 logins a second, far more than the servers can hash, while other users read and write tasks."""

import asyncio
from collections import Counter
from statistics import median
from typing import Any

from services.auth.sessions.passwords import Passwords
from taskflow.auth.v1.auth_service_pb2 import LoginRequest
from tests.bench.machine import quiet
from tests.bench.processes import started
from tests.faults.harness.scenario import Run, Tally
from tests.faults.harness.world import World, a_world

PROMISE = "200 logins a second at most double the latency of reads and writes"
LIMIT_SECONDS = {"short": 90.0, "long": 600.0}

_LOGINS = 200.0
# Reads and writes per second, by kind. A few are enough: their latency is measured, not the throughput.
_CALLS = 80.0
_MIX = {"get": 10, "list": 4, "create": 1, "update": 5}
_PASSWORD = "correct horse battery staple"
_TASKS = 50
_PEOPLE = 100
_PATIENCE = 10.0
_MOST = 2.0


async def run(run: Run, tally: Tally) -> None:
    # Rounds with and without logins alternate, so that other load affects both equally.
    rounds, seconds = run.choose(3, 9), run.choose(2.0, 20.0)
    async with a_world(run, people=_PEOPLE) as world:
        await _give_passwords(world)
        calls = await _calls(run, world)
        # Let the work of the previous scenario finish.
        await quiet()
        logins = {
            "address": run.gateway,
            "mix": {"login": 1},
            "emails": [person.email for person in world.people],
            "password": _PASSWORD,
            "rate": _LOGINS,
        }
        alone, among, tried = [], [], []
        for number in range(rounds):
            [found] = await _phase(seconds, number, calls)
            alone.append(found)
            [found, found_logins] = await _phase(seconds, number, calls, logins)
            among.append(found)
            tried.append(found_logins)
            run.say(f"round {number + 1} of {rounds}")
        login = await world.stubs.auth.Login(
            LoginRequest(email=world.people[0].email, password=_PASSWORD), timeout=_PATIENCE
        )
    tally.expect(bool(login.tokens.access_token), "nobody could log in afterwards")
    _judge(tally, alone, among, tried, rounds * seconds)


def _judge(
    tally: Tally,
    alone: list[dict[str, Any]],
    among: list[dict[str, Any]],
    tried: list[dict[str, Any]],
    seconds: float,
) -> None:
    for name, found in (("alone", alone), ("among logins", among)):
        failed = {code: count for code, count in _codes(found).items() if code != "OK"}
        tally.expect(not failed, f"calls {name} ended with {failed}")
    codes = _codes(tried)
    tally.operations = codes.total() + _codes(alone).total() + _codes(among).total()
    tally.faults = codes.total()
    others = {code: n for code, n in codes.items() if code not in ("OK", "RESOURCE_EXHAUSTED")}
    tally.expect(not others, f"logins ended with {others}")
    tally.expect(codes["OK"] > 0, "nobody could log in")
    wordless = sum(found["wordless"] for found in tried)
    tally.expect(not wordless, f"{wordless} logins were refused without a retry delay")
    # The median of the rounds, because other load may disturb one of them.
    before, meanwhile = (median(_p99([one]) for one in found) for found in (alone, among))
    ratio = meanwhile / before
    tally.expect_speed(
        ratio <= _MOST, f"p99 of reads and writes was {ratio:.1f} × the p99 without logins"
    )
    tally.figures["p99 of reads and writes"] = (
        f"{before:.0f} ms without logins, {meanwhile:.0f} ms with logins, {ratio:.2f} ×"
    )
    tally.figures["logins"] = (
        f"{codes['OK'] / seconds:.0f} a second done, "
        f"{codes['RESOURCE_EXHAUSTED'] / seconds:.0f} refused in {_p99(tried, 'RESOURCE_EXHAUSTED'):.0f} ms (p99)"
    )


def _codes(found: list[dict[str, Any]]) -> Counter[str]:
    codes: Counter[str] = Counter()
    for result in found:
        codes.update(result["codes"])
    return codes


def _p99(found: list[dict[str, Any]], code: str = "OK") -> float:
    """The 99th percentile in milliseconds."""
    every = sorted(took for result in found for took in result["milliseconds"].get(code, []))
    return every[int(0.99 * len(every))] if every else 0.0


async def _phase(seconds: float, seed: int, *specs: dict[str, Any]) -> list[dict[str, Any]]:
    full = [{"deadline": _PATIENCE, "seconds": seconds, "seed": seed, **spec} for spec in specs]
    async with started("tests.faults.load_process", *full) as clients:
        for client in clients:
            client.go()
        return await asyncio.gather(*(client.result() for client in clients))


async def _give_passwords(world: World) -> None:
    """Give all people the same password, because hashing is slow."""
    hashed = await Passwords().hash(_PASSWORD)
    await world.fetch(
        "UPDATE auth.users SET password_hash = %(hashed)s WHERE id = ANY(%(ids)s)",
        {"hashed": hashed, "ids": [person.id for person in world.people]},
    )


async def _calls(run: Run, world: World) -> dict[str, Any]:
    return {
        "address": run.gateway,
        "mix": _MIX,
        "rate": _CALLS,
        "tokens": [person.credentials[0][1].removeprefix("Bearer ") for person in world.people],
        "workspace": world.workspace.id,
        "project": world.project,
        "tasks": await world.write_tasks(_TASKS),
    }
