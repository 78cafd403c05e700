"""The studies: one module a claim. `STUDIES` is the registry."""

from types import ModuleType

from latentreason.studies import (
    calibration,
    coherence,
    contamination,
    geometry,
    passk,
    planning,
    published,
    recovery,
    rivals,
    routing,
    verdict,
)

STUDIES: dict[str, ModuleType] = {
    "recovery": recovery, "passk": passk, "geometry": geometry, "routing": routing, "rivals": rivals, "published": published,
    "contamination": contamination, "coherence": coherence, "planning": planning, "verdict": verdict, "calibration": calibration,
}  # fmt: skip
