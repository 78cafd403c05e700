"""The figures of the study `passk`: the curves, the ledger, and what each model reaches."""

from typing import TYPE_CHECKING, Any

from latentreason.figures.figure import Figure, Results, caption_end, entry, estimate
from latentreason.figures.style import canvas, dots, floats
from latentreason.stats import wilson
from latentreason.studies import passk
from latentreason.studies.palette import ARMS, NAMES

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing


def _passk(results: Results) -> dict[str, Any]:
    result = results["passk"]
    gap = result.table[result.table["quantity"] == "rl_minus_base"]
    differences = [{"kind": kind, **{c: group.sort_values("k")[c].tolist() for c in ("k", "value", "lo", "hi")}}
                   for kind, group in gap.groupby("kind", sort=False)]  # fmt: skip
    return {
        "curves": passk.drawn(result), "guessing_floor": result.details.get("guessing_floor", []), "difference": differences,
        "crossover": [entry(estimate(result, "crossover_k", kind=kind), kind=kind) for kind in result.details["kinds"]],
    }  # fmt: skip


def _draw_passk(results: Results, numbers: dict[str, Any]) -> "Drawing":
    figure, (left, right) = canvas(10.0, 4.6, (1.15, 1))
    passk.plot(results["passk"], left)
    left.set(title="pass@k")
    for curve in numbers["difference"]:
        style = "-" if curve["kind"] == "answer" else "--"
        right.plot(curve["k"], curve["value"], style, marker="o", markersize=3, color=ARMS["rl"], label=curve["kind"])
        right.fill_between(curve["k"], curve["lo"], curve["hi"], color=ARMS["rl"], alpha=0.15, linewidth=0)
    right.axhline(0, color="0.7", linewidth=0.8, zorder=0)
    for i, cross in enumerate(c for c in numbers["crossover"] if c["value"] == c["value"]):
        ends = floats([cross["lo"], cross["hi"]]).clip(max=numbers["difference"][0]["k"][-1])
        right.plot(ends, [0, 0], "-", color="black", linewidth=3 - i, alpha=0.4, solid_capstyle="butt")
        face, size = ("white", 4) if i else ("black", 8)  # two at one k are both seen
        name = f"crossover, {cross['kind']}"
        right.plot([cross["value"]], [0], "D", color="black", markerfacecolor=face, markersize=size, label=name)
    right.set_xscale("log", base=2)
    right.set_xticks(left.get_xticks(), [label.get_text() for label in left.get_xticklabels()])
    right.set(title="RL minus base, paired", xlabel="k (samples a problem)", ylabel="difference in pass@k")
    right.legend()
    left.legend().remove()
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=4)
    return figure


def _ledger(results: Results) -> dict[str, Any]:
    result, kind = results["passk"], results["passk"].details["kinds"][-1]
    groups = {"both": (True, True), "base only": (True, False), "RL only": (False, True), "neither": (False, False)}
    draws = []
    for half in ("first", "second"):
        solved = [(r[f"base_{half}"], r[f"rl_{half}"]) for r in result.details["ledger"]]
        draws.append({"draw": half, **{name: entry(wilson(solved.count(pair), len(solved))) for name, pair in groups.items()}})
    rates = {"base only": "flip_rate_base_only", "RL only": "flip_rate_rl_only"}
    return {"kind": kind, "draws": draws, "flips": [entry(estimate(result, q, kind=kind), label=name) for name, q in rates.items()]}


def _draw_ledger(results: Results, numbers: dict[str, Any]) -> "Drawing":
    figure, (left, right) = canvas(9.0, 3.6, (1.4, 1))
    colours = {"both": "0.35", "base only": ARMS["base"], "RL only": ARMS["rl"], "neither": "0.75"}
    for draw, shift, alpha in zip(numbers["draws"], (-0.2, 0.2), (1.0, 0.45), strict=True):
        for i, (name, colour) in enumerate(colours.items()):
            share = draw[name]
            left.bar(i + shift, share["value"], 0.38, color=colour, alpha=alpha)
            left.plot([i + shift] * 2, [share["lo"], share["hi"]], color="black", linewidth=1)
            left.annotate(f"{share['value']:.0%}", (i + shift, share["hi"]), (0, 3), textcoords="offset points", ha="center", fontsize=7)
    left.set_xticks(range(len(colours)), list(colours))
    left.set(ylabel="share of the problems", ylim=(0, 1.1), title="Solved by (dark: first draw, pale: independent second)")
    flips = [{**row, "colour": colours[row["label"]], "label": f"{row['label']}\n({row['n']} listed)"} for row in numbers["flips"]]
    dots(right, flips)
    right.set(xlabel="share of the entries that flip in the second draw", xlim=(-0.03, 1.03), title="Flip rate")
    return figure


def _reach(results: Results) -> dict[str, Any]:
    result, kinds = results["passk"], results["passk"].details["kinds"]
    cells = [entry(estimate(result, "coverage", kind=kind, cell=cell), label=cell, kind=kind) for kind in kinds for cell in passk.CELLS]
    gap = result.table[result.table["quantity"] == "efficiency_gap"]
    shares = [entry(estimate(result, "efficiency_gap", kind=row["kind"]), label=f"base pass@{int(row['k'])}\nminus RL pass@1,\n{row['kind']}") for row in gap.to_dict("records")]
    shares += [
        entry(estimate(result, "path_coverage", arm="rl"), label="path coverage:\ngreedy RL tokens"),
        entry(estimate(result, "whole_path", arm="rl"), label="greedy RL traces,\nwhole"),
    ]
    perplexity = [
        entry(estimate(result, "perplexity", arm=arm, kind=f"{which}, under {model}"), label=f"{NAMES.get(arm, arm)} traces\n{'all' if which == 'all' else 'right'}", model=model)
        for arm in ("base", "rl") for which in ("all", "right") for model in ("base", "rl")
    ]  # fmt: skip
    return {"coverage": cells, "shares": shares, "perplexity": perplexity}


def _draw_reach(results: Results, numbers: dict[str, Any]) -> "Drawing":
    figure, (left, middle, right) = canvas(13.0, 4.0, (1, 0.9, 0.9))
    kinds = results["passk"].details["kinds"]
    colours = {"both": "0.35", "base only": ARMS["base"], "RL only": ARMS["rl"], "neither": "0.75"}
    for row in numbers["coverage"]:
        x = list(passk.CELLS).index(row["label"]) + (0.4 * kinds.index(row["kind"]) - 0.2 * (len(kinds) - 1))
        left.bar(x, row["value"], 0.38, color=colours[row["label"]], alpha=0.45 if row["kind"] == "answer" and len(kinds) > 1 else 1.0)
        left.plot([x, x], [row["lo"], row["hi"]], color="black", linewidth=1)
        left.annotate(f"{row['value']:.0%}", (x, row["hi"]), (0, 3), textcoords="offset points", ha="center", fontsize=7)
    left.set_xticks(range(len(passk.CELLS)), list(passk.CELLS))
    left.set(ylabel="share of the problems", ylim=(0, 1.1), title="Solved with all samples")
    dots(middle, [{**row, "colour": ARMS["hybrid"]} for row in numbers["shares"]])
    middle.axvline(0, color="0.7", linewidth=0.8, zorder=0)
    middle.set(xlabel="difference of pass@k; share of tokens, of traces", title="Efficiency gap and path coverage", xlim=(None, 1.03))
    for i, model in enumerate(("base", "rl")):
        mine = [{**row, "colour": ARMS[model]} for row in numbers["perplexity"] if row["model"] == model]
        dots(right, mine, shift=0.25 * i, label=f"under the {NAMES.get(model, model)} model")
    right.set(xlabel="perplexity of a token", title="Perplexity of sampled traces")
    right.legend()
    return figure


PASSK = Figure(
    ("passk",), _passk, _draw_passk,
    lambda results: (
        "Unbiased pass@k (left) and the paired difference RL minus base (right). Solid: the answer is right; dashed: the trace is valid "
        f"too, which is what counts from k = {passk.VALID_FROM} on. Dotted: uniform guesses among the possible answers. Diamonds, with "
        "their intervals: the smallest k at which the base is not below RL, where there is one. "
        f"{caption_end(results['passk'], 'pass@k')}"
    ),
)  # fmt: skip
LEDGER = Figure(
    ("passk",), _ledger, _draw_ledger,
    lambda results: (
        f"Problems with at least one right sample ({results['passk'].details['kinds'][-1]}) of each model, in each half of the samples "
        "(left), and the share of the one-sided entries of the first half that the second, independent half does not repeat (right): "
        "where most of them flip, the ledger is noise. "
        f"{caption_end(results['passk'], 'solved_rl_only')}"
    ),
)  # fmt: skip
REACH = Figure(
    ("passk",), _reach, _draw_reach,
    lambda results: (
        "Left: problems that each model solves with all of its samples, at least once; where there are two bars, by answer (pale) and by answer and valid trace (dark). Middle: how far the base at the largest k lies above RL at one try, and the share of greedy "
        "RL tokens, and of whole traces, that are the base model's own greedy choice. Right: perplexity of the traces of each model under both, at temperature 1. "
        f"{caption_end(results['passk'], 'coverage')}"
    ),
)  # fmt: skip
