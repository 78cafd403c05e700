"""Study `verdict`: why is the RL model better? One signed split of the gain, and flags where the gain is not what it seems.

Claim: one rule, blind to what a pair is called and how it was made, names the cause of its gain. It is tested where the cause is known by
construction (`calibration`); the parts are rival explanations of the literature: memory of the test set (Wu et al. 2025, arXiv 2507.10532), the
wrapper of the answer (Shao et al. 2025, 2506.10947), sharpening (Karan & Du 2025, 2510.14901), timing (Venhoff et al. 2025, 2510.07364), content.

Formula: gain = RL - base, strict grade, on the seen problems where there are some, else on the judged ones; judged are then their clean twins.

- memorisation = gain on seen minus gain on clean problems;
- format = strict gain minus flexible gain, on the judged problems;
- sharpening, timing, content = Shapley values (Shapley 1953) of the flexible accuracy of eight arms, one a set of players. Timing and content say
  whose token stands at timing and at content positions: the RL model's, or the base's. Sharpening is the temperature of all of them: base tokens
  are drawn at tau < 1, the base's calibrated lower temperature, with it and at 1 without it; RL tokens at 1 with it and at 1 / tau without it.

  So no player is the base and all players are the RL model, both at 1, and the parts sum to the gain, at the point and in each draw. If the RL model
  is nothing but the base at tau, an RL token at 1 / tau is the base's token: timing and content are null players and sharpening is the whole.
  If a lower temperature does not help the base, tau is 1: sharpening is a null player and four arms remain, those of `recovery`.
  Were RL tokens not flattened, sharpening and content would be substitutes that share the credit. Greedy, temperature means nothing, and
  sharpening is 0 by identity. tau is the mildest temperature that does as much for the base as any, or as RL does (`judge.mildest`).

The verdict is the first that holds:

1. `degenerate`: a gain on the training problems (lower bound above 0), of which at least `shortcut` are right answers without a valid trace, and
   a loss of at least `damage` on the judged problems (upper bound below 0): shortcuts pay in training, and earlier skill is gone.
2. `undefined`: the lower bound of the gain is not above 0, or the gain is below `least_gain`. Parts are still given in points of accuracy, shares are not.
3. `collapse`: pass@k of the RL model is at least `collapse` below the base's at the largest k (upper bound below 0), traces valid from k = 16.
4. a cause: the largest part, if it has at least `majority` of the gain and its lead over the next is above 0 (lower bound, paired). Sharpening moreover only
   where the base at tau, without one token of the RL model, has at least `majority` of the gain, and no other player's share lies below -`substantial`
   (upper bound): where flattening breaks the RL model, its tokens at 1 / tau are worth less than nothing, and sharpening is credited with mending them.
5. `mixed`: at least two parts are above `substantial` (lower bounds of their shares).
6. `undecided`: none of these; more problems may tell.

A flag that is raised but comes later in this order stands beside the verdict, and so does the cause. Refuted, as a rule, by an organism whose
construction says otherwise; for one pair, by a part whose interval reaches that of the named cause.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from latentreason.errors import InvalidInput
from latentreason.stats import (
    Estimate,
    coalitions,
    gap_reason,
    over,
    over_gap,
    pass_at_k,
    replicate_weights,
    shapley_values,
    summary,
    undefined,
)
from latentreason.studies.palette import CAUSES, NAMES
from latentreason.studies.result import Result, rows
from latentreason.tables import COUNT_COLUMNS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLAYERS = ("sharpening", "timing", "content")
VALID_FROM = 16
FLAGS = ("degenerate", "undefined", "collapse")
"""In the order in which they go before a cause."""
VERDICTS = (*CAUSES, *FLAGS, "mixed", "undecided")


@dataclass(frozen=True)
class Config:
    """Thresholds of the rule, and the bootstrap. They were chosen on organisms of seed 0.

    Attributes:
        majority: share of the gain that a cause must have to be named.
        substantial: share that parts of a mixed verdict must exceed.
        least_gain: gains below it, in accuracy, are none.
        collapse: how far pass@k of the RL model lies below the base's.
        damage: loss on the judged problems that makes shortcuts degenerate.
        shortcut: share of the training gain without a valid trace.
    """

    majority: float = 0.5
    substantial: float = 0.1
    least_gain: float = 0.03
    collapse: float = 0.1
    damage: float = 0.05
    shortcut: float = 0.5
    n_boot: int = 2000
    seed: int = 0


@dataclass(frozen=True)
class Flag:
    """A flag, and why it is raised or not; `measured` is False where the tables do not say."""

    raised: bool
    reason: str
    measured: bool = True


@dataclass(frozen=True, eq=False)
class Split:
    """The gain and its signed parts, which add up to it: [replicate], the point estimate first, then the draws.

    `accuracy` is that of each (grade, arm); `n` counts problems, `n_samples` samples a problem (the fewest).
    """

    gain: np.ndarray
    parts: dict[str, np.ndarray]
    accuracy: dict[tuple[str, str], np.ndarray]
    n: int
    n_samples: int


def split(counts: pd.DataFrame, config: Config = Config()) -> Split:
    """The formula of this study, without its verdict; arguments and errors as of `run`."""
    _check(counts)
    arms = coalitions(PLAYERS)
    judged, seen = _part(counts, "judged", [*arms]), _part(counts, "seen", ["base", "rl"])
    if seen is not None and judged is not None:
        both = judged.join(seen.set_index(("twin", "base")).rename(columns=lambda name: f"seen {name}", level=0), how="inner")
        if not (len(both) == len(judged) == len(seen) and both.index.is_unique):
            raise InvalidInput(f"{len(seen)} seen and {len(judged)} judged problems make {len(both)} pairs: each seen problem needs a clean twin among the judged ones, by the column twin.")
        judged = _canonical(both)
    assert judged is not None
    rate = {(grade, arm): _rate(judged, grade, arm) for grade in ("strict", "flexible") for arm in arms}
    clean, flexible = (rate[grade, "rl"] - rate[grade, "base"] for grade in ("strict", "flexible"))
    gain, parts = clean, {"format": clean - flexible, **shapley_values({members: rate["flexible", arm] for arm, members in arms.items()})}
    if seen is not None:
        rate |= {("strict, seen", arm): _rate(judged, "strict", arm, "seen ") for arm in ("base", "rl")}
        gain = rate["strict, seen", "rl"] - rate["strict, seen", "base"]
        parts["memorisation"] = gain - clean
    weights = replicate_weights(len(judged), config.n_boot, config.seed)
    drawn_parts = {cause: weights @ parts[cause] for cause in CAUSES if cause in parts}
    return Split(weights @ gain, drawn_parts, {key: weights @ values for key, values in rate.items()}, len(judged), int(judged["n"].to_numpy(float).min()))


def run(*, counts: pd.DataFrame, tried: pd.DataFrame | None = None, config: Config = Config()) -> Result:
    """Split the gain of one pair and name its cause.

    Args:
        counts: columns `COUNT_COLUMNS`, and `key` where the collection has one (a word that says only which rows belong together); part judged is needed, the others are for
            memorisation (seen) and flags (training, breadth).
        tried: columns temperature, accuracy, chosen, and `key`: how tau was calibrated, to be shown.
        config: thresholds.

    Raises:
        InvalidInput: a column that says whose tables they are, tables of several collections, missing arms, arms on different problems (of another pair or task, say),
            more right samples than samples, or seen problems without a clean twin each.
    """
    keys = {str(key) for table in (counts, tried) if table is not None and "key" in table for key in table["key"].dropna().unique()}
    if len(keys) > 1:
        raise InvalidInput(f"The tables are of {len(keys)} collections ({', '.join(sorted(key[:8] for key in keys))}), so of several pairs or settings: give counts and temperatures of one.")
    found = split(counts, config)
    n, total, draws = found.n, found.gain, found.parts
    why = gap_reason(total, n) or (f"RL gain {total[0]:.3f} is below {config.least_gain:g}" if total[0] < config.least_gain else "")
    shares = {cause: summary(over_gap(values, total), n, why) for cause, values in draws.items()}
    table = [rows("accuracy", summary(values, n, share=True), arm=arm, grade=grade) for (grade, arm), values in found.accuracy.items()]
    table.append(rows("gain", summary(total, n)))
    for cause in CAUSES:
        absent = undefined("not measured: no seen problems with clean twins were given", n)
        table += [rows("part", summary(draws[cause], n) if cause in draws else absent, cause=cause), rows("share", shares.get(cause, absent), cause=cause)]
    order = sorted(draws, key=lambda cause: -draws[cause][0])
    lead = summary(over_gap(draws[order[0]] - draws[order[1]], total), n, why)
    table.append(rows("lead", lead, cause=order[0], over=order[1]))
    alone = summary(over_gap(found.accuracy["flexible", "sharpening"] - found.accuracy["flexible", "base"], total), n, why)
    table.append(rows("alone", alone, cause="sharpening"))
    cause = _cause(order, shares, lead, alone, config)
    flags = {"undefined": Flag(bool(why), why or f"the lower bound of the gain is above 0, the gain at least {config.least_gain:g}")}
    flags["collapse"], more = _collapse(counts, config)
    table += more
    flags["degenerate"], more = _degenerate(counts, summary(found.accuracy["flexible", "rl"] - found.accuracy["flexible", "base"], n), config)
    table += more
    said = next((name for name in FLAGS if flags[name].raised), cause)
    details = {
        "verdict": said, "cause": cause, "flags": {name: asdict(flags[name]) for name in FLAGS}, "n_problems": n, "n_samples": found.n_samples,
        "tau": None if tried is None else float(tried.loc[tried["chosen"], "temperature"].iloc[0]),
        "tried": [] if tried is None else tried[["temperature", "accuracy", "chosen"]].to_dict("records"),
    }  # fmt: skip
    result = Result("verdict", asdict(config), pd.DataFrame(table).fillna(dict.fromkeys(("arm", "grade", "cause", "over"), "")), details)
    return result.saying(_said(result))


def _check(counts: pd.DataFrame) -> None:
    """Raises InvalidInput for what is no table of counts of one pair, or one that is not blind."""
    if odd := sorted(({*map(str, counts)} - {"key"}) ^ set(COUNT_COLUMNS)):
        raise InvalidInput(f"A verdict reads the columns {', '.join(COUNT_COLUMNS)} and no others (it must not see whose they are); {', '.join(odd)} {'is' if len(odd) == 1 else 'are'} missing or too many.")
    if counts.duplicated(["part", "arm", "problem"]).any():
        raise InvalidInput("A problem stands twice in one arm: were tables of two pairs, or of two seeds, stacked? Give one pair's.")
    numbers = counts[["n", "strict", "flexible"]].to_numpy(float)
    right = counts[["strict", "flexible", "valid"]].to_numpy(float)
    if not (np.isfinite(numbers).all() and (numbers[:, 0] >= 1).all() and (np.nan_to_num(right) >= 0).all() and (np.nan_to_num(right) <= numbers[:, :1]).all()):
        raise InvalidInput("Every row needs n of at least 1 and right samples between 0 and n; nothing may be missing but `valid`.")
    if strange := sorted(set(counts["part"]) - {"judged", "seen", "training", "breadth"}):
        raise InvalidInput(f"There is no part {strange[0]!r}; the parts are judged, seen, training and breadth.")


def _part(counts: pd.DataFrame, part: str, arms: Sequence[str]) -> pd.DataFrame | None:
    """One part as problem x (column, arm), in canonical order; None where it was not measured."""
    found = counts[counts["part"] == part]
    if found.empty and part != "judged":
        return None
    if missing := [arm for arm in arms if arm not in set(found["arm"])]:
        raise InvalidInput(f"Part {part!r} has no arm {missing[0]!r}; it needs {', '.join(arms)}.")
    wide = found[found["arm"].isin(arms)].pivot(index="problem", columns="arm", values=["n", "strict", "flexible", "valid", "twin"])
    if wide.drop(columns="valid").isna().any(axis=None):
        raise InvalidInput(f"The arms of part {part!r} answer different problems, so they cannot be paired: sample all of them on one list of problems.")
    return _canonical(wide)


def _canonical(wide: pd.DataFrame) -> pd.DataFrame:
    """Problems in the order of their numbers: what they are called, and where they stood, then changes no draw of the bootstrap."""
    numbers = wide.loc[:, ["twin" not in what for what in wide.columns.get_level_values(0)]].sort_index(axis=1).to_numpy(float)
    return wide.iloc[np.lexsort(numbers.T[::-1])]


def _rate(wide: pd.DataFrame, grade: str, arm: str, of: str = "") -> np.ndarray:
    return np.asarray(wide[f"{of}{grade}", arm].to_numpy(float) / wide[f"{of}n", arm].to_numpy(float))


def _cause(order: Sequence[str], shares: dict[str, Estimate], lead: Estimate, alone: Estimate, config: Config) -> str:
    """The cause that the shares name; "" where there are none. `alone` is what the base at tau recovers by itself."""
    if not lead.defined:
        return ""
    clean = order[0] != "sharpening" or (alone.value >= config.majority and all(shares[other].hi >= -config.substantial for other in PLAYERS[1:]))
    if shares[order[0]].value >= config.majority and lead.lo > 0 and clean:
        return order[0]
    return "mixed" if sum(share.lo > config.substantial for share in shares.values()) >= 2 else "undecided"


def _collapse(counts: pd.DataFrame, config: Config) -> tuple[Flag, list[dict[str, Any]]]:
    """Is pass@k of the RL model below the base's where both may try often?"""
    wide = _part(counts, "breadth", ["base", "rl"])
    if wide is None:
        return Flag(False, "not measured: no samples for pass@k were given", False), []
    samples = int(wide["n"].to_numpy(float).min())
    ks = [2**i for i in range(samples.bit_length()) if 2 ** (i + 1) <= samples]
    if not ks or ks[-1] < VALID_FROM:
        return Flag(False, f"not measured: {samples} samples a problem are too few for pass@{VALID_FROM}, which takes {2 * VALID_FROM}", False), []
    checked = not np.isnan(wide["valid"].to_numpy(float)).any()
    weights, table, differ = replicate_weights(len(wide), config.n_boot, config.seed), [], undefined("", 0)
    for k in ks:
        kind = "answer and trace" if checked and k >= VALID_FROM else "answer"
        solved = {arm: pass_at_k(wide["n", arm].to_numpy(int), wide["strict" if kind == "answer" else "valid", arm].to_numpy(int), k) for arm in ("base", "rl")}
        differ = summary(weights @ (solved["rl"] - solved["base"]), len(wide))
        table += [rows("pass@k", summary(weights @ values, len(wide), share=True), arm=arm, k=k, kind=kind) for arm, values in solved.items()]
        table.append(rows("breadth", differ, k=k, kind=kind))
    raised = differ.hi < 0 and differ.value <= -config.collapse
    return Flag(bool(raised), f"pass@{ks[-1]} of RL minus base is {differ}" + ("" if checked else "; nothing can check the traces")), table


def _degenerate(counts: pd.DataFrame, judged: Estimate, config: Config) -> tuple[Flag, list[dict[str, Any]]]:
    """Was something gained in training without a valid trace, and something lost that the base could do?"""
    wide = _part(counts, "training", ["base", "rl"])
    if wide is None:
        return Flag(False, "not measured: no training problems were given", False), []
    weights, n = replicate_weights(len(wide), config.n_boot, config.seed), len(wide)
    rate = {(grade, arm): wide[grade, arm].to_numpy(float) / wide["n", arm].to_numpy(float) for grade in ("strict", "valid") for arm in ("base", "rl")}
    gained, honest = (weights @ (rate[grade, "rl"] - rate[grade, "base"]) for grade in ("strict", "valid"))
    if n == 1:
        return Flag(False, f"not measured: of one training problem there is no interval (its gain is {gained[0]:.2f})", False), []
    gain, without = summary(gained, n), "nothing can check the traces" if np.isnan(honest).any() else gap_reason(gained, n)
    shortcuts = undefined(without, n) if without else summary(over(gained - honest, gained), n)
    table = [rows("training gain", gain), rows("shortcuts", shortcuts)]
    raised = gain.lo > 0 and shortcuts.defined and shortcuts.value >= config.shortcut and judged.hi < 0 and judged.value <= -config.damage
    return Flag(bool(raised), f"gain on training problems {gain}, share of it without a valid trace {shortcuts}, gain on judged problems {judged}"), table


REFUTES = {
    "degenerate": "a gain on training problems, or a loss on the judged ones, whose interval includes 0 would have refuted it",
    "undefined": "a gain whose interval is above 0, and that is large enough, would have refuted it",
    "collapse": "an interval that includes 0 would have refuted it",
}


def _said(result: Result) -> list[str]:
    details, gain = result.details, result.estimate("gain")
    flags, verdict, cause = details["flags"], details["verdict"], details["cause"]
    parts = ", ".join(f"{cause} {share}" for cause in CAUSES if (share := result.estimate("share", cause=cause)).defined)
    lead = result.table[result.table["quantity"] == "lead"].iloc[0]
    shares = f"the RL gain is {gain}"
    if parts:
        shares += f", of which {parts}; {lead['cause']} leads {lead['over']} by {result.estimate('lead')} of the gain"
    refuted = f"a share below {result.config['majority']:g}, or a lead whose interval includes 0, would have refuted it" if cause in CAUSES else "more problems may tell"
    named = f"{shares}, so the cause is {cause}; {refuted}" if cause else shares
    beside = [f"{name} ({flags[name]['reason']})" for name in FLAGS if flags[name]["raised"] and name != verdict]
    return [
        f"Verdict: {verdict}; {flags[verdict]['reason']}; {REFUTES[verdict]}." if verdict in FLAGS else f"Verdict: {verdict}; {named}.",
        f"Beside the flag: {named}." if verdict in FLAGS else "",
        "Memorisation was not measured." if "memorisation" not in parts and parts else "",
        f"Also raised: {', '.join(beside)}." if beside else "",
    ]


def drawn(result: Result) -> list[dict[str, Any]]:
    """One row a cause: its share, or, where there is no gain, its part in points of accuracy."""
    quantity = "part" if result.details["flags"]["undefined"]["raised"] else "share"
    found = [(cause, result.estimate(quantity, cause=cause)) for cause in CAUSES]
    return [{"cause": cause, "quantity": quantity, "value": e.value, "lo": e.lo, "hi": e.hi, "n": e.n, "reason": e.reason} for cause, e in found]


def accuracies(result: Result) -> list[dict[str, Any]]:
    """One row an arm: its flexible accuracy, that the Shapley values are made of; and strict accuracies of base and RL."""
    out = []
    for row in result.table[result.table["quantity"] == "accuracy"].to_dict("records"):
        if row["grade"] == "flexible" or row["arm"] in ("base", "rl"):
            name = NAMES.get(row["arm"], row["arm"]) + ("" if row["grade"] == "flexible" else f" ({row['grade']})")
            out.append({"arm": row["arm"], "label": name, **{key: row[key] for key in ("value", "lo", "hi", "n", "reason")}})
    return out


def plot(result: Result, ax: "Axes | None" = None) -> "Axes":
    """Signed shares of the gain by cause with their intervals."""
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(figsize=(6.4, 3.0), layout="constrained")
    found = drawn(result)
    for i, row in enumerate(found):
        ax.barh(i, row["value"], color=CAUSES[row["cause"]], height=0.6, edgecolor="0.3", linewidth=0.5)
        ax.plot([row["lo"], row["hi"]], [i, i], color="0.1", linewidth=1.4)
        ax.plot([row["value"]], [i], "o", color="0.1", markersize=4)
        if row["value"] != row["value"]:
            ax.text(0.02, i, row["reason"].split(":")[0], transform=ax.get_yaxis_transform(), va="center", fontsize=7, color="0.4")
    ax.axvline(0, color="0.4", linewidth=0.8)
    ax.set_yticks(range(len(found)), [row["cause"] for row in found])
    ax.set_ylim(len(found) - 0.4, -0.6)
    ax.set(xlabel="share of the RL gain" if found[0]["quantity"] == "share" else "points of accuracy (no gain, so no shares)", title=f"Verdict: {result.details['verdict']}")
    return ax
