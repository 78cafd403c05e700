"""Routers by name, and again from the plain data of a table."""

import json
from dataclasses import replace

import pytest
import torch

from latentreason.errors import InvalidInput, UnknownName
from latentreason.routing.named import ROUTERS, named, rebuilt
from latentreason.routing.oracle import on_divergence
from latentreason.routing.router import Step


def step():
    base, rl = torch.randn(2, 300, 48, generator=torch.Generator().manual_seed(0)) * 2
    return Step(2, base, rl, base.argmax(-1), (base + rl).argmax(-1), torch.zeros(300, 2, dtype=torch.long), torch.arange(300))


@pytest.mark.parametrize("name", ROUTERS)
def test_each_router_comes_back_from_its_spec(name):
    router = named(name, **({"token_ids": [3, 5]} if name == "on_opening" else {}))
    again = rebuilt(json.loads(json.dumps(router.spec())))
    assert again == router and (again.score is None) == (router.score is None)
    assert torch.equal(again.decide(step()), router.decide(step()))


@pytest.mark.parametrize("measure", ["kl", "js", "tv"])
def test_the_measure_may_stand_in_the_name_and_a_calibration_is_kept(measure):
    router = named(f"on_divergence({measure})", threshold=0.3)
    assert router == on_divergence(measure, 0.3)
    calibrated = replace(router, params={**router.params, "calibration": {"budget": 0.5, "edges": [0, 1]}})
    again = rebuilt(json.loads(json.dumps(calibrated.spec())))
    assert again == calibrated and torch.equal(again.decide(step()), router.decide(step()))


@pytest.mark.parametrize(("name", "nearest"), [("on_entrpy", "on_entropy"), ("alway", "always"), ("on_divergense(js)", "on_divergence")])
def test_a_router_that_does_not_exist_is_named_with_the_nearest(name, nearest):
    with pytest.raises(UnknownName, match=f"^Unknown router '.*'\\. Did you mean '{nearest}'\\?"):
        named(name)
    with pytest.raises(InvalidInput, match=r"on_opening needs token_ids, which no name can say: make it in Python, as in lr\.on_opening"):
        named("on_opening")
    with pytest.raises(UnknownName, match=r"Unknown divergence 'jss'\. Did you mean 'js'\?"):
        named("on_divergence(jss)")
