"""Study `coherence`: are the RL model's traces better step by step, and is a trace whose steps are all right also valid?

Claim (Samineni et al. 2025, arXiv 2510.18176): RL makes traces locally coherent (fewer errors between adjacent steps), most of all where the base model
fails and the RL model succeeds; coherence is no proof that the whole is valid or the answer right.

Formula: every step is checked against what stands before it. `step_errors` = steps that do not follow / steps that could be read; a trace is `coherent` if the
checker read all of it and no step that stands (was not taken back) is wrong, `valid` if as a whole it derives the right answer.
`coherent_not_valid` = share of the coherent traces that are not valid, `right_not_valid` = of the right answers. Four cells: base right or wrong by RL right or
wrong, sample by sample (under shared noise). Who is right by chance fills all of them, and whom a cell calls right is coherent for that reason alone, so each has its control: independent samples in
pairs (`independent`: sample i with the RL model's sample i + n/2 of the problem), and a second sample of the base in the place of RL (`control`), their difference `above`. CoT-pass@k (arXiv
2506.14245) counts a right answer only with a valid trace. What the checker cannot read (`unparsed`), what has nothing to check (`no_steps`) and what the length limit cut (`cut`) are shares of all
traces: counted; the first two are neither coherent nor valid, and a cut trace is what the checker says of its part.

The first half is refuted where the interval of the change in `step_errors` is above 0, the second where that of `coherent_not_valid` of the RL model lies below `least`.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from latentreason.errors import InvalidInput
from latentreason.stats import Estimate, over, pass_at_k_curve, percentile_interval, replicate_weights, summary, undefined, wilson
from latentreason.studies.palette import ARMS, NAMES
from latentreason.studies.result import Result, of_one_pair, rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = ("problem", "sample", "arm", "correct", "status", "steps", "wrong", "standing", "valid")
OF_ALL = ("accuracy", "coherent", "valid", "unparsed", "no_steps", "cut")
"""Shares of all traces; the others are shares of steps, or of some traces."""
SHARES = ("accuracy", "coherent", "valid", "unparsed", "no_steps", "cut", "step_errors", "coherent_not_valid", "right_not_valid")
CELLS = {"both right": (True, True), "RL only": (False, True), "base only": (True, False), "both wrong": (False, False)}
KINDS = ("answer", "answer and trace")
FEW = 10  # problems with a coherent trace: of fewer nothing is said


@dataclass(frozen=True)
class Config:
    """Settings: samples of each problem, traces of each model that a judge is shown, the share of coherent traces that may be invalid before coherence is said not to
    be validity (any single one puts the interval above 0), draws of the bootstrap.
    """

    n_samples: int = 64
    judged: int = 100
    least: float = 0.01
    n_boot: int = 2000
    seed: int = 0


def run(*, table: pd.DataFrame, config: Config = Config()) -> Result:
    """Steps, traces and answers of both models on the same samples.

    Args:
        table: what `collect` wrote, of one pair: columns `COLUMNS`, `cut` (older tables have none), and `judge` where a judge was asked ("valid", "invalid", "failed",
            "" for not asked).
        config: settings.

    Raises:
        InvalidInput: not such a table, several pairs, a missing arm, or samples of one model that the other lacks.
    """
    frame = of_one_pair(table, "coherence", COLUMNS)
    keys = ["problem", "sample"]
    arms = {arm: frame[frame["arm"] == arm].sort_values(keys).reset_index(drop=True) for arm in ("base", "rl")}
    if not arms["base"][keys].equals(arms["rl"][keys]):
        raise InvalidInput("Base and RL model answered different problems, or other numbers of samples: the four cells pair them sample by sample.")
    problems, place = np.unique(arms["base"]["problem"], return_inverse=True)
    weights = replicate_weights(len(problems), config.n_boot, config.seed)

    def pooled(above: Any, below: Any) -> np.ndarray:
        """Sum over sum, by problem and drawn."""
        sums = [weights @ np.bincount(place, np.asarray(x, float), len(problems)) for x in (above, below)]
        return over(*sums)

    def told(quantity: str, draws: np.ndarray, reason: str, **where: Any) -> dict[str, Any]:
        none = np.isnan(draws[0])
        return rows(quantity, undefined(reason, len(problems)) if none else summary(draws, len(problems), share=where.get("arm") in arms and "cell" not in where and quantity in OF_ALL), **where)

    parts = {arm: _parts(of) for arm, of in arms.items()}
    found: list[dict[str, Any]] = []
    for quantity in SHARES:
        if quantity not in parts["base"]:
            found += [rows(quantity, undefined("the table is older than this column: collect it again", len(problems)), arm=arm) for arm in ("base", "rl", "change")]
            continue
        draws = {arm: pooled(*parts[arm][quantity]) for arm in arms}
        draws["change"] = draws["rl"] - draws["base"]
        found += [told(quantity, values, f"no trace of the kind that {quantity} is a share of", arm=arm) for arm, values in draws.items()]
    right = {arm: of["correct"].to_numpy(bool) for arm, of in arms.items()}
    for cell, (base, rl) in CELLS.items():
        inside = (right["base"] == base) & (right["rl"] == rl)
        found.append(told("cell", pooled(inside, np.ones(len(inside))), "", cell=cell))
        for quantity in ("coherent", "valid"):
            draws = {arm: pooled(parts[arm][quantity][0] & inside, inside) for arm in arms}
            draws["change"] = draws["rl"] - draws["base"]
            found += [told(quantity, values, "no pair of samples in this cell", arm=arm, cell=cell) for arm, values in draws.items()]
    found += _controls(parts, right, place, pooled, told)
    found += _curves(arms, config)
    if "judge" in frame and (frame["judge"] != "").any():
        for arm, of in arms.items():
            asked = of[of["judge"] != ""]
            answered = asked[asked["judge"] != "failed"]
            found.append(rows("judge_failures", wilson(len(asked) - len(answered), len(asked)), arm=arm))
            found.append(rows("judge_agreement", wilson(int(((answered["judge"] == "valid") == answered["valid"]).sum()), len(answered)), arm=arm))
    counts = {arm: {str(k): int(v) for k, v in of["status"].value_counts().items()} for arm, of in arms.items()}
    details = {"n_problems": len(problems), "n_samples": len(place) // len(problems), "status": counts, "checker": str(frame["checker"].iloc[0]) if "checker" in frame else ""}
    details["coherent_problems"] = {arm: int((np.bincount(place, parts[arm]["coherent"][0], len(problems)) > 0).sum()) for arm in arms}
    result = Result("coherence", asdict(config), pd.DataFrame(found).fillna({"arm": "", "cell": "", "kind": ""}), details)
    return result.saying(_said(result))


def _controls(parts: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]], right: dict[str, np.ndarray], place: np.ndarray, pooled: Callable[..., np.ndarray], told: Callable[..., dict[str, Any]]) -> list[dict[str, Any]]:
    """The cells of independent pairs, of base and RL model (`independent`) and of base and base (`control`), and what the first has above the second."""
    starts = np.flatnonzero(np.diff(place, prepend=-1))
    other = np.concatenate([np.roll(each, len(each) // 2) for each in np.split(np.arange(len(place)), starts[1:])])
    alone = bool((other == np.arange(len(place))).any())  # a problem with one sample
    why = "a problem has one sample, and no second one" if alone else "no pair of samples in this cell"
    found = []
    for cell, (first, second) in CELLS.items():
        draws: dict[str, np.ndarray] = {}
        for name, arm in (("independent", "rl"), ("control", "base")):
            inside = (right["base"] == first) & (right[arm][other] == second)
            draws[f"cell_{name}"] = pooled(inside, np.ones(len(inside)))
            for quantity in ("coherent", "valid"):
                begin, end = (pooled(of & inside, inside) for of in (parts["base"][quantity][0], parts[arm][quantity][0][other]))
                draws |= {f"{quantity}_second_{name}": end, f"{quantity}_change_{name}": end - begin}
        for quantity in ("cell", "coherent_change", "valid_change"):
            draws[f"{quantity}_above"] = draws[f"{quantity}_independent"] - draws[f"{quantity}_control"]
        found += [told(quantity, values * np.nan if alone else values, why, cell=cell) for quantity, values in draws.items()]
    return found


def _parts(of: pd.DataFrame) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Each share as what is counted, and among what."""
    every = np.ones(len(of), dtype=bool)
    correct, valid, status = of["correct"].to_numpy(bool), of["valid"].to_numpy(bool), of["status"].to_numpy(str)
    coherent = (status == "parsed") & (of["standing"].to_numpy() == 0)
    return {
        "accuracy": (correct, every), "coherent": (coherent, every), "valid": (valid, every), "unparsed": (status == "unparsed", every), "no_steps": (status == "no steps", every),
        "step_errors": (of["wrong"].to_numpy(), of["steps"].to_numpy()), "coherent_not_valid": (coherent & ~valid, coherent), "right_not_valid": (correct & ~valid, correct),
        **({"cut": (of["cut"].to_numpy(bool), every)} if "cut" in of else {}),
    }  # fmt: skip


def _curves(arms: dict[str, pd.DataFrame], config: Config) -> list[dict[str, Any]]:
    """pass@k and CoT-pass@k of both models to half of the samples, and their paired difference."""
    found = []
    for kind in KINDS:
        curves = {}
        for arm, of in arms.items():
            good = of["correct"] & (of["valid"] if kind != "answer" else True)
            by = good.groupby(of["problem"])
            sizes = by.size().to_numpy()
            ks = [2**i for i in range(16) if 2**i <= max(1, int(sizes.min()) // 2)]
            curves[arm] = pass_at_k_curve(by.sum().to_numpy(int), sizes, ks, n_boot=config.n_boot, seed=config.seed)
            found += [rows("pass@k", e, arm=arm, kind=kind, k=k) for k, e in zip(curves[arm].ks, curves[arm].estimates, strict=True)]
        for i, k in enumerate(curves["rl"].ks):
            lo, hi = percentile_interval(curves["rl"].draws[:, i] - curves["base"].draws[:, i])
            ends = [curves[arm].estimates[i] for arm in ("rl", "base")]
            found.append(rows("rl_minus_base", Estimate(ends[0].value - ends[1].value, lo, hi, ends[0].n, "paired bootstrap over problems"), kind=kind, k=k))
    return found


def _said(result: Result) -> list[str]:
    def of(quantity: str, arm: str, cell: str = "") -> Estimate:
        return result.estimate(quantity, arm=arm, cell=cell)

    change, gap, least = of("step_errors", "change"), of("coherent_not_valid", "rl"), result.config["least"]
    local = "undefined, so the claim cannot be judged" if not change.defined else "so RL makes steps more reliable" if change.hi < 0 else "which refutes that RL makes steps more reliable" if change.lo > 0 else "so that RL makes steps more reliable is not shown"
    if not gap.defined:
        whole = f"whether coherent traces are valid is undefined ({gap.reason})"
    else:
        few = result.details["coherent_problems"]["rl"] < FEW
        verdict = f"too few to tell (of {result.details['coherent_problems']['rl']} problems)" if few else "so coherent is not valid" if gap.lo > least else "so here next to all that is coherent is valid, against the claim" if gap.hi < least else "which does not tell"
        whole = f"of its coherent traces {gap} are not valid, {verdict}"
    unread = f"The checker could not read {of('unparsed', 'base')} of the base and {of('unparsed', 'rl')} of the RL traces"
    unread += f", and the length limit cut {cut[0]} and {cut[1]}" if (cut := [of("cut", arm) for arm in ("base", "rl")])[0].defined else ""
    cells = ", ".join(f"{of('coherent', 'change', cell)} ({cell})" for cell in CELLS)
    return [
        f"RL changes the share of wrong steps by {change}, {local}, and {whole}; a change above 0 refutes the first, a share below {least:g} the second.",
        f"Wrong steps: base {of('step_errors', 'base')}, RL {of('step_errors', 'rl')}.",
        f"The share of coherent traces changes by {cells}.",
        *_of_cells(result),
        f"{unread}.",
    ]


def _of_cells(result: Result) -> list[str]:
    """What the four cells say beyond a second draw of the base in the place of RL."""
    share, chance = ({cell: result.estimate(f"cell_{name}", cell=cell) for cell in ("RL only", "base only")} for name in ("independent", "control"))
    rise = {name: result.estimate(f"coherent_change_{name}", cell="RL only") for name in ("independent", "control", "above")}
    if not share["RL only"].defined:
        return [f"The cells have no control ({share['RL only'].reason})."]
    said = [f"Of pairs of independent samples {share['RL only']} are RL only and {share['base only']} base only, with the base again in the place of RL {chance['RL only']} of either."]
    if not rise["above"].defined:
        return said
    more = "so RL adds to it" if rise["above"].lo > 0 else "so RL takes from it" if rise["above"].hi < 0 else "so the rest is not told from noise"
    return [*said, f"Being right alone raises the share of coherent traces by {rise['control']} (the base again, where the base failed), with RL it is {rise['independent']}, {rise['above']} above, {more}."]


def drawn(result: Result) -> list[dict[str, Any]]:
    """The shares of `plot`: a row a quantity and arm."""
    part = result.table[result.table["quantity"].isin(SHARES) & (result.table["cell"] == "") & result.table["arm"].isin(["base", "rl"])]
    return [{k: row[k] for k in ("quantity", "arm", "value", "lo", "hi", "n", "reason")} for row in part.to_dict("records")]


def plot(result: Result, ax: "Axes | None" = None) -> "Axes":
    """Shares of traces and steps of both models, with intervals."""
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    for row in drawn(result):
        y = SHARES.index(row["quantity"]) + (0.16 if row["arm"] == "rl" else -0.16)
        if np.isfinite(row["value"]):
            ax.plot([row["lo"], row["hi"]], [y, y], color=ARMS[row["arm"]])
            ax.plot([row["value"]], [y], "o", color=ARMS[row["arm"]])
        else:
            ax.text(0.02, y, f"undefined: {row['reason']}", va="center", fontsize=7, color="0.4")
    for arm in ("base", "rl"):
        ax.plot([], [], "o-", color=ARMS[arm], label=NAMES.get(arm, arm))
    ax.set_yticks(range(len(SHARES)), [quantity.replace("_", " ") for quantity in SHARES])
    ax.set(xlabel="share", xlim=(-0.03, 1.03), ylim=(len(SHARES) - 0.5, -0.5))
    ax.legend(frameon=False, fontsize=8)
    return ax


def collect(pair: Any, config: Config, out: str | Path, *, problems: Any, sampling: Any = None, draw: Callable[..., Any] | None = None,
            checker: Any = None, judge: Callable[[str], str] | None = None) -> pd.DataFrame:  # fmt: skip
    """Sample both models, check every step, write `coherence.parquet`, and return it.

    Args:
        pair: a ModelPair.
        config: settings.
        out: the folder of a run's tables.
        problems: of one task.
        sampling: how traces are drawn, but for their number.
        draw: (name, model, problems, sampling) -> Rollouts, by default `sample`.
        checker: (completion, problem) -> `strategies.steps.Checked`; None for the task's own.
        judge: text -> reply with VALID or INVALID, such as `strategies.judge.openai_judge`; asked about `config.judged` different traces of each model. What it
            raises, and a reply without either word, counts as failed.

    Raises:
        InvalidInput: no problems, several tasks, or a task that has no checker of its own, and none is given.
    """
    from latentreason.files import write_table
    from latentreason.sampling.local import Sampling, sample
    from latentreason.strategies.judge import case, verdict
    from latentreason.strategies.steps import STEP_CHECKERS

    sampling = replace(sampling or Sampling(), n=config.n_samples)
    draw = draw or (lambda name, model, asked, how: sample(model, asked, how))
    tasks = {p.task for p in problems}
    if len(tasks) != 1:
        raise InvalidInput(f"The traces of one task are checked at a time, found {sorted(tasks) or 'no problems'}.")
    (task,) = tasks
    if checker is None and task not in STEP_CHECKERS:
        raise InvalidInput(f"Nothing can check the steps of the task {task!r} (known: {', '.join(STEP_CHECKERS)}). Give checker=, a function of completion and problem.")
    name, check = STEP_CHECKERS[task] if checker is None else ("the caller's", checker)
    asked, parts = {p.id: p for p in problems}, []
    for arm, lm in (("base", pair.base), ("rl", pair.rl)):
        drawn_table = draw(f"coherence-{arm}", lm, problems, sampling).table
        texts = list(zip(drawn_table["problem"], drawn_table["text"], strict=True))
        seen = {key: check(key[1], asked[key[0]]) for key in dict.fromkeys(texts)}
        kept = drawn_table[["problem", "sample", "correct"]].assign(arm=arm, cut=drawn_table["finish"] == "length")
        for column, kind in (("status", object), ("steps", np.int32), ("wrong", np.int32), ("standing", np.int32), ("valid", bool)):
            kept[column] = np.array([getattr(seen[key], column) for key in texts], dtype=kind)
        if judge is not None:
            verdicts: dict[tuple[str, str], str] = {}
            order = np.random.default_rng(config.seed).permutation(len(seen))[: config.judged]
            keys = list(seen)
            for i in order:
                try:
                    verdicts[keys[i]] = verdict(judge(case(asked[keys[i][0]].question, keys[i][1]))) or "failed"
                except Exception:  # whatever a judge of somebody else's raises is a verdict that we do not have
                    verdicts[keys[i]] = "failed"
            first = {key: i for i, key in reversed(list(enumerate(texts)))}  # an equal trace is judged, and counted, once
            kept["judge"] = [verdicts.get(key, "") if first[key] == i else "" for i, key in enumerate(texts)]
        parts.append(kept)
    stacked = pd.concat(parts, ignore_index=True).assign(pair=pair.name, task=task, checker=name)
    table: pd.DataFrame = stacked[["pair", "task", "checker", *COLUMNS, "cut", *(["judge"] if judge is not None else [])]]
    write_table(Path(out) / "coherence.parquet", table)
    return table
