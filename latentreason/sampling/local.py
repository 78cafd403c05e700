"""`sample`: problems in, graded Rollouts out, on the machine at hand. It takes anything that can decode a batch."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from latentreason.errors import InvalidInput
from latentreason.models.decoding import Batch, Decoded
from latentreason.models.prompts import render
from latentreason.sampling.noise import gumbel, row_key
from latentreason.tables import Rollouts
from latentreason.tasks.grading import grade
from latentreason.tasks.problem import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn.

    Attributes:
        n: samples a problem.
        temperature: 0 is greedy (then n must be 1: more would be copies).
        top_p: nucleus, applied after the temperature.
        max_new_tokens: length limit in tokens, end-of-text included.
        seed: of the noise; with problem, sample and position it fixes every token.
        first_sample: number of the first sample, to draw more of the same run later.
        max_rows: rows decoded at once; changes memory and speed, not what is sampled.
    """

    n: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 96
    seed: int = 0
    first_sample: int = 0
    max_rows: int = 4096

    def __post_init__(self) -> None:
        if self.n < 1 or self.max_new_tokens < 1 or self.max_rows < 1:
            raise InvalidInput("n, max_new_tokens and max_rows must be at least 1.")
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise InvalidInput("temperature must not be negative and top_p must lie in (0, 1].")
        if self.temperature == 0 and self.n > 1:
            raise InvalidInput("Greedy decoding gives the same completion each time: use n=1, or a temperature above 0.")


GREEDY = Sampling(n=1, temperature=0.0)


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


def sample(model: Decodes, problems: list[Problem], sampling: Sampling = Sampling(), *, out: str | Path | None = None, progress: bool = True) -> Rollouts:
    """Draw and grade completions.

    Args:
        model: an LM, a Hybrid or `Arms`.
        problems: what to answer; at least one.
        sampling: how.
        out: a directory that keeps finished chunks, so that a killed run goes on where it stopped.
        progress: show a progress bar.

    Raises:
        InvalidInput: no problems, or a problem twice.
        ArtifactConflict: `out` holds another run.
    """
    if not problems:
        raise InvalidInput("The list of problems is empty; load some with load_task.")
    if len({p.id for p in problems}) < len(problems):
        raise InvalidInput("A problem stands in the list twice; its samples would be identical copies.")
    ordered = sorted(problems, key=lambda p: (len(p.question.split()), p.id))
    step = max(1, sampling.max_rows // (sampling.n * len(model.arms)))
    chunks = [ordered[i : i + step] for i in range(0, len(ordered), step)]
    info = {arm: dict(getattr(model, "info", {}).get(arm, {})) for arm in model.arms}
    bar = tqdm(total=len(problems), desc=f"sample {model.arms[0] if len(model.arms) == 1 else f'{len(model.arms)} arms'}", unit="problem", disable=not progress)
    tables = []
    for chunk, table in _tables(model, chunks, sampling, out):
        tables.append(table)
        bar.update(len(chunk))
    bar.close()
    return Rollouts(pd.concat(tables, ignore_index=True), info)


def _tables(model: Decodes, chunks: list[list[Problem]], sampling: Sampling, out: str | Path | None) -> Iterator[tuple[list[Problem], pd.DataFrame]]:
    """The table of each chunk; with `out`, read where it is there and written where it is not."""
    if out is None:
        yield from ((chunk, _decode_chunk(model, chunk, sampling)) for chunk in chunks)
        return
    from latentreason.store import Parts, read_table

    config = {"arms": model.arms, "info": getattr(model, "info", {}), "sampling": asdict(sampling), "problems": [[p.id for p in c] for c in chunks]}
    parts = Parts(Path(out), config)
    done = set(parts.done())
    for i, chunk in enumerate(chunks):
        if i not in done:
            parts.write(i, _decode_chunk(model, chunk, sampling))
        yield chunk, read_table(parts.file(i))


def _decode_chunk(model: Decodes, problems: list[Problem], sampling: Sampling) -> pd.DataFrame:
    prompts = [render(p, model.tokenizer) for p in problems]
    samples = range(sampling.first_sample, sampling.first_sample + sampling.n)
    keys = torch.tensor([row_key(sampling.seed, p.id, s) for p in problems for s in samples])
    batch = Batch(prompts, torch.arange(len(problems)).repeat_interleave(sampling.n), keys, sampling.temperature, sampling.top_p, sampling.max_new_tokens, gumbel)
    return to_table(model, model.decode(batch), problems, prompts, list(samples), sampling)


def to_table(model: Decodes, decoded: Decoded, problems: list[Problem], prompts: list[list[int]], samples: list[int], sampling: Sampling) -> pd.DataFrame:
    """Decoded rows (arm-major, then problem, then sample) as a graded table."""
    n_arms, n = len(model.arms), len(samples)
    length, stopped = decoded.length.cpu().numpy(), decoded.stopped.cpu().numpy()
    index = np.tile(np.arange(len(problems)).repeat(n), n_arms)
    columns: dict[str, Any] = {
        "problem": np.array([p.id for p in problems], dtype=object)[index],
        "sample": np.tile(np.array(samples), n_arms * len(problems)),
        "arm": np.array(model.arms, dtype=object).repeat(len(problems) * n),
        "prompt_ids": pd.Series([np.array(p, dtype=np.int32) for p in prompts])[index].to_numpy(),
    }
    for name, values in decoded.records.items():
        array = values.cpu().numpy()
        array = array.astype({"i": np.int32, "f": np.float32, "b": bool, "u": np.uint8}[array.dtype.kind])
        columns[name] = _ragged(array, length)
    texts = model.tokenizer.batch_decode([t.tolist() for t in columns["token_ids"]], skip_special_tokens=True)
    grades = [
        (grade(text, problems[i], truncated=not s), grade(text, problems[i], flexible=True, truncated=not s))
        for text, i, s in zip(texts, index, stopped, strict=True)
    ]
    columns |= {
        "text": texts,
        "finish": np.where(stopped, "stop", "length").astype(object),
        "correct": np.array([strict.correct for strict, _ in grades]),
        "grade_strict": [strict.status for strict, _ in grades],
        "grade_flexible": [flexible.status for _, flexible in grades],
        "n_tokens": length.astype(np.int32),
        "seed": np.full(len(texts), sampling.seed),
    }
    for count, name in (("n_routed", "routed"), ("n_changed", "changed")):
        if name in columns:
            columns[count] = np.array([int(v.sum()) for v in columns[name]], dtype=np.int32)
    return pd.DataFrame(columns)


def _ragged(array: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Rows cut to their lengths, as an object array."""
    out = np.empty(len(array), dtype=object)
    for i, n in enumerate(length):
        out[i] = array[i, :n].copy()
    return out
