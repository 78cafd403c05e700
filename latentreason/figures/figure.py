"""Figure: what a figure is made of. Its instances are in `recovery_charts.py` and `passk_charts.py`, their names in `figures.py`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from latentreason.figures.style import look
from latentreason.stats import Estimate
from latentreason.studies.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

Results = Mapping[str, Result]


@dataclass(frozen=True)
class Figure:
    """How one figure is made.

    Attributes:
        inputs: names of the results that it reads, keys of `RESULTS`, `ZOO` or `AUDITS`.
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


def entry(estimate: Estimate, **labels: Any) -> dict[str, Any]:
    """An estimate as the numbers of a figure."""
    row = {**labels, "value": estimate.value, "lo": estimate.lo, "hi": estimate.hi, "n": estimate.n}
    return row if estimate.defined else {**row, "reason": estimate.reason}


def estimate(result: Result, quantity: str, **where: Any) -> Estimate:
    """`Result.estimate`, but undefined with a reason where the run did not measure it."""
    rows = result.table[result.table["quantity"] == quantity]
    if rows.empty or any(c not in rows or not (rows[c] == v).any() for c, v in where.items()):
        return Estimate(float("nan"), float("nan"), float("nan"), 0, "none", "not measured in this run")
    return result.estimate(quantity, **where)


def caption_end(result: Result, quantity: str) -> str:
    """The n and the interval method of a caption."""
    rows = result.table[(result.table["quantity"] == quantity) & result.table["value"].notna()]
    each = result.details.get("n_samples")
    samples = f" x {each} sample{'s' * (each != 1)}" if each else ""
    method = rows["method"].iloc[0].split(";")[0] if len(rows) else "none, undefined"
    return f"n = {result.details['n_problems']} problems{samples}; interval: {method}."
