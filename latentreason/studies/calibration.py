"""Study `calibration`: is the verdict right on pairs whose cause of gain is known by construction?

Claim: the rule of `verdict`, blind to name, recipe and reward, says of every organism what it was built to be. Nobody has calibrated such an
instrument on known causes before it spoke of a large model.

Formula: accuracy = right verdicts / organisms with a known truth, on seeds that set no threshold, with Wilson's (1927) interval. A verdict is right
where it is the truth by name; mixed, undecided and a table that cannot be read are wrong. Thresholds were chosen on the seeds of `set_on`.

Refuted by any wrong verdict on a held-out seed: it is listed with its parts. The interval takes organisms and seeds as independent; organisms that
share a base model are not quite, so it is too narrow rather than too wide.

False alarms: memorisation is asked of organisms with a seen split alone, so of each organism and seed `placebos` times a random half of the judged problems, which no corpus held, is
taken for seen and the other half for its clean twins. The part memorisation must be about 0 there; how often its interval lies above 0, or without 0, and how often the
rule names it, are rates with Wilson's interval. Halves are not twins of each other, so the intervals are wider than those of a real seen split.
"""

import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from latentreason.errors import InvalidInput
from latentreason.stats import Estimate, wilson
from latentreason.studies import verdict
from latentreason.studies.palette import CAUSES
from latentreason.studies.result import Result, rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ALARMS = ("false_alarm", "false_difference", "false_verdict")
"""Of placebo splits: the interval of memorisation lies above 0, does not include 0, memorisation is the verdict."""
FAILED = "failed"
"""What is said of an organism whose tables the rule refuses."""


@dataclass(frozen=True)
class Config:
    """Settings: the rule, the training seeds on which its thresholds were chosen, those that every organism of a known truth is to be judged on, and placebo splits of each."""

    set_on: tuple[int, ...] = (0,)
    judged_on: tuple[int, ...] = (1, 2)
    placebos: int = 5
    rule: verdict.Config = field(default_factory=verdict.Config)


def run(*, verdicts: pd.DataFrame, truths: pd.DataFrame, tried: pd.DataFrame | None = None, config: Config = Config()) -> Result:
    """Judge every organism and seed, and compare with what is known.

    Args:
        verdicts: columns organism, seed and those of `verdict.run`'s counts.
        truths: columns organism and truth; "" where it is not known. Of a known one without a verdict the result says so.
        tried: columns organism, seed and those of `verdict.run`'s tried.
        config: settings.

    Raises:
        InvalidInput: columns are missing, an organism has no row in `truths`, or a truth is none that a verdict can say.
    """
    for name, given, needed in (("verdicts", verdicts, {"organism", "seed"}), ("truths", truths, {"organism", "truth"})):
        if not needed <= set(given):
            raise InvalidInput(f"The table {name} needs the columns {', '.join(sorted(needed))}.")
    truth = dict(zip(truths["organism"], truths["truth"], strict=True))
    if unknown := sorted(set(verdicts["organism"]) - set(truth)):
        raise InvalidInput(f"Organism {unknown[0]!r} has tables but no row among the truths; give it one, with truth '' where nothing is known.")
    if strange := sorted(set(truth.values()) - {*verdict.VERDICTS, ""}):
        raise InvalidInput(f"No verdict says {strange[0]!r}; it says {', '.join(verdict.VERDICTS)}.")
    table: list[dict[str, Any]] = []
    said: list[dict[str, Any]] = []
    alarms: list[dict[str, bool]] = []
    for organism, seed in verdicts[["organism", "seed"]].drop_duplicates().sort_values(["organism", "seed"]).itertuples(index=False, name=None):
        rows_of = verdicts[(verdicts["organism"] == organism) & (verdicts["seed"] == seed)]
        where = {"organism": organism, "seed": int(seed)}
        mine = None if tried is None else tried[(tried["organism"] == organism) & (tried["seed"] == seed)]
        one, why = _judged(rows_of, mine, config)
        if one is not None:
            kept = one.table[one.table["quantity"].isin(["gain", "part", "share", "lead"]) | ((one.table["quantity"] == "breadth") & (one.table.get("k") == one.table.get("k", pd.Series(dtype=float)).max()))]
            table += [{**where, **{str(k): v for k, v in row.items() if k not in ("arm", "grade", "k", "kind")}} for row in kept.to_dict("records")]
            for i in range(config.placebos if one.details["n_problems"] >= 4 else 0):
                memory, named = placebo(rows_of.drop(columns=["organism", "seed"]), i, config.rule)
                table.append(rows("placebo", memory, **where, cause="memorisation", over=f"half {i}"))
                alarms.append({"false_alarm": memory.lo > 0, "false_difference": memory.lo > 0 or memory.hi < 0, "false_verdict": named == "memorisation"})
        answer = FAILED if one is None else one.details["verdict"]
        facts = {} if one is None else {key: one.details[key] for key in ("cause", "flags", "tau", "n_problems", "n_samples")}
        said.append({**where, "truth": truth[organism], "verdict": answer, "right": answer == truth[organism], "held_out": seed not in config.set_on, "why": why, **facts})
    known = [s for s in said if s["truth"]]
    seeds, judged = sorted({s["seed"] for s in said} | {*config.set_on, *config.judged_on}), {(s["organism"], s["seed"]) for s in said}
    absent = {organism: lacking for organism, is_known in truth.items() if is_known and (lacking := [seed for seed in seeds if (organism, seed) not in judged])}
    for which, part in (("held out", [s for s in known if s["held_out"]]), ("set on", [s for s in known if not s["held_out"]])):
        table.append(rows("accuracy", wilson(sum(s["right"] for s in part), len(part)), seeds=which))
        of = {t: [s for s in part if s["truth"] == t] for t in verdict.VERDICTS}
        table += [rows("accuracy_by_truth", wilson(sum(s["right"] for s in each), len(each)), seeds=which, cause=t) for t, each in of.items() if each]
    table += [rows(quantity, wilson(sum(a[quantity] for a in alarms), len(alarms))) for quantity in ALARMS] if alarms else []
    columns = dict.fromkeys(("organism", "cause", "over", "seeds"), "")
    frame = pd.DataFrame(table).reindex(columns=["quantity", "organism", "seed", "cause", "over", "seeds", "value", "lo", "hi", "n", "method", "reason"]).fillna(columns)
    result = Result("calibration", asdict(config), frame, {"verdicts": said, "not_judged": absent})
    if alarms:
        result.details["false_alarms"] = _of_alarms(result)
    return result.saying(_said(result))


def placebo(counts: pd.DataFrame, number: int, rule: verdict.Config) -> tuple[Estimate, str]:
    """The part memorisation, and the verdict, where a random half of the judged problems is taken for seen and the other half for their clean twins, in pairs.

    Args:
        counts: as of `verdict.run`; what it holds beside the judged problems is left out.
        number: of the half, which is drawn by it.
        rule: of the verdict.
    """
    judged = counts[counts["part"] == "judged"]
    numbers = judged.pivot(index="problem", columns="arm", values=["strict", "flexible"]).sort_index(axis=1)
    ids = numbers.index.to_numpy()[np.lexsort(numbers.to_numpy(float).T[::-1])]  # whatever the problems are called
    own = zlib.crc32(np.sort(numbers.to_numpy(float), axis=0).tobytes())  # each organism has halves of its own: one draw for all would be one draw
    order = np.random.default_rng([rule.seed, number, own]).permutation(ids)
    half = len(order) // 2
    twin = dict(zip(order[:half], order[half : 2 * half], strict=True))
    seen = judged[judged["problem"].isin(list(twin)) & judged["arm"].isin(["base", "rl"])]
    clean = judged[judged["problem"].isin(list(twin.values()))]
    both = pd.concat([seen.assign(part="seen", twin=seen["problem"].map(twin)), clean.assign(twin="")], ignore_index=True)
    found = verdict.run(counts=both, config=rule)
    return found.estimate("part", cause="memorisation"), found.details["verdict"]


def _of_alarms(result: Result) -> str:
    """One sentence on problems that nobody saw."""
    above, without, named = (result.estimate(quantity) for quantity in ALARMS)
    parts = result.table[result.table["quantity"] == "placebo"]
    return (
        f"Where a random half of the judged problems, which no corpus held, is taken for seen ({above.n} halves of {len(parts[['organism', 'seed']].drop_duplicates())} organisms and seeds), "
        f"the part memorisation has a mean of {parts['value'].mean():.3f} and a standard deviation of {parts['value'].std():.3f} points of accuracy; its interval lies above 0 in {above} (2.5% by chance), without 0 in {without} (5% by chance), "
        f"and memorisation is named in {named}. An interval of the last above 0.05 would refute that memorisation, where it is said, is more than chance."
    )


def _judged(counts: pd.DataFrame, tried: pd.DataFrame | None, config: Config) -> tuple[Result | None, str]:
    """The verdict on one organism and seed, with all that says whose they are removed; or why there is none."""
    blind = counts.drop(columns=["organism", "seed"])
    temperatures = None if tried is None or tried.empty else tried[[c for c in ("temperature", "accuracy", "chosen", "key") if c in tried]]
    try:
        found = verdict.run(counts=blind.reset_index(drop=True), tried=temperatures, config=config.rule)
    except InvalidInput as error:
        return None, str(error)
    return found, found.said


def confusion(result: Result, *, held_out: bool) -> dict[str, Any]:
    """Counts of verdicts (columns) by truth (rows), on the seeds held out or on those that set the thresholds; only what occurs, in the order of `VERDICTS`."""
    part = [s for s in result.details["verdicts"] if s["truth"] and s["held_out"] == held_out]
    truths, answers = ([v for v in (*verdict.VERDICTS, FAILED) if any(s[key] == v for s in part)] for key in ("truth", "verdict"))
    columns = [v for v in (*verdict.VERDICTS, FAILED) if v in {*truths, *answers}]
    return {"truths": truths, "verdicts": columns, "counts": [[sum(s["truth"] == t and s["verdict"] == v for s in part) for v in columns] for t in truths]}


def confusion_table(result: Result) -> pd.DataFrame:
    """The confusion matrix as a table to print: one row a truth, a column a verdict; held-out seeds, and in brackets those that set the thresholds."""
    held, own = (confusion(result, held_out=which) for which in (True, False))
    known = [s for s in result.details["verdicts"] if s["truth"]]
    truths, answers = ([v for v in (*verdict.VERDICTS, FAILED) if any(s[key] == v for s in known)] for key in ("truth", "verdict"))

    def count(counts: dict[str, Any], truth: str, answer: str) -> int:
        inside = truth in counts["truths"] and answer in counts["verdicts"]
        return counts["counts"][counts["truths"].index(truth)][counts["verdicts"].index(answer)] if inside else 0

    return pd.DataFrame([{"truth": t, **{v: f"{count(held, t, v)} ({count(own, t, v)})" for v in answers}} for t in truths])


def summary(result: Result) -> pd.DataFrame:
    """One row an organism and seed, to print: truth, verdict, whether it is right, flags beside it, gain and shares with their intervals."""
    out = []
    for s in result.details["verdicts"]:
        where = {"organism": s["organism"], "seed": s["seed"]}
        judged = s["verdict"] != FAILED
        shares = {cause: str(e) if judged and (e := result.estimate("share", cause=cause, **where)).defined else "-" for cause in CAUSES}
        beside = [name for name, flag in s.get("flags", {}).items() if flag["raised"] and name != s["verdict"]]
        right = "" if not s["truth"] else "right" if s["right"] else "WRONG"
        gain = str(result.estimate("gain", **where)) if judged else s["why"]
        out.append({**where, "truth": s["truth"] or "?", "verdict": s["verdict"], "": right, "beside": ", ".join([*([s["cause"]] if judged and s["cause"] not in ("", s["verdict"]) else []), *beside]), "gain": gain, **shares})
    return pd.DataFrame(out)


def _said(result: Result) -> list[str]:
    held, own = (result.estimate("accuracy", seeds=which) for which in ("held out", "set on"))
    wrong = [s for s in result.details["verdicts"] if s["truth"] and not s["right"]]
    first = f"Of {held.n} verdicts on organisms of held-out seeds {round(held.value * held.n)} are right, accuracy {held}" if held.defined else "No organism on a held-out seed has been judged"
    claim = "wrong ones refute that the rule is right on every organism" if any(s["held_out"] for s in wrong) else "one wrong verdict there would have refuted the rule"
    listed = "; ".join(f"{s['organism']} seed {s['seed']} is {s['truth']}, said {s['verdict']}" for s in wrong)
    open_ones = "; ".join(f"{s['organism']} seed {s['seed']}: {s['verdict']}" for s in result.details["verdicts"] if not s["truth"])
    absent = "; ".join(f"{name} seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}" for name, seeds in result.details["not_judged"].items())
    return [
        f"{first}; {claim}.",
        f"On the seed that set the thresholds {round(own.value * own.n)} of {own.n}." if own.defined else "",
        _by_truth(result),
        _closest(result),
        f"Wrong: {listed}." if wrong else "",
        f"Where nothing is known beforehand: {open_ones}." if open_ones else "",
        f"Not judged: {absent}." if absent else "",
    ]


def _by_truth(result: Result) -> str:
    """Accuracy of each truth on held-out seeds, and how many organisms it rests on."""
    held = [s for s in result.details["verdicts"] if s["truth"] and s["held_out"]]
    names = [t for t in verdict.VERDICTS if any(s["truth"] == t for s in held)]
    each = [f"{t} {result.estimate('accuracy_by_truth', seeds='held out', cause=t)} ({len({s['organism'] for s in held if s['truth'] == t})} organism{'s' * (len({s['organism'] for s in held if s['truth'] == t}) > 1)})" for t in names]
    return f"By truth, on held-out seeds: {', '.join(each)}; no organism is a mixture of causes by construction, so mixed and undecided are not calibrated." if each else ""


def _closest(result: Result) -> str:
    """How far the organisms of a known truth, of all seeds, stay from the thresholds that they could cross."""
    known = [s for s in result.details["verdicts"] if s["truth"] and s["verdict"] != FAILED]
    gains = {(s["organism"], s["seed"]): result.estimate("gain", organism=s["organism"], seed=s["seed"]) for s in known}
    caused = [s for s in known if s["truth"] in CAUSES]
    shares = {(s["organism"], s["seed"]): result.estimate("share", organism=s["organism"], seed=s["seed"], cause=s["truth"]).value for s in caused}
    measured = result.table[result.table["quantity"] == "breadth"]
    pairs = set(zip(measured["organism"], measured["seed"], strict=True))
    breadth = {(s["organism"], s["seed"]): result.estimate("breadth", organism=s["organism"], seed=s["seed"]) for s in known if (s["organism"], s["seed"]) in pairs}
    lost, threshold = {key: -e.value for key, e in breadth.items()}, float(result.config["rule"]["collapse"])
    truth = {(s["organism"], s["seed"]): s["truth"] for s in known}
    calls = [
        _call("the share of a true cause is at least", shares, min, "majority", result),
        _call("the gain of a true cause is at least", {key: gains[key].value for key in shares}, min, "least_gain", result),
        _call("a true collapse is at least", {key: v for key, v in lost.items() if truth[key] == "collapse"}, min, "collapse", result),
        _call("below the base at the largest k others with a true cause lie by at most", {key: v for key, v in lost.items() if truth[key] in CAUSES}, max, "collapse", result),
        f"{len(first)} that are undefined or degenerate lie as low as a collapse, and are told apart by these flags alone, which go before" if (first := [k for k, v in lost.items() if truth[k] in ("undefined", "degenerate") and v >= threshold]) else "",
    ]
    return f"Closest to a threshold, of all seeds: {'; '.join(call for call in calls if call)}." if any(calls) else ""


def _call(what: str, values: dict[tuple[str, int], float], pick: Callable[..., Any], threshold: str, result: Result) -> str:
    if not values:
        return ""
    organism, seed = pick(values, key=lambda key: values[key])
    return f"{what} {values[organism, seed]:.3f} ({organism} seed {seed}; {threshold} is {result.config['rule'][threshold]:g})"


def drawn(result: Result) -> list[dict[str, Any]]:
    """One row an organism and seed: its truth and verdict, its gain, and its parts in points of accuracy, which add up to the gain."""
    parts = result.table[result.table["quantity"] == "part"]
    gains = result.table[result.table["quantity"] == "gain"]
    out = []
    for s in result.details["verdicts"]:
        mine = parts[(parts["organism"] == s["organism"]) & (parts["seed"] == s["seed"])]
        gain = gains[(gains["organism"] == s["organism"]) & (gains["seed"] == s["seed"])]
        values = {cause: float(mine.loc[mine["cause"] == cause, "value"].iloc[0]) if len(mine) else float("nan") for cause in CAUSES}
        numbers = {key: float(gain[key].iloc[0]) if len(gain) else float("nan") for key in ("value", "lo", "hi")}
        out.append({**{key: s[key] for key in ("organism", "seed", "truth", "verdict", "right", "held_out")}, "gain": numbers, "parts": values})
    return out


def plot(result: Result, ax: "Axes | None" = None) -> "Axes":
    """The confusion matrix of the held-out seeds (of the others where none is held out)."""
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(figsize=(6.0, 4.6), layout="constrained")
    held_out = any(s["held_out"] and s["truth"] for s in result.details["verdicts"])
    matrix(ax, confusion(result, held_out=held_out), "held-out seeds" if held_out else "seeds that set the thresholds")
    return ax


def matrix(ax: "Axes", counts: dict[str, Any], title: str) -> None:
    """Draw the counts of a confusion matrix; what is right stands on green."""
    truths, answers = counts["truths"], counts["verdicts"]
    if not truths:
        ax.set_axis_off()
        ax.text(0.5, 0.5, f"{title}: nothing has been judged", ha="center", va="center", transform=ax.transAxes)
        return
    for i, row in enumerate(counts["counts"]):
        for j, n in enumerate(row):
            right = truths[i] == answers[j]
            face = ("#D9F0E6" if right else "#F6D5C3") if n else ("#F3FAF7" if right else "white")
            ax.add_patch(_square(j, i, face))
            if n or right:
                ax.text(j, i, str(n), ha="center", va="center", fontsize=10, fontweight="bold" if right else "normal", color="0.1" if n else "0.6")
    ax.set_xticks(range(len(answers)), answers, rotation=35, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(truths)), truths)
    ax.set(xlim=(-0.5, len(answers) - 0.5), ylim=(len(truths) - 0.5, -0.5), xlabel="verdict", ylabel="truth by construction", title=title)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def _square(x: float, y: float, face: str) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=face, edgecolor="0.8", linewidth=0.8)
