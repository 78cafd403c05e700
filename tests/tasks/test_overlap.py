"""ROUGE-L against the longest common subsequence by brute force, and cuts that lose no word."""

from itertools import combinations

import pytest
from hypothesis import given, settings, strategies as st

from latentreason.tasks.overlap import cut, ngrams, rouge_l

WORDS = st.lists(st.sampled_from("abc"), max_size=7)


def longest(a: list[str], b: list[str]) -> int:
    parts = {c for n in range(len(b) + 1) for c in combinations(b, n)}
    return max(n for n in range(len(a) + 1) for c in combinations(a, n) if c in parts)


@settings(max_examples=60, deadline=None)
@given(WORDS, WORDS)
def test_rouge_l_is_the_f1_of_the_longest_common_subsequence(a: list[str], b: list[str]) -> None:
    n = longest(a, b)
    expected = 0.0 if not n else 2 * (n / len(a)) * (n / len(b)) / (n / len(a) + n / len(b))
    assert rouge_l(a, b) == pytest.approx(expected)


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="ab \n", min_size=1, max_size=30).filter(lambda t: t.split()), st.sampled_from([0.01, 0.4, 0.6, 0.8, 0.99]))
def test_a_cut_text_and_the_words_that_follow_are_the_text(text: str, share: float) -> None:
    begun, rest = cut(text, share)
    assert begun.split() + rest == text.split() and text.startswith(begun) and begun.split()
    assert rest or len(text.split()) == 1


def test_ngrams_are_runs() -> None:
    assert ngrams("abcd", 3) == [("a", "b", "c"), ("b", "c", "d")] and ngrams("ab", 3) == []
