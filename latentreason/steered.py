"""Vectors in place of tokens on a pair, after the main job: fitted by contrast (`steering`), and trained on the RL model's tokens (`trained`).

Stages as in `reproduce`: each writes its tables once, whole; a run that is started again goes on with what is missing.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pandas as pd

from latentreason.files import write_json, write_table
from latentreason.hybrid.actions import Action, rerank, steer
from latentreason.hybrid.decode import Arms, Hybrid
from latentreason.hybrid.presets import among, categorised, published_without, steer_best, venhoff_g1, venhoff_g3
from latentreason.hybrid.steering import fit_category, random_category, steer_by
from latentreason.reproduce import Run, calibrated_routers
from latentreason.routing.controls import always
from latentreason.routing.router import Router
from latentreason.strategies.tagging import tag
from latentreason.vectors.contrast import capture_onsets, fit_onsets
from latentreason.vectors.optimised import Fitted, fit_optimised

STRENGTHS = (0.5, 1.0, 2.0, 4.0)


def _routers(run: Run) -> dict[str, Router]:
    """The oracle and the base-only router at the largest budget of the main job."""
    when, largest = {"js": "on_divergence(js)", "entropy": "on_entropy"}, max(run.config.budgets)
    return {short: next(r for r in calibrated_routers(run, "t1") if r.name == name and r.params["calibration"]["budget"] == largest) for short, name in when.items()}


def _steering(run: Run) -> None:
    """Vectors in place of tokens: when by the RL model live or by the base alone, which by category, whose vectors; with random twins.

    Layer and strength of each arm are those that did best on calibration problems.
    """
    pair, layers = run.pair, range(run.pair.base.n_layers)
    problems = run.problems("fit", run.config.fit_problems)
    onsets, vectors = {}, {}
    for name, lm in (("base", pair.base), ("rl", pair.rl)):
        own = run.sample(f"steering-{name}", lm, problems, run.sampling(4).alone(name))
        onsets[name] = capture_onsets(lm, own, tag(own), layers="all")
        vectors[name] = fit_onsets(onsets[name])
    labels = tuple(label for label in vectors["base"].labels if label in vectors["rl"].labels)
    which = {name: fit_category(onsets[name], layer=max(1, pair.base.n_layers // 2), model=name, labels=labels) for name in ("base", "rl")}
    chance = random_category(labels, seed=run.config.seed)
    routers = _routers(run)
    arms = {
        "js, RL category, base vectors": ("js", vectors["base"], which["rl"], "RL timing, RL category, base-fitted vectors"),
        "js, RL category, RL vectors": ("js", vectors["rl"], which["rl"], "RL timing, RL category, RL-fitted vectors"),
        "js, RL category, random vectors": ("js", vectors["base"].random_like(run.config.seed), which["rl"], "RL timing, RL category, random vectors"),
        "js, random category, base vectors": ("js", vectors["base"], chance, "RL timing, random category, base-fitted vectors"),
        "js, one vector": ("js", vectors["base"], None, "RL timing, mean of the base-fitted vectors"),
        "entropy, base category, base vectors": ("entropy", vectors["base"], which["base"], "base timing, base category, base-fitted vectors"),
        "entropy, random category, base vectors": ("entropy", vectors["base"], chance, "base timing, random category, base-fitted vectors"),
        "entropy, base category, random vectors": ("entropy", vectors["base"].random_like(run.config.seed), which["base"], "base timing, base category, random vectors"),
    }  # fmt: skip

    def hybrid(name: str, arm: str, layer: int, strength: float) -> Hybrid:
        short, chosen, category, _ = arms[arm]
        at = chosen.at(layer)
        return Hybrid(pair, routers[short], steer(at, strength=strength) if category is None else steer_by(at, category, strength=strength), name)

    settings = [(layer, strength) for layer in layers for strength in STRENGTHS]
    tried = {f"{arm}|{layer}|{strength:g}": (arm, layer, strength) for arm in arms for layer, strength in settings}
    drawing = replace(run.sampling(run.config.calibration_samples), keep_tokens=False, max_rows=run.rows)
    table = run.sample("steering-tried", Arms([hybrid(name, *where) for name, where in tried.items()]), run.problems("calibration", run.config.calibration_problems), drawing).table
    accuracy = table.groupby("arm")["correct"].mean()
    facts: dict[str, Any] = {}
    for arm, (_, _, category, uses) in arms.items():
        mine = {name: where for name, where in tried.items() if where[0] == arm}
        best = max(mine, key=lambda name: accuracy[name])
        facts[arm] = {
            "uses": uses, "setting": mine[best][2], "layer": mine[best][1],
            "category_accuracy": None if category is None else category.accuracy,
            "tried": [{"layer": where[1], "setting": where[2], "accuracy": float(accuracy[name])} for name, where in mine.items()],
        }  # fmt: skip
    final = [hybrid(arm, arm, fact["layer"], fact["setting"]) for arm, fact in facts.items()]
    swapped = [Hybrid(pair, router, name=f"{short}, swap") for short, router in routers.items()]
    for short in routers:
        facts[f"{short}, swap"] = {"uses": "RL timing, RL token" if short == "js" else "base timing, RL token", "setting": 1.0, "tried": []}
    drawing = replace(run.sampling(run.config.rival_samples * 2), keep_tokens=False, max_rows=run.rows)
    found = run.sample("steering", Arms([*swapped, *final]), run.problems("test", run.config.n_problems), drawing)
    found.save(run.tables / "steering.parquet")
    arms_of = found.table.groupby("arm")
    routed = dict(arms_of["n_routed"].sum() / arms_of["n_tokens"].sum())
    for arm in facts:  # the base at every token; the RL model where it is asked; the base once more where a vector is added
        models = 1 if arm.startswith("entropy,") and not arm.endswith("swap") else 2
        extra = 0.0 if arm.endswith("swap") else float(routed[arm])
        facts[arm]["passes"] = round(models + extra, 2)
    write_json(run.tables / "steering.json", facts)


KINDS = ("bias", "categories", "learned")
"""What is trained at each layer: one vector for all disagreements; on top of it, what each category leaves over; vectors by category with a coefficient network."""

AMONG = (0.5, 1.0, 2.0)
"""Strengths of trained vectors that are tried on calibration problems; 1 is what they were trained at."""


def _trained(run: Run) -> None:
    """Vectors trained on the RL model's tokens, at the layer with the smallest held-out loss; and the reference's two algorithms with the controls that they
    were published without.
    """
    pair, config = run.pair, run.config
    fit, middle = run.problems("fit", config.fit_problems), max(1, pair.base.n_layers // 2)
    drawn = run.sampling(max(1, COMPLETIONS // len(fit)))
    own = run.sample("trained-rl", pair.rl, fit, drawn.alone("rl"))
    said = run.sample("trained-always", Hybrid(pair, always(), name="always"), fit, drawn)
    how: dict[str, Any] = {"epochs": config.trained_epochs or 10, "seeds": (0, 1, 2) if (config.trained_epochs or 10) > 1 else (0,)}
    category = fit_category(capture_onsets(pair.rl, own, run.language.spans(own), layers=middle), layer=middle, model="rl", seed=config.seed)
    at, fits = categorised(pair, said, category), dict[tuple[int, str], Fitted]()
    often = at["strategy"].value_counts()
    at = at[at["strategy"].isin(often.index[often >= FEWEST])]  # rarer ones fall to the likeliest of the others
    for layer in _layers(pair.base.n_layers):
        bias = fits[layer, "bias"] = fit_optimised(pair.base, said, at.assign(strategy="bias"), layer=layer, **how)
        fits[layer, "categories"] = fit_optimised(pair.base, said, at, layer=layer, bias=bias.vectors.vectors[0], **how)
        fits[layer, "learned"] = fit_optimised(pair.base, said, at, layer=layer, strength="learned", **how)
    losses = [fitted.table.assign(kind=kind, layer=layer, optimism=fitted.optimism) for (layer, kind), fitted in fits.items()]
    write_table(run.tables / "trained_fits.parquet", pd.concat(losses, ignore_index=True))
    best = {kind: min((layer for layer, k in fits if k == kind), key=lambda layer, kind=kind: _held_out(fits[layer, kind])) for kind in KINDS}  # type: ignore[misc]
    bias, categories, learned = (fits[best[kind], kind] for kind in KINDS)
    known, routers = among(category, categories.vectors.labels), _routers(run)

    def one(strength: float) -> Action:
        return steer(bias.vectors, strength=strength)

    def several(strength: float) -> Action:
        return steer_by(categories.vectors, known, strength=strength)

    tuned: dict[str, tuple[str, Callable[[float], Action], str]] = {
        "js, bias vector": ("js", one, "RL timing, one RL-trained vector"),
        "js, category vectors": ("js", several, "RL timing, RL category, RL-trained vectors"),
        "entropy, bias vector": ("entropy", one, "base timing, one RL-trained vector"),
    }  # fmt: skip
    tried = {f"{arm}|{strength:g}": Hybrid(pair, routers[short], act(strength), f"{arm}|{strength:g}") for arm, (short, act, _) in tuned.items() for strength in AMONG}
    drawing = replace(run.sampling(config.calibration_samples), keep_tokens=False, max_rows=run.rows)
    accuracy = run.sample("trained-tried", Arms(list(tried.values())), run.problems("calibration", config.calibration_problems), drawing).table.groupby("arm")["correct"].mean()
    hybrids, facts = list[Hybrid](), dict[str, Any]()

    def add(hybrid: Hybrid, uses: str, setting: float, layer: int | None, grid: list[dict[str, float]]) -> None:
        hybrids.append(hybrid)
        facts[hybrid.arms[0]] = {"uses": uses, "setting": setting, "layer": layer, "tried": grid}

    for arm, (short, act, uses) in tuned.items():
        grid = [{"setting": strength, "accuracy": float(accuracy[f"{arm}|{strength:g}"])} for strength in AMONG]
        chosen = max(grid, key=lambda g: g["accuracy"])["setting"]
        add(Hybrid(pair, routers[short], act(chosen), arm), uses, chosen, best["bias" if "bias" in arm else "categories"], grid)
    add(Hybrid(pair, routers["js"], steer_by(learned.vectors, among(category, learned.vectors.labels), strength=_strength(learned)), "js, learned strength"),
        "RL timing, RL category, RL-trained vectors and strength", 1.0, best["learned"], [])  # fmt: skip
    add(Hybrid(pair, routers["js"], rerank(5), "js, rerank"), "RL timing, RL logits among 5 base tokens", 5.0, None, [])
    first, last = venhoff_g1(pair, categories.vectors, known), venhoff_g3(pair, learned, category)
    controls = published_without(first, categories.vectors, lambda v: steer_best(v, known))
    controls |= {"g3 random": published_without(last, learned.vectors, lambda v: steer_by(v, among(category, v.labels), strength=_strength(learned)))["random vectors"]}
    add(first, "RL logits at every token, RL category, RL-trained vectors", 1.0, best["categories"], [])
    add(last, "RL tokens at every token, RL category, RL-trained vectors and strength", 1.0, best["learned"], [])
    for name, control in controls.items():
        add(control, {"swap": "RL timing, RL token", "rerank": "RL timing, RL logits among 5 base tokens"}.get(name, "RL logits at every token, random vectors"), 1.0, None, [])
    drawing = replace(run.sampling(config.rival_samples * 2), keep_tokens=False, max_rows=run.rows)
    found = run.sample("trained", Arms(hybrids), run.problems("test", config.n_problems), drawing)
    found.save(run.tables / "trained.parquet")
    arms_of = found.table.groupby("arm")
    routed = dict(arms_of["n_routed"].sum() / arms_of["n_tokens"].sum())
    for hybrid in hybrids:
        arm, action = hybrid.arms[0], hybrid.action
        again = len(action.params.get("strengths", ())) * len(action.params.get("windows", ())) or int("again" in action.reads)
        models = 1 if arm.startswith("entropy,") else 2
        facts[arm]["passes"] = round(models + again * float(routed[arm]), 2)
    write_json(run.tables / "trained.json", facts)


COMPLETIONS, FEWEST = 200, 50
"""Completions of always-RL that vectors are trained on, at least, and disagreements of a category that has one of its own."""


def _layers(n: int) -> list[int]:
    """All but the last of a few layers; of many, those at about a tenth, a quarter, three eighths (the reference's), a half and three quarters."""
    return list(range(n - 1)) if n <= 8 else sorted({round(share * n) for share in (0.1, 0.25, 0.37, 0.5, 0.75)})


def _held_out(fitted: Fitted) -> float:
    """The loss on the split that the seed was chosen by."""
    return float(fitted.table.loc[fitted.table["chosen"], "select"].iloc[0])


def _strength(fitted: Fitted) -> Any:
    return 1.0 if fitted.strength is None else fitted.strength


STAGES: dict[str, Callable[[Run], None]] = {"steering": _steering, "trained": _trained}
