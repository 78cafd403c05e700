"""Rows of the geometry tables: one estimate each, and what is undefined says why. Knows no models."""

import math
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from latentreason.stats import Estimate, percentile_interval
from latentreason.vectors.contrast import family

COLUMNS = ("quantity", "label", "family", "layer", "kind", "value", "lo", "hi", "n", "method", "reason")
"""What every table has; `family` is "strategy", or "format" for labels such as "format:think"."""


def row(quantity: str, label: str, layer: float, kind: str, estimate: Estimate, **more: Any) -> dict[str, Any]:
    """One row."""
    return {"quantity": quantity, "label": label, "family": family_name(label), "layer": layer, "kind": kind, **estimate.to_dict(), **more}


def as_table(rows: list[dict[str, Any]], *more: str) -> pd.DataFrame:
    """Rows as a table that has its columns even when it is empty."""
    return pd.DataFrame(rows, columns=[*COLUMNS, *more])


def family_name(label: str) -> str:
    """What kind of choice a label is."""
    return family(label) or "strategy"


def undefined(reason: str, n: int = 0) -> Estimate:
    """NaN and why."""
    return Estimate(math.nan, math.nan, math.nan, n, "none", reason)


def few(counts: dict[str, int], at_least: int) -> str:
    """Why nothing can be fitted, empty if it can: `counts` says what of, "RL with" for instance."""
    short = [f"{n} {what}" for what, n in counts.items() if n < at_least]
    return f"too few spans: {', '.join(short)}, at least {at_least} are needed" if short else ""


def resampled(replicates: Float[np.ndarray, "replicate"], n: int, over: str = "problems") -> Estimate:
    """The point estimate (first) with the 95% percentile interval of its draws."""
    value, draws = float(replicates[0]), replicates[1:]
    if math.isnan(value):
        return undefined("one side is empty, or a vector is zero", n)
    lo, hi = percentile_interval(draws)
    lost = int(np.isnan(draws).sum())
    reason = f"no interval: undefined in {lost} of {len(draws)} draws" if math.isnan(lo) else ""
    return Estimate(value, lo, hi, n, f"bootstrap over {over}, {len(draws)} draws, percentile 95%", reason)


def p_value(n_as_extreme: int, n_draws: int, n: int, how: str) -> Estimate:
    """Monte Carlo p-value (1 + as extreme) / (1 + draws)."""
    return Estimate((1 + n_as_extreme) / (1 + n_draws), math.nan, math.nan, n, how, "a p-value has no interval")
