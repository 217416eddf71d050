"""Unicode NFC with the result of `unicodedata`, in linear time."""

from __future__ import annotations

import random
import sys
import time
import unicodedata

import pytest

from services.platform.rpc.nfc import nfc

CHARACTERS = [chr(number) for number in range(sys.maxunicode + 1) if not 0xD800 <= number < 0xE000]
MARKS = [char for char in CHARACTERS if unicodedata.combining(char)]
# Characters that decompose. Together with the marks, these are all that NFC changes.
COMPOSED = [char for char in CHARACTERS if unicodedata.normalize("NFD", char) != char]


def test_every_character_is_normalised_as_by_unicodedata() -> None:
    for char in CHARACTERS:
        assert nfc(char) == unicodedata.normalize("NFC", char)


@pytest.mark.parametrize("seed", range(20))
def test_mixtures_of_letters_and_marks_are_normalised_as_by_unicodedata(seed: int) -> None:
    choose = random.Random(seed)
    for _ in range(500):
        text = "".join(
            choose.choice(choose.choice((MARKS, MARKS, COMPOSED, "ae\u0f73\u0f75\u0f81")))
            for _ in range(choose.choice((choose.randint(1, 40), 500)))
        )
        assert nfc(text) == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize(
    "text",
    [
        "\u0301\u0323" * 10_000,
        "\u0301" * 10_000 + "\u0316" * 10_000,
        "\u0344\u0316" * 10_000,
        "\u0f73" * 20_000,
        "".join(MARKS) * 20,
    ],
)
def test_20_000_consecutive_marks_are_normalised_in_less_than_100_ms(text: str) -> None:
    started = time.thread_time()
    nfc("a" + text)
    assert time.thread_time() - started < 0.1
