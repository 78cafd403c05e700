"""Study `recovery`: how much of the RL gain do a few routed tokens recover, beyond what any such tokens would?

Claim (Venhoff et al. 2025, arXiv 2510.07364): steering 12% of the tokens of the base model recovers 91% of the gain, so RL
teaches WHEN to reason, not HOW.

Formula: recovery = (hybrid - base) / (RL - base), signed, never clamped; x = changed tokens / D, where D is the changed
fraction of always-RL. Always-RL itself recovers everything at 1.0 D, so the claim is the paired DIFFERENCE between a router
and `matched_disagreement`, which changes as many tokens at random places where the two models differ.

Refuted for a router where the difference's upper bound is 0 or less: it swaps no better tokens than as many at random. An interval that includes 0
leaves open whether more than their number matters. The timing and content shares (Shapley, four arms) refute "when, not how" where the share of timing is not above that of content.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from latentreason.curves import CurvePoint, RecoveryCurve, curve_difference, recovery_curve
from latentreason.errors import InvalidInput
from latentreason.sources import sources
from latentreason.stats import Estimate, gap_difference, mean_estimate, pooled_ratio, shapley_shares
from latentreason.studies.palette import ARMS, ROUTERS
from latentreason.studies.result import Result, different_prompts, one_arm_each, rows, same_pair, settings, whether
from latentreason.tables import Rollouts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CONTROLS = ("matched_disagreement", "matched_random")


@dataclass(frozen=True)
class Config:
    """Settings of the study; `best_oracle` and `best_base_only` are routers that were chosen on calibration problems, `temperature` says how
    the arms were sampled (of greedy arms it says nothing).
    """

    n_boot: int = 2000
    seed: int = 0
    best_oracle: str = ""
    best_base_only: str = ""
    temperature: float = 1.0


def run(*, base: Rollouts, rl: Rollouts, hybrid: Rollouts, control: Rollouts | None = None, timing: Rollouts | None = None,
        content: Rollouts | None = None, changed_by_strategy: pd.DataFrame | None = None, config: Config = Config()) -> Result:  # fmt: skip
    """Compare hybrids with base, RL and their matched controls, on the same problems.

    Args:
        base, rl: one arm each. For D, `rl` is best sampled as Hybrid(pair, always()); from a plain RL model D is taken from
            the router's calibration, and said so.
        hybrid: arms of one or several calibrated routers at one or several budgets.
        control: arms of the matched controls of these routers.
        timing, content: arms that swap only timing, and only content positions.
        changed_by_strategy: columns arm, strategy, changed, tokens.
        config: settings.

    Raises:
        InvalidInput: arms on different problems or of different pairs, two arms under one name, or several where there should be one.
    """
    given = {"base": base, "rl": rl, "hybrid": hybrid, "control": control, "timing": timing, "content": content}
    for name, tables in given.items():
        if tables is not None and not isinstance(tables, Rollouts):
            raise InvalidInput(f"{name} must be Rollouts, found {type(tables).__name__}; several arms become one table with concat([...]).")
        if tables is not None and tables.table.duplicated(["arm", "problem", "sample"]).any():
            raise InvalidInput(f"{name} holds a sample twice (same arm, problem and sample): were two arms of one name stacked? Give each a name.")
    one_arm_each(base=base, rl=rl, timing=timing, content=content)
    same_pair(**given)
    problems = base.per_problem().index
    for arms_of in (rl, hybrid, control, timing, content):
        if arms_of is not None and set(arms_of.table["problem"]) != set(problems):
            raise InvalidInput("The arms answer different problems, so they cannot be paired: sample all of them on one list of problems.")
    groups = _groups(hybrid)
    points = {"base": _point(base), "rl": _rl_point(rl, hybrid)}
    table: list[dict[str, Any]] = []
    n = len(points["base"].correct)
    for name, rollouts in {"base": base, "rl": rl, "timing": timing, "content": content}.items():
        if rollouts is not None:
            table.append(rows("accuracy", mean_estimate(_point(rollouts).correct, n_boot=config.n_boot, seed=config.seed, share=True), arm=name))
    full = pooled_ratio(points["rl"].changed, points["rl"].tokens, n_boot=config.n_boot, seed=config.seed)
    if "n_changed" not in rl.table:
        full = Estimate(full.value, math.nan, math.nan, full.n, "calibration", "from the router's calibration problems, without an interval")
    table.append(rows("D", full, arm="rl"))

    controls = _groups(control) if control is not None else {}
    curves: dict[tuple[str, str], RecoveryCurve] = {}
    details: dict[str, Any] = {"curves": [], "n_problems": n, "n_samples": int(base.table.groupby("problem").size().iloc[0])}
    for (router, kind), arms in {**groups, **controls}.items():
        measured = [_point(r) for r in arms]
        curve = recovery_curve(points["base"], points["rl"], measured, n_boot=config.n_boot, seed=config.seed)
        curves[router, kind] = curve
        where = {"router": router, "control": kind, **_sources(arms[0])}
        table.append(rows("area", curve.area, **where))
        table += [rows("recovery_at", estimate, budget=budget, **where) for budget, estimate in curve.at.items()]
        for x, y, changed, i in zip(curve.x, curve.y, curve.changed, curve.order, strict=True):
            arm = {**where, "arm": arms[i].arms[0]}
            table += [rows("recovery", y, **arm), rows("changed_of_D", x, **arm), rows("changed", changed, **arm)]
            table.append(rows("accuracy", mean_estimate(measured[i].correct, n_boot=config.n_boot, seed=config.seed, share=True), **arm))
            if "n_routed" in arms[i].table:
                routed = pooled_ratio(arms[i].per_problem("n_routed", how="sum").to_numpy(float), measured[i].tokens, n_boot=config.n_boot, seed=config.seed)
                table.append(rows("routed", routed, **arm))
        details["curves"].append({
            **where, "x": curve.band.x.tolist(), "y": curve.band.y.tolist(), "lo": curve.band.lo.tolist(), "hi": curve.band.hi.tolist(),
            "points": [{"x": x.value, "y": y.value, "lo": y.lo, "hi": y.hi, "changed": c.value} for x, y, c in zip(curve.x, curve.y, curve.changed, strict=True)],
        })  # fmt: skip
    for (router, kind), curve in curves.items():
        if not kind:
            for other in [name for of, name in curves if of == router and name]:
                table += _arm_by_arm(groups[router, ""], controls[router, other], points, other, config)
                difference = curve_difference(curve, curves[router, other])
                where = {"router": router, "control": other, **_sources(groups[router, ""][0])}
                table.append(rows("area_difference", difference.area, **where))
                table += [rows("difference_at", e, budget=b, **where) for b, e in difference.at.items()]
    if timing is not None and content is not None:
        arms4 = [_point(r).correct for r in (base, timing, content, rl)]
        shares = shapley_shares(*arms4, n_boot=config.n_boot, seed=config.seed)
        table += [rows(f"{name}_share" if "gain" not in name else name, estimate, arm=name) for name, estimate in shares.items()]
    if changed_by_strategy is not None:
        details["changed_by_strategy"] = changed_by_strategy.to_dict("records")
    result = Result("recovery", settings(config), pd.DataFrame(table).fillna(dict.fromkeys(("router", "control", "arm", "timing_source", "content_source"), "")), details)
    warnings = {"prompts": different_prompts(given), "thresholds": _at_the_ends(hybrid)}
    details |= {name: warning for name, warning in warnings.items() if warning}
    return result.saying([_said(result, curves), *warnings.values()])


def _at_the_ends(hybrid: Rollouts) -> str:
    """Which arms with a threshold route nothing, or every token: these say nothing of WHEN."""
    said = []
    if "n_routed" in hybrid.table:
        sums = hybrid.table.groupby("arm", sort=False)[["n_routed", "n_tokens"]].sum()
        for arm, n_routed, n_tokens in sums.itertuples(name=None):
            if "threshold" in _spec(hybrid.arm(arm))["params"] and n_routed in (0, n_tokens):
                said.append(f"The threshold of {arm} routes {'nothing, so it is the base model' if n_routed == 0 else 'every token'}.")
    return " ".join(said)


def _arm_by_arm(arms: list[Rollouts], controls: list[Rollouts], points: dict[str, CurvePoint], control: str, config: Config) -> list[dict[str, Any]]:
    """How much more each arm recovers than the control that was made for it, paired by problem; both change about as many tokens."""
    found, where = [], {"router": _spec(arms[0])["name"], "control": control, **_sources(arms[0])}
    for arm in arms:
        budget = _spec(arm)["params"].get("calibration", {}).get("budget")
        for twin in (c for c in controls if _spec(c)["params"].get("budget") == budget):
            correct = [_point(r).correct for r in (arm, twin)]
            difference = gap_difference(points["base"].correct, points["rl"].correct, *correct, n_boot=config.n_boot, seed=config.seed)
            found.append(rows("recovery_difference", difference, arm=arm.arms[0], **where))
    return found


def _spec(rollouts: Rollouts) -> dict[str, Any]:
    name = rollouts.arms[0]
    spec: dict[str, Any] = rollouts.info.get(name, {}).get("router", {"name": name, "params": {}})
    return spec


def _point(rollouts: Rollouts) -> CurvePoint:
    changed = rollouts.per_problem("n_changed", how="sum") if "n_changed" in rollouts.table else 0 * rollouts.per_problem("n_tokens", how="sum")
    return CurvePoint(rollouts.per_problem().to_numpy(float), changed.to_numpy(float), rollouts.per_problem("n_tokens", how="sum").to_numpy(float))


def _rl_point(rl: Rollouts, hybrid: Rollouts) -> CurvePoint:
    """The RL arm; where its table does not know what the base would have said, D comes from a router's calibration."""
    point = _point(rl)
    if "n_changed" in rl.table:
        return point
    found = [f["router"]["params"]["calibration"]["D"] for f in hybrid.info.values() if "calibration" in f.get("router", {}).get("params", {})]
    if not found:
        raise InvalidInput("D, the changed fraction of always-RL, is unknown: sample the RL arm as Hybrid(pair, always()), or use a router from `calibrated`.")
    return CurvePoint(point.correct, found[0] * point.tokens, point.tokens)


def _groups(rollouts: Rollouts) -> dict[tuple[str, str], list[Rollouts]]:
    """Arms by (router, kind of control); ("js", "") is the router itself."""
    out: dict[tuple[str, str], list[Rollouts]] = {}
    for name in rollouts.arms:
        spec = _spec(rollouts.arm(name))
        key = (spec["params"]["of"], spec["name"]) if "of" in spec["params"] else (spec["name"], "")
        out.setdefault(key, []).append(rollouts.arm(name))
    return out


def _sources(arm: Rollouts) -> dict[str, str]:
    """Timing and content source of a hybrid."""
    found = sources(arm.info.get(arm.arms[0], {"router": {}}))
    return {name: found[name] for name in ("timing_source", "content_source")}


def _said(result: Result, curves: dict[tuple[str, str], RecoveryCurve]) -> str:
    router = result.config["best_oracle"] or next((r for r, kind in curves if not kind), "")
    if (router, "") not in curves:
        return "No router was measured."
    curve, where = curves[router, ""], {"router": router, "control": CONTROLS[0]}
    if curve.area.defined or not curve.y[0].defined:
        said, quantity = f"{router}: area {curve.area} over 0 to D", "area_difference"
    else:  # too few arms for a curve: speak of the one nearest to half of D
        near = min(range(len(curve.x)), key=lambda i: abs(curve.x[i].value - 0.5))
        said, quantity = f"{router}: {curve.y[near]} of the gain recovered at {curve.x[near].value:.2f} D", "recovery_difference"
        where["arm"] = result.table[(result.table["quantity"] == "recovery") & (result.table["router"] == router) & (result.table["control"] == "")]["arm"].iloc[near]
    rows_of = result.table[(result.table["quantity"] == quantity) & (result.table["router"] == router) & (result.table["control"] == CONTROLS[0])]
    if len(rows_of):
        difference = result.estimate(quantity, **where)
        unclear = "so there is no evidence that it matters which it swaps" if difference.defined else "so nothing is said of whether it matters which it swaps"
        verdict = whether(difference, "so it matters which disagreements it swaps", "which refutes that it matters which it swaps", unclear)
        said += f"; {difference} above matched disagreements, {verdict} (an upper bound of 0 or less refutes that it does)"
    else:
        said += "; no control was given, so nothing is said of which swaps matter"
    if (result.table["quantity"] == "timing_share").any():
        said += f"; timing carries {result.estimate('timing_share')} of the gain, content {result.estimate('content_share')}"
    return said + "."


def drawn(result: Result) -> list[dict[str, Any]]:
    """The curves that `plot` draws: the chosen routers (all where none was chosen), each followed by its matched disagreements."""
    labels = {"best_oracle": "oracle", "best_base_only": "base only"}
    chosen = {result.config[key]: label for key, label in labels.items() if result.config[key]}
    known = {(c["router"], c["control"]): c for c in result.details["curves"]}
    shown = [router for router in chosen if (router, "") in known] or [router for router, control in known if not control]
    curves = []
    for router in shown:
        for control in ("", CONTROLS[0]):
            if (router, control) in known:
                label = f"matched disagreements of {router}" if control else f"{router} ({chosen[router]})" if router in chosen else router
                points = [{"x": p["x"], "y": p["y"]} for p in known[router, control]["points"]]
                curves.append({**known[router, control], "points": points, "label": label})
    return curves


def plot(result: Result, ax: "Axes | None" = None) -> "Axes":
    """Recovery against changed / D with 95% bands: routers as lines, their matched disagreements grey and dashed."""
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(figsize=(6.4, 4.8), layout="constrained")
    curves, heights, end = drawn(result), [0.0, 1.0], 1.0
    routers = list(dict.fromkeys(c["router"] for c in curves))
    for height in (0, 1):
        ax.axhline(height, color="0.85", linewidth=0.8, zorder=0)
    for curve in curves:
        place = routers.index(curve["router"])
        colour = ARMS["control"] if curve["control"] else ROUTERS[place % len(ROUTERS)]
        style = ("--", ":", "-.")[place % 3] if curve["control"] else "-"
        y, lo, hi = (np.array(curve[name], float) for name in ("y", "lo", "hi"))
        dots = np.array([[p["x"], p["y"]] for p in curve["points"]], float)
        line = np.vstack([np.column_stack([curve["x"], y]), dots[(dots[:, 0] > 0) & (dots[:, 0] < 1)]])  # the grid alone would cut corners
        ax.plot(*line[line[:, 0].argsort(kind="stable")].T, style, color=colour, label=curve["label"])
        ax.fill_between(curve["x"], lo, hi, color=colour, alpha=0.15, linewidth=0)
        ax.plot(*dots.T, "o", color=colour, markersize=4)
        heights += [h for h in (*lo, *hi) if np.isfinite(h)]
        end = max(end, np.nanmax(dots[:, 0], initial=0))
    if np.isfinite(np.array([c["y"] for c in curves], float)).any():
        ax.plot([0], [0], "s", color=ARMS["base"], markersize=6, label="base", clip_on=False, zorder=4)
        ax.plot([1], [1], "s", color=ARMS["rl"], markersize=6, label="always-RL (an identity)", clip_on=False, zorder=4)
    elif curves:
        reason = result.table[result.table["reason"] != ""]["reason"].iloc[0]
        ax.text(0.5, 0.5, f"undefined: {reason}", ha="center", va="center", wrap=True, transform=ax.transAxes)
    ax.set(xlabel="changed tokens / D", ylabel="share of the RL gain recovered")
    ax.set(xlim=(0, end + 0.02), ylim=(max(min(heights), -0.6) - 0.04, min(max(heights), 1.6) + 0.04))
    ax.legend(frameon=False, fontsize=8)
    full = result.table[result.table["quantity"] == "D"]["value"]
    if len(full) and full.iloc[0] > 0:  # the absolute fraction stands beside the relative one
        percent = 100 * float(full.iloc[0])
        scales = (lambda x: np.asarray(x, float) * percent, lambda x: np.asarray(x, float) / percent)
        ax.secondary_xaxis("top", functions=scales).set_xlabel("changed tokens, % of all generated")
    return ax


def estimates(result: Result, quantity: str) -> dict[str, Estimate]:
    """Estimates of one quantity by router, the routers themselves only."""
    part = result.table[(result.table["quantity"] == quantity) & (result.table["control"] == "")]
    return {r["router"]: Estimate(r["value"], r["lo"], r["hi"], int(r["n"]), r["method"], r["reason"]) for _, r in part.iterrows()}
