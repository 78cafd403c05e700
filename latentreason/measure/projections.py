"""Where a model's activations point at its choices, along the base's own strategy vectors, while it is trained."""

import numpy as np
import pandas as pd
import torch

from latentreason.activations.sites import Site
from latentreason.errors import InvalidInput
from latentreason.models.language_model import LM
from latentreason.sampling.local import Sampling, sample
from latentreason.strategies.language import language
from latentreason.tables import Rollouts
from latentreason.tasks.problem import Problem
from latentreason.vectors.contrast import capture_onsets, family, fit_onsets
from latentreason.vectors.steering_vector import VectorSet


class Ruler:
    """The base's strategy vectors at one layer, and the base's mean activation at each kind of choice, both from its own traces of problems set apart.

    Attributes:
        vectors: one a strategy and format.
        zero: kind of choice -> mean activation; a projection is measured from there, in units of the vector's scale (the gap between "with" and "without").
    """

    def __init__(self, base: LM, problems: list[Problem], sampling: Sampling, layer: int) -> None:
        """Raises InvalidInput where no strategy has a vector (the model makes no two choices of one kind)."""
        rollouts = sample(base, problems, sampling, progress=False)
        self.spans = language(problems[0].task, base.tokenizer).spans
        onsets = capture_onsets(base, rollouts, self.spans(rollouts), layers=layer)
        self.site = Site(layer)
        self.vectors: VectorSet = fit_onsets(onsets)
        kinds = onsets.index["strategy"].map(family)
        self.zero = {str(kind): onsets.values[self.site][torch.from_numpy((kinds == kind).to_numpy(copy=True))].mean(0) for kind in kinds.unique()}

    def read(self, lm: LM, rollouts: Rollouts) -> pd.DataFrame:
        """Mean projection of a model's activations at the choices of given traces, whoever wrote them: columns label, problem, value, random (the same along a random direction),
        reliability (of the vector: cosine between those of two halves of the problems, NaN where a half has too few choices), choices.
        """
        onsets = capture_onsets(lm, rollouts, self.spans(rollouts), layers=self.site.layer)
        kinds, values, parts = onsets.index["strategy"].map(family), onsets.values[self.site], []
        for vector in self.vectors.values():
            kind = family(vector.label)
            if not (mask := (kinds == kind).to_numpy(copy=True)).any():
                continue
            centred, reliability = values[torch.from_numpy(mask)] - self.zero[kind], vector.info["split_half"]
            along = {name: (centred @ each.direction / vector.scale).numpy() for name, each in (("value", vector), ("random", vector.random_like(0)))}
            groups = pd.DataFrame(along).groupby(onsets.index["problem"].to_numpy()[mask])
            found = groups.mean().astype("float32").rename_axis("problem").reset_index()
            parts.append(found.assign(label=vector.label, reliability=np.float32(np.nan if reliability is None else reliability), choices=groups.size().astype("int16").to_numpy()))
        return pd.concat(parts, ignore_index=True)


def projections(base: LM, models: list[tuple[int, int, LM]], fitting: list[Problem], problems: list[Problem], *, fit: Sampling, read: Sampling, layer: int | None) -> pd.DataFrame | None:
    """Projections of the base and of each (stage, step, model) on the base's traces of the same problems, so that only the weights differ.

    Args:
        base: who writes the traces, and whose vectors are used.
        models: checkpoints.
        fitting: problems on whose traces the vectors are fitted.
        problems: those that are read.
        fit, read: how the traces of either are drawn.
        layer: of the vectors; None for the middle one.

    Returns:
        Columns stage, step (0 for the base), label, problem, value and random (in units of the vector's scale), reliability, choices; None where the base has no vectors.
    """
    try:
        ruler = Ruler(base, fitting, fit, base.n_layers // 2 if layer is None else layer)
    except InvalidInput:
        return None
    traces = sample(base, problems, read, progress=False)
    return pd.concat([ruler.read(lm, traces).assign(stage=stage, step=step) for stage, step, lm in [(0, 0, base), *models]], ignore_index=True)
