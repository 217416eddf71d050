"""Iterates over the pages of List methods."""

from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from google.protobuf.message import Message

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response")


async def pages(method: Callable[[Request], Any], request: Request) -> AsyncIterator[Any]:
    """Yields the responses of a List method, page by page, from the request's page_token on."""
    page: Any = type(request)()
    page.CopyFrom(request)
    while True:
        response = await method(page)
        yield response
        if not response.next_page_token:
            return
        page.page_token = response.next_page_token
