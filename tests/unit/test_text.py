"""Text is normalized to Unicode NFC in linear time."""

import random
import sys
import time
import unicodedata

import pytest

from services.platform.rpc.text import stored

_LENGTH = 20_000
_SLOW = {
    "two marks in turn": "e" + "\u0301\u0316" * (_LENGTH // 2),
    "all of one mark, then all of another": "\u0301" * (_LENGTH // 2) + "\u0316" * (_LENGTH // 2),
    "letters that are marks": "\u0f73" * _LENGTH,
    "marks that are two": "\u0344\u0316" * (_LENGTH // 2),
}


@pytest.mark.parametrize("name", _SLOW)
def test_any_order_of_marks_is_normalized_in_less_than_100_ms(name: str) -> None:
    begin = time.thread_time()
    stored(_SLOW[name])
    assert time.thread_time() - begin < 0.1


def test_long_runs_of_marks_are_normalized_as_by_unicodedata() -> None:
    rng = random.Random(1)
    every = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    odd = [c for c in every if unicodedata.combining(c) or unicodedata.decomposition(c)]
    marks = [c for c in odd if unicodedata.combining(c)] + list("\u0f73\u0f75\u0f81")
    for pool in (odd, marks, [*marks, "e"] * 2):
        for _ in range(200):
            text = "".join(rng.choices(pool, k=rng.randrange(90, 500)))
            assert stored(text) == unicodedata.normalize("NFC", text)
