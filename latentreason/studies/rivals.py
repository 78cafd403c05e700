"""Study `rivals`: what else recovers the RL gain on the same pair, what does it use, and what does it cost?

Claim (the rival explanations of the headline): the gain can be had without routing, by sharpening the base model (Reasoning with Sampling,
arXiv 2510.14901), by votes, by another prompt, by logit arithmetic (proxy tuning, 2401.08565; RAST, 2506.15710), by few of RL's weight
changes (2505.11711), or by RL of one vector a block (2505.18706).

Formula: recovery = (arm - base) / (RL - base), signed, at the setting that did best on calibration problems; `settings_tried`
says how many settings it was chosen from (each of the rival arms has as many; vectors have more, since they have layers, too). `uses` says what information an arm takes, `rl_logits` at what share of the tokens the RL model's logits
are read, `passes` how many tokens a model reads for each token handed in; `timing_source` and `content_source` as in `latentreason.sources`. Routed
hybrids stand in the same table, and `difference` is the paired difference in recovery between a rival and each of them.

Refuted for a rival where the interval of its difference to the routed hybrid lies below 0. A rival that uses nothing of the RL model
and recovers as much refutes the reading that RL taught something that the base model lacks.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from latentreason.errors import InvalidInput
from latentreason.sources import COLUMNS, sources
from latentreason.stats import Estimate, gap_difference, gap_recovered, mean_estimate, undefined
from latentreason.studies.palette import ARMS
from latentreason.studies.result import Result, one_arm_each, rows, same_pair, settings
from latentreason.tables import Rollouts

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Config:
    """Settings of the study; `temperature` says how the sampled arms were drawn."""

    n_boot: int = 2000
    seed: int = 0
    temperature: float = 1.0


def run(*, base: Rollouts, rl: Rollouts, rivals: Rollouts, facts: dict[str, dict[str, Any]], fluency: pd.DataFrame | None = None,
        fits: pd.DataFrame | None = None, changes: pd.DataFrame | None = None, config: Config = Config()) -> Result:  # fmt: skip
    """Compare rival arms with base and RL, and with routed hybrids, on the same problems.

    Args:
        base, rl: one arm each.
        rivals: one arm a rival, or a routed hybrid.
        facts: arm -> `uses`, `passes`, `setting` (a number, or what it is called) and `tried` (settings with their accuracy on calibration problems); where it is known
            `rl_logits`, and the sources of an arm whose rollouts do not carry them; `routed`, true of a routed hybrid that the others are compared with; of an arm
            that was left out, `uses` and `reason`.
        fits: of vectors trained by gradient: kind, layer, seed, chosen, the loss on each split (nats) and the optimism of the choice of the seed; kept in `details`.
        changes: of the weights, as `models.merge.weight_changes`: said in a note, kept in `details`.
        fluency: one row an arm (the base too) and problem: `repeated` (share of 4-grams that came before in the completion) and `base_logprob` (mean nats a token).
        config: settings.

    Raises:
        InvalidInput: arms on different problems, or an arm without facts.
    """
    one_arm_each(base=base, rl=rl)
    same_pair(base=base, rl=rl, rivals=rivals)
    problems = set(base.table["problem"])
    if set(rl.table["problem"]) != problems or any(set(part["problem"]) != problems for _, part in rivals.table.groupby("arm")):
        raise InvalidInput("The arms answer different problems, so they cannot be paired: sample all of them on one list of problems.")
    if unknown := [arm for arm in rivals.arms if arm not in facts]:
        raise InvalidInput(f"There are no facts about the arm {unknown[0]!r}: say what it uses and what it costs.")
    ends = {name: arm.per_problem().to_numpy(float) for name, arm in {"base": base, "rl": rl}.items()}
    how: dict[str, Any] = {"n_boot": config.n_boot, "seed": config.seed}
    table: list[dict[str, Any]] = [rows("accuracy", mean_estimate(correct, **how, share=True), arm=name) for name, correct in ends.items()]
    correct = {arm: rivals.arm(arm).per_problem().to_numpy(float) for arm in rivals.arms}
    routed = [arm for arm in rivals.arms if facts[arm].get("routed")]
    for arm in rivals.arms:
        known = {**rivals.info.get(arm, {}), **{c: facts[arm][c] for c in COLUMNS if c in facts[arm]}}
        where = {"arm": arm, "uses": facts[arm]["uses"], "passes": facts[arm]["passes"], "setting": _named(facts[arm]["setting"]), "rl_logits": facts[arm].get("rl_logits", np.nan), "settings_tried": len(facts[arm]["tried"]), "layer": "" if facts[arm].get("layer") is None else str(facts[arm]["layer"]), **sources(known)}
        table.append(rows("accuracy", mean_estimate(correct[arm], **how, share=True), **where))
        table.append(rows("recovery", gap_recovered(ends["base"], ends["rl"], correct[arm], **how), **where))
        table += [rows("difference", gap_difference(ends["base"], ends["rl"], correct[arm], correct[other], **how), **where, against=other) for other in routed if arm not in routed]
    left_out = {arm: fact["reason"] for arm, fact in facts.items() if "reason" in fact}
    table += [rows("recovery", undefined(reason, len(problems)), arm=arm, uses=facts[arm]["uses"]) for arm, reason in left_out.items()]
    details: dict[str, Any] = {"n_problems": len(problems), "tried": {arm: facts[arm]["tried"] for arm in rivals.arms}}
    if changes is not None:
        details["weight_changes"] = changes.to_dict("records")
    if fits is not None:
        details["fits"] = fits.to_dict("records")
    if fluency is not None:
        measured, details["fluency"] = _fluent(fluency, rivals.arms, how)
        table += measured
    text = ("uses", "setting", "against", "layer", *COLUMNS)
    frame = pd.DataFrame(table).reindex(columns=[*dict.fromkeys([*(key for row in table for key in row), *text])])
    result = Result("rivals", settings(config), frame.astype(dict.fromkeys(text, object)).fillna(dict.fromkeys(text, "")), details)
    return result.saying(_said(result))


def _named(setting: Any) -> str:
    return setting if isinstance(setting, str) else f"{setting:g}"


def _fluent(fluency: pd.DataFrame, arms: Sequence[str], how: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, dict[str, bool]]]:
    """Rows of each arm and the base; and by arm whether it `repeats` itself (more than twice as much as the base), and whether its text is `unlikely`, less likely to the base than the base's
    own: where the interval of the paired difference is beyond 0.
    """
    table, flags, quantities = list[dict[str, Any]](), dict[str, dict[str, bool]](), ("repeated", "base_logprob")
    values = {arm: part.set_index("problem").sort_index()[[*quantities]].to_numpy(float).T for arm, part in fluency.groupby("arm")}
    for arm in ("base", *arms):
        table += [rows(name, mean_estimate(each, **how), arm=arm) for name, each in zip(quantities, values[arm], strict=True)]
        if arm != "base":
            repeated, likely = (mean_estimate(each, **how) for each in values[arm] - values["base"])
            doubled = values[arm][0].mean() > 2 * values["base"][0].mean()  # many problems tell apart what no reader would
            flags[arm] = {"repeats": bool(repeated.lo > 0 and doubled), "unlikely": bool(likely.hi < 0)}
    return table, flags


def _said(result: Result) -> list[str]:
    every = [(row, result.estimate("recovery", arm=row["arm"])) for row in drawn(result)]
    found = [(row, estimate) for row, estimate in every if estimate.defined and row["uses"] != "the RL model" and not is_control(row["uses"]) and ": " not in row["arm"]]  # "venhoff_g1: rerank" is a control of venhoff_g1
    loops = [arm for arm, flags in result.details.get("fluency", {}).items() if flags["repeats"] and flags["unlikely"]]
    more = f"More repeated than the base's text, and less likely to the base: {', '.join(loops)}." if loops else ""
    if not found:
        return [f"No rival can be judged: {every[0][1].reason if every else 'no rival was measured'}.", more]
    groups = {name: [pair for pair in found if knows(pair[0]) == what] for name, what in zip(("without anything of the RL model", "with an RL training of its own", "with RL weights or logits"), KNOWS, strict=True)}
    said, notes = list[str](), list[str]()
    for name, part in ((name, part) for name, part in groups.items() if part):
        if best := _best(part, result.details["tried"]):
            row, estimate = best
            said.append(f"{name} the best rival{f' (of {len(part)}, on calibration problems)' if len(part) > 1 else ''} is {row['arm']} at {row['setting']} with {estimate} of the gain")
            notes.append(_against(result, row["arm"]))
        else:
            ordered = sorted(part, key=lambda pair: pair[1].value)
            low, most = ordered[0], ordered[-1]
            said.append(f"{name} {len(part)} arms, none chosen on calibration problems, recover {low[1]} ({low[0]['arm']}) to {most[1]} ({most[0]['arm']}) of the gain")
            notes.append(f"{name[:1].upper()}{name[1:]}: {', '.join(map(_arm_of, part))}.")
    alone = [e.hi for _, e in groups["without anything of the RL model"]]
    highest = f"; the highest of the base's own is {max(alone):.2f}" if alone else ""
    refuted = f"an upper bound below 0.9 refutes that a rival has the gain, as for {sum(e.hi < 0.9 for _, e in found)} of {len(found)}{highest}"
    first = "; ".join([*said, refuted])
    return [f"{first[:1].upper()}{first[1:]}.", *notes, _trained(result.details.get("fits", [])), _sparse(result.details.get("weight_changes", [])), more]


def _arm_of(pair: tuple[dict[str, Any], Estimate]) -> str:
    return f"{pair[0]['arm']} at {pair[0]['setting']} {pair[1]}"


def _against(result: Result, arm: str) -> str:
    """The paired difference to the routed hybrid that did best on calibration problems."""
    found = result.table[(result.table["quantity"] == "difference") & (result.table["arm"] == arm)]
    if found.empty:
        return ""
    tried = result.details["tried"]
    best = max(found["against"], key=lambda other: max((each["accuracy"] for each in tried.get(other, [])), default=0.0))
    return f"{arm} is {result.estimate('difference', arm=arm, against=best)} beside {best}, in shares of the gain."


def _sparse(changes: Sequence[Mapping[str, Any]]) -> str:
    """What RL changed in the weight matrices: how many not at all, and of how high a rank the changes are (Mukherjee et al. 2025, arXiv 2505.11711)."""
    if not changes:
        return ""
    untouched = sum(change["relative"] == 0 for change in changes)
    changes = [change for change in changes if change["relative"] > 0]
    if not changes:
        return f"RL changed none of {untouched} weight matrices."
    n = np.array([change["n"] for change in changes])
    unchanged, size = (float(np.average([change[name] for change in changes], weights=n)) for name in ("unchanged", "relative"))
    rank, full = (float(np.median([change[name] for change in changes])) for name in ("stable_rank", "full_rank"))
    all_of = f"RL left {untouched} weight matri{'x' if untouched == 1 else 'ces'} untouched, and" if untouched else "RL left"
    return f"{all_of} {100 * unchanged:.0f}% of the weights of {len(changes)}{' others' if untouched else ' matrices'} within 1e-5 of the base's; its changes are {100 * size:.1f}% of them in norm, of stable rank {rank:.1f} of {full:g} (median)."


def _trained(fits: Sequence[Mapping[str, Any]]) -> str:
    """How much better the choice of the best seed looks on the split that it was made on, over all kinds and layers."""
    tried = Counter((fit.get("kind"), fit.get("layer")) for fit in fits if fit.get("seed", 0) >= 0)
    optimism = [fit["optimism"] for fit in fits if fit["chosen"] and tried[fit.get("kind"), fit.get("layer")] > 1]
    if not optimism:
        return ""
    most = max(optimism, key=abs)
    return f"Choosing the best of several seeds makes the held-out loss look better by {np.mean(optimism):.4f} nats on average (at most {most:.4f}) than on problems that had no part in it, over {len(optimism)} fits."


CONTROLS = ("RL token", "RL logits among 5 base tokens", "RL logits: base and so much of the difference", "nothing added: the base by another way", "random vectors", "random category", "random places", "another draw")
"""What an arm uses that is the routed hybrid itself (the difference of logits is the RL token at strength 1), the base by another way, or at random: no rival."""


def is_control(uses: str) -> bool:
    """Whether an arm is no rival, by what it says that it uses."""
    return not {part.strip() for part in uses.split(",")}.isdisjoint(CONTROLS)


def _used(row: Mapping[str, Any], tried: Mapping[str, Any]) -> bool:
    """Whether a setting that was tried is the one that the arm was drawn with: a block may be tried and never chosen."""
    return _named(tried["setting"]) == row["setting"] and (not row.get("layer") or str(tried.get("layer", "")) == row["layer"])


def _best(part: list[tuple[dict[str, Any], Estimate]], tried: Mapping[str, list[dict[str, Any]]]) -> tuple[dict[str, Any], Estimate] | None:
    """The best of some rivals on calibration problems, or the only one; None where some were not tried there, since the highest on these problems is favoured by chance."""
    on_calibration = {row["arm"]: max((each["accuracy"] for each in tried.get(row["arm"], []) if _used(row, each)), default=None) for row, _ in part}
    if len(part) > 1 and None in on_calibration.values():
        return None
    return max(part, key=lambda pair: on_calibration[pair[0]["arm"]] or 0.0)


KNOWS = ("nothing of the RL model", "an RL training of its own", "the RL model")
"""What an arm may know of RL. The first alone speaks of what the base has by itself; only the last has seen this RL model."""


def knows(row: Mapping[str, Any]) -> str:
    """Which of `KNOWS` holds for an arm, by what it says that it uses."""
    return row["uses"] if row["uses"] in KNOWS else KNOWS[2] if "RL" in row["uses"] else KNOWS[0]


def drawn(result: Result) -> list[dict[str, Any]]:
    """One row a rival: arm, uses, passes, setting, and its recovery."""
    found = result.table[result.table["quantity"] == "recovery"]
    return [{str(k): v for k, v in row.items()} for row in found.to_dict("records")]


COLOURS = dict(zip(KNOWS, (ARMS["base"], ARMS["hybrid"], ARMS["rl"]), strict=True))


def label(row: dict[str, Any]) -> str:
    """What stands beside an arm of a figure."""
    if not row["setting"]:  # left out
        return f"{row['arm']}\nuses {row['uses']}"
    read = row.get("rl_logits", np.nan)
    live = f", RL logits at {100 * read:.0f}% of the tokens" if np.isfinite(read) and 0 < read < 1 else ""
    where = f", block {row['layer']}" if row.get("layer") else ""
    return f"{row['arm']} at {row['setting']}{where}\nuses {row['uses']}{live}; {row['passes']:g} pass{'es' * (row['passes'] != 1)} a token"


def plot(result: Result, ax: "Axes | None" = None) -> "Axes":
    """Recovery of each rival with its interval, what it uses and its passes a token beside it; colour says whether it uses anything of the RL model."""
    import matplotlib.pyplot as plt

    found = drawn(result)
    if ax is None:  # two lines of text a row
        _, ax = plt.subplots(figsize=(10.0, 1.4 + 0.42 * max(4, len(found))), layout="constrained")
    for i, row in enumerate(found):
        colour = COLOURS[knows(row)]
        if np.isfinite(row["value"]):
            ax.plot([row["lo"], row["hi"]], [i, i], color=colour)
            ax.plot([row["value"]], [i], "o", color=colour)
        else:
            ax.text(0.02, i, f"undefined: {row['reason']}", va="center", fontsize=7, color="0.4")
    for who in dict.fromkeys(knows(row) for row in found):
        ax.plot([], [], "o-", color=COLOURS[who], label=f"uses {who}")
    ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, frameon=False, fontsize=8)
    for x in (0, 1):
        ax.axvline(x, color="0.7", linewidth=0.8, zorder=0)
    ax.set_yticks(range(len(found)), [label(row) for row in found], fontsize=8)
    ax.set(xlabel="share of the RL gain recovered", ylim=(len(found) - 0.5, -0.5))
    return ax
