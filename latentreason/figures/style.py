"""How every figure looks, and how it reaches the disk: one look, a few drawing primitives, and files that are equal byte for byte.

It knows nothing of studies: a primitive draws plain numbers, those that stand in the figure's JSON.
"""

import io
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOOK = {
    "axes.spines.right": False, "axes.spines.top": False, "axes.titlesize": 10, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.labelsize": 9, "xtick.labelsize": 8, "ytick.labelsize": 8, "legend.fontsize": 8, "legend.frameon": False, "font.size": 9,
    "font.family": ["DejaVu Sans"], "lines.linewidth": 1.6,
    "figure.constrained_layout.w_pad": 0.07, "figure.constrained_layout.h_pad": 0.07, "pdf.fonttype": 42, "savefig.facecolor": "white",
}  # fmt: skip
DPI = 150


def look() -> AbstractContextManager[None]:
    """Matplotlib's defaults and ours, whatever the user's matplotlibrc says; the user's settings come back at the end."""
    import matplotlib.style

    return matplotlib.style.context(["default", LOOK])


def canvas(width: float, height: float, widths: Sequence[float] = (1,)) -> "tuple[Figure, list[Axes]]":
    """A figure (size in inches) with one row of axes, of these relative widths. Not known to pyplot, so never left open."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, len(widths), width_ratios=list(widths), squeeze=False)
    return figure, list(axes[0])


def floats(values: Sequence[Any]) -> Float[np.ndarray, "..."]:
    """Numbers as they come back from JSON: null is NaN, "Infinity" is infinite."""
    return np.array(values, dtype=float)


def dots(ax: "Axes", rows: Sequence[Mapping[str, Any]], *, fmt: str = "o", shift: float = 0.0, label: str = "") -> None:
    """A dot and its interval a row, the first row on top; `colour` in a row. What is undefined says so, an infinite bound is an arrow.

    Args:
        ax: where; its y ticks become the rows' `label` (of the call without a shift).
        rows: numbers as of `entry`, with `label` and `colour`.
        fmt: marker; "o" is filled, "o-open" is not.
        shift: downwards, in rows, to set a second series beside the first.
        label: of the series, for a legend.
    """
    marker, _, opened = fmt.partition("-")
    for i, row in enumerate(rows):
        value, lo, hi = floats([row["value"], row["lo"], row["hi"]])
        y, colour = i + shift, row["colour"]
        if np.isnan(value):
            reason = f"undefined: {row.get('reason', '')}"
            ax.text(0.02, y, reason, transform=ax.get_yaxis_transform(), va="center", fontsize=7, color="0.4")
            continue
        face = "white" if opened else colour
        ax.plot([value], [y], marker, color=colour, markerfacecolor=face, markersize=6, zorder=3)
        ends = [bound if np.isfinite(bound) else value for bound in (lo, hi)]
        ax.plot(ends, [y, y], "-", color=colour, linewidth=1.6)
        for bound, arrow in ((lo, "<"), (hi, ">")):
            if np.isinf(bound):
                ax.plot([value], [y], arrow, color=colour, markersize=9, fillstyle="none")
    if label and rows:
        first = rows[0]["colour"]
        ax.plot([], [], marker, color=first, markerfacecolor="white" if opened else first, markersize=6, label=label)
    if not shift:
        ax.set_yticks(range(len(rows)), [row["label"] for row in rows])
        ax.set_ylim(len(rows) - 0.4, -0.5)


def say(ax: "Axes", text: str) -> None:
    """Words in place of a chart that has no numbers."""
    ax.set_axis_off()
    ax.text(0.5, 0.5, text, ha="center", va="center", wrap=True, transform=ax.transAxes)


def rendered(figure: "Figure", kind: str) -> bytes:
    """The figure as "png" or "pdf", the same bytes each time: no date, no version of matplotlib."""
    absent: dict[str, Any] = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Creator": None, "Producer": None}}[kind]
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=DPI, metadata=absent)
    return buffer.getvalue()
