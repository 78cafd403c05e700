"""Where the timing and the content of an arm come from: columns of every table, read off the specs that its rollouts carry.

Only "base alone" x "base token" or "base-fitted vector", chosen by "base alone" or at random, speaks of what existed before RL: a probe trained on
the RL model's decisions and a vector fitted on its tokens or activations are supervision.
"""

from collections.abc import Mapping
from typing import Any

INFORMED = ("base alone", "trained on RL labels", "RL model live")
"""What a router may know, the most at the end."""

COLUMNS = ("timing_source", "content_source", "category_source")
"""`timing_source`: one of `INFORMED`, "none" (every token, or places that look at nothing) or "task vocabulary". `content_source`: "base token", "base-fitted vector",
"RL-fitted vector", "random vector", "logit bias", "RL token", "RL logits" (which choose among candidates), "RL weights", or "" where nobody says. `category_source`, of vectors by category: who chooses which.
"""

_ACTIONS = {"swap": "RL token", "rerank": "RL logits", "logit_delta": "RL logits", "steer_best": "RL logits", "logit_bias": "logit bias"}
_BLIND = ("never", "always", "matched_random", "matched_position")


def sources(facts: Mapping[str, Any]) -> dict[str, str]:
    """The three columns of one arm, from its facts (`Rollouts.info[arm]`); what is stated there is taken as it is, such as for an arm that is no hybrid. Of an arm that says
    nothing, nothing is said.
    """
    router = facts.get("router", {"reads": ["base"]})
    reads = {place.split(":")[0] for place in router.get("reads", ["base"])}
    known = _probed(router.get("params", {})) + (["RL model live"] if reads & {"rl", "sampled"} else [])
    timing = max(known, key=INFORMED.index) if known else "task vocabulary" if "vocabulary" in reads else "none" if router.get("name") in _BLIND else "base alone" if "router" in facts else ""
    action = facts.get("action", {"name": "swap" if "router" in facts else ""})
    params = action.get("params", {})
    content = _ACTIONS.get(action["name"]) or (_fitted_on(params, facts.get("weights", [])) if "vectors" in params else action["name"])
    category = {"rl": "RL model live", "base": "base alone"}.get(place := str(params.get("category", "")).split(":")[0], "none" if place else "")
    return {"timing_source": timing, "content_source": content, "category_source": category} | {c: facts[c] for c in COLUMNS if c in facts}


def _fitted_on(params: Mapping[str, Any], weights: list[str]) -> str:
    """What the vectors of an action were fitted on: by the hash of its model's weights, or its name."""
    card = params["vectors"]
    if card.get("random_like") is not None:
        return "random vector"
    if params.get("strength") == 0.0:
        return "base token"
    if card.get("method") == "optimised" or card.get("traces") == "another model's":  # fitted to what the RL model says
        return "RL-fitted vector"
    model = ("base", "rl")[weights.index(card["weights"])] if card.get("weights") in weights else card.get("model")
    return {"base": "base-fitted vector", "rl": "RL-fitted vector"}.get(str(model), "steering vector")


def _probed(params: Any) -> list[str]:
    """Where the probes of a router come from, those of the routers that it is made of, too."""
    if not isinstance(params, Mapping):
        return []
    own = [params[key]["timing_source"] for key in ("probe", "value") if isinstance(params.get(key), Mapping) and "timing_source" in params[key]]
    if isinstance(vectors := params.get("vectors"), Mapping) and (vectors.get("model") == "rl" or vectors.get("traces") == "another model's"):
        own.append("trained on RL labels")
    return own + [source for value in params.values() for source in _probed(value)]
