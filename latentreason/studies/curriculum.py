"""Study `curriculum`: does the order of imitation and reward matter where the base solves next to nothing?

Claim (Deng et al. 2025, arXiv 2510.25992, SRL): on problems with base pass@k near 0, RL with a step-by-step similarity reward to expert steps, then RLVR,
beats either alone, and plain imitation (SFT) of the same traces makes a model worse.

Formula: pass@1, pass@k and coverage area of each order of stages (SRL, SFT, RLVR and their sequences), same base, problems and expert traces; coverage =
share of the problems with at least one right sample (valid trace, where a checker exists). Gain of a sequence = its pass@1 minus that of
the better of its parts alone, paired by problem (which of the two is better is seen on the same samples, so the gain is a cautious one). A sequence was trained
more than any of its parts, so beside it stands RLVR twice ("RLVR > RLVR"), a second RLVR in place of the other stage: what a sequence has beyond that is no matter of more reward. Order = A then B minus B then A.

Both are told by the answer, too: a reward for answers may raise them by traces that are not valid, and then the two disagree.

Refuted where the interval of "SRL > RLVR" minus the better of SRL and RLVR is below 0. An order is not shown to matter where
that of A then B minus B then A includes 0.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from latentreason.stats import Estimate, summary
from latentreason.studies.palette import OTHERS
from latentreason.studies.result import Result, whether
from latentreason.studies.stacked import (
    ALL,
    Run,
    area,
    by_base,
    curve,
    finished,
    mean,
    powers,
    replicates,
    rows_of,
    runs_of,
    seeded,
    seeded_share,
    without,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRAIN = tuple(f"curriculum-{order}" for order in ("srl", "sft", "rlvr", "srl-rlvr", "sft-rlvr", "rlvr-sft"))
TWICE = "RLVR > RLVR"
ORDERS = ("base", "SRL", "SFT", "RLVR", TWICE, "SRL > RLVR", "SFT > RLVR", "RLVR > SFT")
COLOURS = {"pass@1": OTHERS[0], "pass@k": OTHERS[1], "coverage": OTHERS[3]}


@dataclass(frozen=True)
class Config:
    """Settings."""

    max_k: int = 64
    n_boot: int = 2000
    seed: int = 0


def run(*, organisms: pd.DataFrame, counts: pd.DataFrame, config: Config = Config()) -> Result:
    """pass@1, pass@k, coverage and its area by order of the stages, and what sequences add.

    Args:
        organisms, counts: stacked tables of the zoo.
        config: settings.

    Raises:
        InvalidInput: tables without their columns, of different organisms, or fewer samples than `max_k`.
    """
    ks = powers(config.max_k)
    groups = by_base(runs_of(counts, organisms).values()).values()
    orders = [{stages: {r.seed: r for r in group if r.facts["stages"] == stages} for stages in dict.fromkeys(str(r.facts["stages"]) for r in group)} for group in groups]
    chosen = next((found for found in orders if sum(">" in stages for stages in found) and len(found) > 1 and _parts_known(found)), None)
    if chosen is None:
        return without("curriculum", config, "sequence_gain", "no sequence of stages and its parts have been measured on one base", TRAIN)
    table: list[dict[str, Any]] = []
    first = next(iter(chosen.values()))
    arms: dict[str, tuple[str, dict[int, Run]]] = {"base": ("base", _any_seed(chosen)), **{stages: ("rl", of) for stages, of in chosen.items()}}
    kinds = next(iter(first.values())).kinds
    kind, column = list(kinds.items())[-1]
    for stages, (arm, of) in arms.items():
        where = {"order": stages, "kind": kind}
        table += seeded_share("accuracy", {s: mean(r.rates(arm), config, share=True) for s, r in of.items()}, order=stages, kind="answer")
        curves = {s: curve(r, arm, column, ks, config) for s, r in of.items()}
        for i, k in ((0, 1), (len(ks) - 1, ks[-1])):
            table += seeded_share("pass@1" if k == 1 else "pass@k", {s: found.estimates[i] for s, found in curves.items()}, k=k, **where)
        table += seeded_share("area", {s: summary(area(replicates(found), ks), len(of[s].base)) for s, found in curves.items()}, **where)
        table += seeded_share("coverage", {s: mean((r.rates(arm, column) > 0).astype(float), config, share=True) for s, r in of.items()}, **where)
    for stages, of in chosen.items():
        if stages == "SFT":
            table += seeded("imitation_effect", {s: mean(r.rates("rl") - r.rates("base"), config) for s, r in of.items()}, order=stages, kind="answer")
        parts = stages.split(" > ")
        if len(set(parts)) == 2 and len(parts) == 2 and all(part in chosen for part in parts):
            other = " > ".join(reversed(parts))
            for each, by in kinds.items():
                if TWICE in chosen:
                    table += seeded("beyond_twice", {s: mean(r.rates("rl", by) - chosen[TWICE][s].rates("rl", by), config) for s, r in of.items() if s in chosen[TWICE]}, order=stages, against=TWICE, kind=each)
                table += seeded("sequence_gain", {s: _over_best(r, [chosen[part][s] for part in parts if s in chosen[part]], by, config) for s, r in of.items() if all(s in chosen[p] for p in parts)}, order=stages, kind=each)
                if other in chosen and stages < other:
                    table += seeded("order_effect", {s: mean(r.rates("rl", by) - chosen[other][s].rates("rl", by), config) for s, r in of.items() if s in chosen[other]}, order=stages, against=other, kind=each)
    details = {"n_problems": len(next(iter(first.values())).base), "n_seeds": len({s for of in chosen.values() for s in of}), "kind": kind, "kinds": list(kinds), "k": ks[-1], "orders": [o for o in ORDERS if o in arms] + [o for o in arms if o not in ORDERS]}
    result = finished("curriculum", config, table, details)
    return result.saying(_said(result))


def _parts_known(found: dict[str, dict[int, Run]]) -> bool:
    return any(all(part in found for part in parts) for stages in found if len(set(parts := stages.split(" > "))) > 1)


def _any_seed(chosen: dict[str, dict[int, Run]]) -> dict[int, Run]:
    """One run of each seed, for its base."""
    return {s: r for of in reversed(chosen.values()) for s, r in of.items()}


def _over_best(sequence: Run, alone: list[Run], column: str, config: Config) -> Estimate:
    best = max((r.rates("rl", column) for r in alone), key=np.mean)
    return mean(sequence.rates("rl", column) - best, config)


def _sequences(result: Result, kind: str) -> str:
    """What sequences have above the better of their parts, by one way of grading."""
    found = {row["order"]: result.estimate("sequence_gain", order=row["order"], seed=ALL, kind=kind) for row in rows_of(result, "sequence_gain", seed=ALL, kind=kind)}
    judged = {order: "it beats both" if gain.lo > 0 else "that it beats both is refuted" if gain.hi <= 0 else "not shown to beat both" for order, gain in found.items()}
    return f"pass@1 above the better of its parts alone is {', '.join(f'{gain} for {order} ({judged[order]})' for order, gain in found.items())}"


def _orders(result: Result, kind: str) -> list[str]:
    """What the order of the stages does, by one way of grading."""
    said = list[str]()
    for row in rows_of(result, "order_effect", seed=ALL, kind=kind):
        effect = result.estimate("order_effect", order=row["order"], against=row["against"], seed=ALL, kind=kind)
        said.append(f"By {kind}, {row['order']} minus {row['against']} is {effect}, so {'order matters' if effect.lo > 0 or effect.hi < 0 else 'order is not shown to matter'}.")
    return said


def _twice(result: Result, kind: str) -> str:
    """What sequences have beyond as much training with the reward alone."""
    found = [(row["order"], result.estimate("beyond_twice", order=row["order"], seed=ALL, kind=kind)) for row in rows_of(result, "beyond_twice", seed=ALL, kind=kind)]
    judged = [f"{gain} for {order} ({whether(gain, 'more', 'not more', 'open')})" for order, gain in found]
    return f"Beside RLVR twice (a second RLVR in place of the other stage) pass@1 by {kind} differs by {', '.join(judged)}." if found else "RLVR twice does not stand beside them, so a second stage of the reward may do as much."


def _said(result: Result) -> list[str]:
    kind, kinds = result.details["kind"], result.details["kinds"]
    said = [f"By {kind}, a sequence's {_sequences(result, kind)}; an interval below 0 refutes that the two together beat each.", _twice(result, kind), *_orders(result, kind)]
    if "SFT" in result.details["orders"]:
        effect = result.estimate("imitation_effect", order="SFT", seed=ALL)
        said.append(f"Imitation alone changes accuracy by {effect}, so {'it makes the model worse' if effect.hi < 0 else 'that it makes the model worse is refuted' if effect.lo > 0 else 'that it makes the model worse is not shown'}.")
    for other in (each for each in kinds if each != kind):
        said += [f"By {other} alone, a sequence's {_sequences(result, other)}.", *_orders(result, other)]
    return said


def drawn(result: Result) -> list[dict[str, Any]]:
    """What `plot` draws: pass@1, pass@k and coverage of each order, over seeds and of each."""
    return [row for quantity in COLOURS for row in rows_of(result, quantity)]


def plot(result: Result, ax: "Axes | None" = None) -> "Axes":
    """pass@1, pass@k and coverage by order: dots with their interval over seeds, small dots the seeds."""
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(figsize=(6.8, 4.6), layout="constrained")
    found = drawn(result)
    if not found:
        ax.text(0.5, 0.5, result.finding, ha="center", va="center", wrap=True, transform=ax.transAxes)
        return ax
    orders = result.details["orders"]
    for r in found:
        y, colour, whole = orders.index(r["order"]) + 0.24 * (list(COLOURS).index(r["quantity"]) - 1), COLOURS[r["quantity"]], r["seed"] == ALL
        ax.plot([r["value"]], [y + (0 if whole else 0.07)], "o", color=colour, markersize=6 if whole else 3, alpha=1 if whole else 0.5)
        if whole and np.isfinite(r["lo"]):
            ax.plot([r["lo"], r["hi"]], [y, y], color=colour)
    for name, colour in COLOURS.items():
        ax.plot([], [], "o", color=colour, label=name.replace("@k", f"@{result.details['k']}"))
    ax.set_yticks(range(len(orders)), [order.replace(">", "then") for order in orders])
    ax.set(xlabel=f"share ({result.details['kind']})", ylim=(len(orders) - 0.4, -0.6), xlim=(-0.03, 1.03))
    ax.legend(frameon=False, fontsize=8)
    return ax
