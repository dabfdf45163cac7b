"""A judge of labels that knows the demo's world: the planted variables of each of its prompts are the truth."""

import re
from collections.abc import Sequence

from tl_circuits.features.scores import Judge, Passage
from tl_circuits.zoo.world import RELATIONS, STATES, World, name

_TOKEN = re.compile(r'"([^"]*)"')
_SHARE = re.compile(r" \d+%$")


def planted_judge(facts: World) -> Judge:
    """Whether a label of `tl_circuits.zoo.firing` holds for a passage of the world, by what the prompt is about.

    A label names states, cities, relations and tokens: "Texas 98%, at "is" 93%". It holds where the prompt is about one
    of the named in each of these respects and has one of the tokens; and, where tokens are marked, if one of them is.
    """
    told = {prompt.text: prompt for prompt in (*facts.trained, *facts.held_out)}
    lines = {line: {prompt.state, name(prompt.city), prompt.relation} for line, prompt in told.items()}

    def judge(passages: Sequence[Passage], label: str) -> list[bool]:
        about, _, places = label.partition("at ") if not label.startswith("at ") else ("", "", label)
        words = {_SHARE.sub("", part.strip()) for part in about.split(",") if part.strip()}
        tokens = {token for token in _TOKEN.findall(places)}
        return [_holds(passage, words, tokens, lines) for passage in passages]

    return judge


def _holds(passage: Passage, words: set[str], tokens: set[str], lines: dict[str, set[str]]) -> bool:
    about = _about("".join(passage.tokens), lines)
    respects = [words & kind for kind in _KINDS if words & kind]
    marked = passage.marked or (True,) * len(passage.tokens)
    seen = {token.strip() for token, mark in zip(passage.tokens, marked, strict=True) if mark}
    return all(about & respect for respect in respects) and (not tokens or bool(tokens & seen))


def _about(text: str, lines: dict[str, set[str]]) -> set[str]:
    """What the prompt that a text begins with is about. A prompt may go on with its answer."""
    for end in range(len(text), 0, -1):
        if text[:end] in lines:
            return lines[text[:end]] - {""}
    return set()


_KINDS = (
    {state.name for state in STATES},
    {name(city) for state in STATES for city in state.cities},
    set(RELATIONS),
)
