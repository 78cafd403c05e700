"""Rollouts and Spans: the tables that the model half writes and the analysis half reads. Pandas and pyarrow, no torch."""

import html
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from latentreason.errors import InvalidInput, unknown_name

TOKEN_COLUMNS = ("token_ids", "base_token_ids", "source", "routed", "changed", "base_logprob", "rl_logprob", "base_entropy", "divergence")
"""One value a generated token. `source`: 0 base, 1 RL model, 2 steered base. Log-probabilities and divergences in nats."""

TEXT_COLUMNS = ("text", "extracted", "extracted_flexible")
"""The completion, and the answer that each grade found in it (missing where there is none), for audits of the grader."""

ROW_COLUMNS = ("problem", "sample", "arm", "n_tokens", "n_routed", "n_changed", "finish", "correct", "grade_strict", "grade_flexible", "seed")
"""One value a rollout: all that the statistics need, and what `slim` keeps."""


COUNT_COLUMNS = ("part", "arm", "problem", "twin", "n", "strict", "flexible", "valid")
"""What a verdict is made of, one row a part, arm and problem: samples, and how many of them are right by the strict and by the flexible grade, and by
the strict grade with a valid trace (NaN where nothing can check that). `part` is judged (all coalitions of the players), seen, training or breadth
(base and rl); `twin` is the judged problem that a seen one belongs to, else "". No column says whose they are.
"""


@dataclass(frozen=True)
class Rollouts:
    """Graded completions, one row a sample.

    Attributes:
        table: columns `ROW_COLUMNS`, `TOKEN_COLUMNS`, `TEXT_COLUMNS` and `prompt_ids`; what an arm does not know is absent or NaN.
        info: facts about the run, for each arm: router, action, calibration.
    """

    table: pd.DataFrame
    info: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.table)

    @property
    def arms(self) -> list[str]:
        """Names of the arms in the table."""
        return list(self.table["arm"].unique())

    def arm(self, name: str) -> "Rollouts":
        """The rows of one arm. Raises UnknownName where there are none."""
        if name not in self.arms:
            raise unknown_name("arm", name, self.arms)
        return Rollouts(self.table[self.table["arm"] == name].reset_index(drop=True), {name: self.info.get(name, {})})

    def slim(self) -> "Rollouts":
        """Without tokens and text: small enough to commit, enough for every statistic."""
        return Rollouts(self.table[[c for c in self.table if c not in (*TOKEN_COLUMNS, *TEXT_COLUMNS, "prompt_ids", "disagree")]], self.info)

    def per_problem(self, column: str = "correct", *, how: str = "mean") -> pd.Series:
        """A column by problem, in sorted order of problem ids, so that arms can be paired."""
        return self.table.groupby("problem", sort=True)[column].agg(how)

    def matrix(self, column: str = "correct") -> Float[np.ndarray, "problem sample"]:
        """A column as problem x sample.

        Raises:
            InvalidInput: more than one arm, or problems with different numbers of samples.
        """
        if len(self.arms) > 1:
            raise InvalidInput(f"A matrix speaks of one arm; pick one of {self.arms} with .arm(name).")
        wide = self.table.pivot(index="problem", columns="sample", values=column)
        if wide.isna().any(axis=None):
            raise InvalidInput("Problems have different numbers of samples; sample all of them with the same n.")
        return wide.to_numpy(dtype=float)

    def save(self, path: str | Path) -> None:
        """Write one parquet file (zstd); `info` travels in its metadata."""
        import json

        import pyarrow as pa

        from latentreason.files import write_table

        table = pa.Table.from_pandas(self.table, preserve_index=False)
        write_table(Path(path), table.replace_schema_metadata({**(table.schema.metadata or {}), b"latentreason": json.dumps(self.info).encode()}))

    @classmethod
    def load(cls, path: str | Path) -> "Rollouts":
        """Read what `save` wrote."""
        import json

        import pyarrow.parquet as pq

        from latentreason.files import read_table

        table = read_table(Path(path))
        return cls(table, json.loads(pq.read_schema(path).metadata.get(b"latentreason", b"{}")))

    def __repr__(self) -> str:
        return f"Rollouts({len(self)} rows, arms {', '.join(self.arms)}; the rows are in .table)"

    def _repr_html_(self) -> str:
        shown = self.table[[c for c in ("arm", "problem", "sample", "finish", "grade_strict", "n_tokens", "text") if c in self.table]].head(10)
        rows = "".join("<tr>" + "".join(f"<td>{html.escape(str(v))}</td>" for v in r) + "</tr>" for r in shown.itertuples(index=False))
        head = "".join(f"<th>{html.escape(str(c))}</th>" for c in shown)
        return f"<p>Rollouts: {len(self)} rows, arms {html.escape(', '.join(self.arms))}</p><table><tr>{head}</tr>{rows}</table>"


@dataclass(frozen=True)
class Spans:
    """Strategy spans of rollouts: one row a span.

    Attributes:
        table: columns `arm`, `problem`, `sample`, `strategy`, `start`, `end` (token positions in the completion, end
            exclusive; the token at `start` opens the strategy), where the task has an exact checker `valid`, and for natural text
            `think` (inside a think block).
    """

    table: pd.DataFrame

    def __len__(self) -> int:
        return len(self.table)


def concat(rollouts: Iterable[Rollouts]) -> Rollouts:
    """Stack rollouts of several arms into one table.

    Raises:
        InvalidInput: two of them have an arm of the same name, which would be pooled.
    """
    parts = list(rollouts)
    names = [name for part in parts for name in part.arms]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidInput(f"Two tables hold an arm {twice[0]!r}, which would be pooled into one: give each Hybrid a name of its own.")
    return Rollouts(pd.concat([p.table for p in parts], ignore_index=True), {k: v for p in parts for k, v in p.info.items()})
