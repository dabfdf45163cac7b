"""The atlas's tokens: words, the two pieces of each city's name, letters of acronyms, digits of sums, and years."""

import re
from pathlib import Path
from string import ascii_uppercase

from tl_circuits.zoo.atlas.behaviours import behaviours
from tl_circuits.zoo.atlas.numbers import CENTURIES, LAST
from tl_circuits.zoo.tokenizer import save_tokenizer
from tl_circuits.zoo.tokenizer import vocabulary as of_demo

_WORD = re.compile(r" \(|[,\n]| ?[^\W\d]+:?")
# A year is a century and two more digits, " 17" and "32"; every other number is cut into its digits.
_NUMBERS = r" 1\d\d\d| 1\d|\d"


def vocabulary() -> tuple[str, ...]:
    """The demo's tokens, which two-hop questions and sums are made of, and after them the words of the others."""
    asked = [
        lesson
        for behaviour in behaviours().values()
        for lesson in (*behaviour.lessons, *behaviour.trained, *behaviour.held_out)
        if behaviour.name not in ("two-hop", "addition")
    ]
    # Acronyms, alone without a space, are letters.
    texts = {text for lesson in asked for text in (lesson.text, lesson.answer) if text[0] == " " or text == lesson.text}
    words = {word for text in texts for word in _WORD.findall(text)}
    years = [f" {century}" for century in CENTURIES] + [f"{year:02}" for year in range(LAST + 1)]
    return tuple(dict.fromkeys((*of_demo(), *ascii_uppercase, ")", *years, *sorted(words))))


def save(folder: Path) -> None:
    """Writes the atlas's tokenizer into a folder."""
    save_tokenizer(folder, vocabulary(), apart=_NUMBERS)
