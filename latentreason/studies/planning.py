"""Study `planning`: does RL create solutions and ways that the base model does not have, and on which problems?

Claim (ProRL, Liu et al. 2025, arXiv 2505.24864): long RL reaches solutions that the base model does not find at any k, on some domains (logic, planning) and not on
others (mathematics): creation depends on the domain and on what the base can do there.

Formula: with unbiased pass@k, `rl_only`(k) = mean over problems of pass@k(RL) * (1 - pass@k(base)), the chance that k samples of the RL model
solve what k samples of the base do not; its control is a second, independent draw of the base in the place of RL. Where a checker of whole traces exists, a sample counts
only if its trace is valid. Novelty of a trace: share of its n-grams, and of the edges of its step graph (which step follows which, without
results), that no base sample of the same problem has, and whether its whole `way` through the problem is new; `step` asks for steps that no base sample of ANY problem has.
The control is again base against base, with as many samples.

Refuted on a domain where the intervals of both differences to the control, of `rl_only` at the largest k and of the ways of right traces, have an upper bound of 0 or less; where they
include 0 there is no evidence of creation.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from latentreason.errors import InvalidInput
from latentreason.stats import mean_estimate, over, pass_at_k, replicate_weights, summary, undefined, wilson
from latentreason.studies.palette import ARMS
from latentreason.studies.result import Result, of_one_pair, rows, whether

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = ("problem", "domain", "arm", "measure", "which", "new", "total")
NOVELTY = ("ngram", "edge", "way", "step")
WHICH = ("all", "right")
OPPOSED = (("rl_only", "rl", "reference"), ("control", "base", "reference"), ("base_only", "reference", "rl"))
"""Quantity -> who solves, and who does not. `reference` and `base` are two independent draws of the base model."""


@dataclass(frozen=True)
class Config:
    """Settings: samples of each of the three draws of a problem, so many problems at once (memory), words of an n-gram."""

    n_samples: int = 256
    block: int = 16
    n: int = 4
    n_boot: int = 2000
    seed: int = 0


def run(*, table: pd.DataFrame, max_k: int | None = None, config: Config = Config()) -> Result:
    """What RL solves and how, beyond what more samples of the base would.

    Args:
        table: what `collect` wrote, of one pair: columns `COLUMNS`.
        max_k: None for as many as there are samples.
        config: settings.

    Raises:
        InvalidInput: not such a table, several pairs, a missing arm, or fewer samples than `max_k`.
    """
    frame = of_one_pair(table, "planning", COLUMNS, ("reference", "base", "rl"))
    problems = sorted(set(frame["problem"]))
    domains = frame.drop_duplicates("problem").set_index("problem")["domain"].reindex(problems).to_numpy(str)
    weights = replicate_weights(len(problems), config.n_boot, config.seed)
    kinds = [kind for kind in ("answer", "answer and trace") if (frame["measure"] == f"solved: {kind}").any()]
    solved = {(kind, arm): _counts(frame, f"solved: {kind}", arm, problems) for kind in kinds for arm in ("reference", "base", "rl")}
    samples = min(int(total.min()) for _, total in solved.values())
    top = samples if max_k is None else max_k
    ks = sorted({2**i for i in range(top.bit_length()) if 2**i <= top} | {top})
    found: list[dict[str, Any]] = []
    for kind in kinds:
        for k in ks:
            passed = {arm: pass_at_k(solved[kind, arm][1].astype(int), solved[kind, arm][0].astype(int), k) for arm in ("reference", "base", "rl")}
            by = {name: passed[who] * (1 - passed[other]) for name, who, other in OPPOSED}
            by["above"] = by["rl_only"] - by["control"]
            found += [rows(name, summary(weights @ values, len(problems), share=name != "above"), kind=kind, k=k) for name, values in by.items()]
            for domain in sorted(set(domains)) if k == ks[-1] else []:
                how = {"n_boot": config.n_boot, "seed": config.seed}
                found += [rows(name, mean_estimate(values[domains == domain], **how, share=name != "above"), kind=kind, k=k, domain=domain) for name, values in by.items()]
    for which in WHICH:
        for measure in NOVELTY:
            sums = {arm: [weights @ values for values in _counts(frame, measure, arm, problems, which)] for arm in ("rl", "base")}
            draws = {arm: over(*of) for arm, of in sums.items()}
            draws["above"] = draws["rl"] - draws["base"]
            for arm, values in draws.items():
                none = np.isnan(values[0])
                reason = f"one of the models has no {'right ' * (which == 'right')}trace with such a part"
                found.append(rows(measure, undefined(reason, len(problems)) if none else summary(values, len(problems)), arm=arm, which=which))
    last = kinds[-1]
    never = np.array([solved[last, arm][0] for arm in ("reference", "base")]).sum(0) == 0
    once = solved[last, "rl"][0] > 0
    found.append(rows("never_by_base", wilson(int((never & once).sum()), len(problems)), kind=last))
    listed = [
        {"problem": problems[i], "domain": domains[i], "rl_solved": int(solved[last, "rl"][0][i]), "rl_samples": int(solved[last, "rl"][1][i]),
         "base_samples": int(solved[last, "reference"][1][i] + solved[last, "base"][1][i])}
        for i in np.flatnonzero(never & once)
    ]  # fmt: skip
    for each in listed:  # what the base's pass rate may be, having solved none
        each["base_rate_at_most"] = wilson(0, each["base_samples"]).hi
    details = {"n_problems": len(problems), "n_samples": samples, "kinds": kinds, "k": ks, "rl_only": listed, "rl_right": int(solved[last, "rl"][0].sum()), "domains": {d: int(n) for d, n in Counter(domains).items()}}
    text = ("kind", "domain", "arm", "which")
    frame = pd.DataFrame(found).astype(dict.fromkeys(text, object)).fillna(dict.fromkeys(text, ""))
    result = Result("planning", asdict(config), frame, details)
    return result.saying(_said(result))


def _counts(frame: pd.DataFrame, measure: str, arm: str, problems: list[str], which: str = "all") -> tuple[np.ndarray, np.ndarray]:
    part = frame[(frame["measure"] == measure) & (frame["arm"] == arm) & (frame["which"] == which)].set_index("problem")[["new", "total"]].reindex(problems)
    if part.isna().any(axis=None):
        raise InvalidInput(f"{int(part['new'].isna().sum())} problems have no {measure!r} of the draw {arm!r}: collect all three draws on the same problems.")
    return part["new"].to_numpy(float), part["total"].to_numpy(float)


def _said(result: Result) -> list[str]:
    kind, k = result.details["kinds"][-1], result.details["k"][-1]
    alone, control, above = (result.estimate(name, kind=kind, k=k, domain="") for name in ("rl_only", "control", "above"))
    ways = {arm: result.estimate("way", arm=arm, which="right") for arm in ("rl", "base", "above")}
    some = result.details["rl_right"] > 0  # without one right trace, new ways are ways to an accident
    new = [name for name, e in (("solutions", above), ("ways", ways["above"])) if some and e.defined and e.lo > 0]
    open_ = [name for name, e in (("solutions", above), ("ways", ways["above"])) if not e.defined]
    refuted = all(whether(e, "", "no", "") for e in (above, ways["above"]))
    nothing = f"whether RL creates {' and '.join(open_)} cannot be judged" if open_ else "which refutes that RL creates anything here" if refuted else "so there is no evidence that RL creates anything here"
    verdict = f"so RL adds {' and '.join(new)} beyond what the base has" if new else nothing
    by_domain = result.table[(result.table["quantity"] == "above") & (result.table["kind"] == kind) & (result.table["domain"] != "")]
    where = [f"{d} ({result.estimate('above', kind=kind, k=k, domain=d).bare})" for d, lo in zip(by_domain["domain"], by_domain["lo"], strict=True) if lo > 0]
    first = f"At k={k} RL alone solves {alone} of the problems, none of its samples being right by {kind}, so it creates nothing here, and there was no success from which it could go on (an interval above 0 would have refuted that)." if not some else (
        f"Beyond a second draw of the base, RL alone solves {above} of the problems at k={k} ({kind}), and {ways['above']} of its traces with the right answer go a new way, {verdict}{'; by itself on ' if where and not new else ', on ' if where else ''}{', '.join(where)}; two "
        "upper bounds of 0 or less refute creation."
    )
    return [
        first,
        f"RL alone solves {alone}, the second draw of the base alone {control}.",
        f"Of RL's traces with the right answer {ways['rl']} go a way that none of {result.details['n_samples']} base samples went, of other base samples' {ways['base']}.",
        f"{result.estimate('step', arm='rl', which='right')} of the steps of RL's traces with the right answer are in no base sample at all.",
    ]


def drawn(result: Result) -> list[dict[str, Any]]:
    """The curves of `plot`: what one draw solves alone, against k."""
    kind = result.details["kinds"][-1]
    part = result.table[result.table["quantity"].isin([name for name, _, _ in OPPOSED]) & (result.table["kind"] == kind) & (result.table["domain"] == "")]
    out = []
    for name, group in part.groupby("quantity", sort=False):
        ordered = group.sort_values("k")
        out.append({"quantity": str(name), "kind": kind, "k": ordered["k"].astype(int).tolist(), **{c: ordered[c].tolist() for c in ("value", "lo", "hi")}})
    return out


LOOKS = {"rl_only": ("RL alone, not the base", ARMS["rl"], "-"), "base_only": ("the base alone, not RL", ARMS["base"], "-"), "control": ("base alone, not the base again", ARMS["control"], "--")}
"""Curve -> its name, colour and line."""


def plot(result: Result, ax: "Axes | None" = None) -> "Axes":
    """Share of the problems that one model solves alone within k samples, with 95% bands; dashed: a second draw of the base."""
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    for curve in drawn(result):
        name, colour, style = LOOKS[curve["quantity"]]
        ax.plot(curve["k"], curve["value"], style, marker="o", markersize=3, color=colour, label=name)
        ax.fill_between(curve["k"], curve["lo"], curve["hi"], color=colour, alpha=0.15, linewidth=0)
    ks = result.details["k"]
    ax.set_xscale("log", base=2)
    ax.set_xticks(ks, [str(k) for k in ks])
    ax.set(xlabel="k (samples a problem)", ylabel="share of the problems")
    ax.legend(frameon=False, fontsize=8)
    return ax


def collect(pair: Any, config: Config, out: str | Path, *, problems: Any, sampling: Any = None, draw: Callable[..., Any] | None = None) -> pd.DataFrame:
    """Draw the base twice and the RL model once, compare, write `planning.parquet`, and return it. Traces are kept for `config.block` problems at a time.

    Args:
        pair: a ModelPair.
        config: settings.
        out: the folder of a run's tables.
        problems: of one task.
        sampling: how traces are drawn, but for their number. The three draws share no noise.
        draw: (name, model, problems, sampling) -> Rollouts, by default `sample`.

    Raises:
        InvalidInput: no problems, or several tasks.
    """
    from latentreason.files import write_table
    from latentreason.sampling.local import Sampling, sample
    from latentreason.strategies.language import language
    from latentreason.strategies.steps import domain_of, way
    from latentreason.tasks.overlap import ngrams

    draw = draw or (lambda name, model, asked, how: sample(model, asked, how))
    if len({p.task for p in problems}) != 1:
        raise InvalidInput("Give problems of one task: ways through problems of several cannot be compared.")
    sampling, task, m = replace(sampling or Sampling(), n=config.n_samples), problems[0].task, config.n_samples
    valid, asked, domains = language(task, pair.base.tokenizer).valid, {p.id: p for p in problems}, {p.id: domain_of(p) for p in problems}
    found: list[dict[str, Any]] = []
    known: set[str] = set()  # steps of the reference, of any problem
    steps: dict[tuple[str, str, str], Counter[str]] = {}  # (problem, arm, which) -> steps
    for first in range(0, len(problems), config.block):
        block = problems[first : first + config.block]
        traces: dict[tuple[str, str], list[tuple[str, bool]]] = {}
        for i, (arm, lm) in enumerate((("reference", pair.base), ("base", pair.base), ("rl", pair.rl))):
            drawn_table = draw(f"planning-{arm}-{first}", lm, block, replace(sampling, first_sample=sampling.first_sample + i * m)).table
            for p, text, correct in drawn_table[["problem", "text", "correct"]].itertuples(index=False):
                traces.setdefault((p, arm), []).append((text, bool(correct)))
        for p in (each.id for each in block):
            texts = {text: right for arm in ("reference", "base", "rl") for text, right in traces[p, arm]}
            known_of = {t: (ngrams(t.split(), config.n), way(t, asked[p]), right and valid is not None and valid(t, asked[p])) for t, right in texts.items()}
            reference = [known_of[text] for text, _ in traces[p, "reference"]]
            grams, ways = {g for of, _, _ in reference for g in of}, {taken for _, taken, _ in reference}
            edges = {e for taken in ways for e in _edges(taken)}
            known.update(step for taken in ways for step in taken)
            for arm in ("reference", "base", "rl"):
                here = [(*known_of[text], right) for text, right in traces[p, arm]]
                counts: dict[tuple[str, str], tuple[int, int]] = {("solved: answer", "all"): (sum(right for *_, right in here), len(here))}
                if valid is not None:
                    counts["solved: answer and trace", "all"] = (sum(good for _, _, good, _ in here), len(here))
                for which in WHICH if arm != "reference" else ():
                    some = [(g, taken) for g, taken, _, right in here if right or which == "all"]
                    counts["ngram", which] = (sum(x not in grams for g, _ in some for x in g), sum(len(g) for g, _ in some))
                    counts["edge", which] = (sum(e not in edges for _, taken in some for e in _edges(taken)), sum(len(_edges(taken)) for _, taken in some))
                    counts["way", which] = (sum(taken not in ways for _, taken in some), len(some))
                    steps[p, arm, which] = Counter(step for _, taken in some for step in taken)
                found += [_row(p, domains[p], arm, measure, which, *count) for (measure, which), count in counts.items()]
    for (p, arm, which), of in steps.items():
        found.append(_row(p, domains[p], arm, "step", which, sum(n for step, n in of.items() if step not in known), of.total()))
    table = pd.DataFrame(found).assign(pair=pair.name, task=task)[["pair", "task", *COLUMNS]]
    write_table(Path(out) / "planning.parquet", table)
    return table


def _row(problem: str, domain: str, arm: str, measure: str, which: str, new: int, total: int) -> dict[str, Any]:
    return {"problem": problem, "domain": domain, "arm": arm, "measure": measure, "which": which, "new": new, "total": total}


def _edges(taken: tuple[str, ...]) -> list[tuple[str, str]]:
    """Which step follows which, from the start to the end."""
    return list(zip(("start", *taken), (*taken, "end"), strict=True))
