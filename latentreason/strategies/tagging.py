"""`tag`: rollouts -> Spans, which strategy each stretch of a completion is. The token at `start` opens it.

Traces of the task `chain` have exact tags, by the automaton of `grammar.py`; natural text has a rule a sentence, from `rules.py`::

    lr.tag(rollouts)                                        # chain
    lr.tag(rollouts, strategies=rules.RULES, tokenizer=lm.tokenizer)

It reads tables, runs no model, and never fails on what a model wrote: malformed text has spans as far as it is well formed.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from latentreason.errors import InvalidInput
from latentreason.strategies.grammar import DECIDE, automaton, parse, scan
from latentreason.strategies.rules import sentences, strategy_of
from latentreason.tables import Rollouts, Spans
from latentreason.tasks import chain
from latentreason.tasks.problem import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_KEYS = ["arm", "problem", "sample"]
_IDS = {word: i for i, word in enumerate(chain.VOCABULARY)}


def tag(
    rollouts: Rollouts, strategies: Mapping[str, re.Pattern[str]] | None = None, *,
    tokenizer: "PreTrainedTokenizerBase | None" = None, problems: Iterable[Problem] | None = None,
) -> Spans:  # fmt: skip
    """Split completions into strategy spans.

    Args:
        rollouts: with `text`, and with `token_ids` (without them a word is a token, which holds for `chain`).
        strategies: rules for natural text; None for the task `chain`.
        tokenizer: for natural text, the one that decoded the completions.
        problems: for `chain`, those that were answered; adds the column `valid` (the span's result follows from the state before it).

    Returns:
        Spans in order of rollouts and positions. For `chain`: "format:think" and the like cover position 0, `ans` is a strategy, and the
        column `choice` is false for the answer that the format `direct` leaves no choice but to give.

    Raises:
        InvalidInput: not the text of `chain` and no rules, rules without a tokenizer, or a problem is missing.
    """
    table = rollouts.table
    if "text" not in table:
        raise InvalidInput("The rollouts have no text to tag. Pass them as sampled, before .slim().")
    if strategies is not None:
        if tokenizer is None or "token_ids" not in table:
            raise InvalidInput("Rules find spans of characters; to turn them into tokens, pass tokenizer=lm.tokenizer and rollouts with token_ids.")
        texts, ids = table["text"].tolist(), [np.asarray(t).tolist() for t in table["token_ids"]]
        spans = _by_rules(texts, ids, strategies, tokenizer)
    else:
        words, first, inverse = _distinct_words(table)
        spans = _repeated(_by_grammar(words), inverse)
        if problems is not None:
            spans["valid"] = _validity(spans, [words[i] for i in inverse], table["problem"].tolist(), problems)
    keys = table[_KEYS].iloc[spans.pop("row")].reset_index(drop=True)
    return Spans(pd.concat([keys, spans], axis=1))


def _distinct_words(table: pd.DataFrame) -> tuple[list[list[str]], np.ndarray]:
    raise NotImplementedError
