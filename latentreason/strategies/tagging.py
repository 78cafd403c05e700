"""`tag`: rollouts -> Spans, which strategy each stretch of a completion is. The token at `start` opens it.

Traces of the task `chain` have exact tags, by the automaton of `grammar.py`; natural text has a rule a sentence, from `rules.py`::

    lr.tag(rollouts)                                        # chain
    lr.tag(rollouts, strategies=rules.RULES, tokenizer=lm.tokenizer)    # with `think`: inside a <think> block?
    lr.tag(rollouts, found.labeller(lm), tokenizer=lm.tokenizer)        # categories that `discover` found, a sentence a span

It reads tables, runs no model, and never fails on what a model wrote: malformed text has spans as far as it is well formed.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from latentreason.errors import InvalidInput
from latentreason.strategies.grammar import DECIDE, automaton, parse, scan
from latentreason.strategies.rules import EVERY, sentences, strategy_of
from latentreason.tables import Rollouts, Spans
from latentreason.tasks import chain
from latentreason.tasks.answers import THINK_TAG, opens_thought, thoughts
from latentreason.tasks.problem import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Labeller = Callable[[Rollouts, Spans], Sequence[str]]
"""Names for the spans of rollouts, such as `Strategies.labeller` gives."""

_KEYS = ["arm", "problem", "sample"]
_IDS = {word: i for i, word in enumerate(chain.VOCABULARY)}


def tag(
    rollouts: Rollouts, strategies: Mapping[str, re.Pattern[str]] | Labeller | None = None, *,
    tokenizer: "PreTrainedTokenizerBase | None" = None, problems: Iterable[Problem] | None = None,
) -> Spans:  # fmt: skip
    """Split completions into strategy spans.

    Args:
        rollouts: with `text`, and with `token_ids` (without them a word is a token, which holds for `chain`).
        strategies: rules for natural text; None for the task `chain`. Or a function that names spans: those of the grammar, or, with a tokenizer, every
            sentence.
        tokenizer: for natural text, the one that decoded the completions.
        problems: for `chain`, those that were answered; adds the column `valid` (the span's result follows from the state before it).

    Returns:
        Spans in order of rollouts and positions. For natural text the column `think` says whether the span lies inside a think block (one
        that the prompt opened counts). For `chain`: "format:think" and the like cover position 0, `ans` is a strategy, and the
        column `choice` is false for the answer that the format `direct` leaves no choice but to give.

    Raises:
        InvalidInput: not the text of `chain` and no rules, rules without a tokenizer, or a problem is missing.
    """
    table = rollouts.table
    if "text" not in table:
        raise InvalidInput("The rollouts have no text to tag. Pass them as sampled, before .slim().")
    if callable(strategies):
        unnamed = tag(rollouts, None if tokenizer is None else EVERY, tokenizer=tokenizer, problems=problems)
        return Spans(unnamed.table.assign(strategy=list(strategies(rollouts, unnamed))))
    if strategies is not None:
        if tokenizer is None or "token_ids" not in table:
            raise InvalidInput("Rules find characters; to turn them into tokens, pass tokenizer=lm.tokenizer and rollouts with token_ids.")
        spans = _by_rules(table["text"].tolist(), [np.asarray(ids).tolist() for ids in table["token_ids"]], strategies, tokenizer, _opened(table, tokenizer))
    else:
        words = _words(table)
        spans = _by_grammar(words)
        if problems is not None:
            spans["valid"] = _validity(spans, words, table["problem"].tolist(), problems)
    keys = table[_KEYS].iloc[spans.pop("row")].reset_index(drop=True)
    return Spans(pd.concat([keys, spans], axis=1))


def _words(table: pd.DataFrame) -> list[list[str]]:
    """The completions of `chain` as words, one a token, without the end-of-text at the end."""
    words: list[list[str]] = [text.split() for text in table["text"]]
    if strange := {w for row in words for w in row} - _IDS.keys():
        fix = "For natural text, pass strategies=rules.RULES and tokenizer=lm.tokenizer."
        raise InvalidInput(f"These are not traces of the task chain: it has no word {min(strange)[:60]!r}. {fix}")
    if "token_ids" not in table:
        return words
    named = [[chain.VOCABULARY[i] if i < len(chain.VOCABULARY) else "" for i in ids] for ids in table["token_ids"]]
    for row, said in zip(named, words, strict=True):
        if row and row[-1] == chain.EOS:
            row.pop()
        if row != said and [w for w in row if w not in (chain.PAD, chain.BOS, chain.EOS)] != said:  # decoding to text drops special tokens
            fix = "Tags of chain need the organisms' tokenizer, where a word is a token."
            raise InvalidInput(f"The tokens say {' '.join(row)!r} where the text says {' '.join(said)!r}. {fix}")
    return named


def _by_grammar(words: list[list[str]]) -> pd.DataFrame:
    """Exact spans, as `grammar.parse` finds them, of all traces at once: columns row, strategy, start, end, choice."""
    length = np.array([len(w) for w in words], dtype=np.int64)
    tokens = np.full((len(words), int(length.max(initial=0)) + 1), _IDS[chain.EOS])
    for row, trace in zip(tokens, words, strict=True):
        row[: len(trace)] = [_IDS[w] for w in trace]
    names, _ = automaton()
    states = scan(tokens)[:, :-1]
    forced = (states == names.index("direct")) & (tokens == _IDS[chain.ANSWER])
    opens = forced | ((states == names.index(DECIDE)) & np.isin(tokens, [_IDS[w] for w in (*chain.STRATEGIES, chain.ANSWER)]))
    opens[:, 0] = np.isin(tokens[:, 0], [_IDS[w] for w in chain.FORMATS])
    row, start = opens.nonzero()
    next_row, next_start = np.append(row, -1)[1:], np.append(start, 0)[1:]
    end = np.where(start == 0, 1, np.where(next_row == row, next_start, length[row]))
    labels = np.array([f"format:{w}" if w in chain.FORMATS else w for w in chain.VOCABULARY], dtype=object)
    return pd.DataFrame({"row": row, "strategy": labels[tokens[row, start]], "start": start, "end": end, "choice": ~forced[row, start]})


def _validity(spans: pd.DataFrame, words: list[list[str]], ids: list[str], problems: Iterable[Problem]) -> np.ndarray:
    """Whether each span is right; a format cannot be wrong."""
    metas = {p.id: p.meta for p in problems}
    if missing := sorted(set(ids) - metas.keys()):
        raise InvalidInput(
            f"{len(missing)} problems of the rollouts are not among `problems`, first {missing[0]}. Pass all that were sampled."
        )

    @cache
    def steps(text: str, problem: str) -> list[bool]:
        return [step.valid for step in parse(text, metas[problem]).steps]

    is_step = (spans["start"] > 0).to_numpy()
    valid = np.ones(len(spans), dtype=bool)
    valid[is_step] = [v for row in spans["row"][is_step].unique() for v in steps(" ".join(words[row]), ids[row])]
    return valid


def _opened(table: pd.DataFrame, tokenizer: "PreTrainedTokenizerBase") -> list[bool]:
    """Of each rollout: does its prompt end inside a think block? Unknown (no `prompt_ids`) counts as no."""
    if "prompt_ids" not in table:
        return [False] * len(table)
    ends = [tuple(np.asarray(ids)[-16:].tolist()) for ids in table["prompt_ids"]]
    by_end = {end: opens_thought(str(tokenizer.decode(list(end)))) for end in set(ends)}
    return [by_end[end] for end in ends]


def _by_rules(
    texts: list[str], ids: list[list[int]], rules: Mapping[str, re.Pattern[str]], tokenizer: "PreTrainedTokenizerBase", opened: list[bool]
) -> pd.DataFrame:
    """A span for each sentence that a rule names: columns row, strategy, start, end, think."""
    found = []
    for row, (text, tokens) in enumerate(zip(texts, ids, strict=True)):
        inside = thoughts(text, opened[row])
        parts = list(sentences(text))
        cuts = sorted({*(at for at, _ in parts), *(tag.start() for tag in THINK_TAG.finditer(text))})  # a tag belongs to no sentence
        bounds = dict(zip(cuts, pairwise(_tokens_at(cuts, text, tokens, tokenizer)), strict=True))
        for at, sentence in parts:
            start, end = bounds[at]
            strategy = strategy_of(sentence, rules)
            if strategy is not None and end > start:  # two sentences may share a token
                found.append((row, strategy, start, end, any(first <= at < last for first, last in inside)))
    types = {"row": int, "start": int, "end": int, "think": bool}
    return pd.DataFrame(found, columns=["row", "strategy", "start", "end", "think"]).astype(types)


def _tokens_at(characters: list[int], text: str, ids: list[int], tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The token that holds each character, and the number of tokens that hold text."""
    if getattr(tokenizer, "is_fast", False):
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        again: list[int] = encoded["input_ids"]
        if ids[: len(again)] == again and set(ids[len(again) :]) <= set(tokenizer.all_special_ids):
            ends = [end for _, end in encoded["offset_mapping"]]
            return [*(bisect_right(ends, c) for c in characters), len(again)]

    # a sampled text need not be tokenised as the tokenizer would: decode prefixes, as few as will do
    @cache
    def length(k: int) -> int:
        return len(tokenizer.decode(ids[:k], skip_special_tokens=True))

    if tokenizer.decode(ids, skip_special_tokens=True) != text:
        raise InvalidInput(
            f"The tokenizer does not decode the tokens to their text {text[:60]!r}; pass that of the model that was sampled."
        )
    counts = range(len(ids) + 1)
    return [*(bisect_right(counts, c, key=length) - 1 for c in characters), bisect_left(counts, len(text), key=length)]
