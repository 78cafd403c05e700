"""Result: what a study says, as data. Computing is separate from plotting: `plot` calls the study's own `plot`."""

import html
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from latentreason.stats import TINY, Estimate
from latentreason.tables import Rollouts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NUMBERS = ["value", "lo", "hi", "n", "method", "reason"]
"""The fields of an Estimate, in order."""


@dataclass(frozen=True)
class Result:
    """Outcome of one study.

    Attributes:
        study: key of `STUDIES`.
        config: the study's configuration, as plain data.
        table: one row an estimate: columns `quantity`, what it speaks of (`arm`, `router`, `k`, ...), `value`, `lo`, `hi`,
            `n`, `method`, `reason`.
        details: further tables and facts, as plain data (lists and dicts), for figures.
        finding: one sentence with its interval, and what would have refuted it.
        notes: what else there is to say, a sentence each.
    """

    study: str
    config: dict[str, Any]
    table: pd.DataFrame
    details: dict[str, Any] = field(default_factory=dict)
    finding: str = ""
    notes: tuple[str, ...] = ()

    @property
    def said(self) -> str:
        """The finding and the notes, one after the other."""
        return " ".join([self.finding, *self.notes])

    def saying(self, sentences: Iterable[str]) -> "Result":
        """The same with another finding, the first of some sentences, and notes, the rest; empty ones are left out."""
        first, *others = [sentence.strip() for sentence in sentences if sentence.strip()] or [""]
        return replace(self, finding=first, notes=tuple(others))

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the study's main figure on `ax`, or on new axes."""
        from latentreason.studies import STUDIES

        axes: Axes = STUDIES[self.study].plot(self, ax)
        return axes

    def estimate(self, quantity: str, **where: Any) -> Estimate:
        """The one row of the table with this quantity and these columns, as an Estimate.

        Raises:
            InvalidInput: none, or several rows fit.
        """
        from latentreason.errors import InvalidInput

        rows = self.table[self.table["quantity"] == quantity]
        for column, value in where.items():
            rows = rows[rows[column] == value]
        if len(rows) != 1:
            raise InvalidInput(f"{len(rows)} rows of {self.study!r} have quantity={quantity!r} and {where}; the quantities are {sorted(self.table['quantity'].unique())}.")
        row = rows.iloc[0]
        return Estimate(float(row["value"]), float(row["lo"]), float(row["hi"]), int(row["n"]), row["method"], row["reason"])

    def readable(self, *quantities: str, by: Sequence[str]) -> pd.DataFrame:
        """Some estimates as a table to be read: a row for each combination of the columns `by`, a column a quantity, cells such as "0.53 [0.49, 0.57]".

        Args:
            quantities: in the order of the columns; what has no estimate is empty.
            by: columns of the table that tell its rows apart.

        Raises:
            InvalidInput: a quantity or a column that the table lacks, or several estimates for one cell.
        """
        from latentreason.errors import InvalidInput

        known = sorted(self.table["quantity"].unique())
        if strange := [q for q in quantities if q not in known] or [c for c in by if c not in self.table]:
            raise InvalidInput(f"The result of {self.study!r} has no {strange[0]!r}; its quantities are {known}, its columns {list(self.table)}.")
        chosen = self.table[self.table["quantity"].isin(quantities)]
        if (twice := chosen.duplicated(["quantity", *by])).any():
            row = chosen[twice].iloc[0]
            apart = [str(c) for c in self.table if c not in (*by, *_NUMBERS) and chosen[(chosen[["quantity", *by]] == row[["quantity", *by]]).all(axis=1)][c].nunique(dropna=False) > 1]
            raise InvalidInput(f"{row['quantity']!r} has several estimates for one row of {list(by)}; add to `by` what tells them apart: {', '.join(apart)}.")
        estimates = [str(Estimate(*values)) for values in chosen[_NUMBERS].itertuples(index=False, name=None)]
        cells = chosen[list(by)].assign(quantity=chosen["quantity"], cell=estimates)
        order = cells[list(by)].drop_duplicates()
        wide = cells.set_index([*by, "quantity"])["cell"].unstack("quantity").reindex(columns=list(quantities)).reset_index()
        return order.merge(wide, on=list(by), how="left").astype(object).fillna("").rename_axis(columns=None)

    def save(self, folder: str | Path, name: str = "") -> None:
        """Write `NAME.parquet` and `NAME.json` into a folder; the name is the study's unless given."""
        from latentreason.files import write_json, write_table

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_table(folder / f"{name or self.study}.parquet", self.table)
        write_json(folder / f"{name or self.study}.json", {"study": self.study, "config": self.config, "details": self.details, "finding": self.finding, "notes": list(self.notes)})

    @classmethod
    def load(cls, folder: str | Path, name: str) -> "Result":
        """Read what `save` wrote."""
        from latentreason.files import read_json, read_table

        facts = read_json(Path(folder) / f"{name}.json")
        return cls(facts["study"], facts["config"], read_table(Path(folder) / f"{name}.parquet"), facts["details"], facts["finding"], tuple(facts.get("notes", ())))

    def __repr__(self) -> str:
        return f"Result of study {self.study!r}: {self.finding} ({len(self.notes)} notes in .notes, {len(self.table)} estimates in .table)"

    def __str__(self) -> str:
        return "\n".join([self.finding, *(f"- {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        return f"<h4>{html.escape(self.study)}</h4><p>{html.escape(self.finding)}</p>{listed(self.notes)}{self.table.head(30).to_html(index=False, escape=True)}"


def listed(notes: Sequence[str]) -> str:
    """Notes as a list in HTML; "" where there are none."""
    return f"<ul>{''.join(f'<li>{html.escape(note)}</li>' for note in notes)}</ul>" if notes else ""


def one_arm_each(**tables: Rollouts | None) -> None:
    """Raises InvalidInput where a table that should be one arm holds several (which would be pooled), or none; and as `same_pair`."""
    from latentreason.errors import InvalidInput

    for name, rollouts in tables.items():
        if rollouts is not None and len(rollouts.arms) != 1:
            held = f"holds the arms {', '.join(rollouts.arms)}" if rollouts.arms else "holds no rows"
            raise InvalidInput(f"{name} must be one arm, but it {held}. Pick one with .arm(name).")
    same_pair(**tables)


def same_pair(**tables: Rollouts | None) -> None:
    """Refuse arms that are known to be of different pairs of models, or to answer different tasks. What an arm does not say (older tables, tables of one's own) is not asked.

    Args:
        **tables: as sampled. A hybrid says both of its models, in either order; a model alone is compared as `base` or `rl` only, since a rival may have weights of its own.

    Raises:
        InvalidInput: two arms disagree; names both.
    """
    from latentreason.errors import InvalidInput

    arms = [(f"{name} ({arm})" if arm != name else name, name, rollouts.info.get(arm, {})) for name, rollouts in tables.items() if rollouts is not None for arm in rollouts.arms]
    tasks = [(who, facts["task"]) for who, _, facts in arms if facts.get("task")]
    for who, task in tasks:
        if task != tasks[0][1]:
            raise InvalidInput(f"{tasks[0][0]} answers the task {tasks[0][1]!r}, {who} {task!r}: a study speaks of one task. Sample all arms on one list of problems.")
    pairs = [(who, frozenset(facts["weights"]), facts.get("pair", "")) for who, _, facts in arms if isinstance(facts.get("weights"), list)]
    for who, weights, pair in pairs:
        if weights != pairs[0][1]:
            raise InvalidInput(f"{pairs[0][0]} is of the pair {_models(pairs[0][2], pairs[0][1])}, {who} of {_models(pair, weights)}: a study speaks of one pair. Sample all arms with one pair, or give tables of one run.")
    for who, name, facts in arms if pairs else ():
        alone = facts.get("weights")
        if name in ("base", "rl") and isinstance(alone, str) and alone not in pairs[0][1]:
            raise InvalidInput(f"{who} is a model with weights {alone}, which is none of the pair {_models(pairs[0][2], pairs[0][1])} of {pairs[0][0]}. Sample all arms with one pair, or give tables of one run.")


def _models(pair: str, weights: Collection[str]) -> str:
    return f"{pair!r} (weights {' and '.join(sorted(weights))})"


def different_prompts(arms: Mapping[str, Rollouts | None]) -> str:
    """A sentence where the arms (name -> rollouts, as sampled) are known to have seen different prompts, or their two models, else ""."""
    seen: dict[str, list[str]] = {}
    for name, rollouts in arms.items():
        for facts in [] if rollouts is None else [rollouts.info.get(arm, {}) for arm in rollouts.arms]:
            for who, key in ((name, "prompt"), (f"the RL model in {name}", "rl_prompt")):
                if facts.get(key):
                    names = seen.setdefault(_described(facts[key]), [])
                    names += [] if who in names else [who]
    if len(seen) < 2:
        return ""
    listed = "; ".join(f"{', '.join(names)}: {said}" for said, names in seen.items())
    return f"The arms saw different prompts ({listed}), so a difference between them is of model and prompt together."


def _described(prompt: Mapping[str, Any]) -> str:
    facts = [prompt["style"], *(["in the chat template"] if prompt["chat"] else []), *([f"system {prompt['system']!r}"] if prompt["system"] else [])]
    return f"{' '.join(facts)} [{prompt['template'][:6]}{'/' + prompt['chat_template'][:6] if prompt['chat'] else ''}]"


def of_one_pair(table: pd.DataFrame, study: str, columns: Collection[str], arms: Collection[str] = ("base", "rl")) -> pd.DataFrame:
    """A study's own table, or a refusal.

    Raises:
        InvalidInput: columns or arms are missing, there are no rows, or they speak of several pairs or tasks.
    """
    from latentreason.errors import InvalidInput

    if missing := [c for c in columns if c not in table]:
        raise InvalidInput(f"This is not a table of the study {study!r}: it has no column {missing[0]!r}. Give what {study}.collect wrote.")
    if missing := sorted(set(arms) - set(table["arm"])):
        raise InvalidInput(f"The table has no rows of the arm {missing[0]!r}, found {sorted(set(table['arm']))}: collect both models of the pair.")
    for column in ("organism", "seed", "pair", "task"):
        if column in table and (several := sorted(map(str, table[column].unique()))) and len(several) > 1:
            raise InvalidInput(f"The study {study!r} speaks of one pair; the table has the {column}s {', '.join(several[:4])}. Give the rows of one of them.")
    return table


def settings(config: Any) -> dict[str, Any]:
    """A study's configuration as it stands in its result. A sampling temperature of 1 goes without saying."""
    return {name: value for name, value in asdict(config).items() if (name, value) != ("temperature", 1.0)}


def sampled(result: Result) -> str:
    """What figures and tables call the sampled arms of a result, such as "T=0.6"; "greedy" at 0."""
    return f"T={temperature:g}" if (temperature := result.config.get("temperature", 1.0)) else "greedy"


def whether(estimate: Estimate, yes: str, no: str, unclear: str) -> str:
    """What an estimate says of a claim that it is above 0: `yes` where its interval is, `no` where its upper bound is 0 or less, else `unclear`, as where it is undefined,
    or 0 without a spread (nothing happened in any problem, of which resampling knows no more).
    """
    if abs(estimate.lo) <= TINY and abs(estimate.hi) <= TINY:
        return unclear
    return yes if estimate.lo > TINY else no if estimate.hi <= TINY else unclear


def rows(quantity: str, estimate: Estimate, **where: Any) -> dict[str, Any]:
    """One row of a result table."""
    return {"quantity": quantity, **where, **estimate.to_dict()}
