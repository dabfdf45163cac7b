"""Users run without type checks: what they get wrong is refused by us, and never by an error from deep inside."""

import json
from pathlib import Path

import pytest

from tests.untyped import DOORS
from tests.warm import python

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.parametrize("doors", list(DOORS))
def test_bad_inputs_are_refused_by_name_without_type_checks(doors: str) -> None:
    # A process of its own, because this one checks every type.
    found = python("-m", "tests.untyped", doors, cwd=ROOT)
    assert found.returncode == 0, found.stderr
    wrong = []
    for line in found.stdout.splitlines():
        what, says, may_work, error = json.loads(line)
        if error is None:
            wrong += [] if may_work else [f"{what} was taken"]
        elif says is None:
            wrong.append(f"{what} does not work: {error}")
        elif not error[1] or says not in error[2]:
            wrong.append(f"{what}, which has to say {says!r}: {error[0]}: {error[2]}")
    assert found.stdout
    assert not wrong, "\n".join(wrong)
