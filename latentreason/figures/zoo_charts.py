"""The figures of the studies that read the whole zoo: one a study. What is undefined says why."""

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from latentreason.figures.figure import Figure, Results
from latentreason.figures.style import canvas, dots, say
from latentreason.studies import boundary, curriculum, difficulty, formats, one_shot, spurious
from latentreason.studies.palette import ARMS, NAMES, OTHERS
from latentreason.studies.result import Result
from latentreason.studies.stacked import ALL, rows_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

KEEP = ("value", "lo", "hi", "n", "reason", "seed")
Numbers = dict[str, Any]


def _rows(result: Result, quantity: str, *labels: str, **where: Any) -> list[Numbers]:
    """Estimates as plain numbers, with the columns that say what they speak of."""
    return [{**{label: row[label] for label in labels if label in row}, **{k: row[k] for k in KEEP}} for row in rows_of(result, quantity, **where)]


def _seeded(ax: "Axes", rows: list[Numbers]) -> None:
    """A row an estimate over seeds, with its interval; below it small dots, the seeds."""
    whole = [row for row in rows if row["seed"] == ALL]
    dots(ax, whole)
    places = {row["of"]: i for i, row in enumerate(whole)}
    for row in rows:
        if row["seed"] != ALL and row["of"] in places:
            ax.plot([row["value"]], [places[row["of"]] + 0.22], "o", color=row["colour"], markersize=3, alpha=0.6)


def _steps(ax: "Axes") -> None:
    """Whole numbers on the axis of steps."""
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("RL step")


def _zero(ax: "Axes", *, vertical: bool = True) -> None:
    (ax.axvline if vertical else ax.axhline)(0, color="0.7", linewidth=0.8, zorder=0)


def _seeds(result: Result) -> str:
    n = result.details["n_seeds"]
    alone = ", where there are several" if n > 1 else ""
    over = "Student's t over seeds of training (small dots and thin lines), with that of problems within a seed" + alone if n > 1 else "bootstrap over problems, which does not cover the training"
    problems = f"{result.details['n_problems']} problems, " if "n_problems" in result.details else ""
    return f"n = {problems}{n} seed{'s' * (n != 1)}; interval: {over}."


def _made(name: str, numbers: Callable[[Result], Numbers], draw: "Callable[[Result, Numbers], Drawing]", caption: str) -> Figure:
    """A figure of one study, which says its reason where the study is undefined."""

    def plotted(results: Results) -> Numbers:
        result = results[name]
        return {"reason": result.details["reason"]} if "reason" in result.details else numbers(result)

    def drawing(results: Results, found: Numbers) -> "Drawing":
        if "reason" in found:
            figure, (ax,) = canvas(7.0, 2.2)
            say(ax, f"undefined: {found['reason']}")
            return figure
        return draw(results[name], found)

    def said(results: Results) -> str:
        result = results[name]
        return f"Undefined: {result.details['reason']}." if "reason" in result.details else f"{caption} {_seeds(result)}"

    return Figure((name,), plotted, drawing, said)


# --- spurious ----------------------------------------------------------------------------------------------------------


def _spurious(result: Result) -> Numbers:
    moved = [{**r, "sure": bool(r["lo"] > 0 or r["hi"] < 0)} for r in _rows(result, "moved", "base", "reward", "clip", "behaviour", seed=ALL)]
    return {"gains": _rows(result, "gain", "base", "reward", "clip"), "behaviour": result.details["behaviour"], "name": result.config["behaviour"], "moved": moved}


def _draw_spurious(result: Result, numbers: Numbers) -> "Drawing":
    figure, (*axes, heat) = canvas(18.0, 5.4, (1.2, *(1 for _ in result.details["bases"]), 1.7))
    spurious.plot(result, axes[0])
    _draw_moved(heat, numbers["moved"])
    axes[0].set(title="Gain (filled: with clip, rings: without)")
    for ax, base in zip(axes[1:], result.details["bases"], strict=True):
        for reward, clip in dict.fromkeys((line["reward"], line["clip"]) for line in numbers["behaviour"] if line["base"] == base):
            lines = [line for line in numbers["behaviour"] if (line["base"], line["reward"], line["clip"]) == (base, reward, clip)]
            steps = sorted(set.intersection(*(set(line["step"]) for line in lines)))
            values = np.array([[dict(zip(line["step"], line["value"], strict=True))[step] for step in steps] for line in lines])
            colour = spurious.COLOURS.get(reward, "black")
            ax.plot(steps, values.mean(0), "-" if clip == "clip" else ":", color=colour, linewidth=1.2)
            if clip == "clip":
                ax.fill_between(steps, values.min(0), values.max(0), color=colour, alpha=0.12, linewidth=0)
        ax.set(title=f"Behaviour, strategies latent: {'no' if base.startswith('none') else 'yes'}", ylabel=f"{numbers['name'].rpartition('/')[2]} a trace")
        _steps(ax)
    heights = [ax.get_ylim() for ax in axes[1:]]
    for ax in axes[1:]:
        ax.set_ylim(min(low for low, _ in heights), max(high for _, high in heights))
    for reward in dict.fromkeys(line["reward"] for line in numbers["behaviour"]):
        axes[1].plot([], [], color=spurious.COLOURS.get(reward, "black"), label=reward)
    axes[1].plot([], [], ":", color="0.3", label="without clip")
    axes[1].legend()
    return figure


def _draw_moved(ax: "Axes", moved: list[Numbers]) -> None:
    """RL minus base of each behaviour, by reward, clip term and base; bold where the interval is without 0."""
    if not moved:
        return say(ax, "no behaviour was counted")
    order = {reward: i for i, reward in enumerate(spurious.COLOURS)}
    places = sorted({(r["base"], r["reward"], r["clip"]) for r in moved}, key=lambda p: (p[0], order.get(p[1], len(order)), p[2]))
    labels = list(dict.fromkeys(r["behaviour"] for r in moved))
    grid = np.full((len(places), len(labels)), np.nan)
    for r in moved:
        grid[places.index((r["base"], r["reward"], r["clip"])), labels.index(r["behaviour"])] = r["value"]
    extent = float(np.nanmax(np.abs(grid), initial=0.1))
    image = ax.imshow(grid, cmap="PuOr", vmin=-extent, vmax=extent, aspect="auto")
    for r in moved:
        y, x, value = places.index((r["base"], r["reward"], r["clip"])), labels.index(r["behaviour"]), float(r["value"])
        ax.text(x, y, "-" if np.isnan(value) else f"{value:+.2f}", ha="center", va="center", fontsize=7, color="white" if abs(value) > 0.6 * extent else "black", fontweight="bold" if r["sure"] else "normal")
    ax.set_xticks(range(len(labels)), [label.replace("/", "\n") for label in labels], fontsize=7)
    ax.set_yticks(range(len(places)), [f"{reward}{', no clip' if clip == 'no clip' else ''} ({base})" for base, reward, clip in places], fontsize=7)
    ax.set(title="What moved: RL minus base, a trace")
    ax.figure.colorbar(image, ax=ax, label="occurrences a trace")
    return None


# --- one_shot ----------------------------------------------------------------------------------------------------------


def _one_shot(result: Result) -> Numbers:
    return {"gains": one_shot.drawn(result), "shares": _rows(result, "share_of_run", "organism", "n_training"), "means": _rows(result, "share", "n_training", seed=ALL), "most": result.config["most"]}


def _draw_one_shot(result: Result, numbers: Numbers) -> "Drawing":
    figure, (left, right) = canvas(10.0, 4.6, (1.1, 1))
    one_shot.plot(result, left)
    left.set(title="Gain")
    rows = [{**r, "label": f"{r['organism']}, seed {r['seed']}", "colour": ARMS["control"]} for r in numbers["shares"]]
    rows += [{**r, "label": f"mean of {r['n_training']:g}", "colour": ARMS["rl"]} for r in numbers["means"]]
    dots(right, rows)
    for x in (0, numbers["most"], 1):
        right.axvline(x, color="0.7", linewidth=0.8, zorder=0)
    right.set(xlabel="share of the full set's gain", title="Share, by the problem chosen")
    return figure


# --- formats -----------------------------------------------------------------------------------------------------------


def _formats(result: Result) -> Numbers:
    return {"formats": result.details["formats"], "runs": result.details["runs"], "passes": [{"organism": r["organism"], **{k: r[k] for k in KEEP}} for r in rows_of(result, "passes_at") if r["seed"] != ALL]}


def _draw_formats(result: Result, numbers: Numbers) -> "Drawing":
    runs, names = numbers["runs"], numbers["formats"]
    figure, (left, right) = canvas(11.0, 1.8 + 0.24 * max(10, len(runs)), (1, 1.1))
    formats.plot(result, left)
    left.set(title="Formats in use")
    _steps(left)
    passes = {(p["organism"], p["seed"]): p["value"] for p in numbers["passes"]}
    for y, r in enumerate(runs):
        for shares, height, shift, alpha in ((r["prior"], 0.22, -0.26, 0.55), (r["last"], 0.42, 0.1, 1.0)):
            start = 0.0
            for i, name in enumerate(names):
                right.barh(y + shift, shares[name], height, left=start, color=OTHERS[i % len(OTHERS)], alpha=alpha)
                start += shares[name]
        step = passes[r["organism"], r["seed"]]
        right.text(1.02, y, f"step {step:g}" if np.isfinite(step) else "never", va="center", fontsize=7)
    right.set_yticks(range(len(runs)), [f"{r['organism']}, seed {r['seed']}" for r in runs], fontsize=7)
    right.set(xlabel="share of the traces", xlim=(0, 1.18), ylim=(len(runs) - 0.5, -0.6), title=f"Corpus (thin), end of RL (thick), step of {result.config['passes']:.0%}")
    right.set_xticks([0, 0.5, 1])
    for i, name in enumerate(names):
        right.barh([-5], [0], color=OTHERS[i % len(OTHERS)], label=name)
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower right", ncols=len(names))
    return figure


# --- boundary ----------------------------------------------------------------------------------------------------------


def _boundary(result: Result) -> Numbers:
    kind, places = result.details["kind"], {"first": 1, "last": result.details["curves"][0]["k"][-1]}
    columns = {name: _rows(result, "rl_minus_base", "organism", kind=kind, k=k) for name, k in places.items()}
    columns |= {name: _rows(result, name, "organism", seed=ALL) for name in ("effective_paths_change", "right_paths_change", "entropy_change")}
    columns["last"] += [{**r, "organism": f"{r['organism']} minus {r['against']}"} for r in _rows(result, "remedy_at", "organism", "against", kind=kind)]  # RL minus RL
    return {
        "max_k": places["last"], "curves": boundary.drawn(result), "columns": columns,
        "unread": [row for quantity in boundary.UNREAD for row in _rows(result, quantity, "quantity", "organism", "arm", seed=ALL)],
    }  # fmt: skip


def _draw_boundary(result: Result, numbers: Numbers) -> "Drawing":
    columns, titles = numbers["columns"], {"first": "pass@1", "last": f"pass@{numbers['max_k']}", "effective_paths_change": "effective paths", "right_paths_change": "right paths", "entropy_change": "entropy"}
    names = list(dict.fromkeys(r["organism"] for r in columns["last"]))
    figure, (left, *forest, unread) = canvas(19.0, 2.0 + 0.24 * max(10, len(names)), (1.9, 1.1, 1.1, 1, 1, 1, 0.9))
    boundary.plot(result, left)
    left.set(title="pass@k (solid: RL, dashed: base)")
    for ax, (name, rows) in zip(forest, columns.items(), strict=True):
        whole = {r["organism"]: r for r in rows if r["seed"] == ALL}
        for y, organism in enumerate(names):
            for r in (r for r in rows if r["organism"] == organism and np.isfinite(r["value"])):
                colour, one = ARMS["rl"] if name == "last" and whole[organism]["hi"] < 0 else "black", r["seed"] != ALL
                ax.plot([r["value"]], [y + 0.22 * one], "o", color=colour, markersize=3 if one else 5, alpha=0.6 if one else 1)
                if not one and np.isfinite(r["lo"]):
                    ax.plot([r["lo"], r["hi"]], [y, y], color=colour)
        _zero(ax)
        if name in ("first", "last"):
            ax.set_xlim(-1.05, 1.05)
        ax.set(title=titles[name], xlabel="RL minus base, nats a token" if name == "entropy_change" else "RL minus base, a problem" if "paths" in name else "RL minus base")
        ax.set_yticks(range(len(names)), names if ax is forest[0] else [""] * len(names), fontsize=7)
        ax.set_ylim(len(names) - 0.4, -0.5)
    for i, arm in enumerate(("base", "rl")):
        shares = {organism: [r for r in numbers["unread"] if (r["organism"], r["arm"]) == (organism, arm)] for organism in names}
        for y, organism in enumerate(names):
            for r in shares[organism]:
                unread.plot([r["value"]], [y + 0.25 * i], "o" if r["quantity"] == "unparsed" else "x", color=ARMS[arm], markersize=4)
        unread.plot([], [], "o", color=ARMS[arm], markersize=4, label=f"{NAMES.get(arm, arm)}, unparsed")
    unread.plot([], [], "x", color="0.4", markersize=4, label="cut")
    unread.set_yticks(range(len(names)), [""] * len(names))
    unread.set(xlabel="share of the samples", title="Not read", ylim=(len(names) - 0.4, -0.5), xlim=(-0.05, 1.05))
    figure.legend(*unread.get_legend_handles_labels(), loc="outside lower right", ncols=3)
    return figure


# --- difficulty --------------------------------------------------------------------------------------------------------


def _difficulty(result: Result) -> Numbers:
    told = Counter(r["organism"] for r in rows_of(result, "projection_change", seed=ALL) if r["lo"] > 0 or r["hi"] < 0)
    projected = dict.fromkeys(r["organism"] for r in rows_of(result, "projection_change"))
    shown = max(projected, key=lambda name: told[name], default="")  # of whom most can be said
    return {
        "bins": result.details["bins"], "effects": [{k: r[k] for k in ("organism", "bin", *KEEP)} for r in difficulty.drawn(result)], "trainings": result.details["trainings"], "over_hard": result.config["over_hard"],
        "lone": _rows(result, "lone_valid", "organism", "stage", "step", seed=ALL), "shown": shown, "projections": _rows(result, "projection_change", "label", "bin", organism=shown, seed=ALL) if shown else [],
    }  # fmt: skip


def _named_apart(ax: "Axes", points: list[Numbers]) -> None:
    """The organism beside each point, moved down where another's name stands, with a line to its point."""
    low, high = ax.get_ylim()
    gap, place = 0.055 * (high - low), np.inf
    for point in sorted(points, key=lambda point: -float(point["value"])):
        place = min(place - gap, point["value"])
        ax.annotate(point["organism"], (point["rate"], point["value"]), (0.3, place), textcoords=("axes fraction", "data"), fontsize=7, va="center", bbox={"facecolor": "white", "edgecolor": "none", "pad": 1}, arrowprops={"arrowstyle": "-", "color": "0.6", "linewidth": 0.6})


def _draw_difficulty(result: Result, numbers: Numbers) -> "Drawing":
    figure, (effect, trained, lone, heat) = canvas(17.0, 4.6, (1.2, 1, 0.9, 1))
    difficulty.plot(result, effect)
    effect.set(title="Effect by difficulty of the problem", ylim=(-1.05, 1.05))
    for t in numbers["trainings"]:
        hard = t["rate"] < numbers["over_hard"]
        trained.plot([t["rate"]], [t["value"]], "o", color=ARMS["rl"] if hard else ARMS["base"], markersize=6)
        trained.plot([t["rate"]] * 2, [t["lo"], t["hi"]], color=ARMS["rl"] if hard else ARMS["base"], linewidth=1)
        for rate, gain in t["seeds"].values():
            trained.plot([rate], [gain], ".", color="0.5", markersize=3)
    _named_apart(trained, [t for t in numbers["trainings"] if t["rate"] < numbers["over_hard"] and t["able"]])
    trained.axvline(numbers["over_hard"], color="0.7", linestyle=":", linewidth=0.8)
    _zero(trained, vertical=False)
    trained.set(xlabel="base's pass rate on the training problems", ylabel="gain on the judged problems", title="Training on harder problems")
    order = list(dict.fromkeys(r["organism"] for r in numbers["effects"]))
    for name in order:
        part = [r for r in numbers["lone"] if r["organism"] == name]
        colour, shift = OTHERS[order.index(name) % len(OTHERS)], 0.8 * order.index(name)
        for r in (r for r in part if np.isfinite(r["lo"])):
            lone.plot([r["step"] + shift] * 2, [r["lo"], r["hi"]], color=colour, linewidth=0.8, alpha=0.6)
        if part:
            lone.plot([r["step"] + shift for r in part], np.array([r["value"] for r in part], float), "o", color=colour, markersize=4, label=name)
    lone.axhline(0.5, color="0.7", linestyle=":", linewidth=0.8)
    lone.set(ylabel="share with a valid trace", ylim=(-0.03, 1.03), title="Lone successes of a group")
    _steps(lone)
    _draw_projections(heat, numbers)
    handles = {name: effect.plot([], [], "o", color=OTHERS[i % len(OTHERS)])[0] for i, name in enumerate(order)}
    if (legend := effect.get_legend()) is not None:
        legend.remove()
    figure.legend(list(handles.values()), list(handles), loc="outside lower left", ncols=len(handles))
    return figure


def _draw_projections(ax: "Axes", numbers: Numbers) -> None:
    """End minus base by vector and bin, of one organism; grey where the interval includes 0, or is of one seed alone."""
    if not numbers["projections"]:
        return say(ax, "no kept weights were projected on a vector that two halves of the problems agree on")
    labels, bins = sorted({r["label"] for r in numbers["projections"]}), numbers["bins"]
    grid, sure = np.full((len(labels), len(bins)), np.nan), np.zeros((len(labels), len(bins)), bool)
    for r in numbers["projections"]:
        place = labels.index(r["label"]), bins.index(r["bin"])
        grid[place], sure[place] = r["value"], bool(r["lo"] > 0 or r["hi"] < 0) and not str(r["reason"]).startswith("one seed")
    extent = float(np.nanmax(np.abs(grid[sure]), initial=0.1))
    image = ax.imshow(np.where(sure, grid, np.nan), cmap="PuOr", vmin=-extent, vmax=extent, aspect="auto")
    for (y, x), value in np.ndenumerate(grid):
        dark = sure[y, x] and abs(value) > 0.6 * extent
        ax.text(x, y, "-" if np.isnan(value) else f"{value:.2f}", ha="center", va="center", fontsize=7, color="white" if dark else "black" if sure[y, x] else "0.6")
    ax.set_xticks(range(len(bins)), bins, fontsize=7)
    ax.set_yticks(range(len(labels)), labels)
    ax.set(title=f"Projection, end minus base: {numbers['shown']}", xlabel="base's pass rate")
    if sure.any():
        ax.figure.colorbar(image, ax=ax, label="scales of the vector (grey: interval with 0, or one seed)")
    return None


# --- curriculum --------------------------------------------------------------------------------------------------------


def _curriculum(result: Result) -> Numbers:
    points = [{k: r[k] for k in ("quantity", "order", *KEEP)} for r in curriculum.drawn(result)]
    return {"points": points, "gains": _rows(result, "sequence_gain", "order", "kind"), "orders": _rows(result, "order_effect", "order", "against", "kind")}


def _draw_curriculum(result: Result, numbers: Numbers) -> "Drawing":
    figure, (left, right) = canvas(11.0, 4.8, (1.2, 1))
    curriculum.plot(result, left)
    left.set(title="After each order of stages")
    colours = {kind: OTHERS[2 * i] for i, kind in enumerate(dict.fromkeys(r["kind"] for r in numbers["gains"]))}
    rows = [{**r, "label": f"{r['order'].replace('>', 'then')}\nover the better part", "of": (r["order"], r["kind"]), "colour": colours[r["kind"]]} for r in numbers["gains"]]
    rows += [{**r, "label": f"{r['order'].replace('>', 'then')}\nminus the reverse", "of": (r["order"], r["kind"], ""), "colour": colours[r["kind"]]} for r in numbers["orders"]]
    for kind, colour in colours.items():
        right.plot([], [], "o", color=colour, label=f"by {kind}")
    right.legend()
    _seeded(right, rows)
    _zero(right)
    right.set(xlabel="difference in pass@1", title="What a sequence adds")
    return figure


ZOO_FIGURES: dict[str, Figure] = {
    "spurious": _made("spurious", _spurious, _draw_spurious,
        "Gain in accuracy by reward and base; how often the behaviour occurs in the rollouts of each RL step (mean over seeds, with clip from the lowest to the highest); and how each format (share of the traces) and strategy (occurrences a trace) "
        "moved on the judged problems (right; bold: the interval is without 0)."),
    "one_shot": _made("one_shot", _one_shot, _draw_one_shot,
        "Gain by number of different training problems (left), and each run's share of the gain of the full set (right; lines at 0, at what counts as most, and at 1)."),
    "formats": _made("formats", _formats, _draw_formats,
        "Effective number exp(H) of trace formats over RL steps (left); shares of the formats in the corpus and at the end of RL, and the step at which one first passes (right). Every line and bar is one run."),
    "boundary": _made("boundary", _boundary, _draw_boundary,
        "pass@k before and after RL of those that collapse or stand beside a remedy (left); RL minus base of pass@1, of pass@k at the largest k (vermilion: below 0) and of the breadth of samples, an organism a row, small dots the seeds; and "
        "samples that the checker could not read, or that the length limit cut: none is left out (right). What imitates a teacher from one's base stands among the rows, too."),
    "difficulty": _made("difficulty", _difficulty, _draw_difficulty,
        "Effect of RL by the base's pass rate (bins from one half of its samples, effect from the other); gain by the base's pass rate on the training problems, over-hard ones in vermilion; "
        "share of lone successes whose trace is valid (Wilson within a seed; dotted: one half, colours as on the left); and how activations at choices move along the base's strategy vectors, on the base's own traces, where two halves of the problems agree "
        "on the vector."),
    "curriculum": _made("curriculum", _curriculum, _draw_curriculum,
        "pass@1, pass@k and coverage after each order of stages (left); pass@1 of a sequence minus the better of its parts alone, and minus the reverse order (right), by the answer and by answer and trace."),
}  # fmt: skip
"""Name -> figure."""
