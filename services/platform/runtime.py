"""What a service is handed to stand on."""

from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from services.platform.bus import Bus
from services.platform.config import Settings
from services.platform.db import Database
from services.platform.interceptors import Gate
from services.platform.seal import Seal

# A loop that runs as long as the process does.
Loop = Coroutine[Any, Any, None]


@dataclass(frozen=True)
class Platform:
    settings: Settings
    db: Database
    bus: Bus
    seal: Seal
    gate: Gate
