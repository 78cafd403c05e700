"""The studies: one module a claim. `STUDIES` is the registry."""

from types import ModuleType

from latentreason.studies import calibration, geometry, passk, published, recovery, rivals, routing, verdict

STUDIES: dict[str, ModuleType] = {
    "recovery": recovery, "passk": passk, "geometry": geometry, "routing": routing, "rivals": rivals, "published": published,
    "verdict": verdict, "calibration": calibration,
}  # fmt: skip
