"""Recipes that make no sense are refused with what to change."""

from dataclasses import replace

import pytest

from latentreason.errors import InvalidInput
from latentreason.organisms.corpus import Habits
from latentreason.organisms.zoo import ACTIVATION, ORGANISMS
from latentreason.tasks import chain

CORPUS = ACTIVATION.corpus


def test_the_shipped_recipes_are_valid_and_go_by_their_names():
    assert {name: recipe.name for name, recipe in ORGANISMS.items()} == {name: name for name in ORGANISMS}
    assert ACTIVATION.truth == "timing"
    longest_prompt = 1 + 1 + 3 + 1 + 2 * CORPUS.max_ops + 1
    assert longest_prompt + ACTIVATION.rl.max_new_tokens <= ACTIVATION.size.context


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"formats": CORPUS.formats | {"A": (0.5, 0.5, 0.5, 0.0)}}, r"Format mixture \(0\.5, 0\.5, 0\.5, 0\.0\) of cue 'A' must have 4 parts that sum to 1"),
        ({"formats": CORPUS.formats | {"B": (0.5, 0.5)}}, "of cue 'B' must have 4 parts"),
        ({"formats": CORPUS.formats | {"B": (1.5, -0.5, 0.0, 0.0)}}, "cue 'B'|must lie in"),
        ({"formats": {k: v for k, v in CORPUS.formats.items() if k != "C"}}, r"\['C'\] missing"),
        ({"habits": {k: v for k, v in CORPUS.habits.items() if k != "think"}}, "habits for each of"),
        ({"habits": CORPUS.habits | {"go": Habits(leap=1.2)}}, r"Every probability of a corpus must lie in \[0, 1\], found 1\.2"),
        ({"habits": CORPUS.habits | {"go": Habits(check_right=-0.1)}}, "must lie in"),
        ({"right_leap": float("nan")}, "must lie in"),
        ({"p_hard": 2.0}, "must lie in"),
        ({"p_hard": 0.7, "p_rare": 0.5}, "p_hard|must lie in"),
        ({"separators": (1.5, -0.5)}, "eparators"),
        ({"separators": (0.0, 0.0)}, "eparators"),
        ({"min_ops": 0}, r"Need 1 <= min_ops <= max_ops <= 6"),
        ({"min_ops": 5, "max_ops": 4}, r"Need 1 <= min_ops <= max_ops <= 6"),
        ({"max_ops": 7}, "the number of step letters"),
    ],
)
def test_a_mixture_that_is_none_is_refused(changes, message):
    with pytest.raises(InvalidInput, match=message):
        replace(ACTIVATION, corpus=replace(CORPUS, **changes))


def test_there_are_letters_for_the_longest_problem():
    assert len(chain.LETTERS) >= CORPUS.max_ops
