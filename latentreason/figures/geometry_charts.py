"""The figures of the study `geometry`: vectors of base and RL model by layer, and dose and response."""

from typing import TYPE_CHECKING, Any

import numpy as np

from latentreason.figures.figure import Figure, Results
from latentreason.figures.style import canvas
from latentreason.studies import geometry

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing


def _rows(results: Results, quantities: list[str]) -> dict[str, Any]:
    """The rows of the result that are drawn, and the layer that is judged for each label."""
    result = results["geometry"]
    part = result.table[result.table["quantity"].isin(quantities)]
    columns = [c for c in ("quantity", "label", "kind", "layer", "strength", "value", "lo", "hi", "n", "reason") if c in part]
    return {"rows": part[columns].to_dict("records"), "layers": result.details["layers"]}


def _draw_vectors(results: Results, numbers: dict[str, Any]) -> "Drawing":
    labels = {row["label"] for row in numbers["rows"]}
    figure, (ax,) = canvas(max(7.0, 1.1 * len(labels)), 4.8, (1,))
    geometry.plot(results["geometry"], ax)
    return figure


def _draw_dose(results: Results, numbers: dict[str, Any]) -> "Drawing":
    import matplotlib.pyplot as plt

    labels = {row["label"] for row in numbers["rows"] if row["quantity"] == "frequency"}
    columns = max(1, len(labels))
    figure, axes = plt.subplots(len(geometry.PANELS), columns, figsize=(2.8 * columns + 1, 9), sharex=True, sharey="row", squeeze=False, layout="constrained")
    geometry.plot_dose(results["geometry"], np.asarray(axes))
    return figure


def _method(results: Results, quantity: str) -> str:
    rows = results["geometry"].table.query("quantity == @quantity and value == value")
    return f"n = {int(rows['n'].max())} problems; interval: {rows['method'].iloc[0]}." if len(rows) else "Nothing could be measured."


GEOMETRY = Figure(
    ("geometry",), lambda results: _rows(results, ["cosine_within", "reliability_within"]), _draw_vectors,
    lambda results: (
        "Cosine between the strategy vectors of base and RL model, each on its own traces, after the mean of each format and position is "
        "taken out. Grey: 95% of label shuffles; bars: reliability between halves of the problems; crosses: the untrained twin. "
        f"{_method(results, 'cosine_within')} {' '.join([results['geometry'].finding, *results['geometry'].notes[:1]])}"
    ),
)  # fmt: skip
DOSE = Figure(
    ("geometry",), lambda results: _rows(results, list(geometry.PANELS)), _draw_dose,
    lambda results: (
        "The base model steered at every position (timing source: none). One unit of strength is a vector's scale, the mean projection gap; "
        "a unit of logit bias has the same mean effect on the strategy's log-odds as a unit of the vector. The random vector has the "
        f"vector's norm. {_method(results, 'frequency')}"
    ),
)  # fmt: skip
