"""The figure of the study `taxonomy`: agreement of categories found without labels with the strategies, by layer."""

from typing import TYPE_CHECKING, Any

from latentreason.figures.figure import Figure, Results
from latentreason.figures.style import canvas, say
from latentreason.studies import taxonomy
from latentreason.studies.palette import NAMES

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

WHAT = {"tags": "all tags", "steps": "kinds of step"}


def _panels(results: Results) -> dict[str, Any]:
    table = results["taxonomy"].table
    there = [(arm, target) for target in WHAT for arm in ("base", "rl") if ((table["arm"] == arm) & (table["target"] == target)).any()]
    return {"panels": [{"arm": arm, "target": target, **taxonomy.drawn(results["taxonomy"], arm, target)} for arm, target in there]}


def _draw(results: Results, numbers: dict[str, Any]) -> "Drawing":
    panels, asked = numbers["panels"], results["taxonomy"].details["n_asked"]
    figure, axes = canvas(3.4 * max(2, len(panels)) + 0.6, 4.6, (1,) * max(2, len(panels)))
    for ax, panel in zip(axes, panels, strict=False):
        arm, target = panel["arm"], panel["target"]
        taxonomy.plot(results["taxonomy"], ax, arm=arm, target=target)
        ax.set(title=f"{NAMES.get(arm, arm)}: {WHAT[target]} ({asked.get(f'{arm}, {target}', 0)})", ylabel="adjusted mutual information" if ax is axes[0] else "")
    for ax in axes[len(panels) :]:
        say(ax, "no kinds of step without a grammar")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _caption(results: Results) -> str:
    result = results["taxonomy"]
    own = result.table[(result.table["quantity"] == "ami") & (result.table["kind"] == "model") & result.table["value"].notna()]
    told = f"n = {int(own['n'].max())} held-out problems; {own['method'].iloc[0]}." if len(own) else "Nothing could be measured."
    return (
        "Categories of mean span activations, found without labels, against the strategies: adjusted mutual information on held-out problems, 1 the same partition, 0 chance; with as many categories as "
        "there are strategies (in brackets; those below 0.5% of the spans are not counted). Grey: controls by the same methods, of each the best. The words are those of the span, so its opening token is among them. "
        f"Thin line: the aim of {taxonomy.AIM:g}. {told}"
    )


TAXONOMY = Figure(("taxonomy",), _panels, _draw, _caption)
