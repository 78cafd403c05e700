"""Study `passk`: does the base model overtake the RL model when both may try often?

Claim (Yue et al. 2025, arXiv 2504.13837): RLVR raises pass@1 but the base solves more problems at large k, so RL only makes
known solutions likelier.

Formula: pass@k = 1 - C(n - c, k) / C(n, k), unbiased, mean over problems; the guessing floor 1 - (1 - 1/answers)^k is drawn.
From k = 16 on a sample counts only with a valid trace (CoT-pass@k, arXiv 2506.14245), where a checker exists: the table has
both. The crossover is the smallest k at which the base is not below RL, with a bootstrap interval. The ledger counts problems
solved by RL only and by the base only in one half of the samples, and how many of them flip in the other half.

Refuted where RL stays above the base with the largest k's interval of the difference above 0.
"""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from latentreason.errors import InvalidInput
from latentreason.stats import Estimate, crossover_k, guessing_floor, pass_at_k_curve, percentile_interval, wilson
from latentreason.studies.palette import ARMS, NAMES
from latentreason.studies.result import Result, different_prompts, rows
from latentreason.tables import Rollouts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

VALID_FROM = 16


@dataclass(frozen=True)
class Config:
    """Settings. `n_answers` is the number of possible answers (for the guessing floor), None where it is unbounded."""

    max_k: int = 256
    hybrid_max_k: int = 64
    n_answers: int | None = None
    n_boot: int = 2000
    seed: int = 0


def run(*, base: Rollouts, rl: Rollouts, hybrid: Rollouts | None = None, config: Config = Config()) -> Result:
    """pass@k of base, RL and, to a smaller k, a hybrid, on one set of problems.

    Args:
        base, rl, hybrid: one arm each; a column `valid` (of the exact trace checker) gives CoT-pass@k.
        config: settings.

    Raises:
        InvalidInput: fewer samples than the largest k, or different problems.
    """
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
        ledger, rates = _ledger(base, rl, kind)
        table += [rows(name, estimate, kind=kind) for name, estimate in rates.items()]
    details: dict[str, Any] = {"ledger": ledger.to_dict("records"), "n_problems": len(problems), "kinds": kinds}
    if config.n_answers:
        details["guessing_floor"] = [{"k": k, "value": guessing_floor(config.n_answers, k)} for k in ks]
    last = pd.DataFrame(table).query("quantity == 'rl_minus_base'").iloc[-1]
    crossed = crossing[kinds[-1]]
    where = f"the base overtakes at k = {crossed}" if crossed.defined else f"no crossing ({crossed.reason})"
    finding = (
        f"RL minus base at k={ks[-1]} is {last['value']:.3f} [{last['lo']:.3f}, {last['hi']:.3f}] ({kinds[-1]}); {where}. "
        + f"An interval above 0 at the largest k refutes the crossing; {'it is' if last['lo'] > 0 else 'it is not'} above 0."
    )
    if warning := different_prompts({"base": base, "rl": rl, "hybrid": hybrid}):
        details["prompts"], finding = warning, f"{finding} {warning}"
    return Result("passk", asdict(config), pd.DataFrame(table).fillna({"arm": "", "kind": ""}), details, finding)


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
