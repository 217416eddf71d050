"""Time zones, the same on every machine: their names and rules come from the tzdata that requirements.lock pins.

The machine's own zone database isn't read: replicas on different machines have to agree on every instant.
"""

from functools import cache
from importlib import metadata, resources
from zoneinfo import ZoneInfo

# The release of the rules, such as "2026.6". Instants that were computed with other rules may differ.
RULES = metadata.version("tzdata")


def is_zone(name: str) -> bool:
    """Whether `name` is an IANA time zone.

    It searches tzdata's list of names. Opening a zone by a client's text would read files by path, and the zone
    "localtime" differs between machines.
    """
    return name in _names()


@cache
def load(name: str) -> ZoneInfo:
    """The rules of a zone. Raises ValueError for a name that `is_zone` refuses."""
    if not is_zone(name):
        raise ValueError(f"{name!r} is not an IANA time zone")
    with resources.files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as file:
        return ZoneInfo.from_file(file, key=name)


@cache
def _names() -> frozenset[str]:
    return frozenset(resources.files("tzdata").joinpath("zones").read_text().split())
