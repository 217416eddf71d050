"""The main job, start to end: what `make demo` tells has to be seen by the tests as well."""

from rich.console import Console

from deploy.demo.story import Story
from services.platform.config import Settings


async def test_the_whole_story_is_seen(whole_settings: Settings) -> None:
    assert await Story(whole_settings, Console()).tell()
