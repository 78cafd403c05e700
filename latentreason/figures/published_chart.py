"""The figure of the study `published`: the audited table, row by row."""

from typing import TYPE_CHECKING, Any

from latentreason.figures.figure import Figure, Results
from latentreason.figures.style import canvas
from latentreason.studies import published

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing


def _numbers(results: Results) -> dict[str, Any]:
    return {"groups": published.drawn(results["published"]), "headline": published.HEADLINE}


def _draw(results: Results, numbers: dict[str, Any]) -> "Drawing":
    figure, (ax,) = canvas(8.0, 7.4)
    published.plot(results["published"], ax)
    return figure


def _caption(results: Results) -> str:
    result = results["published"]
    shares = result.table[result.table["quantity"] == "gap_recovered"]
    sizes = ", ".join(f"{n} ({dataset})" for dataset, n in shares.groupby("dataset", sort=False)["n"].max().items())
    known = shares[shares["value"].notna()]["method"]
    return (
        "The published table of Venhoff et al. (arXiv 2510.07364) by how the thinking model was trained: the signed share of the gap that the "
        f"hybrid recovers, and the mean of a kind (wide bars); rings: as reported, negative values as 0. The headline {published.HEADLINE} is the "
        "abstract's maximum, from an earlier version of the method. Arms are drawn independently, which is conservative where they succeed on "
        f"the same problems; the means draw their rows independently, and the result has their widest intervals too. n = {sizes} problems; interval: {known.iloc[0] if len(known) else 'none, undefined'}."
    )


PUBLISHED = Figure(("published",), _numbers, _draw, _caption)
