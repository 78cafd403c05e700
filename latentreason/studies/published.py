"""Study `published`: what the published table of Venhoff et al. says once its gaps are signed and have intervals.

Claim (Venhoff et al. 2025, arXiv 2510.07364): a steered base model recovers up to 91% of the gap to its "thinking" model, so training
teaches WHEN to reason, not HOW. The abstract's 91% is no row of the table, which belongs to a later version of the method.

Formula: gap recovered = (hybrid - base) / (RL - base), signed; the source reports max(0, that). Intervals: parametric bootstrap, each
arm a binomial of n = problems at its accuracy, for the table holds no grades of single problems. Repeated judgements and samples of a
problem do not count as problems. How the arms pair is unknown, so they are drawn independently: conservative where they succeed on
the same problems. A mean has two intervals: of rows drawn independently, and, since the rows of a data set answer the same
problems, the widest, as if all rows of a kind erred together, and in a difference the other kind's the other way.

Refuted, as a statement on thinking models in general, where RL-trained pairs recover more than distilled ones: an interval of the
difference above 0. The kinds differ in more than training (the RL-trained models of the table are one family), so the difference is also
taken between rows on one base model. The table has no control arm: it cannot say whether it matters which tokens are steered.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
import pandas as pd
from jaxtyping import Float

from latentreason.errors import InvalidInput, unknown_name
from latentreason.stats import Estimate, gap_reason, over_gap, summary
from latentreason.studies.palette import ROUTERS
from latentreason.studies.result import Result, rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEADLINE = 0.91
KINDS = {"rl": "RL-trained", "distillation": "distilled", "sft_and_rl": "SFT + RL"}
COLUMNS = ("pair", "base_model", "rl_model", "training", "dataset", "n_problems", "base_acc_pct", "rl_acc_pct", "hybrid_acc_pct", "reported_gap_recovered_pct")
EVERY = "all rows"


@dataclass(frozen=True)
class Config:
    """Settings: draws of the parametric bootstrap, and their seed."""

    n_boot: int = 2000
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Share:
    """A share of the gap (1 is all of it), of one row or put together from several.

    Attributes:
        replicates: the point estimate, then the draws.
        n: problems.
        widest: the bounds if everything in it errs in one direction.
        reason: why it is undefined, if it is.
    """

    replicates: Float[np.ndarray, "replicate"]
    n: int
    widest: tuple[float, float]
    reason: str = ""

    @property
    def estimate(self) -> Estimate:
        """With the interval of the draws."""
        found = summary(self.replicates, self.n, self.reason)
        return replace(found, method=found.method.replace("bootstrap over problems", "parametric bootstrap of independent arms"))

    @property
    def widest_estimate(self) -> Estimate:
        """With the widest interval."""
        found = self.estimate
        return replace(found, lo=self.widest[0], hi=self.widest[1], method="sums of the rows' bounds") if found.defined else found


def run(*, table: pd.DataFrame, config: Config = Config()) -> Result:
    """Signed gaps of all rows beside the reported ones, their means by kind of training, and the differences between kinds.

    Args:
        table: `COLUMNS`, one row a pair and data set; accuracies and the reported gap, clamped at 0, are percentages.
        config: settings.

    Returns:
        Shares of the gap (1 is all of it) in `table`; `details["rows"]` has the reported value beside the recomputed one.

    Raises:
        InvalidInput: a value is missing, an accuracy is outside 0 to 100, a pair stands twice in a data set, no rows or no draws.
        UnknownName: a kind of training that is not in `KINDS`.
    """
    _check(table, config)
    records = [{str(name): value for name, value in record.items()} for record in table.to_dict("records")]
    shares = [_share(record, config) for record in records]
    found = [rows("gap_recovered", s.estimate, **{k: r[k] for k in ("dataset", "training", "pair")}) for r, s in zip(records, shares, strict=True)]
    with np.errstate(invalid="ignore"):  # infinite draws of opposite signs have no mean: NaN, which `summary` knows
        for dataset in table["dataset"].unique():
            found += _comparisons(dataset, [(r, s) for r, s in zip(records, shares, strict=True) if r["dataset"] == dataset])
    beside = [_beside(r, s.estimate) for r, s in zip(records, shares, strict=True)]
    labels = ["dataset", "training", "pair", "other", "scope"]
    columns = ["quantity", *labels, *(field.name for field in fields(Estimate))]
    estimates = pd.DataFrame(found, columns=columns).astype(dict.fromkeys(labels, object)).fillna(dict.fromkeys(labels, ""))
    result = Result("published", asdict(config), estimates, {"rows": beside, "headline": HEADLINE})
    return result.saying(_said(result))


def _check(table: pd.DataFrame, config: Config) -> None:
    if missing := [c for c in COLUMNS if c not in table or table[c].isna().any()]:
        raise InvalidInput(f"The published table lacks values of {', '.join(missing)}: fill all of its columns in every row.")
    if table.empty or (table["n_problems"] < 1).any() or config.n_boot < 1:
        raise InvalidInput("There is nothing to draw: pass at least one row, n_problems >= 1 in each, and n_boot >= 1.")
    for column in ("base_acc_pct", "rl_acc_pct", "hybrid_acc_pct"):
        if not table[column].between(0, 100).all():
            raise InvalidInput(f"{column} must lie between 0 and 100 percent, got {table[column].min()} to {table[column].max()}.")
    if (twice := table.duplicated(["pair", "dataset"])).any():
        raise InvalidInput(f"{table[twice]['pair'].iloc[0]!r} stands twice in one data set: keep one row of it.")
    for kind in table["training"]:
        if kind not in KINDS:
            raise unknown_name("kind of training", kind, KINDS)


def _share(row: Mapping[str, Any], config: Config) -> Share:
    """What a row's hybrid recovers. Its draws follow from its names and the seed, whatever the other rows are."""
    rng, n = np.random.default_rng([config.seed, crc32(f"{row['pair']} {row['dataset']}".encode())]), int(row["n_problems"])
    rates = [row[f"{arm}_acc_pct"] / 100 for arm in ("base", "rl", "hybrid")]
    base, rl, hybrid = (np.append(rate, rng.binomial(n, rate, config.n_boot) / n) for rate in rates)
    reason = gap_reason(rl - base, n)
    share = Share(over_gap(hybrid - base, rl - base), n, (np.nan, np.nan), reason and f"{row['pair']}: {reason}")
    return replace(share, widest=(share.estimate.lo, share.estimate.hi))


def _mean(shares: Sequence[Share]) -> Share:
    lo, hi = np.mean([s.widest for s in shares], axis=0)
    reason = "; ".join(s.reason for s in shares if s.reason)
    return Share(np.mean([s.replicates for s in shares], axis=0), min(s.n for s in shares), (float(lo), float(hi)), reason)


def _minus(one: Share, other: Share) -> Share:
    widest = (one.widest[0] - other.widest[1], one.widest[1] - other.widest[0])
    return Share(one.replicates - other.replicates, min(one.n, other.n), widest, "; ".join(s.reason for s in (one, other) if s.reason))


def _clamped(share: Share) -> Share:
    lo, hi = (max(bound, 0.0) for bound in share.widest)
    return replace(share, replicates=np.maximum(share.replicates, 0), widest=(lo, hi))


def _comparisons(dataset: str, members: Sequence[tuple[Mapping[str, Any], Share]]) -> Iterator[dict[str, Any]]:
    """Of one data set: means by kind, what clamping adds to them, and differences between kinds, of all rows and on one base model."""
    for scope in (EVERY, *dict.fromkeys(row["base_model"] for row, _ in members)):
        kinds: dict[str, list[Share]] = {kind: [] for kind in KINDS}
        for row, share in members:
            if scope in (EVERY, row["base_model"]):
                kinds[row["training"]].append(share)
        means = {kind: _mean(shares) for kind, shares in kinds.items() if shares}
        if scope == EVERY:
            for kind, mean in means.items():
                where, clamped = {"dataset": dataset, "training": kind}, _mean([_clamped(s) for s in kinds[kind]])
                yield rows("mean_gap", mean.estimate, **where)
                yield rows("mean_gap_widest", mean.widest_estimate, **where)
                yield rows("mean_gap_clamped", clamped.estimate, **where)
                yield rows("clamping_adds", _minus(clamped, mean).estimate, **where)
        for kind, other in itertools.combinations(means, 2):
            difference, where = _minus(means[kind], means[other]), {"dataset": dataset, "training": kind, "other": other, "scope": scope}
            yield rows("kind_difference", difference.estimate, **where)
            yield rows("kind_difference_widest", difference.widest_estimate, **where)


def _beside(row: Mapping[str, Any], share: Estimate) -> dict[str, Any]:
    """The reported value beside the signed one: whether it follows from the accuracies as they are rounded, or from clamping."""
    base, rl, hybrid = (row[f"{arm}_acc_pct"] for arm in ("base", "rl", "hybrid"))
    signed, reported = (hybrid - base) / (rl - base) if rl != base else np.nan, row["reported_gap_recovered_pct"] / 100
    corners = itertools.product((-0.005, 0.005), repeat=3)  # accuracies have two decimals, the reported percentage has one
    near = [(hybrid + h - base - b) / (rl + r - base - b) for b, r, h in corners if rl + r != base + b]
    follows = bool(near) and min(near) - 0.0005 <= reported <= max(near) + 0.0005
    return {
        **{name: row[name] for name in ("pair", "base_model", "rl_model", "training", "dataset")},
        "reported": reported, "signed": signed, "reported_minus_signed": reported - signed,
        "reported_is": "signed" if follows else "clamped" if signed < 0 and reported == 0 else "neither",
        "holds_headline": share.lo <= HEADLINE <= share.hi, "holds_zero": share.lo <= 0 <= share.hi,
    }  # fmt: skip


def _said(result: Result) -> list[str]:
    table, beside = result.table, pd.DataFrame(result.details["rows"])
    asked = table[(table["training"] == "rl") & (table["other"] == "distillation")]
    widest = asked[asked["quantity"] == "kind_difference_widest"]["lo"]
    said, more = list[str](), list[str]()
    for dataset in beside["dataset"].unique():
        means = {str(kind): result.estimate("mean_gap", dataset=dataset, training=kind) for kind in table[(table["quantity"] == "mean_gap") & (table["dataset"] == dataset)]["training"]}
        differences = {scope: result.estimate("kind_difference", dataset=dataset, training="rl", other="distillation", scope=scope) for scope in asked[asked["dataset"] == dataset]["scope"].unique()}
        parts = [f"{KINDS[kind]} {means[kind]}" for kind in ("rl", "distillation") if kind in means] + ([f"difference {differences[EVERY]}"] if EVERY in differences else [])
        said.append(f"{dataset}: {', '.join(parts)}")
        others = [f"{KINDS[kind]} {value}" for kind, value in means.items() if kind not in ("rl", "distillation")] + [f"the difference on {scope} alone {value}" for scope, value in differences.items() if scope != EVERY]
        more.append(f"Besides, on {dataset}: {', '.join(others)}." if others else "")
    kinds = [(KINDS[str(kind)], part) for kind, part in beside.groupby("training", sort=False)]
    headline = ", ".join(f"{part['holds_headline'].sum()} of {len(part)} {name}" for name, part in kinds)
    zero = ", ".join(str(part["holds_zero"].sum()) for _, part in kinds)
    verdict = "are not shown to differ: that takes differences whose widest intervals are above 0"
    if len(widest) and (widest > 0).all():
        verdict = "differ, in the widest intervals too; a difference whose interval includes 0 would have refuted that"
    reported = {name: int((beside["reported_is"] == name).sum()) for name in ("signed", "clamped", "neither")}
    return [
        f"Mean share of the gap recovered, signed, on {'; on '.join(said)}: so RL-trained and distilled pairs {verdict}.",
        *more,
        f"The headline {HEADLINE} lies in the intervals of {headline} rows, 0 in those of {zero}.",
        f"Of {len(beside)} reported values {reported['signed']} follow from the accuracies, {reported['clamped']} are negative and stand as 0, {reported['neither']} are neither.",
    ]


def drawn(result: Result) -> list[dict[str, Any]]:
    """What `plot` draws, one entry a kind and data set: its rows, each with the reported value, and their mean where there are several."""
    out = []
    beside = pd.DataFrame(result.details["rows"])
    for (kind, dataset), part in beside.groupby(["training", "dataset"], sort=False):
        where: dict[str, Any] = {"training": kind, "dataset": dataset}
        lines: list[dict[str, Any]] = []
        for row in part.to_dict("records"):
            share = result.estimate("gap_recovered", pair=row["pair"], **where)
            lines.append({"label": f"{row['rl_model']}\non {row['base_model']}", **_numbers(share), "reported": row["reported"], "reported_is": row["reported_is"]})
        if len(part) > 1:
            lines.append({"label": f"mean of {len(part)}", **_numbers(result.estimate("mean_gap", **where))})
        out.append({**where, "rows": lines})
    return sorted(out, key=lambda group: list(KINDS).index(group["training"]))


def _numbers(estimate: Estimate) -> dict[str, Any]:
    return {"value": estimate.value, "lo": estimate.lo, "hi": estimate.hi, "n": estimate.n, **({} if estimate.defined else {"reason": estimate.reason})}


def plot(result: Result, ax: "Axes | None" = None) -> "Axes":
    """A row a model, the kinds of training apart; data sets as marker shapes, the reported value as a ring, the headline as a line."""
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(figsize=(8.0, 7.0), layout="constrained")
    groups = drawn(result)
    datasets = list(dict.fromkeys(group["dataset"] for group in groups))
    place, ticks = 0.0, dict[float, str]()
    for colour, (kind, name) in zip(ROUTERS, KINDS.items(), strict=False):
        labels = list(dict.fromkeys(line["label"] for g in groups if g["training"] == kind for line in g["rows"]))
        if not labels:
            continue
        ax.text(0.01, place, name, transform=ax.get_yaxis_transform(), va="center", weight="bold", color=colour)
        heights = {label: place + 1 + i for i, label in enumerate(labels)}
        ticks |= {height: label for label, height in heights.items()}
        for group in (g for g in groups if g["training"] == kind):
            shift = 0.4 * (datasets.index(group["dataset"]) - (len(datasets) - 1) / 2)
            for line in group["rows"]:
                _draw(ax, line, heights[line["label"]] + shift, colour, "osD^v"[datasets.index(group["dataset"]) % 5])
        place += len(labels) + 1.4
    for i, dataset in enumerate(datasets):
        ax.plot([], [], "osD^v"[i % 5], color="0.3", markersize=5, label=f"{dataset}, signed")
    ax.plot([], [], "o", color="0.3", markerfacecolor="none", markersize=9, label="as reported")
    ax.axvline(0, color="0.6", linewidth=0.8, zorder=0)
    ax.axvline(HEADLINE, color="0.3", linewidth=1, linestyle="--", zorder=0)
    ax.annotate(f"headline {HEADLINE}", (HEADLINE, 1), (3, 2), xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=8)
    ax.set_yticks(list(ticks), list(ticks.values()))
    ax.set(xlabel="share of the gap recovered, (hybrid - base) / (RL - base)", ylim=(place - 1, -0.8))
    ax.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=3)
    return ax


def _draw(ax: "Axes", line: Mapping[str, Any], height: float, colour: str, marker: str) -> None:
    """One dot with its interval; an infinite bound is an arrow, what is undefined says so."""
    if "reason" in line:
        ax.text(0.02, height, f"undefined: {line['reason']}", transform=ax.get_yaxis_transform(), va="center", fontsize=7, color="0.4")
    else:
        mean = "reported" not in line
        ends = [bound if np.isfinite(bound) else line["value"] for bound in (line["lo"], line["hi"])]
        ax.plot(ends, [height] * 2, color=colour, linewidth=3 if mean else 1.6, alpha=0.5 if mean else 1)
        ax.plot([line["value"]], [height], marker, color=colour, markersize=5, zorder=3)
        for bound, arrow in ((line["lo"], "<"), (line["hi"], ">")):
            if np.isinf(bound):
                ax.plot([line["value"]], [height], arrow, color=colour, markersize=9, fillstyle="none")
    if "reported" in line:
        ax.plot([line["reported"]], [height], "o", color="0.3", markerfacecolor="none", markersize=9, zorder=4)
        if line["reported_is"] == "clamped":
            ax.annotate("negative, reported as 0", (line["hi"], height), (6, 0), textcoords="offset points", va="center", fontsize=7, color="0.3")
