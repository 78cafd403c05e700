"""The routers by name, and how to make one again from the plain data in a table or manifest."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from inspect import signature
from typing import Any

from latentreason.errors import InvalidInput, unknown_name
from latentreason.routing.base_only import on_entropy, on_margin, on_opening
from latentreason.routing.controls import always, at_strategy, first_token, never
from latentreason.routing.oracle import on_disagreement, on_divergence, on_entropy_drop, on_likelihood_gain
from latentreason.routing.router import Router
from latentreason.strategies.language import Language

ROUTERS: dict[str, Callable[..., Router]] = {
    "never": never, "always": always, "first_token": first_token, "at_strategy": at_strategy,
    "on_disagreement": on_disagreement, "on_divergence": on_divergence, "on_entropy": on_entropy, "on_margin": on_margin, "on_entropy_drop": on_entropy_drop,
    "on_likelihood_gain": on_likelihood_gain, "on_opening": on_opening,
}  # fmt: skip


def named(name: str, **params: Any) -> Router:
    """A router by name, as on the command line; "on_divergence(js)" is short for `measure="js"`.

    Raises:
        UnknownName: no such router; names the nearest.
        InvalidInput: a parameter that this router does not take, or one that it needs and did not get.
    """
    head, _, tail = name.partition("(")
    if head not in ROUTERS:
        raise unknown_name("router", name, ROUTERS)
    if tail:
        params = {"measure": tail.rstrip(")"), **params}
    takes = signature(ROUTERS[head]).parameters
    if extra := [key for key in params if key not in takes]:
        raise InvalidInput(f"Router {head} takes no {extra[0]}; it takes {', '.join(takes) or 'nothing'}.")
    if missing := [key for key, taken in takes.items() if taken.default is taken.empty and key not in params]:
        raise InvalidInput(f"Router {head} needs {missing[0]}, which no name can say: make it in Python, as in lr.{head}({missing[0]}).")
    return ROUTERS[head](**params)


def rebuilt(spec: Mapping[str, Any], language: Language | None = None) -> Router:
    """The router that `Router.spec()` described, its calibration included; `language` is what `at_strategy` reads."""
    params = dict(spec["params"])
    calibration = params.pop("calibration", None)
    router = at_strategy(language) if spec["name"] == "at_strategy" else named(spec["name"], **params)
    return router if calibration is None else replace(router, params={**router.params, "calibration": calibration})
