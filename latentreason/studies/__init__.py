"""The studies: one module a claim. `STUDIES` is the registry."""

from types import ModuleType

from latentreason.studies import geometry, passk, published, recovery

STUDIES: dict[str, ModuleType] = {"recovery": recovery, "passk": passk, "geometry": geometry, "published": published}
