"""The main use case from start to end, as `make demo` shows it."""

from rich.console import Console

from deploy.demo.story import Story
from services.platform.config import Settings


async def test_the_demo_shows_its_whole_story(whole_settings: Settings) -> None:
    assert await Story(whole_settings, Console()).tell()
