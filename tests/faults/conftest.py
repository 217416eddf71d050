"""Fixtures of the bad-input tests: services in processes of their own, and samples in them."""

from collections.abc import AsyncIterator

import pytest

from deploy.local.ports import free_ports
from deploy.local.stack import Stack, running_stack
from services.platform.config import Settings
from tests.faults.bad_input import MEASURED
from tests.faults.samples import Samples, new_samples


@pytest.fixture(scope="module")
async def processes(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """The services as separate processes, so that tests can measure memory and CPU time of each."""
    programs = {*MEASURED, "relay"}
    names = [f"{program}_{kind}" for program in programs for kind in ("port", "http_port")]
    known = [name for name in names if name in Settings.model_fields]
    settings = Settings(
        **stack.settings.model_dump()
        | dict(zip(known, free_ports(len(known)), strict=True))
        | {"data_dir": tmp_path_factory.mktemp("bad-input")}
    )
    async with running_stack(settings, only=programs) as running:
        yield running


@pytest.fixture(scope="module")
async def samples(processes: Stack) -> AsyncIterator[Samples]:
    async with new_samples(processes.settings) as samples:
        yield samples
