"""What a process hands to every feature's `register`: settings, database, bus, seal and gate."""

from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from services.platform.config import Settings
from services.platform.data.db import Database
from services.platform.events.bus import Bus
from services.platform.rpc.gate import Gate
from services.platform.rpc.seal import Seal

# A background loop: it runs until the process ends.
Loop = Coroutine[Any, Any, None]


@dataclass(frozen=True)
class Platform:
    settings: Settings
    db: Database
    bus: Bus
    seal: Seal
    gate: Gate
