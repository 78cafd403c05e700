"""The figures of the studies `routing` and `rivals`: one row a router, one row a rival."""

from typing import TYPE_CHECKING, Any

from latentreason.figures.figure import Figure, Results, caption_end, entry, estimate
from latentreason.figures.style import canvas, dots
from latentreason.studies import rivals, routing
from latentreason.studies.palette import ARMS
from latentreason.studies.result import Result, sampled

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

SOURCES = dict(zip(routing.SOURCES, (ARMS["base"], ARMS["hybrid"], ARMS["rl"]), strict=True))


def _routing(results: Results) -> dict[str, Any]:
    result = results["routing"]
    lost = result.table[result.table["quantity"] == "lost"]
    exchanged = [entry(estimate(result, "lost", arm=row["arm"]), label=f"{row['budget']:.2f} D") for row in lost.to_dict("records")]
    return {"routers": routing.drawn(result), "exchanged": exchanged}


def _draw_routing(results: Results, numbers: dict[str, Any]) -> "Drawing":
    rows, lost = numbers["routers"], numbers["exchanged"]
    figure, (left, middle, right) = canvas(12.0, 1.4 + 0.36 * max(4, len(rows)), (1, 1, 0.7))
    notes = [next((f", {name} {row[key]:.2f}" for key, name in (("auroc", "AUROC"), ("r2", "R\N{SUPERSCRIPT TWO}")) if key in row), "") for row in rows]
    for ax, key in ((left, "area"), (middle, "difference")):
        dots(ax, [{**row[key], "label": row["router"] + note, "colour": SOURCES.get(row["timing_source"], ARMS["control"])} for row, note in zip(rows, notes, strict=True)])
    left.set(xlabel="area under recovery, 0 to D", title="Area")
    middle.axvline(0, color="0.7", linewidth=0.8, zorder=0)
    middle.set(xlabel="area minus that of matched disagreements", title="Paired difference", yticks=[])
    dots(right, [{**row, "colour": ARMS["rl"]} for row in lost])
    right.set(xlabel="share of the gain lost", title="Roles exchanged", xlim=(min(0, right.get_xlim()[0]), None))
    for source, colour in SOURCES.items():
        left.plot([], [], "o", color=colour, markersize=6, label=source)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _rivals(result: Result) -> dict[str, Any]:
    rows = [entry(estimate(result, "recovery", arm=r["arm"]), **{k: r[k] for k in ("arm", "uses", "passes", "setting")}) for r in rivals.drawn(result)]
    return {"rivals": rows, "ends": [entry(estimate(result, "accuracy", arm=arm), arm=arm) for arm in ("base", "rl")]}


def _draw_rivals(numbers: dict[str, Any]) -> "Drawing":
    rows = numbers["rivals"]
    figure, (ax,) = canvas(9.0, 1.2 + 0.55 * max(3, len(rows)))
    dots(ax, [{**row, "label": rivals.label(row), "colour": rivals.COLOURS[rivals.knows(row)]} for row in rows])
    for x in (0, 1):
        ax.axvline(x, color="0.7", linewidth=0.8, zorder=0)
    ax.set(xlabel="share of the RL gain recovered")
    return figure


ROUTING = Figure(
    ("routing",), _routing, _draw_routing,
    lambda results: (
        f"Every router at {sampled(results['routing'])}: area under its recovery curve (left) and its paired difference to matched disagreements (middle), by what the "
        "router knows: the base model alone (also in training), RL labels in training, or the RL model live. Beside a learned router: AUROC or "
        "R\N{SUPERSCRIPT TWO} of its readout on problems held out. Right: the RL model decodes and base tokens are put in where the two differ most; share of the "
        f"gain that is lost, by changed tokens over D. {caption_end(results['routing'], 'area')}"
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
    "and the RL model's token at the same places (swap). Layer and strength of each arm did best on calibration problems."
))  # fmt: skip
TRAINED = one_row_an_arm("trained", (
    "Vectors trained on the RL model's tokens at TEMPERATURE, and the reference's two algorithms (venhoff_g1, venhoff_g3) with the controls that they were "
    "published without: share of the gain that is recovered. All of them are supervised by the RL model; layers are those of the smallest held-out loss, "
    "strengths did best on calibration problems."
))  # fmt: skip
RIVALS = one_row_an_arm("rivals", (
    "Other ways to the RL gain at TEMPERATURE, each at the setting of its grid that did best on calibration problems: share of the gain recovered, "
    "what the arm uses (blue: nothing of the RL model) and its forward passes for each token that is handed in."
))  # fmt: skip
ELICITATION = one_row_an_arm("elicitation", (
    "What better asking recovers of the RL gain at TEMPERATURE: the base greedily, at the temperature that did best on calibration problems, after other "
    "prompts, and by the last number in place of the sentence that the prompt asks for (flexible grade)."
))  # fmt: skip
