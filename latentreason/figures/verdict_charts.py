"""The figures of the studies `verdict` and `calibration`: shares and arms of one pair; the confusion matrix and the parts of every organism."""

from typing import TYPE_CHECKING, Any

from latentreason.figures.figure import Figure, Results, caption_end, entry
from latentreason.figures.style import canvas, dots, floats, say
from latentreason.studies import calibration, verdict
from latentreason.studies.palette import ARMS, CAUSES
from latentreason.studies.result import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing


def _verdict(results: Results) -> dict[str, Any]:
    result = results["verdict"]
    return {"verdict": result.details["verdict"], "shares": verdict.drawn(result), "arms": verdict.accuracies(result)}


def _draw_verdict(results: Results, numbers: dict[str, Any]) -> "Drawing":
    figure, (left, right) = canvas(10.0, 3.9, (1, 1))
    verdict.plot(results["verdict"], left)
    dots(right, [{**row, "colour": ARMS.get(row["arm"], ARMS["hybrid"])} for row in numbers["arms"]])
    right.set(xlabel="accuracy (flexible grade, unless it says strict)", title="The arms", xlim=(-0.02, 1.02))
    return figure


def _calibration(results: Results) -> dict[str, Any]:
    result = results["calibration"]
    accuracy = [entry(result.estimate("accuracy", seeds=which), seeds=which) for which in ("held out", "set on")]
    return {"accuracy": accuracy, "held_out": calibration.confusion(result, held_out=True), "set_on": calibration.confusion(result, held_out=False)}


def _draw_calibration(results: Results, numbers: dict[str, Any]) -> "Drawing":
    sizes = [max(3, len(numbers[key]["verdicts"])) for key in ("held_out", "set_on")]
    tall = max(2, *(len(numbers[key]["truths"]) for key in ("held_out", "set_on")))
    figure, axes = canvas(3.4 + 0.62 * sum(sizes), 1.9 + 0.5 * tall, sizes)
    for ax, key, title in zip(axes, ("held_out", "set_on"), ("Held-out seeds", "Seed that set the thresholds"), strict=True):
        calibration.matrix(ax, numbers[key], title)
    return figure


def _organisms(results: Results) -> dict[str, Any]:
    return {"organisms": calibration.drawn(results["calibration"])}


def _draw_organisms(results: Results, numbers: dict[str, Any]) -> "Drawing":
    rows = numbers["organisms"]
    figure, (ax,) = canvas(9.2, 1.5 + 0.27 * max(4, len(rows)))
    if not rows:
        say(ax, "no organism has been judged")
        return figure
    for i, row in enumerate(rows):
        _stacked(ax, i, row["parts"])
        value, lo, hi = floats([row["gain"][key] for key in ("value", "lo", "hi")])
        ax.plot([lo, hi], [i, i], color="black", linewidth=1)
        ax.plot([value], [i], "D", color="white", markeredgecolor="black", markersize=4, zorder=4)
        mark, colour = ("", "0.3") if not row["truth"] else ("\N{CHECK MARK} ", ARMS["hybrid"]) if row["right"] else ("\N{BALLOT X} ", ARMS["rl"])
        ax.text(1.01, i, f"{mark}{row['verdict']}", transform=ax.get_yaxis_transform(), va="center", fontsize=7, color=colour)
    for cause, colour in CAUSES.items():
        ax.plot([], [], "s", color=colour, markeredgecolor="0.3", markeredgewidth=0.4, markersize=8, label=cause)
    ax.plot([], [], "D", color="white", markeredgecolor="black", markersize=4, label="gain")
    ax.axvline(0, color="0.3", linewidth=0.8)
    ax.set_yticks(range(len(rows)), [f"{row['organism']}, seed {row['seed']}" + (f" ({row['truth']})" if row["truth"] else " (not known)") for row in rows], fontsize=7)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set(xlabel="points of accuracy")
    ax.set_title("verdict", loc="right", fontsize=8)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=6)
    return figure


def _stacked(ax: "Axes", y: float, parts: dict[str, Any]) -> None:
    """Positive parts to the right of 0 and negative ones to the left, each side stacked: their difference is the gain."""
    ends = {True: 0.0, False: 0.0}
    for cause, colour in CAUSES.items():
        value = float(floats([parts[cause]])[0])
        if value == value:
            side = value >= 0
            ax.barh(y, value, left=ends[side], color=colour, height=0.62, edgecolor="0.3", linewidth=0.4)
            ends[side] += value


def _sizes(result: Result) -> str:
    judged = [s for s in result.details["verdicts"] if "n_problems" in s]
    return f"n = {judged[0]['n_problems']} problems x {judged[0]['n_samples']} samples an arm" if judged else "nothing judged"


VERDICT = Figure(
    ("verdict",), _verdict, _draw_verdict,
    lambda results: (
        "Why the RL model is better: signed shares of its gain (left; they sum to 1) and the accuracies that they are made of (right). Memorisation is gain on seen "
        "minus clean problems, format strict minus flexible gain, the rest Shapley values of the eight arms. "
        f"{results['verdict'].said} {caption_end(results['verdict'], 'gain')}"
    ),
)  # fmt: skip
CALIBRATION = Figure(
    ("calibration",), _calibration, _draw_calibration,
    lambda results: (
        "Verdicts (columns) on organisms whose truth (rows) is known by construction, counts: on seeds that had no part in the thresholds (left), and on the seed that "
        f"set them (right). Accuracy {results['calibration'].estimate('accuracy', seeds='held out')} and {results['calibration'].estimate('accuracy', seeds='set on')}, "
        f"with Wilson's interval over organisms and seeds.{' ' * bool(said := results['calibration'].details.get('false_alarms', ''))}{said}"
    ),
)  # fmt: skip
VERDICTS = Figure(
    ("calibration",), _organisms, _draw_organisms,
    lambda results: (
        "Signed parts of the gain of every organism and seed that was judged, in points of accuracy: those to the right of 0 minus those to the left are the gain (diamond, "
        "95% bootstrap interval over problems). In brackets the truth; right the verdict. Parts are given, and shares are not, where the gain is undefined. "
        f"{_sizes(results['calibration'])}."
    ),
)  # fmt: skip
