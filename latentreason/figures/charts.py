"""What each figure shows: its numbers out of Results, its drawing out of these numbers, its caption. The registry is in `figures.py`.

`numbers` holds all that is drawn, as plain data, and the drawing adds nothing: so comparing numbers compares figures. Where a study draws
the chart itself, its `drawn(result)` gives the numbers and its `plot(result, ax)` draws them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from latentreason.figures.style import canvas, dots, entry, floats, look, say
from latentreason.stats import Estimate, wilson
from latentreason.studies import passk, recovery
from latentreason.studies.palette import ARMS, SHARES
from latentreason.studies.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

Results = Mapping[str, Result]
TEMPERATURES = {"recovery": "T=1", "recovery_greedy": "greedy"}


@dataclass(frozen=True)
class Figure:
    """How one figure is made.

    Attributes:
        inputs: names of the results that it reads, keys of `RESULTS`.
        numbers: results -> all that is plotted, as plain data.
        draw: (results, numbers) -> drawing.
        caption: results -> what is seen, with n and the interval's method.
    """

    inputs: tuple[str, ...]
    numbers: Callable[[Results], dict[str, Any]]
    draw: "Callable[[Results, dict[str, Any]], Drawing]"
    caption: Callable[[Results], str]

    def plot(self, results: Results) -> "Drawing":
        """Draw it, in our look."""
        with look():
            return self.draw(results, self.numbers(results))


def estimate(result: Result, quantity: str, **where: Any) -> Estimate:
    """`Result.estimate`, but undefined with a reason where the run did not measure it."""
    rows = result.table[result.table["quantity"] == quantity]
    if rows.empty or any(c not in rows or not (rows[c] == v).any() for c, v in where.items()):
        return Estimate(float("nan"), float("nan"), float("nan"), 0, "none", "not measured in this run")
    return result.estimate(quantity, **where)


def _n(result: Result, quantity: str) -> str:
    """The n and the interval method of a caption."""
    rows = result.table[(result.table["quantity"] == quantity) & result.table["value"].notna()]
    samples = f" x {result.details['n_samples']} samples" if "n_samples" in result.details else ""
    method = rows["method"].iloc[0].split(";")[0] if len(rows) else "none, undefined"
    return f"n = {result.details['n_problems']} problems{samples}; interval: {method}."


def _draw_recovery(result: Result) -> "Drawing":
    figure, (ax,) = canvas(6.6, 4.8)
    recovery.plot(result, ax)
    return figure


def _routers(results: Results) -> dict[str, Any]:
    result, rows = results["recovery"], []
    for router in [c["router"] for c in result.details["curves"] if not c["control"] and len(c["points"]) > 1]:
        areas = {kind or "area": entry(estimate(result, "area", router=router, control=kind)) for kind in ("", *recovery.CONTROLS)}
        difference = entry(estimate(result, "area_difference", router=router, control=recovery.CONTROLS[0]))
        rows.append({"router": router, **areas, "difference": difference})
    return {"routers": rows}


def _draw_routers(results: Results, numbers: dict[str, Any]) -> "Drawing":
    rows, config = numbers["routers"], results["recovery"].config
    figure, (left, right) = canvas(9.0, 1.6 + 0.55 * len(rows), (1, 1))
    chosen = {config["best_oracle"]: "\n(best oracle)", config["best_base_only"]: "\n(best base-only)"}
    labels = [row["router"] + chosen.get(row["router"], "") for row in rows]

    def series(key: str, colour: str) -> list[dict[str, Any]]:
        return [{**row[key], "label": label, "colour": colour} for row, label in zip(rows, labels, strict=True)]

    dots(left, series("area", ARMS["hybrid"]), label="router")
    dots(left, series("matched_disagreement", ARMS["control"]), shift=0.2, label="matched disagreements")
    dots(left, series("matched_random", ARMS["control"]), fmt="o-open", shift=0.4, label="matched random")
    left.set(xlabel="area under recovery, 0 to D", title="Area")
    dots(right, series("difference", ARMS["hybrid"]))
    right.axvline(0, color="0.7", linewidth=0.8, zorder=0)
    right.set(xlabel="area minus that of matched disagreements", title="Paired difference", yticks=[])
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def _shares(results: Results) -> dict[str, Any]:
    shares = [entry(estimate(results[s], f"{part}_share"), label=f"{part}, {t}", part=part) for s, t in TEMPERATURES.items() for part in SHARES]
    arms = [entry(estimate(results[s], "accuracy", arm=arm, router=""), label=f"{arm}, {t}", part=arm)
            for s, t in TEMPERATURES.items() for arm in ("base", "content", "timing", "rl")]  # fmt: skip
    return {"shares": shares, "accuracy": arms}


def _draw_shares(results: Results, numbers: dict[str, Any]) -> "Drawing":
    figure, axes = canvas(9.0, 3.4, (1, 1))
    colours = {**ARMS, **SHARES}
    for ax, key in zip(axes, ("shares", "accuracy"), strict=True):
        dots(ax, [{**row, "colour": colours[row["part"]]} for row in numbers[key]])
    axes[0].axvline(0, color="0.7", linewidth=0.8, zorder=0)
    axes[0].set(xlabel="share of the RL gain (Shapley; the two sum to 1)", title="Shares of the gain")
    axes[1].set(xlabel="accuracy", title="The four arms", xlim=(0, 1))
    return figure


def _strategies(results: Results) -> dict[str, Any]:
    records = results["recovery"].details.get("changed_by_strategy", [])
    totals: dict[str, float] = {}
    for r in records:
        totals[r["strategy"]] = totals.get(r["strategy"], 0) + r["changed"]
    strategies = sorted((s for s, total in totals.items() if total), key=lambda s: -totals[s])
    arms = []
    for arm in dict.fromkeys(r["arm"] for r in records):
        own = {r["strategy"]: r for r in records if r["arm"] == arm}
        changed = sum(r["changed"] for r in own.values())
        share = [own[s]["changed"] / changed if s in own and changed else float("nan") for s in strategies]
        arms.append({"arm": arm, "changed": changed, "tokens": sum(r["tokens"] for r in own.values()), "share": share})
    return {"strategies": strategies, "arms": arms}


def _draw_strategies(results: Results, numbers: dict[str, Any]) -> "Drawing":
    arms, strategies = numbers["arms"], numbers["strategies"]
    figure, (ax,) = canvas(2.6 + 0.75 * len(strategies), 1.5 + 0.42 * len(arms))
    if not strategies:
        say(ax, "no table of changed tokens by strategy in this run")
        return figure
    shares = floats([arm["share"] for arm in arms])
    ax.imshow(shares, cmap="Greens", vmin=0, vmax=1, aspect="auto")
    for i, row in enumerate(shares):
        for j, share in enumerate(row):
            ax.text(j, i, f"{share:.0%}", ha="center", va="center", fontsize=8, color="white" if share > 0.6 else "black")
    ax.set_xticks(range(len(strategies)), strategies, rotation=30, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(arms)), [f"{arm['arm']}\n({arm['changed']:,} changed)" for arm in arms])
    ax.set(title="Share of an arm's changed tokens, by the strategy that they belong to")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return figure


def _passk(results: Results) -> dict[str, Any]:
    result = results["passk"]
    gap = result.table[result.table["quantity"] == "rl_minus_base"]
    differences = [{"kind": kind, **{c: group.sort_values("k")[c].tolist() for c in ("k", "value", "lo", "hi")}}
                   for kind, group in gap.groupby("kind", sort=False)]  # fmt: skip
    return {"curves": passk.drawn(result), "guessing_floor": result.details.get("guessing_floor", []), "difference": differences}


def _draw_passk(results: Results, numbers: dict[str, Any]) -> "Drawing":
    figure, (left, right) = canvas(10.0, 4.2, (1.15, 1))
    passk.plot(results["passk"], left)
    left.set(title="pass@k")
    for curve in numbers["difference"]:
        style = "-" if curve["kind"] == "answer" else "--"
        right.plot(curve["k"], curve["value"], style, marker="o", markersize=3, color=ARMS["rl"], label=curve["kind"])
        right.fill_between(curve["k"], curve["lo"], curve["hi"], color=ARMS["rl"], alpha=0.15, linewidth=0)
    right.axhline(0, color="0.7", linewidth=0.8, zorder=0)
    right.set_xscale("log", base=2)
    right.set_xticks(left.get_xticks(), [label.get_text() for label in left.get_xticklabels()])
    right.set(title="RL minus base, paired", xlabel="k (samples a problem)", ylabel="difference in pass@k")
    right.legend()
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
    dots(right, [{**row, "colour": colours[row["label"]]} for row in numbers["flips"]])
    right.set(xlabel="share of the entries that flip in the second draw", xlim=(-0.03, 1.03), title="Flip rate")
    return figure


def _arms(results: Results) -> dict[str, Any]:
    result, rows = results["recovery"], []
    for curve in result.details["curves"]:
        where = {"router": curve["router"], "control": curve["control"]}
        if len(curve["points"]) == 1:
            rows.append({**where, "x": entry(estimate(result, "changed_of_D", **where)), "accuracy": entry(estimate(result, "accuracy", **where))})
    ends = [entry(estimate(result, "accuracy", arm=arm, router=""), arm=arm) for arm in ("base", "rl")]
    return {"arms": rows, "ends": ends}


def _draw_arms(results: Results, numbers: dict[str, Any]) -> "Drawing":
    figure, (ax,) = canvas(8.4, 4.6)
    routers = list(dict.fromkeys(row["router"] for row in numbers["arms"]))
    for x, end, name in zip((0, 1), numbers["ends"], ("base", "always-RL"), strict=True):
        ax.axhline(end["value"], color=ARMS[end["arm"]], linewidth=0.8, alpha=0.5, zorder=0)
        ax.plot([x, x], [end["lo"], end["hi"]], color=ARMS[end["arm"]], linewidth=1.2)
        ax.plot([x], [end["value"]], "*", color=ARMS[end["arm"]], markersize=11, label=name)
    for row in numbers["arms"]:
        x, y = row["x"], row["accuracy"]
        colour = ARMS["control"] if row["control"] else ARMS["hybrid"]
        name = f"{row['control']} of {row['router']}" if row["control"] else row["router"]
        ax.plot(floats([x["lo"], x["hi"]]), floats([y["value"]] * 2), color=colour, linewidth=1)
        ax.plot(floats([x["value"]] * 2), floats([y["lo"], y["hi"]]), color=colour, linewidth=1)
        face = "white" if row["control"] == recovery.CONTROLS[1] else colour
        marker = "osD^vPXhp"[routers.index(row["router"]) % 9]
        ax.plot(floats([x["value"]]), floats([y["value"]]), marker, color=colour, markerfacecolor=face, markersize=7, label=name)
    ax.set(xlabel="changed tokens / D", ylabel="accuracy", ylim=(0, 1.02))
    figure.legend(loc="outside right upper")
    return figure


def recovery_at(source: str) -> Figure:
    """The recovery curve of one result: the chosen routers and their matched disagreements."""

    def caption(results: Results) -> str:
        full = estimate(results[source], "D", arm="rl")
        return (
            f"Share of the RL gain recovered against changed tokens over D, {TEMPERATURES[source]}. D, the share of generated tokens that always-RL "
            f"changes, is {full} (absolute scale: top axis). Solid: routers chosen on calibration problems; grey: as many changes at random "
            f"disagreements. The end at 1 is the RL model by identity, not a result. Bands are pointwise. {_n(results[source], 'area')}"
        )

    return Figure((source,), lambda results: {"curves": recovery.drawn(results[source]), "D": entry(estimate(results[source], "D", arm="rl"))},
                  lambda results, _: _draw_recovery(results[source]), caption)  # fmt: skip


ROUTERS = Figure(
    ("recovery",), _routers, _draw_routers,
    lambda results: (
        "Area under the recovery curve over 0 to D at T=1 of each router that was swept, beside its matched controls (left), and its paired "
        "difference to matched disagreements, which change as many tokens at random places where the models differ (right): an interval that "
        f"includes 0 means that only the number of changes is known to matter. {_n(results['recovery'], 'area_difference')}"
    ),
)  # fmt: skip
SHARES_OF_GAIN = Figure(
    tuple(TEMPERATURES), _shares, _draw_shares,
    lambda results: (
        "How much of the RL gain timing positions (the next token chooses a format or strategy) and content positions (all others) carry: "
        f"Shapley shares (left) of the accuracies of the four arms (right), at T=1 and greedy. {_n(results['recovery'], 'timing_share')}"
    ),
)  # fmt: skip
STRATEGIES = Figure(
    ("recovery",), _strategies, _draw_strategies,
    lambda results: (
        "Which strategy the changed tokens belong to, T=1: share of each arm's changed tokens. Pooled counts over "
        f"{results['recovery'].details['n_problems']} problems; n (changed tokens) stands beside each arm; no interval, since tokens of a trace depend on each other."
    ),
)  # fmt: skip
PASSK = Figure(
    ("passk",), _passk, _draw_passk,
    lambda results: (
        "Unbiased pass@k (left) and the paired difference RL minus base (right). Solid: the answer is right; dashed: the trace is valid too, "
        f"which is what counts from k = {passk.VALID_FROM} on. Dotted: uniform guesses among the possible answers. {_n(results['passk'], 'pass@k')}"
    ),
)  # fmt: skip
LEDGER = Figure(
    ("passk",), _ledger, _draw_ledger,
    lambda results: (
        f"Problems with at least one right sample ({results['passk'].details['kinds'][-1]}) of each model, in each half of the samples (left), and the share of the "
        "one-sided entries of the first half that the second, independent half does not repeat (right): a ledger of flips is noise. "
        f"{_n(results['passk'], 'solved_rl_only')}"
    ),
)  # fmt: skip
ARMS_AT_ONE_BUDGET = Figure(
    ("recovery",), _arms, _draw_arms,
    lambda results: (
        "Accuracy at T=1 against changed tokens over D of every router that was measured at one budget, and of its controls (grey; open: matched "
        f"random). Stars and lines: base and always-RL. {_n(results['recovery'], 'accuracy')}"
    ),
)  # fmt: skip
