"""`sample`: problems in, graded Rollouts out, on the machine at hand. It takes anything that can decode a batch."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from latentreason.errors import InvalidInput
from latentreason.models.decoding import Batch, Decoded
from latentreason.models.prompts import Prompt, facts, in_thought, render, reply, tokens_with
from latentreason.sampling.noise import gumbel, row_key
from latentreason.tables import Rollouts
from latentreason.tasks.grading import Grade, grade
from latentreason.tasks.problem import Problem
from latentreason.tasks.registry import TASKS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from latentreason.models.language_model import LM


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn.

    Attributes:
        n: samples a problem.
        temperature: 0 is greedy (then n must be 1: more would be copies).
        top_p: nucleus, applied after the temperature.
        max_new_tokens: length limit in tokens, end-of-text included.
        stop: a completion also ends with the first token that holds this text; None is the task's own, "" none.
        seed: of the noise; with problem, sample and position it fixes every token.
        first_sample: number of the first sample, to draw more of the same run later.
        max_rows: rows decoded at once; changes memory and speed, not what is sampled. None: as many as `rows_that_fit`.
        keep_tokens: keep what is known token by token, of all arms or of those named; without it the table has one number a rollout and a sweep
            of many arms fits into memory.
        prompt: how a problem is put to the models of a pair: written by the base's tokenizer (BOS, chat template), so that all arms see the same one.
        rl_prompt: how it is put to the RL model instead, alone or in a hybrid (a factor of its own, for an RL model that knows only its
            chat template), written by the RL model's own tokenizer; None for the same. A hybrid is graded by `prompt`.
    """

    n: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 96
    stop: str | None = None
    seed: int = 0
    first_sample: int = 0
    max_rows: int | None = None
    keep_tokens: bool | tuple[str, ...] = True
    prompt: Prompt = Prompt()
    rl_prompt: Prompt | None = None

    def __post_init__(self) -> None:
        if self.n < 1 or self.max_new_tokens < 1 or (self.max_rows is not None and self.max_rows < 1):
            raise InvalidInput("n, max_new_tokens and max_rows must be at least 1.")
        if not 0 <= self.temperature < float("inf") or not 0 < self.top_p <= 1:
            raise InvalidInput("temperature must not be negative and top_p must lie in (0, 1].")
        if self.temperature == 0 and self.n > 1:
            raise InvalidInput("Greedy decoding gives the same completion each time: use n=1, or a temperature above 0.")

    def alone(self, model: str) -> "Sampling":
        """The same for "base" or "rl" by itself: `rl_prompt` is for the RL model alone."""
        return self if model == "rl" else replace(self, rl_prompt=None)


GREEDY = Sampling(n=1, temperature=0.0)

MEMORY = 4e9
"""Bytes for key-value caches and logits of the rows decoded at once, where the caller does not say how many rows."""

MAX_ROWS = 8192
"""More rows at once are not faster."""


@runtime_checkable
class Decodes(Protocol):
    """What can be sampled from: an LM, a Hybrid, or several hybrids of one pair at once."""

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase": ...  # noqa: D102
    @property
    def arms(self) -> tuple[str, ...]: ...  # noqa: D102

    def decode(self, batch: Batch) -> Decoded:
        """Rows of the batch, repeated for each arm (arm after arm)."""
        ...


def rows_that_fit(model: Decodes, positions: int) -> int:
    """Rows of so many positions that fit into `MEMORY` if none shares its prefix with another; at most `MAX_ROWS`."""
    lms: tuple[LM, ...] = getattr(model, "lms", ())
    bytes_a_row = sum(lm.cache_bytes * positions + 16 * lm.n_rows for lm in lms)  # logits in fp32, with noise and what is computed from them
    return max(1, min(MAX_ROWS, int(MEMORY // bytes_a_row))) if lms else MAX_ROWS


def sample(model: Decodes, problems: list[Problem], sampling: Sampling = Sampling(), *, out: str | Path | None = None, progress: bool = True) -> Rollouts:
    """Draw and grade completions.

    Args:
        model: an LM, a Hybrid or `Arms`.
        problems: what to answer; at least one.
        sampling: how.
        out: a directory that keeps finished problems, so that a killed run goes on where it stopped (with another `max_rows`, too).
        progress: show a progress bar.

    Returns:
        Rows by arm, within it by problem in the order given, within it by sample.

    Raises:
        InvalidInput: no problems, a problem twice, something that cannot be sampled from, or a prompt that the tokenizer cannot make.
        UnknownName: a prompt style that the task does not have.
        ArtifactConflict: `out` holds another run.
    """
    if not isinstance(model, Decodes):
        hint = " A pair has two models: give pair.base, pair.rl or a Hybrid." if hasattr(model, "base") else ""
        raise InvalidInput(f"Cannot sample from a {type(model).__name__}.{hint}")
    if not isinstance(sampling, Sampling):
        raise InvalidInput(f"sampling must be a Sampling, found {sampling!r}; for n samples a problem give Sampling(n=...).")
    if not problems:
        raise InvalidInput("The list of problems is empty; load some with load_task.")
    if len({p.id for p in problems}) < len(problems):
        raise InvalidInput("A problem stands in the list twice; its samples would be identical copies.")
    lms: tuple[LM, ...] = getattr(model, "lms", ())
    writer = lms[0].writer if lms else model.tokenizer
    if sampling.rl_prompt is not None and len(lms) < 2:
        if not lms or lms[0].shared is None:
            raise InvalidInput("rl_prompt is for the RL model of a pair, alone or in a Hybrid, and this is another model: give sampling.alone('base').")
        writer, sampling = lms[0].tokenizer, replace(sampling, prompt=sampling.rl_prompt, rl_prompt=None)
    prompts = {p.id: render(p, writer, sampling.prompt) for p in problems}
    own = None if sampling.rl_prompt is None else {p.id: render(p, lms[1].tokenizer, sampling.rl_prompt) for p in problems}
    said = {"prompt": facts(problems, writer, sampling.prompt)}
    said |= {} if sampling.rl_prompt is None else {"rl_prompt": facts(problems, lms[1].tokenizer, sampling.rl_prompt)}
    task = sorted({p.task for p in problems})
    info = {arm: {**getattr(model, "info", {}).get(arm, {}), **said, "task": task[0] if len(task) == 1 else task} for arm in model.arms}
    bar = tqdm(total=len(problems), desc=f"sample {model.arms[0] if len(model.arms) == 1 else f'{len(model.arms)} arms'}", unit="problem", disable=not progress)
    tables = []
    for table in _tables(model, problems, prompts, own, said, sampling, out):
        tables.append(table)
        bar.update(table["problem"].nunique())
    bar.close()
    rows = pd.concat(tables, ignore_index=True)  # in the order of decoding, which is by length of prompt
    arm, problem = (rows[column].map({name: i for i, name in enumerate(order)}) for column, order in (("arm", model.arms), ("problem", prompts)))
    return Rollouts(rows.iloc[np.lexsort((rows["sample"], problem, arm))].reset_index(drop=True), info)


def _chunks(ordered: list[Problem], prompts: dict[str, list[int]], size: int) -> list[list[Problem]]:
    """At most `size` problems each. A chunk that is a quarter full ends where prompts get longer: without padding attention needs no mask."""
    chunks: list[list[Problem]] = []
    for problem in ordered:
        same = bool(chunks) and len(prompts[chunks[-1][0].id]) == len(prompts[problem.id])
        if chunks and len(chunks[-1]) < (size if same else max(1, size // 4)):
            chunks[-1].append(problem)
        else:
            chunks.append([problem])
    return chunks


def _tables(model: Decodes, problems: list[Problem], prompts: dict[str, list[int]], own: dict[str, list[int]] | None, said: dict[str, Any],
            sampling: Sampling, out: str | Path | None) -> Iterator[pd.DataFrame]:  # fmt: skip
    """Chunk by chunk; with `out`, what is there is read, and what is not is decoded and written. `own`: prompts of the RL model; `said`: facts of both."""
    from latentreason.files import read_table
    from latentreason.store import Parts, config_hash

    parts, index = None, 0
    if out is not None:
        config = {"arms": model.arms, "info": getattr(model, "info", {}), "problems": {p.id: p.question for p in problems}}
        # the ids, too: a chat template may put the date into its prompts
        config |= {"prompts": config_hash({"facts": said["prompt"], "ids": prompts}), **({"rl_prompt": config_hash({"facts": said["rl_prompt"], "ids": own})} if own else {})}
        parts = Parts(Path(out), {**config, "sampling": {k: v for k, v in asdict(sampling).items() if k != "max_rows" and not (k == "rl_prompt" and v is None)}})
        for index in parts.done():
            table = read_table(parts.file(index))
            done = set(table["problem"])
            problems = [p for p in problems if p.id not in done]
            yield table
        index += bool(parts.done())
    ordered = sorted(problems, key=lambda p: (len(prompts[p.id]), p.id))
    longest = max((len(ids[p.id]) for ids in (prompts, own or prompts) for p in problems), default=0)
    rows = sampling.max_rows or rows_that_fit(model, longest + sampling.max_new_tokens)
    size = max(1, rows // (sampling.n * len(model.arms)))
    for i, chunk in enumerate(_chunks(ordered, prompts, size), index):
        table = _decode_chunk(model, chunk, prompts, own, sampling)
        if parts is not None:
            parts.write(i, table)
        yield table


def stop_tokens(problem: Problem, tokenizer: "PreTrainedTokenizerBase", sampling: Sampling) -> frozenset[int]:
    """The tokens that end a completion besides end-of-text: those with the text that the sampling names, or the problem's task."""
    task = TASKS.get(problem.task)
    text = (task.stop if task is not None else "") if sampling.stop is None else sampling.stop
    return tokens_with(tokenizer, text) if text else frozenset[int]()


def graded(text: str, problem: Problem, sampling: Sampling, *, stopped: bool, thinking: bool = False) -> tuple[Grade, Grade]:
    """Strict and flexible grade of a completion that `stopped`, or was cut; `thinking` where the prompt opened a think block."""
    said = reply(text, problem, sampling.prompt, thinking=thinking)
    cut = not stopped and said.endswith(text)  # where the model went on to another question, it had finished this one
    return grade(said, problem, truncated=cut), grade(said, problem, flexible=True, truncated=cut)


def _decode_chunk(model: Decodes, problems: list[Problem], prompts: dict[str, list[int]], own: dict[str, list[int]] | None, sampling: Sampling) -> pd.DataFrame:
    samples = range(sampling.first_sample, sampling.first_sample + sampling.n)
    keys = torch.tensor([row_key(sampling.seed, p.id, s) for p in problems for s in samples])
    index = torch.arange(len(problems)).repeat_interleave(sampling.n)
    stop = stop_tokens(problems[0], model.tokenizer, sampling)
    theirs = None if own is None else [own[p.id] for p in problems]
    batch = Batch([prompts[p.id] for p in problems], index, keys, sampling.temperature, sampling.top_p, sampling.max_new_tokens, gumbel, theirs, stop=stop)
    return to_table(model, model.decode(batch), problems, prompts, sampling)


def to_table(model: Decodes, decoded: Decoded, problems: list[Problem], prompts: dict[str, list[int]], sampling: Sampling) -> pd.DataFrame:
    """Decoded rows (arm-major, then problem, then sample) as a graded table."""
    n_arms, n = len(model.arms), sampling.n
    length, stopped = decoded.length.cpu().numpy(), decoded.stopped.cpu().numpy()
    index = np.tile(np.arange(len(problems)).repeat(n), n_arms)
    columns: dict[str, Any] = {
        "problem": np.array([p.id for p in problems], dtype=object)[index],
        "sample": np.tile(np.arange(sampling.first_sample, sampling.first_sample + n), n_arms * len(problems)),
        "arm": np.array(model.arms, dtype=object).repeat(len(problems) * n),
        "finish": np.where(stopped, "stop", "length").astype(object),
        "n_tokens": length.astype(np.int32),
        "seed": np.full(len(index), sampling.seed),
    }
    records = {name: values.cpu().numpy() for name, values in decoded.records.items()}
    tokens = records["token_ids"]
    _, first, back = np.unique(np.column_stack([index, length, tokens]), axis=0, return_index=True, return_inverse=True)
    texts = model.tokenizer.batch_decode([tokens[i, : length[i]].tolist() for i in first], skip_special_tokens=True)  # equal completions are graded once
    strict, flexible = [], []
    thinking = [in_thought(prompts[p.id], model.tokenizer) for p in problems]
    for text, i in zip(texts, first, strict=True):
        both = graded(text, problems[index[i]], sampling, stopped=bool(stopped[i]), thinking=thinking[index[i]])
        strict.append(both[0])
        flexible.append(both[1])
    columns["correct"] = np.array([g.correct for g in strict])[back]
    columns["grade_strict"] = np.array([g.status for g in strict], dtype=object)[back]
    columns["grade_flexible"] = np.array([g.status for g in flexible], dtype=object)[back]
    inside = np.arange(tokens.shape[1])[None] < length[:, None]
    for count, name in (("n_routed", "routed"), ("n_changed", "changed")):
        if name in records:
            columns[count] = (records[name] & inside).sum(1).astype(np.int32)
    keep = sampling.keep_tokens
    kept = np.flatnonzero(np.repeat([keep if isinstance(keep, bool) else arm in keep for arm in model.arms], len(problems) * n))
    if len(kept):
        for name, found in (("text", texts), ("extracted", [g.extracted for g in strict]), ("extracted_flexible", [g.extracted for g in flexible])):
            columns[name] = _at(kept, len(index), [found[i] for i in back[kept]])
        asked = [np.array(prompts[p.id], dtype=np.int32) for p in problems]
        columns["prompt_ids"] = _at(kept, len(index), [asked[i] for i in index[kept]])
        for name, values in records.items():
            short = values.astype({"i": np.int32, "f": np.float32, "b": bool, "u": np.uint8}[values.dtype.kind])
            columns[name] = _at(kept, len(index), [short[i, : length[i]].copy() for i in kept])
    return pd.DataFrame(columns)


def _at(rows: np.ndarray, n: int, values: list[Any]) -> np.ndarray:
    """An object array of n rows with values at some of them, None at the others."""
    out = np.empty(n, dtype=object)
    for i, value in zip(rows, values, strict=True):
        out[i] = value
    return out
