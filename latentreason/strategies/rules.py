"""Strategies of natural text: which regular expression speaks for which, sentence by sentence.

The first rule that matches names the sentence; one that none matches belongs to no strategy. Rules see a sentence in lower case and
cut to `MAX_SENTENCE` characters, and none has a repeat inside a repeat, so untrusted text costs linear time. Another
taxonomy is another dict of the same shape.
"""

import re
from collections.abc import Iterator, Mapping

MAX_SENTENCE = 400
"""Characters of a sentence that rules look at."""

RULES: Mapping[str, re.Pattern[str]] = {
    "answer": re.compile(
        r"\\boxed|\banswer:? {0,2}(is|=|\d)|\b(so|therefore|thus|hence),? the (final )?(answer|result|value)\b|^(final )?answer:"
    ),
    "restart": re.compile(
        r"^(but )?((wait|hmm+|hold on|actually|oops|alternatively)\b|no,)|\bstart over\b|\btry (again|another|a different)\b|\bgo back\b"
        r"|\bthat('s| is) (wrong|not right|incorrect)\b|\bi made an? (mistake|error)\b"
    ),
    "check": re.compile(r"\b(double-?check|check|verify|verifying|confirm|plug(ging)? (it |this |that )?back|make sure|sanity)\b"),
    "compute": re.compile(
        r"\d {0,2}[-+*/×÷^=<>] {0,2}-?\(?\d|= {0,2}-?\d|\b(plus|minus|times|divided by) -?\d"
        r"|\b(compute|calculate|add|subtract|multiply|divide|simplify)(ing)?\b"
    ),
    "set up": re.compile(
        r"\b(let|let's|let us|suppose|assume|denote|define|given|we (need|want|have|know|are given)|first,? (we|i|let)"
        r"|the (problem|question) (asks|says|is))\b"
    ),
}
"""Strategy -> pattern, in order of precedence."""

EVERY: Mapping[str, re.Pattern[str]] = {"sentence": re.compile("")}
"""The rule that every sentence obeys: spans for `discover`, which names them by itself."""

_BREAK = re.compile(r"(?<=[.!?])\s+|\n+|</?think>")


def sentences(text: str) -> Iterator[tuple[int, str]]:
    """Where each sentence starts (in characters), and the sentence. It ends at a line break, at . ! ? before white space, or at a think tag.

    >>> list(sentences("Let x = 3.5. Then 2 + 2 = 4."))
    [(0, 'Let x = 3.5.'), (13, 'Then 2 + 2 = 4.')]
    """
    start = 0
    for end, following in [*(match.span() for match in _BREAK.finditer(text)), (len(text), len(text))]:
        sentence = text[start:end]
        if body := sentence.strip():
            yield start + sentence.index(body[0]), body
        start = following


def strategy_of(sentence: str, rules: Mapping[str, re.Pattern[str]] = RULES) -> str | None:
    """The strategy of a sentence, None where no rule matches.

    >>> strategy_of("Wait, 6 + 7 is not 12.")
    'restart'
    """
    shown = sentence[:MAX_SENTENCE].lower()
    return next((strategy for strategy, pattern in rules.items() if pattern.search(shown)), None)
