"""The studies: one module a claim. `STUDIES` is the registry."""

from types import ModuleType

from latentreason.studies import (
    boundary,
    curriculum,
    difficulty,
    formats,
    geometry,
    one_shot,
    passk,
    published,
    recovery,
    rivals,
    routing,
    spurious,
)

STUDIES: dict[str, ModuleType] = {
    "recovery": recovery, "passk": passk, "geometry": geometry, "routing": routing, "rivals": rivals, "published": published,
    "spurious": spurious, "one_shot": one_shot, "formats": formats, "boundary": boundary, "difficulty": difficulty, "curriculum": curriculum,
}  # fmt: skip
