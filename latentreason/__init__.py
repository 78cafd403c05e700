"""latentreason: does RL teach a model new reasoning, or when to use what pretraining put there?

Every public name is loaded at first use, so `import latentreason` costs milliseconds. Example::

    import latentreason as lr

    pair = lr.ModelPair.from_organism("activation")
    rollouts = lr.sample(pair.base, lr.load_task("chain", split="test", limit=200, seed=0))
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOME = {
    "Activations": "activations.sites",
    "Arms": "hybrid.decode",
    "Estimate": "stats",
    "Grade": "tasks.grading",
    "Hybrid": "hybrid.decode",
    "LM": "models.language_model",
    "LatentReasonError": "errors",
    "ModelPair": "models.pair",
    "Problem": "tasks.problem",
    "Prompt": "models.prompts",
    "Result": "studies.result",
    "Rollouts": "tables",
    "Router": "routing.router",
    "Sampling": "sampling.local",
    "Site": "activations.sites",
    "Spans": "tables",
    "SteeringVector": "vectors.steering_vector",
    "Step": "routing.router",
    "VectorSet": "vectors.steering_vector",
    "always": "routing.controls",
    "at_strategy": "routing.controls",
    "by_threshold": "routing.router",
    "calibrated": "hybrid.calibrate",
    "capture": "activations.capture",
    "concat": "tables",
    "contrast_prompts": "vectors.pairs",
    "discover": "vectors.discovery",
    "editing": "activations.editing",
    "first_token": "routing.controls",
    "fit_vectors": "vectors.contrast",
    "gap_recovered": "stats",
    "grade": "tasks.grading",
    "language": "strategies.language",
    "load_task": "tasks.registry",
    "logit_bias": "hybrid.actions",
    "logit_delta": "hybrid.actions",
    "matched_disagreement": "routing.controls",
    "matched_random": "routing.controls",
    "never": "routing.controls",
    "on_disagreement": "routing.oracle",
    "on_divergence": "routing.oracle",
    "on_entropy": "routing.base_only",
    "on_margin": "routing.base_only",
    "on_opening": "routing.base_only",
    "opposite": "routing.controls",
    "pass_at_k": "stats",
    "rerank": "hybrid.actions",
    "sample": "sampling.local",
    "shapley_shares": "stats",
    "steer": "hybrid.actions",
    "steer_persistent": "hybrid.actions",
    "studies": "studies",  # the folder itself: lr.studies.recovery.run(...)
    "swap": "hybrid.actions",
    "tag": "strategies.tagging",
}
"""Public name -> the module that defines it, below this package."""

__all__ = ["__version__", *_HOME]

if TYPE_CHECKING:  # the same names once more, for mypy and editors; tests/test_import.py compares the two
    from latentreason import studies as studies
    from latentreason.activations.capture import capture as capture
    from latentreason.activations.editing import editing as editing
    from latentreason.activations.sites import Activations as Activations, Site as Site
    from latentreason.errors import LatentReasonError as LatentReasonError
    from latentreason.hybrid.actions import (
        logit_bias as logit_bias,
        logit_delta as logit_delta,
        rerank as rerank,
        steer as steer,
        steer_persistent as steer_persistent,
        swap as swap,
    )
    from latentreason.hybrid.calibrate import calibrated as calibrated
    from latentreason.hybrid.decode import Arms as Arms, Hybrid as Hybrid
    from latentreason.models.language_model import LM as LM
    from latentreason.models.pair import ModelPair as ModelPair
    from latentreason.models.prompts import Prompt as Prompt
    from latentreason.routing.base_only import on_entropy as on_entropy, on_margin as on_margin, on_opening as on_opening
    from latentreason.routing.controls import (
        always as always,
        at_strategy as at_strategy,
        first_token as first_token,
        matched_disagreement as matched_disagreement,
        matched_random as matched_random,
        never as never,
        opposite as opposite,
    )
    from latentreason.routing.oracle import on_disagreement as on_disagreement, on_divergence as on_divergence
    from latentreason.routing.router import Router as Router, Step as Step, by_threshold as by_threshold
    from latentreason.sampling.local import Sampling as Sampling, sample as sample
    from latentreason.stats import (
        Estimate as Estimate,
        gap_recovered as gap_recovered,
        pass_at_k as pass_at_k,
        shapley_shares as shapley_shares,
    )
    from latentreason.strategies.language import language as language
    from latentreason.strategies.tagging import tag as tag
    from latentreason.studies.result import Result as Result
    from latentreason.tables import Rollouts as Rollouts, Spans as Spans, concat as concat
    from latentreason.tasks.grading import Grade as Grade, grade as grade
    from latentreason.tasks.problem import Problem as Problem
    from latentreason.tasks.registry import load_task as load_task
    from latentreason.vectors.contrast import fit_vectors as fit_vectors
    from latentreason.vectors.discovery import discover as discover
    from latentreason.vectors.pairs import contrast_prompts as contrast_prompts
    from latentreason.vectors.steering_vector import SteeringVector as SteeringVector, VectorSet as VectorSet
else:

    def __getattr__(name: str) -> object:
        """A public name, imported at its first use."""
        if name not in _HOME:  # with name and obj, Python's own traceback suggests the nearest name
            message = f"module {__name__!r} has no attribute {name!r}; public names: latentreason.__all__"
            raise AttributeError(message, name=name, obj=sys.modules[__name__])
        module = import_module(f"{__name__}.{_HOME[name]}")
        value = module if _HOME[name] == name else getattr(module, name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
