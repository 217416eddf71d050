"""The names of time zones that TaskFlow accepts, the same on every machine."""

from functools import cache
from importlib import resources


def is_zone(name: str) -> bool:
    """Whether `name` is an IANA time zone.

    It searches tzdata's list of names. Opening a zone by a client's text would read files by path, and the zone
    "localtime" differs between machines.
    """
    return name in _names()


@cache
def _names() -> frozenset[str]:
    return frozenset(resources.files("tzdata").joinpath("zones").read_text().split())
