"""What is measured at each step of training: shares of formats and strategies, two pass rates, repetition, and the distance to the base."""

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from latentreason.organisms.rewards import graded
from latentreason.strategies.grammar import malformed, parse
from latentreason.tasks import chain

KL_ROWS = 64
"""Rollouts of a step on which the KL divergence is measured: all of them would cost a tenth of the training."""


def measured(completions: Sequence[str], problem_id: Sequence[str], answer: Sequence[str], task: Sequence[str], meta: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Figures of whole completions, whatever they were rewarded for.

    Returns:
        pass_rate, pass_flexible: of the strict and of the flexible grade. valid: of whole traces, by the checker. repetition: share of
        four-word sequences that occur a second time in their completion. format/F: share of the trace format F. wrapper/W: share of the
        answer's wrapper W, of the completions that have one. strategy/S: occurrences of strategy S in a completion.
    """
    n, words = len(completions), [text.split() for text in completions]
    traces = [parse(text, m) for text, m in zip(completions, meta, strict=True)]
    figures = {"pass_rate": sum(g.correct for g in graded(completions, problem_id, answer, task)) / n}
    figures["pass_flexible"] = sum(g.correct for g in graded(completions, problem_id, answer, task, flexible=True)) / n
    figures["valid"] = sum(t.valid for t in traces) / n
    figures["repetition"] = sum(map(repetition, words)) / n
    formats, strategies = Counter(t.format for t in traces), Counter(step.strategy for t in traces for step in t.steps)
    figures |= {f"format/{name}": formats[name] / n for name in chain.FORMATS} | {f"strategy/{name}": strategies[name] / n for name in chain.STRATEGIES}
    after = [w[w.index(chain.ANSWER) + 1 :][:1] for w in words if chain.ANSWER in w]
    wrappers = Counter(w[0] if w and w[0] in chain.WRAPPERS else "" for w in after)
    return figures | {f"wrapper/{name or 'none'}": wrappers[name] / max(len(after), 1) for name in chain.WRAPPERS}


def measured_steps(completions: Sequence[str], prefix: Sequence[str], expert_step: Sequence[str], meta: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Figures of single steps (SRL), each after the expert's steps before it, whatever they were rewarded for. A step has no answer to be graded, so there is no pass rate.

    Returns:
        step/exact: share that are the expert's step, word for word. step/follows: whose result follows from the state before, by the operation that they name.
        step/malformed: outside the grammar. step/cut: that do not end, with a separator or as an answer, within the length limit (trl's clipped_ratio counts
        every completion that does not end with the end-of-text, most steps). repetition, strategy/S: as of `measured`, of a step. format/F: share of the format F among
        first steps, which choose it; absent where there is none.
    """
    n, words = len(completions), [text.split() for text in completions]
    before = [text.split() for text in prefix]
    traces = [parse(" ".join([*b, *w]), m) for b, w, m in zip(before, words, meta, strict=True)]
    own = [[step for step in trace.steps if step.start >= len(b)] for trace, b in zip(traces, before, strict=True)]
    ids = {word: i for i, word in enumerate(chain.VOCABULARY)}
    outside = malformed([np.array([ids.get(word, 0) for word in [*b, *w]], dtype=np.int64) for b, w in zip(before, words, strict=True)]) if n else np.zeros(0)
    done = [bool(w) and (w[-1] in chain.SEPARATORS or trace.well_formed) for w, trace in zip(words, traces, strict=True)]
    figures = {
        "step/exact": sum(w == expert.split() for w, expert in zip(words, expert_step, strict=True)) / n, "step/follows": sum(bool(steps) and steps[0].follows for steps in own) / n,
        "step/malformed": float(outside.mean()), "step/cut": 1.0 - sum(done) / n, "repetition": sum(map(repetition, words)) / n,
    }  # fmt: skip
    strategies, first = Counter(step.strategy for steps in own for step in steps), [trace.format for trace, b in zip(traces, before, strict=True) if not b]
    figures |= {f"strategy/{name}": strategies[name] / n for name in chain.STRATEGIES}
    return figures | ({f"format/{name}": first.count(name) / len(first) for name in chain.FORMATS} if first else {})


def repetition(words: Sequence[Hashable], n: int = 4) -> float:
    """Share of the sequences of `n` words (or tokens) that occur a second time; 0 where there is none."""
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0


@torch.no_grad()
def kl_to(base: torch.nn.Module, policy: torch.nn.Module, prompt_ids: Sequence[list[int]], completion_ids: Sequence[list[int]]) -> float:
    """Mean KL divergence (nats a token) of the policy from the base model, over its own completions: exact at each token, on at most `KL_ROWS` of the rows."""
    some = range(0, len(prompt_ids), max(1, len(prompt_ids) // KL_ROWS))
    rows = [torch.tensor(prompt_ids[i] + completion_ids[i]) for i in some]
    ids = pad_sequence(rows, batch_first=True, padding_value=0)  # on the right: causal attention never looks at it
    place = torch.arange(ids.shape[1])[None]
    begin = torch.tensor([len(prompt_ids[i]) - 1 for i in some])[:, None]  # what stands there predicts the first token
    end = begin + torch.tensor([len(completion_ids[i]) for i in some])[:, None]
    log_p, log_q = (model(input_ids=ids, use_cache=False).logits.float().log_softmax(-1) for model in (policy, base))
    kl = (log_p.exp() * (log_p - log_q)).sum(-1)[(place >= begin) & (place < end)]
    return float(kl.mean()) if len(kl) else 0.0
