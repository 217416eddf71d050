"""The tables of all features, found in their models.py."""

from importlib import import_module
from pathlib import Path

from sqlalchemy import MetaData, Table

import services
from services.platform.data.tables import metadata as platform


def all_metadata() -> list[MetaData]:
    """The SQLAlchemy metadata of all tables: one object for each Postgres schema."""
    root = Path(services.__file__).parent
    found = [platform]
    for file in sorted(root.rglob("models.py")):
        name = ".".join(("services", *file.relative_to(root).with_suffix("").parts))
        for value in vars(import_module(name)).values():
            if isinstance(value, Table) and value.metadata not in found:
                found.append(value.metadata)
    return found
