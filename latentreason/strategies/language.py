"""Language: all that the package knows of the text of a task. The task `chain` has a grammar; any other is natural text with rules.

What follows from it: spans by strategy, timing positions (`at_strategy`), what each changed token was for, and which traces are valid. Nothing else
in the package asks which task it is.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Int
from torch import Tensor

from latentreason.errors import InvalidInput
from latentreason.strategies import grammar
from latentreason.strategies.openings import opens_sentence
from latentreason.strategies.rules import RULES
from latentreason.strategies.tagging import tag
from latentreason.tables import Rollouts, Spans
from latentreason.tasks import arith, chain
from latentreason.tasks.problem import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Timing = Callable[[Int[Tensor, "row t"], Int[Tensor, "row"], Int[Tensor, "row"]], Bool[Tensor, "row"]]

CHECKERS: dict[str, Callable[[str, Problem], bool]] = {
    "chain": lambda text, problem: grammar.parse(text, problem.meta).valid,
    "arith": arith.derived,
}
"""Task -> whether a trace derives its answer, exactly. A task without one has no CoT-pass@k."""


@dataclass(frozen=True)
class Language:
    """How to read the completions of a task.

    Attributes:
        exact: spans and positions come from a grammar, not from rules.
        spans: rollouts -> spans by strategy.
        timing: (completions so far, the base model's token, the RL model's) -> whether the token to come chooses a strategy.
        kinds: rollouts -> for each, what every token is for.
        valid: whether a trace derives its answer; None where nothing can check that.
        malformed: whether each completion leaves the grammar; natural text has none to leave.
        tokens: strategy -> the token that opens it; empty where many tokens may.
    """

    exact: bool
    spans: Callable[[Rollouts], Spans]
    timing: Timing
    kinds: Callable[[Rollouts], list[np.ndarray]]
    valid: Callable[[str, Problem], bool] | None
    malformed: Callable[[list[np.ndarray]], np.ndarray]
    tokens: Mapping[str, int]


def language(task: str, tokenizer: "PreTrainedTokenizerBase") -> Language:
    """The language of a task, for the tokenizer of the models that write it.

    Raises:
        InvalidInput: the task is `chain`, whose words these models do not know.
    """
    if task == "chain":
        if unknown := [word for word in chain.VOCABULARY if word not in tokenizer.get_vocab()]:
            raise InvalidInput(f"The word {unknown[0]!r} of the task 'chain' is no token of these models. Give the task that they are for, such as --task gsm8k (see `latentreason tasks`).")
        ids = tokenizer.get_vocab()
        opening = {**{f"format:{f}": f for f in chain.FORMATS}, **{s: s for s in (*chain.STRATEGIES, chain.ANSWER)}}
        return Language(
            True, tag, lambda tokens, *_: grammar.timing_positions(tokens), lambda rollouts: [grammar.slots(tokens) for tokens in rollouts.table["token_ids"]],
            CHECKERS["chain"], grammar.malformed, {label: ids[word] for label, word in opening.items() if word in ids},
        )  # fmt: skip
    opens = opens_sentence(tokenizer)

    def spans(rollouts: Rollouts) -> Spans:
        return tag(rollouts, RULES, tokenizer=tokenizer)

    return Language(
        False, spans, lambda tokens, base, rl: opens(tokens, base) | opens(tokens, rl), lambda rollouts: _kinds(rollouts, spans(rollouts)),
        CHECKERS.get(task), lambda completions: np.zeros(len(completions), dtype=bool), {},
    )  # fmt: skip


def _kinds(rollouts: Rollouts, spans: Spans) -> list[np.ndarray]:
    """The strategy at the token that opens it, `content` at all others."""
    kinds = [np.full(len(ids), "content", dtype=object) for ids in rollouts.table["token_ids"]]
    keys = ["arm", "problem", "sample"]
    row = {key: i for i, key in enumerate(rollouts.table[keys].itertuples(index=False, name=None))}
    for *key, strategy, start in spans.table[[*keys, "strategy", "start"]].itertuples(index=False, name=None):
        kinds[row[tuple(key)]][start] = strategy
    return kinds


def opening_tokens(rollouts: Rollouts, spans: Spans) -> dict[str, int]:
    """Strategy -> the token that most often opens it in some rollouts."""
    keys = ["arm", "problem", "sample"]
    tokens = dict(zip(rollouts.table[keys].itertuples(index=False, name=None), rollouts.table["token_ids"], strict=True))
    opened = spans.table.assign(token=[int(tokens[tuple(key)][start]) for *key, start in spans.table[[*keys, "start"]].itertuples(index=False, name=None)])
    return {str(label): int(of.mode().iloc[0]) for label, of in opened.groupby("strategy")["token"]}
