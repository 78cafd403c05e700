"""The studies: one module a claim. `STUDIES` is the registry."""

from types import ModuleType

from latentreason.studies import (
    boundary,
    calibration,
    coherence,
    contamination,
    curriculum,
    difficulty,
    formats,
    geometry,
    one_shot,
    passk,
    planning,
    published,
    recovery,
    rivals,
    routing,
    spurious,
    taxonomy,
    verdict,
)

STUDIES: dict[str, ModuleType] = {
    "recovery": recovery, "passk": passk, "geometry": geometry, "routing": routing, "rivals": rivals, "published": published,
    "contamination": contamination, "coherence": coherence, "planning": planning, "taxonomy": taxonomy, "verdict": verdict,
    "spurious": spurious, "one_shot": one_shot, "formats": formats, "boundary": boundary, "difficulty": difficulty, "curriculum": curriculum, "calibration": calibration,
}  # fmt: skip
