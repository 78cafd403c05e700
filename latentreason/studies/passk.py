"""Study `passk`: does the base model overtake the RL model when both may try often?

Claim (Yue et al. 2025, arXiv 2504.13837): RLVR raises pass@1 but the base solves more problems at large k, so RL only makes
known solutions likelier.

Formula: pass@k = 1 - C(n - c, k) / C(n, k), unbiased, mean over problems; the guessing floor 1 - (1 - 1/answers)^k is drawn.
From k = 16 on a sample counts only with a valid trace (CoT-pass@k, arXiv 2506.14245), where a checker exists: the table has
both. The crossover is the smallest k at which the base is not below RL, with a bootstrap interval. The ledger counts problems
solved by RL only and by the base only in one half of the samples, and how many of them flip in the other half. Coverage: problems that
both, one or neither solves with all of its samples. Efficiency gap: pass@k of the base at the largest k minus pass@1 of RL. Path
coverage: share of the tokens of greedy RL traces that are the base's own greedy choice there (RAST, arXiv 2506.15710). Perplexity of a
set of traces: exp of the mean negative log-probability of its tokens, pooled.

Refuted where RL stays above the base with the largest k's interval of the difference above 0, at a k of at least `large_k`, and while the base still misses more than
`ceiling` of what there is to solve: where both solve all but everything, large k says only that RL adds no solutions.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from latentreason.errors import InvalidInput
from latentreason.stats import (
    Estimate,
    crossover_k,
    guessing_floor,
    mean_estimate,
    over,
    pass_at_k_curve,
    percentile_interval,
    pooled_ratio,
    replicate_weights,
    summary,
    undefined,
    wilson,
)
from latentreason.studies.palette import ARMS, NAMES
from latentreason.studies.result import Result, different_prompts, of_one_pair, one_arm_each, rows, same_pair
from latentreason.tables import Rollouts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

VALID_FROM = 16
CELLS = {"both": (True, True), "base only": (True, False), "RL only": (False, True), "neither": (False, False)}
LIKELIHOOD = ("problem", "sample", "arm", "correct", "n_tokens", "base_nats", "rl_nats")
"""Columns of the table of log-probabilities: a row a trace, summed over its tokens."""


@dataclass(frozen=True)
class Config:
    """Settings.

    Attributes:
        max_k, hybrid_max_k: largest k, of base and RL, and of the hybrid.
        large_k: from which on a k is large, as the claim means it.
        ceiling: share of the problems that a base may miss at the largest k and still have solved all but everything.
        n_answers: number of possible answers (for the guessing floor), None where it is unbounded.
    """

    max_k: int = 256
    hybrid_max_k: int = 64
    large_k: int = 64
    ceiling: float = 0.01
    n_answers: int | None = None
    n_boot: int = 2000
    seed: int = 0


def run(*, base: Rollouts, rl: Rollouts, hybrid: Rollouts | None = None, greedy: Rollouts | None = None, likelihood: pd.DataFrame | None = None,
        config: Config = Config()) -> Result:  # fmt: skip
    """pass@k of base, RL and, to a smaller k, a hybrid, on one set of problems.

    Args:
        base, rl, hybrid: one arm each; a column `valid` (of the exact trace checker) gives CoT-pass@k.
        greedy: the always-RL arm, sampled greedily, for path coverage.
        likelihood: what `collect` wrote, for perplexities.
        config: settings.

    Raises:
        InvalidInput: fewer samples than the largest k, different problems, arms of different pairs, or several arms in one table.
    """
    one_arm_each(base=base, rl=rl, hybrid=hybrid)
    same_pair(base=base, rl=rl, hybrid=hybrid, greedy=greedy)
    table: list[dict[str, Any]] = []
    curves: dict[tuple[str, str], Any] = {}
    problems = base.per_problem().index
    for arm, rollouts, limit in (("base", base, config.max_k), ("rl", rl, config.max_k), ("hybrid", hybrid, config.hybrid_max_k)):
        if rollouts is None:
            continue
        if not rollouts.per_problem().index.equals(problems):
            raise InvalidInput(f"Arm {arm!r} was sampled on other problems than the base; a pass@k comparison needs one set.")
        ks = [2**i for i in range(limit.bit_length()) if 2**i <= limit]
        for kind, counts in _counts(rollouts).items():
            curve = pass_at_k_curve(counts, rollouts.per_problem(how="size").to_numpy(), ks, n_boot=config.n_boot, seed=config.seed)
            curves[arm, kind] = curve
            table += [rows("pass@k", e, arm=arm, kind=kind, k=k) for k, e in zip(curve.ks, curve.estimates, strict=True)]
    ks = [2**i for i in range(config.max_k.bit_length()) if 2**i <= config.max_k]
    kinds = sorted({kind for arm, kind in curves if arm == "base"})
    crossing: dict[str, Estimate] = {}
    for kind in kinds:
        solved = {arm: _counts(r)[kind] for arm, r in (("base", base), ("rl", rl))}
        sizes = {arm: r.per_problem(how="size").to_numpy() for arm, r in (("base", base), ("rl", rl))}
        crossing[kind] = crossover_k(solved["base"], solved["rl"], sizes["base"], sizes["rl"], ks, n_boot=config.n_boot, seed=config.seed)
        table.append(rows("crossover_k", crossing[kind], kind=kind))
        for i, k in enumerate(ks):
            draws = curves["rl", kind].draws[:, i] - curves["base", kind].draws[:, i]
            lo, hi = percentile_interval(draws)
            value = curves["rl", kind].estimates[i].value - curves["base", kind].estimates[i].value
            table.append(rows("rl_minus_base", Estimate(value, lo, hi, len(problems), "paired bootstrap over problems"), kind=kind, k=k))
        spread = curves["base", kind].draws[:, -1] - curves["rl", kind].draws[:, 0]
        gap = curves["base", kind].estimates[-1].value - curves["rl", kind].estimates[0].value
        table.append(rows("efficiency_gap", Estimate(gap, *percentile_interval(spread), len(problems), "paired bootstrap over problems"), kind=kind, k=ks[-1]))
        ever = list(zip(solved["base"] > 0, solved["rl"] > 0, strict=True))
        table += [rows("coverage", wilson(ever.count(pair), len(ever)), kind=kind, cell=cell) for cell, pair in CELLS.items()]
        ledger, rates = _ledger(base, rl, kind)
        table += [rows(name, estimate, kind=kind) for name, estimate in rates.items()]
    table += _paths(greedy, config) + ([] if likelihood is None else _perplexities(likelihood, config))
    details: dict[str, Any] = {"ledger": ledger.to_dict("records"), "n_problems": len(problems), "kinds": kinds}
    if config.n_answers:
        details["guessing_floor"] = [{"k": k, "value": guessing_floor(config.n_answers, k)} for k in ks]
    last = pd.DataFrame(table).query("quantity == 'rl_minus_base'").iloc[-1]
    crossed = crossing[kinds[-1]]
    where = f"the base overtakes at k = {crossed}" if crossed.defined else f"no crossing ({crossed.reason})"
    missed = max(0.0, 1.0 - curves["base", kinds[-1]].estimates[-1].value)
    alone, by_rl = Estimate(last["value"], last["lo"], last["hi"], len(problems), ""), next(row for row in table if row["quantity"] == "coverage" and row["kind"] == kinds[-1] and row["cell"] == "RL only")
    if ks[-1] < config.large_k:
        seen = f"k={ks[-1]} is too small to speak of large k"
    elif crossed.defined and crossed.value <= 1:
        seen = "RL is above the base at no smaller k, so there is no crossing to speak of"
    elif crossed.defined and alone.hi < 0:
        seen = "which shows it"
    elif missed <= config.ceiling:
        seen = f"the base misses {missed:.1%} there and RL alone solves {by_rl['value']:.1%} of the problems, so RL adds next to no solutions, and large k says no more"
    else:
        seen = "which refutes the crossing" if alone.lo > 0 else "which leaves it open"
    finding = f"RL minus base at k={ks[-1]} is {alone} ({kinds[-1]}); {where}; {seen}; an interval above 0 at a large k, where the base still fails, refutes the crossing."
    if warning := different_prompts({"base": base, "rl": rl, "hybrid": hybrid}):
        details["prompts"] = warning
    return Result("passk", asdict(config), pd.DataFrame(table).fillna({"arm": "", "kind": "", "cell": ""}), details).saying([finding, warning])


def _counts(rollouts: Rollouts) -> dict[str, np.ndarray]:
    """Right samples of each problem: by answer, and by answer and trace where a checker has judged it."""
    out = {"answer": rollouts.per_problem(how="sum").to_numpy(int)}
    if "valid" in rollouts.table:
        both = rollouts.table["correct"] & rollouts.table["valid"]
        out["answer and trace"] = both.groupby(rollouts.table["problem"], sort=True).sum().to_numpy(int)
    return out


def _ledger(base: Rollouts, rl: Rollouts, kind: str) -> tuple[pd.DataFrame, dict[str, Estimate]]:
    """Which arms solve a problem in the first half of the samples, and again in the second; flip rates of one-sided entries."""
    solved = {}
    for arm, rollouts in (("base", base), ("rl", rl)):
        right = rollouts.table["correct"] & (rollouts.table["valid"] if kind != "answer" else True)
        half = rollouts.table["sample"] >= rollouts.table["sample"].median()
        solved[arm] = right.groupby([rollouts.table["problem"], half]).any().unstack()
    ledger = pd.DataFrame({f"{arm}_{'second' if h else 'first'}": s[h] for arm, s in solved.items() for h in (False, True)}).reset_index()
    rates: dict[str, Estimate] = {}
    for name, here, other in (("rl_only", "rl", "base"), ("base_only", "base", "rl")):
        listed = ledger[ledger[f"{here}_first"] & ~ledger[f"{other}_first"]]
        again = listed[f"{here}_second"] & ~listed[f"{other}_second"]
        rates[f"solved_{name}"] = wilson(len(listed), len(ledger))
        rates[f"flip_rate_{name}"] = wilson(int((~again).sum()), len(listed))
    return ledger, rates


def _paths(greedy: Rollouts | None, config: Config) -> list[dict[str, Any]]:
    """Share of the tokens of greedy RL traces, and of whole traces, that the base alone would have written."""
    if greedy is None or "n_changed" not in greedy.table:
        return []
    how: dict[str, Any] = {"n_boot": config.n_boot, "seed": config.seed}
    tokens, changed = (greedy.per_problem(column, how="sum").to_numpy(float) for column in ("n_tokens", "n_changed"))
    whole = (greedy.table["n_changed"] == 0).groupby(greedy.table["problem"]).mean().to_numpy(float)
    return [rows("path_coverage", pooled_ratio(tokens - changed, tokens, **how), arm="rl"), rows("whole_path", mean_estimate(whole, **how, share=True), arm="rl")]


def _perplexities(likelihood: pd.DataFrame, config: Config) -> list[dict[str, Any]]:
    """Of the traces of each model (all of them, the right ones) under each model; and nats a token by which RL's are less likely to the base than its own."""
    frame, found = of_one_pair(likelihood, "passk", LIKELIHOOD), []
    problems = sorted(set(frame["problem"]))
    weights = replicate_weights(len(problems), config.n_boot, config.seed)
    for which in ("all", "right"):
        surprise: dict[str, np.ndarray] = {}
        for arm in ("base", "rl"):
            part = frame[(frame["arm"] == arm) & (frame["correct"] | (which == "all"))].groupby("problem")[["n_tokens", "base_nats", "rl_nats"]].sum().reindex(problems, fill_value=0)
            for model in ("base", "rl"):
                nats = -over(weights @ part[f"{model}_nats"].to_numpy(float), weights @ part["n_tokens"].to_numpy(float))
                none = undefined("no such trace", len(problems))
                found.append(rows("perplexity", none if np.isnan(nats[0]) else summary(np.exp(nats), len(problems)), arm=arm, kind=f"{which}, under {model}"))
                if model == "base":
                    surprise[arm] = nats
        difference = surprise["rl"] - surprise["base"]
        none = undefined("one of the models has no such trace", len(problems))
        found.append(rows("surprise", none if np.isnan(difference[0]) else summary(difference, len(problems)), arm="rl", kind=f"{which}, under base"))
    return found


def collect(pair: Any, out: str | Path, *, problems: Any, n_samples: int = 8, sampling: Any = None, draw: Callable[..., Any] | None = None) -> pd.DataFrame:
    """Log-probabilities of both models' traces under both models: write `passk_likelihood.parquet`, and return it.

    Args:
        pair: a ModelPair.
        out: the folder of a run's tables.
        problems: which.
        n_samples: traces of each model and problem.
        sampling: how they are drawn, but for their number. Log-probabilities are those at temperature 1 in any case.
        draw: (name, model, problems, sampling) -> Rollouts, by default `sample`.
    """
    from latentreason.files import write_table
    from latentreason.hybrid.decode import Arms, Hybrid
    from latentreason.routing.controls import always, never
    from latentreason.sampling.local import Sampling, sample

    draw = draw or (lambda name, model, asked, how: sample(model, asked, how))
    arms = Arms([Hybrid(pair, never(), name="base"), Hybrid(pair, always(), name="rl")])
    traces = draw("likelihood", arms, problems, replace(sampling or Sampling(), n=n_samples)).table
    sums = {f"{model}_nats": [float(np.sum(each, dtype=np.float64)) for each in traces[f"{model}_logprob"]] for model in ("base", "rl")}
    table = traces[["problem", "sample", "arm", "correct", "n_tokens"]].assign(**sums, pair=pair.name)[["pair", *LIKELIHOOD]]
    write_table(Path(out) / "passk_likelihood.parquet", table)
    return table


def drawn(result: Result) -> list[dict[str, Any]]:
    """The curves that `plot` draws: pass@k of each arm, by answer, then by answer and trace."""
    part, curves = result.table[result.table["quantity"] == "pass@k"], []
    for (arm, kind), group in part.groupby(["arm", "kind"], sort=False):
        ordered = group.sort_values("k")
        numbers = {column: ordered[column].tolist() for column in ("value", "lo", "hi")}
        curves.append({"arm": arm, "kind": kind, "k": ordered["k"].astype(int).tolist(), **numbers})
    return curves


def plot(result: Result, ax: "Axes | None" = None) -> "Axes":
    """pass@k against k with 95% bands; dashed: answer and trace; dotted: the guessing floor."""
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    for curve in drawn(result):
        style, label = ("-", "") if curve["kind"] == "answer" else ("--", f", {curve['kind']}")
        ax.plot(curve["k"], curve["value"], style, marker="o", markersize=3, color=ARMS[curve["arm"]], label=f"{NAMES.get(curve['arm'], curve['arm'])}{label}")
        ax.fill_between(curve["k"], curve["lo"], curve["hi"], color=ARMS[curve["arm"]], alpha=0.12, linewidth=0)
    floor = result.details.get("guessing_floor", [])
    if floor:
        ax.plot([f["k"] for f in floor], [f["value"] for f in floor], ":", color="0.4", label="guessing floor")
    ks = sorted({k for curve in drawn(result) for k in curve["k"]})
    ax.set_xscale("log", base=2)
    ax.set_xticks(ks, [str(k) for k in ks])
    ax.set(xlabel="k (samples a problem)", ylabel="pass@k", ylim=(-0.02, 1.02))
    ax.legend(frameon=False, fontsize=8)
    return ax
