"""How much of one text is in another, by words. It knows no model and no task."""

from collections.abc import Sequence


def rouge_l(said: Sequence[str], wanted: Sequence[str]) -> float:
    """ROUGE-L of two lists of words: the harmonic mean of precision and recall of their longest common subsequence (Lin 2004). 0 where one is empty.

    >>> round(rouge_l("police killed the gunman".split(), "police kill the gunman".split()), 9)
    0.75
    """
    if not said or not wanted:
        return 0.0
    above = [0] * (len(wanted) + 1)
    for word in said:
        row = [0]
        for j, other in enumerate(wanted):
            row.append(above[j] + 1 if word == other else max(above[j + 1], row[j]))
        above = row
    return 2 * above[-1] / (len(said) + len(wanted))  # 2PR / (P + R), with P and R the subsequence over each length


def cut(text: str, share: float) -> tuple[str, list[str]]:
    """The beginning of a text that holds `share` of its words (rounded, at least one and not all), and the words that follow.

    >>> cut("B 4 7 1 : a rot b mix", 0.4)
    ('B 4 7 1', [':', 'a', 'rot', 'b', 'mix'])
    """
    words = text.split()
    kept = min(max(1, round(share * len(words))), max(1, len(words) - 1))
    at = 0
    for word in words[:kept]:
        at = text.index(word, at) + len(word)
    return text[:at], words[kept:]


def ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """All runs of `n` words, in order."""
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
