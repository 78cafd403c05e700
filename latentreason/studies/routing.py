"""Study `routing`: which signal says when, and can it be read off the base model before RL?

Claim: the timing of reasoning is in the base model; a probe of its activations finds the tokens that matter (Venhoff et al. 2025, arXiv
2510.07364, use the RL model to find them).

Formula: as in `recovery`; every router at several budgets of changed tokens beside `matched_disagreement`, and `exchanged`, the share of the
gain that is lost when the RL model decodes and the base model's tokens are put in at the same kind of places, (RL - exchanged) / (RL - base), beside
what is lost when as many are put in at random disagreements (`lost_beyond` is the paired difference).

`timing_source` says what a router knows: "base alone" (also in training), "trained on RL labels", "RL model live". Refuted for a router
where the upper bound of its paired difference of areas is 0 or less (an interval that includes 0 shows nothing either way); only "base alone" speaks of what existed before RL.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from latentreason.curves import reaches
from latentreason.errors import InvalidInput
from latentreason.stats import Estimate, gap_difference
from latentreason.studies import recovery
from latentreason.studies.palette import ARMS
from latentreason.studies.result import Result, rows, same_pair, settings
from latentreason.tables import Rollouts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SOURCES = ("base alone", "trained on RL labels", "RL model live")


@dataclass(frozen=True)
class Config:
    """Settings of the study; `temperature` says how the sampled arms were drawn."""

    n_boot: int = 2000
    seed: int = 0
    temperature: float = 1.0


def run(*, base: Rollouts, rl: Rollouts, hybrid: Rollouts, control: Rollouts, exchanged: Rollouts | None = None,
        facts: dict[str, Any] | None = None, config: Config = Config()) -> Result:  # fmt: skip
    """Compare routers with each other and with their matched disagreements, on the same problems.

    Args:
        base, rl: one arm each.
        hybrid: arms of calibrated routers, each at several budgets.
        control: their `matched_disagreement`; of some, `matched_position` too.
        exchanged: arms in which the RL model decodes and base tokens are put in.
        facts: router -> plain data, such as held-out AUROC of its probe.
        config: settings.

    Raises:
        InvalidInput: arms on different problems, of another pair or task.
    """
    found = recovery.run(base=base, rl=rl, hybrid=hybrid, control=control, config=recovery.Config(config.n_boot, config.seed))
    table: list[dict[Any, Any]] = found.table.to_dict("records")
    low, high = (arm.per_problem().to_numpy(float) for arm in (base, rl))
    if exchanged is not None:
        same_pair(base=base, rl=rl, hybrid=hybrid, exchanged=exchanged)
        table += _lost(low, high, exchanged, set(base.table["problem"]), config)
    table += [dict(row) for name, fact in (facts or {}).items() for row in _readouts(name, fact)]
    text = ("router", "control", "arm", "timing_source", "content_source")
    frame = pd.DataFrame(table).astype(dict.fromkeys(text, object)).fillna(dict.fromkeys(text, ""))
    chosen_by = _calibration_areas([info["router"] for info in hybrid.info.values() if "router" in info])
    result = Result("routing", settings(config), frame, {**found.details, "facts": facts or {}, "calibration_area": chosen_by})
    return result.saying(_said(result))


def _readouts(router: str, fact: dict[str, Any]) -> list[dict[str, Any]]:
    """AUROC of a router's probe on problems held out, and of what it stands beside (column `control`)."""
    table, n = list[dict[str, Any]](), int(fact.get("n_held_out", 0))
    for name, each in {"": fact, **fact.get("baselines", {})}.items():
        if "auroc" in each:
            low, high = each.get("auroc_interval", (np.nan, np.nan))
            table.append(rows("auroc", Estimate(each["auroc"], low, high, n, "bootstrap over problems, 95%"), router=router, control=name))
    return table


def _lost(low: np.ndarray, high: np.ndarray, exchanged: Rollouts, problems: set[str], config: Config) -> list[dict[Any, Any]]:
    """What of the gain each exchanged arm loses, and how much more than its matched disagreements."""
    table, how = list[dict[Any, Any]](), {"n_boot": config.n_boot, "seed": config.seed}
    arms = [exchanged.arm(name) for name in exchanged.arms]
    if any(set(arm.table["problem"]) != problems for arm in arms):
        raise InvalidInput("The arms answer different problems, so they cannot be paired: sample all of them on one list of problems.")
    params = [arm.info[arm.arms[0]]["router"]["params"] for arm in arms]
    correct = {params_of.get("calibration", params_of)["budget"]: arm.per_problem().to_numpy(float) for params_of, arm in zip(params, arms, strict=True) if "of" in params_of}
    for params_of, arm in zip(params, arms, strict=True):
        right, name = arm.per_problem().to_numpy(float), arm.info[arm.arms[0]]["router"]["name"]
        measured = params_of.get("calibration", params_of)
        where = {"arm": arm.arms[0], "router": params_of.get("of", name), "control": name if "of" in params_of else "", "budget": measured.get("share_of_D", measured["budget"])}
        table.append(dict(rows("lost", gap_difference(low, high, high, right, **how), **where)))
        if "of" not in params_of and measured["budget"] in correct:
            beyond = gap_difference(low, high, correct[measured["budget"]], right, **how)
            table.append(dict(rows("lost_beyond", beyond, **{**where, "control": recovery.CONTROLS[0]})))
    return table


def _calibration_areas(specs: list[dict[str, Any]]) -> dict[str, float]:
    """Area under each router's recovery over 0 to D on calibration problems, of those whose arms reach over the curve: what the best of several is chosen by."""
    points: dict[str, list[tuple[float, float]]] = {}
    for spec in specs:
        c = spec["params"].get("calibration", {})
        if c.get("rl_accuracy", 0) > c.get("base_accuracy", 1):
            recovered = (c["accuracy"] - c["base_accuracy"]) / (c["rl_accuracy"] - c["base_accuracy"])
            points.setdefault(spec["name"], [(0.0, 0.0), (1.0, 1.0)]).append((min(c["share_of_D"], 1.0), recovered))
    return {name: float(np.trapezoid(*np.array(sorted(p)).T[::-1])) for name, p in points.items() if reaches([share for share, _ in p[2:]])}


def drawn(result: Result) -> list[dict[str, Any]]:
    """One row a router: timing source, area, and its paired difference to matched disagreements, best area first within a source."""
    table = result.table[result.table["control"] == ""]
    areas = table[(table["quantity"] == "area") & table["value"].notna()]
    out = []
    for row in areas.sort_values("value", ascending=False).to_dict("records"):
        difference = result.estimate("area_difference", router=row["router"], control=recovery.CONTROLS[0])
        numbers = {"area": {k: row[k] for k in ("value", "lo", "hi", "n")}, "difference": {"value": difference.value, "lo": difference.lo, "hi": difference.hi, "n": difference.n}}
        out.append({"router": row["router"], "timing_source": row["timing_source"], **numbers, **{k: v for k, v in result.details["facts"].get(row["router"], {}).items() if k in ("auroc", "r2", "calibration_curve")}, **_strongest(result, row["router"])})
    return sorted(out, key=lambda r: SOURCES.index(r["timing_source"]) if r["timing_source"] in SOURCES else 9)


def _strongest(result: Result, router: str) -> dict[str, Any]:
    """The baseline of a router's probe with the highest AUROC."""
    beside = result.table[(result.table["quantity"] == "auroc") & (result.table["router"] == router) & (result.table["control"] != "")]
    best = max(beside.to_dict("records"), key=lambda row: float(row["value"]), default=None)
    return {} if best is None else {"baseline": best["control"], "baseline_auroc": float(best["value"])}


def _said(result: Result) -> list[str]:
    said, chosen_by = list[str](), result.details["calibration_area"]
    for source in SOURCES:
        routers = [r for r in drawn(result) if r["timing_source"] == source]
        if routers:
            best = max(routers, key=lambda r: chosen_by.get(r["router"], -1.0))
            area, difference = best["area"], best["difference"]
            clock, beats = _beyond_a_clock(result, best["router"])
            matters = "so it matters which disagreements it swaps" if beats else "so it swaps better ones than as many at random, but is not shown to beat a clock"
            refuted = "which refutes that it swaps those that matter" if difference["hi"] <= 0 else "so there is no evidence that it matters which disagreements it swaps"
            verdict = matters if difference["lo"] > 0 else refuted
            beyond = f"{difference['value']:.3f} [{difference['lo']:.3f}, {difference['hi']:.3f}] above matched disagreements{clock}, {verdict} (an upper bound of 0 or less refutes it)"
            said.append(
                f"{source[:1].upper()}{source[1:]}: {best['router']} (best of {len(routers)} whose arms reach over the curve, on calibration problems) has area {area['value']:.3f} [{area['lo']:.3f}, {area['hi']:.3f}], "
                + (beyond if np.isfinite(difference["value"]) else "with no curve of matched disagreements to compare it with") + "."
            )
            said.append(f"{best['router']} has an AUROC of {best['auroc']:.3f} beside {best['baseline_auroc']:.3f} of {best['baseline']}." if "baseline" in best else "")
    if not said:
        why = next((reason for reason in result.table.loc[result.table["quantity"] == "area", "reason"] if reason), "no router was measured")
        said.append(f"No router has a defined area ({why}): give each several budgets, such as 0.25, 0.5 and 0.75.")
    lost = result.table[(result.table["quantity"] == "lost_beyond")]
    if len(lost):
        row = lost.iloc[(lost["budget"] - 0.5).abs().argmin()]
        said.append(f"Roles exchanged, {row['router']} at {row['budget']:.2f} D loses {result.estimate('lost', arm=row['arm'])} of the gain, {result.estimate('lost_beyond', arm=row['arm'])} more than random disagreements.")
    return [*said, result.details.get("thresholds", "")]


def _beyond_a_clock(result: Result, router: str) -> tuple[str, bool]:
    """What a router has above random places at its exact positions, and whether every such interval is above 0: over the curve, or, where the clock's arms do not reach
    over it, at the budgets that they reach; "" and True where no clock was measured.
    """
    mine = result.table[(result.table["router"] == router) & (result.table["control"] == "matched_position")]
    if (mine["quantity"] == "area_difference").sum() == 0:
        return "", True
    over = result.estimate("area_difference", router=router, control="matched_position")
    at = mine[(mine["quantity"] == "difference_at") & mine["value"].notna()]
    if over.defined or at.empty:
        return f" and {over} above random places at its exact positions", over.lo > 0
    each = {b: result.estimate("difference_at", router=router, control="matched_position", budget=b) for b in at["budget"]}
    return f" and, above random places at its exact positions, {', '.join(f'{e} at {b:g} D' for b, e in each.items())}", all(e.lo > 0 for e in each.values())


def plot(result: Result, ax: "Axes | None" = None) -> "Axes":
    """Paired difference of areas of each router to its matched disagreements, grouped by what the router knows."""
    import matplotlib.pyplot as plt

    found = drawn(result)
    if ax is None:
        _, ax = plt.subplots(figsize=(7.5, 1.4 + 0.36 * max(6, len(found))), layout="constrained")
    colours = dict(zip(SOURCES, (ARMS["base"], ARMS["hybrid"], ARMS["rl"]), strict=True))
    for i, row in enumerate(found):
        d, colour = row["difference"], colours.get(row["timing_source"], ARMS["control"])
        if np.isfinite(d["value"]):
            ax.plot([d["lo"], d["hi"]], [i, i], color=colour)
            ax.plot([d["value"]], [i], "o", color=colour)
        else:
            ax.text(0.02, i, "undefined: too few budgets of it or of its control", transform=ax.get_yaxis_transform(), va="center", fontsize=7, color="0.4")
    for source in dict.fromkeys(row["timing_source"] for row in found):
        ax.plot([], [], "o-", color=colours.get(source, ARMS["control"]), label=source)
    ax.axvline(0, color="0.7", linewidth=0.8, zorder=0)
    ax.set_yticks(range(len(found)), [f"{r['router']}\narea {r['area']['value']:.2f}" for r in found], fontsize=8)
    ax.set(xlabel="area minus that of matched disagreements", ylim=(len(found) - 0.5, -0.5))
    if found:
        ax.legend(frameon=False, fontsize=8)
    return ax
