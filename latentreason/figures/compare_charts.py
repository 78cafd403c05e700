"""The figures of the studies `routing` and `rivals`: one row a router, one row a rival."""

from itertools import cycle
from typing import TYPE_CHECKING, Any

from latentreason.figures.figure import Figure, Results, caption_end, entry, estimate
from latentreason.figures.style import canvas, dots
from latentreason.studies import rivals, routing
from latentreason.studies.palette import ARMS
from latentreason.studies.result import Result, sampled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

SOURCES = dict(zip(routing.SOURCES, (ARMS["base"], ARMS["hybrid"], ARMS["rl"]), strict=True)) | {"task vocabulary": ARMS["control"]}


def _routing(results: Results) -> dict[str, Any]:
    result = results["routing"]
    lost = result.table[result.table["quantity"] == "lost"]
    exchanged = [
        entry(estimate(result, "lost", arm=row["arm"]), label=f"{row['budget']:.2f} D" + (", random disagreements" if row["control"] else ""), control=row["control"])
        for row in lost.to_dict("records")
    ]
    return {"routers": routing.drawn(result), "exchanged": exchanged}


def _draw_routing(results: Results, numbers: dict[str, Any]) -> "Drawing":
    rows, lost = numbers["routers"], numbers["exchanged"]
    curves = [row for row in rows if "calibration_curve" in row]
    figure, (left, middle, right, last) = canvas(15.0, 1.4 + 0.36 * max(6, len(rows)), (1, 1, 0.7, 0.8))
    notes = [next((f", {name} {row[key]:.2f}" for key, name in (("auroc", "AUROC"), ("r2", "R\N{SUPERSCRIPT TWO}")) if key in row), "") for row in rows]
    notes = [note + (f" ({row['baseline']} {row['baseline_auroc']:.2f})" if "baseline" in row else "") for note, row in zip(notes, rows, strict=True)]
    for ax, key in ((left, "area"), (middle, "difference")):
        dots(ax, [{**row[key], "label": row["router"] + note, "colour": SOURCES.get(row["timing_source"], ARMS["control"])} for row, note in zip(rows, notes, strict=True)])
    left.set(xlabel="area under recovery, 0 to D", title="Area")
    middle.axvline(0, color="0.7", linewidth=0.8, zorder=0)
    middle.set(xlabel="area minus that of matched disagreements", title="Paired difference", yticks=[])
    dots(right, [{**row, "colour": ARMS["control" if row["control"] else "rl"]} for row in lost])
    right.set(xlabel="share of the gain lost", title="Roles exchanged", xlim=(min(0, right.get_xlim()[0]), None))
    for row, look in zip(curves, cycle(("o-", "s--", "^:", "D-.")), strict=False):  # two probes of one source have one colour
        predicted, seen, _ = zip(*row["calibration_curve"], strict=True)
        last.plot(predicted, seen, look, markersize=4, color=SOURCES.get(row["timing_source"], ARMS["control"]), label=row["router"])
    last.plot([0, 1], [0, 1], color="0.7", linewidth=0.8, zorder=0)
    last.set(xlabel="what the probe predicts", ylabel="what is so, on problems held out", title="Calibration of the probes")
    if curves:
        last.set(ylim=(-0.05, 1.35), yticks=[0, 0.2, 0.4, 0.6, 0.8, 1])  # room for the legend above the curves
        last.legend(loc="upper left", fontsize=8)
    for source, colour in SOURCES.items():
        left.plot([], [], "o", color=colour, markersize=6, label=source)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _rivals(result: Result) -> dict[str, Any]:
    columns = ("arm", "uses", "passes", "setting", "layer", "rl_logits", "timing_source", "content_source")
    rows = [entry(estimate(result, "recovery", arm=r["arm"]), **{k: r[k] for k in columns if k in r}) for r in rivals.drawn(result)]
    return {"rivals": rows, "ends": [entry(estimate(result, "accuracy", arm=arm), arm=arm) for arm in ("base", "rl")], "layers": _by_layer(result, {row["arm"]: row.get("layer", "") for row in rows})}


def _by_layer(result: Result, arms: dict[str, str]) -> list[dict[str, Any]]:
    """What each layer gave off the test problems, and which was taken (that of its arm, in `arms`): the best accuracy on calibration problems over strengths, or the held-out loss of trained vectors (nats)."""
    found = []
    for fit in [fit for fit in result.details.get("fits", []) if fit["chosen"]]:
        found.append({"row": fit["kind"], "layer": int(fit["layer"]), "value": fit["select"], "taken": fit["select"] == min(f["select"] for f in result.details["fits"] if f["chosen"] and f["kind"] == fit["kind"])})
    for arm in arms if not found else ():
        tried = [each for each in result.details["tried"].get(arm, []) if "layer" in each]
        for layer in dict.fromkeys(each["layer"] for each in tried):
            value = max(each["accuracy"] for each in tried if each["layer"] == layer)
            found.append({"row": arm, "layer": layer, "value": value, "taken": str(layer) == arms[arm]})
    return found


def _draw_rivals(numbers: dict[str, Any]) -> "Drawing":
    rows, layers = numbers["rivals"], numbers["layers"]
    figure, axes = canvas(13.0 if layers else 9.0, 1.2 + 0.55 * max(3, len(rows)), (1.5, 1) if layers else (1,))
    ax = axes[0]
    dots(ax, [{**row, "label": rivals.label(row), "colour": rivals.COLOURS[rivals.knows(row)]} for row in rows])
    for x in (0, 1):
        ax.axvline(x, color="0.7", linewidth=0.8, zorder=0)
    ax.set(xlabel="share of the RL gain recovered")
    if layers:
        _draw_layers(axes[1], layers, [row["arm"] for row in rows])
    return figure


def _draw_layers(ax: "Axes", cells: list[dict[str, Any]], arms: list[str]) -> None:
    """One cell a row and layer, bold where that layer was taken; rows stand beside those of the arms where they are arms."""
    beside = {cell["row"] for cell in cells} <= set(arms)
    names = arms if beside else list(dict.fromkeys(cell["row"] for cell in cells))
    layers = sorted({cell["layer"] for cell in cells})
    values = [cell["value"] for cell in cells]
    low, high = min(values), max(values)
    for cell in cells:
        shade = 0.55 * (cell["value"] - low) / (high - low) if high > low else 0.0
        at = layers.index(cell["layer"]), names.index(cell["row"])
        ax.fill_between([at[0] - 0.5, at[0] + 0.5], at[1] - 0.5, at[1] + 0.5, color=ARMS["hybrid"], alpha=shade, linewidth=0)
        ax.text(*at, f"{cell['value']:.3f}", ha="center", va="center", fontsize=8, fontweight="bold" if cell["taken"] else "normal")
    ax.set_xticks(range(len(layers)), [str(layer) for layer in layers])
    ax.set_yticks([] if beside else range(len(names)), [] if beside else names)
    ax.set(xlabel="block", ylim=(len(names) - 0.4, -0.5), xlim=(-0.5, len(layers) - 0.5))
    ax.set_title("Best accuracy on\ncalibration problems" if beside else "Held-out loss, nats", fontsize=9)


ROUTING = Figure(
    ("routing",), _routing, _draw_routing,
    lambda results: (
        f"Every router at {sampled(results['routing'])}: area under its recovery curve (left) and its paired difference to matched disagreements (middle), by what the "
        "router knows: the base model alone (also in training), RL labels in training, or the RL model live. Beside a learned router: AUROC "
        "of its readout (of a swap's value: that it is above 0) on problems held out (in brackets the best of its baselines). Then: the RL model decodes and base tokens are put in where the two differ most; share of the "
        "gain that is lost, by changed tokens over D, beside as many at random disagreements. Right: what probes predict (a probability, or the value of a swap) against what is so, on problems held out. "
        f"{caption_end(results['routing'], 'area')}"
    ),
)  # fmt: skip
def one_row_an_arm(source: str, seen: str) -> Figure:
    """Recovery of each arm of a result of the study `rivals`, one row an arm; `seen` is what the caption says of it, with TEMPERATURE for that of its sampled arms."""
    return Figure(
        (source,), lambda results: _rivals(results[source]), lambda _, numbers: _draw_rivals(numbers),
        lambda results: f"{seen.replace('TEMPERATURE', sampled(results[source]))} Lines: base and RL. {caption_end(results[source], 'recovery')}",
    )  # fmt: skip


STEERING = one_row_an_arm("steering", (
    "Vectors in place of tokens at TEMPERATURE: share of the gain that is recovered when a vector is added at routed tokens, by where the timing (js: "
    "both models; entropy: base alone), the category and the vectors come from; beside random vectors of the same norms, random categories "
    "and the RL model's token at the same places (swap). Layer and strength of each arm did best on calibration problems; right: the best accuracy there at each block, over strengths (bold: taken; "
    "the last block, where it is tried, is never chosen)."
))  # fmt: skip
TRAINED = one_row_an_arm("trained", (
    "Vectors trained on the RL model's tokens at TEMPERATURE, and the reference's two algorithms (venhoff_g1, venhoff_g3) with the controls that they were "
    "published without: share of the gain that is recovered. All of them are supervised by the RL model; layers are those of the smallest held-out loss (right, of the "
    "chosen seed), strengths did best on calibration problems."
))  # fmt: skip
TRAINED_GREEDY = one_row_an_arm("trained_greedy", (
    "The reference's two algorithms (venhoff_g1, venhoff_g3) TEMPERATURE, as they were published, with the controls that they were published without: share of the gain that is "
    "recovered. The swap is the RL model itself, by identity. Layers and strengths are those that were chosen for the sampled arms."
))  # fmt: skip
RIVALS = one_row_an_arm("rivals", (
    "Other ways to the RL gain at TEMPERATURE, each at the setting of its grid that did best on calibration problems: share of the gain recovered, "
    "what the arm uses (blue: nothing of the RL model) and how many tokens a model reads for each token that is handed in; beside them the routed hybrids."
))  # fmt: skip
ELICITATION = one_row_an_arm("elicitation", (
    "What better asking recovers of the RL gain at TEMPERATURE: the base greedily, at the temperature that did best on calibration problems, after other "
    "prompts, and by the last number in place of the sentence that the prompt asks for (flexible grade)."
))  # fmt: skip
