"""The studies: one module a claim. `STUDIES` is the registry."""

from types import ModuleType

from latentreason.studies import coherence, contamination, geometry, passk, planning, published, recovery, rivals, routing

STUDIES: dict[str, ModuleType] = {
    "recovery": recovery, "passk": passk, "geometry": geometry, "routing": routing, "rivals": rivals, "published": published,
    "contamination": contamination, "coherence": coherence, "planning": planning,
}  # fmt: skip
