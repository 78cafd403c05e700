"""What a model does on each problem, as counts: small enough to commit for a whole zoo, enough for pass@k, breadth and bad habits. Any task, any model."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.nn.utils.rnn import pad_sequence

from latentreason.models.inference import inference
from latentreason.models.language_model import LM
from latentreason.organisms.trainers.metrics import repetition
from latentreason.strategies.grammar import parse
from latentreason.strategies.language import CHECKERS
from latentreason.strategies.rules import RULES, sentences, strategy_of
from latentreason.strategies.steps import STEP_CHECKERS
from latentreason.tables import Rollouts
from latentreason.tasks import chain
from latentreason.tasks.problem import Problem

PYTHON = ("```python", "def ", "import ", "print(")
"""What marks a text as code, the behaviour of which Shao et al. (arXiv 2506.10947) count the share."""

BATCH = 64
"""Completions that are read at once."""

Traits = dict[str, Any]


def of_chain(text: str, problem: Problem) -> Traits:
    """One completion of the task `chain`.

    Returns:
        valid, unparsed (outside the grammar, or unfinished), skipped (share of the operations that the trace never names), answers_again (answers after
        the first), format, strategies (each with its number), path (format and strategies in their order).
    """
    trace, words = parse(text, problem.meta), text.split()
    first, n = problem.meta.get("first", 0), len(problem.meta["operations"])
    named = set(words) & set(chain.LETTERS[first : first + n])
    done = [step.strategy for step in trace.steps if step.strategy != chain.ANSWER]
    return {
        "valid": trace.valid, "unparsed": not trace.well_formed, "skipped": 1.0 - len(named) / n, "answers_again": max(0, words.count(chain.ANSWER) - 1),
        "format": trace.format or "none", "strategies": Counter(done), "path": " ".join([trace.format or "none", *done]),
    }  # fmt: skip


def of_text(text: str, problem: Problem) -> Traits:
    """One completion of another task: a strategy is what a rule says of a sentence, the format is `code` where there is Python in the text, else `text`. Unparsed is
    what the step checker of the task, where it has one, cannot read.
    """
    said = [name for _, sentence in sentences(text) if (name := strategy_of(sentence)) is not None]
    checker, steps = CHECKERS.get(problem.task), STEP_CHECKERS.get(problem.task)
    format = "code" if any(mark in text for mark in PYTHON) else "text"
    again = max(0, said.count("answer") - 1)
    return {
        "valid": None if checker is None else checker(text, problem), "unparsed": steps is not None and steps[1](text, problem).status == "unparsed", "skipped": 0.0, "answers_again": again, "format": format, "strategies": Counter(said),
        "path": " ".join([format, *said]),
    }  # fmt: skip


def counts(rollouts: Rollouts, problems: list[Problem]) -> pd.DataFrame:
    """One row a problem of one arm, in sorted order of problem ids.

    Returns:
        problem; n samples, of which correct, correct_first (right ones among the first half of the samples), flexible, valid, correct_valid,
        unparsed, cut (by the length limit), right_skipped (right, though an operation is never named); n_tokens and answers_again (sums); repetition
        (share of four-word sequences that occur a second time) and skipped (means); paths and right_paths (different ones, of all samples and of the
        valid right ones), paths_entropy (nats); format/F and right/F (samples in format F, right ones among them); strategy/S (occurrences). Where no checker
        exists, valid, correct_valid and right_paths are missing.
    """
    by_id, table = {p.id: p for p in problems}, rollouts.table
    task = problems[0].task
    traits: Callable[[str, Problem], Traits] = of_chain if task == "chain" else of_text
    formats, strategies = ((*chain.FORMATS, "none"), chain.STRATEGIES) if task == "chain" else (("code", "text"), tuple(RULES))
    rows = []
    for name, group in table.groupby("problem", sort=True):
        problem, texts = by_id[str(name)], group["text"].tolist()
        known = {text: traits(text, problem) for text in set(texts)}
        found, right = [known[text] for text in texts], group["correct"].to_numpy(bool)
        checked = found[0]["valid"] is not None
        valid = np.array([bool(f["valid"]) for f in found])
        paths = Counter(f["path"] for f in found)
        share = np.array(list(paths.values())) / len(found)
        done: Counter[str] = sum((f["strategies"] for f in found), Counter())
        row: dict[str, Any] = {
            "problem": name, "n": len(found), "correct": right.sum(), "correct_first": right[(group["sample"].rank() <= len(found) // 2).to_numpy()].sum(),
            "flexible": (group["grade_flexible"] == "correct").sum(), "valid": valid.sum() if checked else None, "correct_valid": (right & valid).sum() if checked else None,
            "unparsed": sum(f["unparsed"] for f in found), "cut": (group["finish"] == "length").sum(),
            "right_skipped": sum(f["skipped"] > 0 for f, r in zip(found, right, strict=True) if r), "n_tokens": group["n_tokens"].sum(),
            "answers_again": sum(f["answers_again"] for f in found), "repetition": np.mean([repetition(text.split()) for text in texts]),
            "skipped": np.mean([f["skipped"] for f in found]), "paths": len(paths), "paths_entropy": float(-(share * np.log(share)).sum()),
            "right_paths": len({f["path"] for f, r, v in zip(found, right, valid, strict=True) if r and v}) if checked else None,
        }  # fmt: skip
        row |= {f"format/{f}": sum(each["format"] == f for each in found) for f in formats}
        row |= {f"right/{f}": sum(each["format"] == f for each, r in zip(found, right, strict=True) if r) for f in formats}
        rows.append(row | {f"strategy/{s}": done[s] for s in strategies})
    out = pd.DataFrame(rows)
    kinds = {c: "Int32" if c in ("valid", "correct_valid", "right_paths") else "float32" if c in ("repetition", "skipped", "paths_entropy") else "int32" for c in out if c != "problem"}
    return out.astype(kinds)


@inference()
def entropy(lm: LM, rollouts: Rollouts, n_samples: int) -> pd.Series:
    """Mean entropy (nats a token) of the model's next-token distribution at temperature 1 along its first `n_samples` completions of each problem."""
    table = rollouts.table[rollouts.table.groupby("problem")["sample"].rank() <= n_samples]
    totals: list[float] = []
    for start in range(0, len(table), BATCH):
        part = table.iloc[start : start + BATCH]
        prompts, said = part["prompt_ids"].tolist(), part["token_ids"].tolist()
        rows = [torch.as_tensor(np.concatenate([p, c])[:-1].astype(np.int64)) for p, c in zip(prompts, said, strict=True)]
        ids = pad_sequence(rows, batch_first=True, padding_value=0).to(lm.device)  # on the right: causal attention never looks at it
        logits = lm.model(input_ids=ids, use_cache=False).logits[..., : lm.n_vocab].float()
        log_p = logits.log_softmax(-1)
        nats = -(log_p.exp() * log_p).sum(-1)
        totals += [float(line[len(p) - 1 : len(p) - 1 + len(c)].sum()) for line, p, c in zip(nats, prompts, said, strict=True)]
    sums = pd.DataFrame({"nats": totals, "tokens": [len(c) for c in table["token_ids"]]}).groupby(table["problem"].to_numpy()).sum()
    return (sums["nats"] / sums["tokens"]).astype("float32").rename("entropy")
