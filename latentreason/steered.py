"""Vectors in place of tokens on a pair, after the main job: fitted by contrast (`steering`), and trained on the RL model's tokens (`trained`).

Stages as in `reproduce`: each writes its tables once, whole; a run that is started again goes on with what is missing.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from latentreason.activations.capture import capture
from latentreason.errors import InvalidInput
from latentreason.files import write_json, write_table
from latentreason.hybrid.actions import Action, logit_bias, logit_delta, rerank, steer
from latentreason.hybrid.decode import Arms, Hybrid
from latentreason.hybrid.presets import among, categorised, published_without, steer_best, venhoff_g1, venhoff_g3
from latentreason.hybrid.steering import Category, bias_by, fit_category, random_category, steer_by
from latentreason.organisms.trainers.metrics import repetition
from latentreason.reproduce import Run, RunConfig, calibrated_routers, few_layers
from latentreason.routing.controls import always, matched_random, never
from latentreason.routing.router import Router
from latentreason.tables import Rollouts
from latentreason.vectors.contrast import capture_onsets, fit_onsets, layer_sites, model_info
from latentreason.vectors.optimised import Fitted, fit_optimised
from latentreason.vectors.steering_vector import SteeringVector, VectorSet

RANDOM = {"js, RL category, random vectors": "rl", "entropy, base category, random vectors": "base"}
"""Arms of random vectors -> whose activations choose the category."""

STRENGTHS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
DELTAS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""Shares of the difference of the two models' logits that are tried."""
TWIN = "js, RL category, base vectors"
"""The arm that is also drawn at random places, as often, with the same vectors at the same setting."""
METHODS = ("pca", "logistic")
"""Ways to fit a vector that stand beside the difference of means, judged by what they recover."""


def biases(n: int) -> list[float]:
    """Nats of a logit bias by category that are tried on calibration problems: as many as a vector has layers and strengths, so that it is not tuned less."""
    return [round(float(nats), 3) for nats in np.geomspace(STRENGTHS[0], 2 * STRENGTHS[-1], n)]


class Arm(NamedTuple):
    """A way to act at routed tokens: the router's short name; what it uses; (where, size) -> Action, and the pairs that are tried; further facts. `where` is the layer
    of a vector, or the strategy whose token is biased.
    """

    router: str
    uses: str
    act: Callable[[Any, float], Action]
    grid: list[tuple[Any, float]]
    facts: dict[str, Any]


def _routers(run: Run) -> dict[str, Router]:
    """The oracle and the base-only router at the largest budget of the main job."""
    when, largest = {"js": "on_divergence(js)", "entropy": "on_entropy"}, max(run.config.budgets)
    return {short: next(r for r in calibrated_routers(run, "t1") if r.name == name and r.params["calibration"]["budget"] == largest) for short, name in when.items()}


def _fitted(run: Run, layers: list[int]) -> tuple[dict[str, VectorSet], dict[str, Category]]:
    """Vectors by contrast from each model's own traces, the base's by `METHODS`, too, one of all onsets against all tokens ("base onset"), and classifiers of the categories at
    the middle block.

    Raises:
        InvalidInput: spans of fewer than two strategies.
    """
    problems, middle = run.problems("fit", run.config.fit_problems), max(1, run.pair.base.n_layers // 2)
    onsets, vectors = {}, {}
    for name, lm in (("base", run.pair.base), ("rl", run.pair.rl)):
        own = run.sample(f"steering-{name}", lm, problems, run.sampling(4).alone(name))
        onsets[name] = capture_onsets(lm, own, run.language.spans(own), layers=sorted({*layers, middle}))
        for key, method in {name: "diff_means", **({method: method for method in METHODS} if name == "base" else {})}.items():
            fitted = fit_onsets(onsets[name], method=method)
            vectors[key] = replace(fitted, info={**fitted.info, **model_info(lm), "model": name})
        if name == "base":
            every = capture(lm, own, layer_sites(lm, layers), reduce="mean", by="arm")  # one row: the mean of all tokens
            raw = {site: onsets[name].values[site].mean(0) - found[0] for site, found in every.values.items()}
            vectors["base onset"] = VectorSet(tuple(SteeringVector.of(site, vector, "onset", len(onsets[name].index)) for site, vector in raw.items()), info={**model_info(lm), "model": name})
    labels = tuple(label for label in vectors["base"].labels if all(label in vectors[key].labels for key in ("rl", *METHODS)))
    if len(labels) < 2:
        raise InvalidInput(f"Both models' traces have enough spans of {len(labels)} strategies, and a choice needs two. Give more problems.")
    lms = {"base": run.pair.base, "rl": run.pair.rl}
    which = {name: fit_category(onsets[name], layer=middle, model=name, labels=labels, fitted_on=lm.fingerprint) for name, lm in lms.items()}
    return vectors, which | {"random": random_category(labels, seed=run.config.seed)}


def _vector_arms(run: Run, vectors: dict[str, VectorSet], which: dict[str, Category], layers: list[int]) -> dict[str, Arm]:
    base, rl, one, random = vectors["base"], vectors["rl"], vectors["base onset"], vectors["base"].random_like(run.config.seed)
    grid: list[tuple[Any, float]] = [(layer, strength) for layer in layers for strength in STRENGTHS]

    def by(router: str, uses: str, chosen: VectorSet, category: str, tried: list[tuple[Any, float]] = grid) -> Arm:
        known = {"category_accuracy": None if category == "random" else which[category].accuracy, **({"skipped": dict(chosen.skipped)} if chosen.skipped else {})}
        return Arm(router, uses, lambda layer, strength: steer_by(chosen.at(layer), which[category], strength=strength), tried, known)

    return {
        "js, RL category, base vectors": by("js", "RL timing, RL category, base-fitted vectors", base, "rl"),
        "js, RL category, RL vectors": by("js", "RL timing, RL category, RL-fitted vectors", rl, "rl"),
        **{f"js, RL category, base vectors by {method}": by("js", f"RL timing, RL category, base-fitted vectors by {method}", vectors[method], "rl") for method in METHODS},
        "js, RL category, random vectors": by("js", "RL timing, RL category, random vectors", random, "rl"),
        "js, RL category, zero vectors": by("js", "RL timing, nothing added: the base by another way", base, "rl", [(layers[0], 0.0)]),
        "js, random category, base vectors": by("js", "RL timing, random category, base-fitted vectors", base, "random"),
        "js, RL category, base vectors, natural scale": by("js", "RL timing, RL category, base-fitted vectors, as long as the difference they are", base, "rl", [(layer, 1.0) for layer in layers]),
        "js, one vector": Arm("js", "RL timing, one base-fitted vector: onsets against all tokens", lambda layer, strength: steer(one.at(layer), strength=strength), grid, {"category_accuracy": None}),
        "js, base category, base vectors": by("js", "RL timing, base category, base-fitted vectors", base, "base"),
        "entropy, RL category, base vectors": by("entropy", "base timing, RL category, base-fitted vectors", base, "rl"),
        "entropy, base category, base vectors": by("entropy", "base timing, base category, base-fitted vectors", base, "base"),
        "entropy, one vector": Arm("entropy", "base timing, one base-fitted vector: onsets against all tokens", lambda layer, strength: steer(one.at(layer), strength=strength), grid, {"category_accuracy": None}),
        "entropy, random category, base vectors": by("entropy", "base timing, random category, base-fitted vectors", base, "random"),
        "entropy, base category, random vectors": by("entropy", "base timing, base category, random vectors", random, "base"),
        "js, logit delta": Arm("js", "RL timing, RL logits: base and so much of the difference", lambda _, strength: logit_delta(strength), [(None, strength) for strength in DELTAS], {}),
    }  # fmt: skip


def _bias_arms(opening: Mapping[str, int], which: dict[str, Category], n: int) -> dict[str, Arm]:
    """A plain logit bias on the tokens that open strategies: on one of them, each in the sizes of `STRENGTHS`, or on that of the category, in `n` sizes; empty where the
    task has none.
    """
    labels = [label for label in which["rl"].labels if label in opening]
    each = [(label, nats) for label in labels for nats in STRENGTHS]
    arms = {"js, logit bias": Arm("js", "RL timing, a bias on one strategy token", lambda label, nats: logit_bias(opening[label], nats), each, {})}
    if len(labels) == len(which["rl"].labels):
        by = Arm("js", "RL timing, RL category, a bias on its token", lambda _, nats: bias_by(opening, which["rl"], bias=nats), [(None, nats) for nats in biases(n)], {})
        arms["js, RL category, logit bias"] = by._replace(facts={"category_accuracy": which["rl"].accuracy})
    return arms if labels else {}


def _steering(run: Run) -> None:
    """Vectors in place of tokens: when by the RL model live or by the base alone, which by category, whose vectors; with random twins, and a plain logit bias.

    Layer and strength of each arm are those that did best on calibration problems. The last block, where it is tried, is never chosen (if there is another): the head alone reads
    what is added there, so that is a bias on words.
    """
    pair, n, routers = run.pair, run.pair.base.n_layers, _routers(run)
    layers = few_layers(n)
    if run.config.trained_epochs is not None and len(layers) < n:  # many blocks, in a size for two cores
        layers = size_of(run.config, n).layers
    last = n - 1 if len(layers) > 1 else None
    arms, facts = dict[str, Arm](), dict[str, Any]()
    try:
        vectors, which = _fitted(run, layers)
        arms = _vector_arms(run, vectors, which, layers) | (biased := _bias_arms(run.language.tokens, which, len(layers) * len(STRENGTHS)))
        if not biased:
            facts["js, logit bias"] = {"uses": "RL timing", "reason": f"no token opens a strategy of its own in the text of {run.config.task}"}
    except InvalidInput as error:
        facts["vectors"] = {"uses": "steering vectors", "reason": str(error)}
    tried = {f"{arm}|{where}|{size:g}": (arm, where, size) for arm, of in arms.items() for where, size in of.grid if len(of.grid) > 1}

    def hybrid(name: str, arm: str, where: Any, size: float) -> Hybrid:
        return Hybrid(pair, routers[arms[arm].router], arms[arm].act(where, size), name)

    accuracy: dict[str, float] = {}
    if tried:
        drawing = replace(run.sampling(run.config.calibration_samples), keep_tokens=False, max_rows=run.rows)
        table = run.sample("steering-tried", Arms([hybrid(name, *where) for name, where in tried.items()]), run.problems("calibration", run.config.calibration_problems), drawing).table
        accuracy = {str(arm): float(value) for arm, value in table.groupby("arm")["correct"].mean().items()}
    hybrids = [Hybrid(pair, router, name=f"{short}, swap") for short, router in routers.items()]
    for arm, of in arms.items():
        mine = {name: where for name, where in tried.items() if where[0] == arm}
        where, size = mine[max((name for name, at in mine.items() if last is None or at[1] != last), key=lambda name: accuracy[name])][1:] if mine else of.grid[0]
        key = "layer" if isinstance(where, int) else "strategy"
        grid = [{key: at, "setting": setting, "accuracy": accuracy[name]} for name, (_, at, setting) in mine.items()]
        facts[arm] = {"uses": of.uses, "setting": size, key: where, **of.facts, "tried": grid}
        hybrids.append(hybrid(arm, arm, where, size))
        if arm == TWIN:
            hybrids.append(Hybrid(pair, matched_random(routers[of.router]), of.act(where, size), f"{arm}, random places"))
            facts[f"{arm}, random places"] = {**facts[arm], "uses": "random places, RL category, base-fitted vectors", "tried": []}
        if arm in RANDOM:  # one draw of directions is one number: two more at the same layer and strength
            for seed in (1, 2):
                name = f"{arm}, draw {seed + 1}"
                other = vectors["base"].random_like(run.config.seed + 1000 * seed).at(where)
                hybrids.append(Hybrid(pair, routers[of.router], steer_by(other, which[RANDOM[arm]], strength=size), name))
                facts[name] = {**facts[arm], "uses": f"{of.uses}, another draw", "tried": []}
    for short in routers:
        facts[f"{short}, swap"] = {"uses": "RL timing, RL token" if short == "js" else "base timing, RL token", "setting": 1.0, "tried": []}
    _drawn(run, "steering", hybrids, facts, 2 * run.config.rival_samples)


def _drawn(run: Run, stage: str, hybrids: list[Hybrid], facts: dict[str, Any], samples: int, temperature: str = "t1") -> None:
    """Sample the arms of a stage on test problems, and write its table and facts; and, from the first of their samples, how fluent each arm is beside the base."""
    problems, config = run.problems("test", run.config.n_problems), run.config
    drawn = run.sample(stage, Arms([Hybrid(run.pair, never(), name="base"), *hybrids]), problems, replace(run.sampling(samples, temperature), max_rows=run.rows))
    read = drawn.table[drawn.table["sample"] < config.strategy_samples]
    read = read.assign(repeated=[repetition(ids.tolist()) for ids in read["token_ids"]], base_logprob=[float(np.mean(each)) for each in read["base_logprob"]])
    write_table(run.tables / f"{stage}_fluency.parquet", read.groupby(["arm", "problem"], sort=False)[["repeated", "base_logprob"]].mean().reset_index())
    names = [hybrid.name for hybrid in hybrids]
    found = Rollouts(drawn.slim().table.query("arm in @names").reset_index(drop=True), {name: drawn.info[name] for name in names})
    found.save(run.tables / f"{stage}.parquet")
    arms = found.table.groupby("arm")
    routed = dict(arms["n_routed"].sum() / arms["n_tokens"].sum())
    for hybrid in hybrids:  # the base at every token; the RL model, where anything of it is read, at every token too, since all enter its cache; the base once more for each candidate at a routed token
        reads = hybrid.router.reads | hybrid.action.reads
        again = read_again(hybrid.action, drawn.table.loc[drawn.table["arm"] == hybrid.name, "routed"])
        asked, always_asked = (any(place.split(":")[0] in ("rl", "sampled") for place in of) for of in (reads, hybrid.router.reads))
        share = float(routed[hybrid.arms[0]])
        facts[hybrid.arms[0]] |= {"passes": round(1 + asked + again, 2), "rl_logits": 1.0 if always_asked else share if asked else 0.0}
    write_json(run.tables / f"{stage}.json", facts)


def read_again(action: Action, routed: pd.Series) -> float:
    """How many tokens the base reads once more for each token of the completions: one at a routed place, the whole window of a window, for each candidate."""
    if "again" not in action.reads:
        return 0.0
    windows, copies = action.params.get("windows", (action.params.get("window", 1),)), len(action.params.get("strengths", (1,)))

    def at(t: int) -> int:
        return copies * sum(max(1, window) for window in {t if w is None else min(w, t) for w in windows})

    return float(sum(at(int(t)) for row in routed for t in np.flatnonzero(row)) / sum(map(len, routed)))


KINDS = ("bias", "categories", "learned")
"""What is trained at each layer: one vector for all disagreements; on top of it, what each category leaves over; vectors by category with a coefficient network."""

COMPLETIONS, FEWEST = 200, 50
"""Completions of always-RL that vectors are trained on, at least, and disagreements of a category that has one of its own."""


class Size(NamedTuple):
    """How much is trained and tried, of vectors by contrast too: `grid` is what the reference's first algorithm searches, `draws` the seeds of the random vectors beside it, `samples`
    the completions of each test problem.
    """

    epochs: int
    seeds: tuple[int, ...]
    completions: int
    layers: list[int]
    grid: dict[str, Any]
    draws: tuple[int, ...]
    samples: int


def size_of(config: RunConfig, n_layers: int) -> Size:
    """The whole of it, or, where the configuration bounds the epochs (a model of 30 blocks on two cores), one seed at two blocks, half of the completions, a quarter of the
    grid and one draw of random vectors beside it.
    """
    if config.trained_epochs is None:
        return Size(10, (0, 1, 2), COMPLETIONS, [layer for layer in few_layers(n_layers) if layer < n_layers - 1], {}, (0, 1, 2), 2 * config.rival_samples)
    quarter_and_half = sorted({round(n_layers / 4), round(n_layers / 2)} - {n_layers - 1}) or [0]
    return Size(config.trained_epochs, (0,), COMPLETIONS // 2, quarter_and_half, {"strengths": (0.25, 0.5, 0.75, 1.0), "windows": (None, 1, 15)}, (0,), config.rival_samples)


AMONG = (0.5, 1.0, 2.0)
"""Strengths of trained vectors that are tried on calibration problems; 1 is what they were trained at."""


def _trained(run: Run) -> None:
    """Vectors trained on the RL model's tokens, at the layer with the smallest held-out loss; and the reference's two algorithms with the controls that they
    were published without: these greedily, too, as they were published. Where nothing can be trained, the controls alone, and the reason.
    """
    try:
        hybrids, facts = _trained_arms(run)
    except InvalidInput as error:
        js = _routers(run)["js"]
        hybrids = [Hybrid(run.pair, js, name="js, swap"), Hybrid(run.pair, js, rerank(5), "js, rerank")]
        facts = {"js, swap": {"uses": "RL timing, RL token", "setting": 1.0, "tried": []}, "js, rerank": {"uses": "RL timing, RL logits among 5 base tokens", "setting": 5.0, "tried": []},
                 "trained vectors": {"uses": "vectors trained on the RL model's tokens", "reason": str(error)}}  # fmt: skip
    samples = size_of(run.config, run.pair.base.n_layers).samples
    _drawn(run, "trained", hybrids, dict(facts), samples)
    published = [hybrid for hybrid in hybrids if hybrid.name.startswith("venhoff")]
    if published:
        _drawn(run, "trained_greedy", published, {hybrid.name: dict(facts[hybrid.name]) for hybrid in published}, samples, "greedy")


def _trained_arms(run: Run) -> tuple[list[Hybrid], dict[str, Any]]:
    """The arms of the stage, and what they use. Raises InvalidInput where the traces hold too few strategies or disagreements to train on."""
    pair, config = run.pair, run.config
    fit, middle = run.problems("fit", config.fit_problems), max(1, pair.base.n_layers // 2)
    size = size_of(config, pair.base.n_layers)
    drawn = run.sampling(max(1, size.completions // len(fit)))
    own = run.sample("trained-rl", pair.rl, fit, drawn.alone("rl"))
    said = run.sample("trained-always", Hybrid(pair, always(), name="always"), fit, drawn)
    how: dict[str, Any] = {"epochs": size.epochs, "seeds": size.seeds}
    category = fit_category(capture_onsets(pair.rl, own, run.language.spans(own), layers=middle), layer=middle, model="rl", seed=config.seed, fitted_on=pair.rl.fingerprint)
    at, fits = categorised(pair, said, category, at_least=FEWEST), dict[tuple[int, str], Fitted]()
    for layer in tqdm(size.layers, desc="train vectors, by block", disable=not run.progress):
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
    first, last = venhoff_g1(pair, categories.vectors, known, **size.grid), venhoff_g3(pair, learned, category)
    learned_on = among(category, learned.vectors.labels)
    controls = dict[str, Hybrid]()
    for seed in (0, 1, 2):  # one draw of directions is one number
        draw = "" if seed == 0 else f", draw {seed + 1}"
        of_first = published_without(first, categories.vectors, lambda v: steer_best(v, known, **size.grid), seed=seed)
        of_last = published_without(last, learned.vectors, lambda v: steer_by(v, learned_on, strength=_strength(learned)), seed=seed)
        controls |= {name: of_first[name] for name in ("swap", "rerank") if seed == 0}
        controls |= {f"{which} random{draw}": replace(of["random vectors"], name=f"{of['random vectors'].name}{draw}") for which, of in (("g1", of_first), ("g3", of_last)) if which == "g3" or seed in size.draws}
    add(first, "RL logits at every token, RL category, RL-trained vectors", 1.0, best["categories"], [])
    add(last, "RL tokens at every token, RL category, RL-trained vectors and strength", 1.0, best["learned"], [])
    for name, control in controls.items():
        uses = {"swap": "RL timing, RL token", "rerank": "RL timing, RL logits among 5 base tokens"}.get(name, f"RL {'logits' if name.startswith('g1') else 'tokens'} at every token, random vectors" + ", another draw" * ("draw" in name))
        add(control, uses, 1.0, None, [])
    return hybrids, facts


def _held_out(fitted: Fitted) -> float:
    """The loss on the split that the seed was chosen by."""
    return float(fitted.table.loc[fitted.table["chosen"], "select"].iloc[0])


def _strength(fitted: Fitted) -> Any:
    return 1.0 if fitted.strength is None else fitted.strength


STAGES: dict[str, Callable[[Run], None]] = {"steering": _steering, "trained": _trained}
