"""The names of time zones: the same ones on every machine."""

from functools import cache
from importlib import resources


def is_zone(name: str) -> bool:
    """Whether it's an IANA time zone.

    By name only: opening whatever a client calls a zone would read files by path, and "localtime" is another zone on
    every machine.
    """
    return name in _names()


@cache
def _names() -> frozenset[str]:
    return frozenset(resources.files("tzdata").joinpath("zones").read_text().split())
