"""The whole stack behind the gateway, as `make up` runs it. TASKFLOW_REPLICAS=2 runs two processes of each service."""

import os
from collections.abc import AsyncIterator

import pytest

from deploy.local.stack import Stack, running_stack
from services.platform.config import Settings
from tests.conftest import settings_for


@pytest.fixture(scope="session")
async def whole(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    replicas = int(os.environ.get("TASKFLOW_REPLICAS", "1"))
    settings = settings_for(tmp_path_factory.mktemp("whole") / "data", replicas=replicas)
    async with running_stack(settings) as stack:
        yield stack


@pytest.fixture(scope="session")
def gateway(whole: Stack) -> str:
    """host:port of the single entry."""
    return f"127.0.0.1:{whole.settings.gateway_port}"


@pytest.fixture(scope="session")
def whole_settings(whole: Stack) -> Settings:
    return whole.settings
