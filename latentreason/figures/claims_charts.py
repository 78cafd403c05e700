"""The figures of the studies that draw traces of their own: `contamination`, `coherence` and `planning`."""

from typing import TYPE_CHECKING, Any

from latentreason.figures.figure import Figure, Results, caption_end, entry, estimate
from latentreason.figures.style import canvas, dots, say
from latentreason.studies import coherence, contamination, planning
from latentreason.studies.palette import ARMS, NAMES
from latentreason.studies.result import Result

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure as Drawing

GROUPS = {"score": "#009E73", "behaviour": "#CC79A7"}
ARROW = "\N{RIGHTWARDS ARROW}"


def _contamination(results: Results) -> dict[str, Any]:
    result = results["contamination"]
    measured = [split for split in contamination.SPLITS if result.details["problems"][split]]
    changes = [
        entry(estimate(result, quantity, split=split, arm=arm), label=f"{name}, {split}", group=contamination.GROUPS[quantity])
        for quantity, arm, name in (("accuracy", "change", "accuracy"), ("behaviour", "change", "behaviour"), ("behaviour", "control", "base against base"))
        for split in (*measured, *([contamination.BOTH] if arm == "change" else []))
    ]
    if result.details.get("placebo"):
        changes.append(entry(estimate(result, "accuracy", split=contamination.ALARM, arm="change"), label=f"accuracy, {contamination.ALARM}", group="score"))
    scores = [
        entry(estimate(result, "accuracy", split=split, arm=arm), label=split, arm=arm)
        for split in measured for arm in ("base", "rl")
    ]  # fmt: skip
    cut = contamination.cut_of(result)
    both = [(quantity, name, cut) for quantity, name in (("exact_match", "says the rest"), ("rouge_l", "ROUGE-L of the rest"), ("answer_completed", "its own continuation answers"), ("answer_truncated", "answers the cut problem"))]
    memory = [
        entry(estimate(result, quantity, split=contamination.BOTH, arm=arm, **({"share": share} if share else {})), label=name, arm=arm, nats=not share)
        for quantity, name, share in (*both, ("min_k_question", "min-k% of the question", 0.0), ("min_k_answer", "min-k% of the answer", 0.0))
        for arm in ("base", "rl") if len(measured) > 1 and len(_of(result, quantity, arm, share))
    ]  # fmt: skip
    return {"lines": contamination.drawn(result), "scores": scores, "changes": changes, "memory": memory, "cut": cut}


def _of(result: Result, quantity: str, arm: str, share: float) -> "pd.DataFrame":
    """The rows of seen minus clean."""
    part = result.table[(result.table["quantity"] == quantity) & (result.table["split"] == contamination.BOTH) & (result.table["arm"] == arm)]
    return part[part["share"] == share] if share else part


def _draw_contamination(results: Results, numbers: dict[str, Any]) -> "Drawing":
    figure, (left, shares, nats, middle, right) = canvas(20.0, 4.4, (1, 0.8, 0.5, 0.5, 0.9))
    for ax, unit, title in ((shares, False, "Memory: seen minus clean"), (nats, True, "min-k%")):
        for i, arm in enumerate(("base", "rl")):
            dots(ax, [{**row, "label": row["label"].removeprefix("min-k% of ") if unit else row["label"], "colour": ARMS[arm]} for row in numbers["memory"] if row["arm"] == arm and row["nats"] == unit], shift=0.25 * i)
        if not any(row["nats"] == unit for row in numbers["memory"]):
            say(ax, "no problem is known\nto have been seen")
            continue
        ax.axvline(0, color="0.7", linewidth=0.8, zorder=0)
        ax.set(title=title, xlabel="seen minus clean, nats a token" if unit else f"difference of shares, from {numbers['cut']:.0%} of the words")
    contamination.plot(results["contamination"], left)
    left.set(title="Memory: a problem from its first words", xticks=sorted({x for line in numbers["lines"] for x in line["share"]}))
    for i, arm in enumerate(("base", "rl")):
        mine = [{**row, "colour": ARMS[arm]} for row in numbers["scores"] if row["arm"] == arm]
        dots(middle, mine, shift=0.25 * i, label=NAMES.get(arm, arm))
    middle.set(title="Score", xlabel="accuracy", xlim=(-0.03, 1.03))
    middle.legend()
    dots(right, [{**row, "colour": ARMS["control"] if row["label"].startswith("base against") else GROUPS[row["group"]]} for row in numbers["changes"]])
    right.axvline(0, color="0.7", linewidth=0.8, zorder=0)
    right.set(title=f"Change from base {ARROW} RL: score, behaviour", xlabel="difference of accuracies; distance between strategies")
    left.legend().remove()
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=4)
    return figure


def _coherence(results: Results) -> dict[str, Any]:
    result = results["coherence"]
    cells = []
    for cell in coherence.CELLS:
        share, chance = estimate(result, "cell_independent", cell=cell), estimate(result, "cell_control", cell=cell)
        cells += [entry(estimate(result, "coherent", cell=cell, arm=arm), label=f"{cell}\n({share.value:.1%}; base again {chance.value:.1%})", arm=arm) for arm in ("base", "rl")]
        cells.append(entry(estimate(result, "coherent_second_control", cell=cell), label=cell, arm="control"))
    curves = []
    part = result.table[result.table["quantity"] == "pass@k"]
    for (arm, kind), group in part.groupby(["arm", "kind"], sort=False):
        ordered = group.sort_values("k")
        curves.append({"arm": arm, "kind": kind, "k": ordered["k"].astype(int).tolist(), **{c: ordered[c].tolist() for c in ("value", "lo", "hi")}})
    return {"shares": coherence.drawn(result), "cells": cells, "curves": curves}


def _draw_coherence(results: Results, numbers: dict[str, Any]) -> "Drawing":
    figure, (left, middle, right) = canvas(13.0, 4.4, (1, 0.9, 1))
    coherence.plot(results["coherence"], left)
    left.set(title="Steps and traces")
    for i, arm in enumerate(("base", "rl", "control")):
        dots(middle, [{**row, "colour": ARMS[arm]} for row in numbers["cells"] if row["arm"] == arm], shift=0.22 * i, label="the base again" if arm == "control" else NAMES.get(arm, arm))
    middle.set(title="Coherent traces, by who is right", xlabel="share of the traces of the cell", xlim=(-0.03, 1.03))
    middle.legend()
    for curve in numbers["curves"]:
        style, label = ("-", "") if curve["kind"] == "answer" else ("--", f", {curve['kind']}")
        right.plot(curve["k"], curve["value"], style, marker="o", markersize=3, color=ARMS[curve["arm"]], label=f"{NAMES.get(curve['arm'], curve['arm'])}{label}")
        right.fill_between(curve["k"], curve["lo"], curve["hi"], color=ARMS[curve["arm"]], alpha=0.12, linewidth=0)
    ks = sorted({k for curve in numbers["curves"] for k in curve["k"]})
    right.set_xscale("log", base=2)
    right.set_xticks(ks, [str(k) for k in ks])
    right.set(title="pass@k and CoT-pass@k", xlabel="k (samples a problem)", ylabel="pass@k", ylim=(-0.02, 1.02))
    right.legend()
    return figure


def _planning(results: Results) -> dict[str, Any]:
    result, kind = results["planning"], results["planning"].details["kinds"][-1]
    names = {"ngram": "word n-grams", "edge": "edges of the step graph", "way": "whole ways", "step": "steps, in no base sample at all"}
    novelty = [
        entry(estimate(result, measure, arm=arm, which="right"), label=names[measure], arm=arm)
        for measure in planning.NOVELTY for arm in ("base", "rl")
    ]  # fmt: skip
    part = result.table[(result.table["quantity"] == "above") & (result.table["kind"] == kind) & (result.table["domain"] != "")]
    domains = [entry(estimate(result, "above", kind=kind, domain=row["domain"]), label=f"{row['domain']} (n={row['n']})") for row in part.to_dict("records")]
    return {"curves": planning.drawn(result), "novelty": novelty, "domains": domains}


def _draw_planning(results: Results, numbers: dict[str, Any]) -> "Drawing":
    figure, (left, middle, right) = canvas(13.0, 4.4, (1, 0.9, 0.9))
    planning.plot(results["planning"], left)
    left.set(title="Solved by one draw alone", ylim=(-0.02, max(0.2, 1.2 * max((hi for curve in numbers["curves"] for hi in curve["hi"]), default=0.0))))
    for i, (arm, name) in enumerate((("base", "base against base"), ("rl", "RL against base"))):
        colour = ARMS["control"] if arm == "base" else ARMS["rl"]
        dots(middle, [{**row, "colour": colour} for row in numbers["novelty"] if row["arm"] == arm], shift=0.25 * i, label=name)
    middle.set(title="New in right traces", xlabel="share that no base sample has")
    middle.legend()
    if numbers["domains"]:
        dots(right, [{**row, "colour": ARMS["rl"]} for row in numbers["domains"]])
        right.axvline(0, color="0.7", linewidth=0.8, zorder=0)
        right.set(title=f"By domain, k = {results['planning'].details['k'][-1]}", xlabel="RL alone minus base alone (control)")
    else:
        say(right, "one domain")
    return figure


CONTAMINATION = Figure(
    ("contamination",), _contamination, _draw_contamination,
    lambda results: (
        "Left: how often the rest of a problem is said word for word (open) and its answer given (filled) from its first words, on problems that training held (solid) and "
        "on others (dashed). Next: each measure of memory, seen minus clean problems, and the mean log-probability of the least likely 20% of the tokens. Then accuracy on the whole problem. Right: what changes from base to RL model, the score apart from the behaviour "
        "(total variation distance between the strategies' shares; grey: between two halves of the base samples); placebo: "
        "problems that nobody saw, taken for seen, whose difference to their twins is a false alarm. "
        f"{caption_end(results['contamination'], 'accuracy')}"
    ),
)  # fmt: skip
COHERENCE = Figure(
    ("coherence",), _coherence, _draw_coherence,
    lambda results: (
        "Left: every step checked against the one before it, whole traces, answers, and what the checker could not read or the length limit cut. Middle: share of coherent traces by whether base and "
        "RL model are right on the same sample; grey: of a second base sample in the place of RL. In brackets the share of the cell among pairs of independent samples, and with the base again. Right: pass@k by answer (solid), and by answer and valid trace (dashed). "
        f"{caption_end(results['coherence'], 'accuracy')}"
    ),
)  # fmt: skip
PLANNING = Figure(
    ("planning",), _planning, _draw_planning,
    lambda results: (
        f"Left: chance that k samples of one draw solve a problem that k of another do not ({results['planning'].details['kinds'][-1]}); dashed: two draws of the base. Middle: parts of "
        "right traces that none of as many base samples of the problem has. Right: RL alone minus the control, by domain. "
        f"{caption_end(results['planning'], 'rl_only')}"
    ),
)  # fmt: skip
