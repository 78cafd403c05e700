"""The second job on a pair: every router beside every other, and the rival arms. Goes on in the folder of `reproduce`.

Stages as there: each writes its tables once, whole; a run that is started again goes on with what is missing.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped

from latentreason.activations.capture import capture
from latentreason.activations.sites import Site
from latentreason.curves import reaches
from latentreason.errors import ContextTooLong, InvalidInput
from latentreason.files import read_json, write_json, write_table
from latentreason.geometry.measure import untrained
from latentreason.hybrid.calibrate import calibrate, calibration_area
from latentreason.hybrid.decode import Arms, Hybrid
from latentreason.hybrid.rivals import BIAS_USES, BIAS_VECTOR, bias_vector, rivals_for, tuned, worked_examples
from latentreason.hybrid.value import swap_values, value_probes
from latentreason.judge_zoo import weights_of
from latentreason.models.merge import weight_changes
from latentreason.models.pair import ModelPair
from latentreason.organisms.zoo import ORGANISMS
from latentreason.reproduce import Run, calibrated_routers, few_layers
from latentreason.routing.base_only import on_entropy, on_margin, on_opening
from latentreason.routing.controls import always, matched_disagreement, matched_position, matched_random, never, opposite
from latentreason.routing.oracle import on_divergence, on_entropy_drop, on_likelihood_gain
from latentreason.routing.probe import fit_probe, on_nearest, on_probe, on_value, readout_baselines
from latentreason.routing.router import Router
from latentreason.sources import sources
from latentreason.tables import Rollouts, concat
from latentreason.tasks.registry import styles_of
from latentreason.vectors.contrast import fit_vectors, shuffled

SHUFFLES = 10
"""Of the labels of a probe, in each stratum: one alone says little."""


def half_of_d(run: Run) -> float:
    """The threshold (nats) of the js router at half of D: as the main job calibrated it, or from calibration problems where its budgets are further off than 0.1."""
    known = calibrated_routers(run, "t1") if (run.tables / "facts.json").is_file() else []
    near = [r for r in known if r.name == "on_divergence(js)" and abs(r.params["calibration"]["budget"] - 0.5) <= 0.1]
    if not near:
        sampling = replace(run.sampling(run.config.calibration_samples), max_rows=run.rows)
        near = calibrate([on_divergence("js")], run.pair, run.problems("calibration", run.config.calibration_problems), [0.5], sampling=sampling, quick=True, progress=run.progress)
    return float(min(near, key=lambda r: abs(r.params["calibration"]["budget"] - 0.5)).params["threshold"])


def learned(run: Run) -> tuple[list[Router], dict[str, Any]]:
    """Routers that are fitted on problems of the split fit; and by router how well its readout does on problems held out from it, or the reason why there is none."""
    pair, config = run.pair, run.config
    middle, threshold = max(1, pair.base.n_layers // 2), half_of_d(run)
    problems = run.problems("fit", config.fit_problems)
    own = run.sample("fit-base", Arms([Hybrid(pair, never(), name="base")], _openings(run)), problems, run.sampling(4))
    spans = run.language.spans(own)
    choices = spans.table[spans.table["choice"]] if "choice" in spans.table else spans.table
    chosen = {(r["problem"], r["sample"], r["start"]) for r in choices.to_dict("records")}
    read = capture(pair.base, own, [Site(middle)])
    activations = {f"base:{middle}": read.values[Site(middle)].numpy()}
    places = list(zip(read.index["problem"], read.index["sample"], read.index["position"], strict=True))
    targets = {"base alone": ("onset", np.array([place in chosen for place in places])),
               "trained on RL labels": (f"js above {threshold:.2g}", np.concatenate(own.table["divergence"].to_list()) > threshold)}  # fmt: skip
    layers = tuple(layer for layer in few_layers(pair.base.n_layers) if layer >= middle)
    values = swap_values(pair, problems, sampling=run.sampling(4), limit=config.swaps, continuations=4, progress=run.progress)
    write_table(run.tables / "swap_values.parquet", values.table)

    def probed(source: str) -> tuple[Router, dict[str, Any]]:
        label, target = targets[source]
        held: dict[str, Any] = {"groups": read.index["problem"].to_numpy(str), "seed": config.seed}
        position = read.index["position"].to_numpy()
        probe = fit_probe(activations, target, label=label, timing_source=source, fitted_on={"base": pair.base.fingerprint}, **held)
        beside = readout_baselines(target, inputs=_plainer(run, own, position, middle), **held)
        first = np.concatenate([np.where(np.arange(len(said)), said[0], -1) for said in own.table["token_ids"]])  # what opened the completion: on organisms its format
        for within, strata in {"position": position, "position and first token": np.unique(np.stack([position, first]), axis=1, return_inverse=True)[1]}.items():
            beside |= _by_chance(f"labels shuffled within {within}", target, strata, activations[f"base:{middle}"], held)
        return on_probe(probe), {**probe.card(), "baselines": beside}

    def nearest() -> tuple[Router, dict[str, Any]]:
        vectors = fit_vectors(pair.base, own, spans, layers=middle)
        return on_nearest(vectors, middle, center=read.values[Site(middle)].mean(0)), {"skipped": dict(vectors.skipped)} if vectors.skipped else {}

    def valued(base_only: bool) -> tuple[Router, dict[str, Any]]:
        value, cost = value_probes(pair, values, layers=layers, base_only=base_only, seed=config.seed)
        return on_value(value, cost), {**value.card(), "cost": cost.card(), "baselines": value_baselines(values.table, base_only, config.seed)}

    made: dict[str, Callable[[], tuple[Router, dict[str, Any]]]] = {
        "on_probe(onset)": lambda: probed("base alone"), "on_nearest": nearest, f"on_probe({targets['trained on RL labels'][0]})": lambda: probed("trained on RL labels"),
        "on_value(base)": lambda: valued(True), "on_value": lambda: valued(False),
    }  # fmt: skip
    routers, facts = list[Router](), dict[str, Any]()
    for name, make in made.items():
        try:
            router, facts[name] = make()
            routers.append(router)
        except InvalidInput as error:  # too few spans, or one class only: the others go on
            facts[name] = {"reason": str(error)}
    return routers, facts


def value_baselines(swaps: pd.DataFrame, base_only: bool, seed: int) -> dict[str, dict[str, Any]]:
    """What the AUROC of a value probe stands beside: whether a swap is worth something, read off its tokens and its position."""
    known = {"base token and position": ["base_token", "start"]} if base_only else {"both tokens and position": ["base_token", "rl_token", "start"]}
    inputs = {name: swaps[columns].to_numpy(np.int64) for name, columns in known.items()}
    return readout_baselines(swaps["value"].to_numpy() > 0, swaps["problem"].to_numpy(str), seed=seed, inputs=inputs)


def _by_chance(name: str, target: Bool[np.ndarray, "token"], strata: Shaped[np.ndarray, "token"], read: Float[np.ndarray, "token d_model"], held: dict[str, Any]) -> dict[str, Any]:
    """What activations reach where nothing but the stratum says anything: mean AUROC over `SHUFFLES` of the labels, and the 5th and 95th percentile of them."""
    some = np.bincount(number := np.unique(strata, return_inverse=True)[1])[number] > 1  # a row alone in its stratum would keep its label
    inputs = {"inputs": {name: read[some]}, "groups": held["groups"][some], "seed": held["seed"], "n_boot": 0}
    found = [readout_baselines(mask, **inputs) for mask in shuffled(target[some], n=SHUFFLES, seed=held["seed"], strata=number[some])]
    reached = [each[name]["auroc"] for each in found if each]
    return {name: {"auroc": float(np.mean(reached)), "auroc_interval": [float(q) for q in np.quantile(reached, (0.05, 0.95))]}} if reached else {}


def _openings(run: Run) -> list[Router]:
    """The router of the tokens that open strategies; none where the task has no such tokens."""
    return [on_opening([*run.language.tokens.values()])] if run.language.tokens else []


def _plainer(run: Run, own: Rollouts, position: Int[np.ndarray, "token"], layer: int) -> dict[str, np.ndarray]:
    """What a probe of the base's own completions is compared with, a row a token: the base's entropy, its log-odds of a token that opens a strategy (where the task has
    such tokens), current token and position, and an untrained twin's activations.
    """
    twin = capture(untrained(run.pair.base, run.config.seed), own, [Site(layer)]).values[Site(layer)].numpy()
    current = np.concatenate([np.concatenate([prompt[-1:], said[:-1]]) for prompt, said in zip(own.table["prompt_ids"], own.table["token_ids"], strict=True)])
    scores = {"entropy": "base_entropy", "log-odds of an opening token": "score:0"}
    plain = {name: np.concatenate(own.table[column].to_list()) for name, column in scores.items() if column in own.table}
    return {**plain, "token and position": np.stack([current, position], 1), "untrained twin": twin}


def _routing(run: Run) -> None:
    """Every router with a score, at the budgets of the run, beside its matched disagreements and random places; those of the base alone and the best of each other timing
    source beside their matched positions too; and the roles exchanged, beside the matched disagreements of that.
    """
    fitted, facts = learned(run)
    plain = [on_entropy(), on_margin(), *_openings(run), opposite(on_entropy()), on_divergence("js"), on_divergence("kl"), on_divergence("tv"), on_likelihood_gain(), on_entropy_drop(), opposite(on_divergence("js"))]
    problems, budgets = run.problems("calibration", run.config.calibration_problems), run.config.budgets
    sampling = replace(run.sampling(run.config.calibration_samples), max_rows=run.rows)
    how: dict[str, Any] = {"quick": bool(run.config.quick_calibration), "progress": run.progress}
    done = calibrate([*plain, *fitted], run.pair, problems, budgets, sampling=sampling, **how)
    routers: dict[str, Router] = {"base": never(), "rl": always()}
    best = _best_of_each(done)
    for router in done:
        label = f"{router.name}@{router.params['calibration']['budget']:.2f}"
        routers |= {label: router, f"matched_disagreement:{label}": matched_disagreement(router), f"matched_random:{label}": matched_random(router)}
        clocked = router.name in best or sources({"router": router.spec()})["timing_source"] == "base alone"  # whatever speaks of the base could be a clock
        routers |= {f"matched_position:{label}": matched_position(router)} if clocked else {}
    test = run.problems("test", run.config.n_problems)
    drawing = replace(run.sampling(run.config.compare_samples), keep_tokens=False, max_rows=run.rows)
    arms = Arms([Hybrid(run.pair, router, name=name) for name, router in routers.items()])
    run.sample("routing", arms, test, drawing).save(run.tables / "routing.parquet")

    turned = run.pair.exchanged()  # under the shared prompt: rl_prompt is for the RL model, which decodes here
    swapped = calibrate([on_divergence("js")], turned, problems, budgets, sampling=sampling.alone("base"), **how)
    of_each = [(f"{name}@{r.params['calibration']['budget']:.2f}", router) for r in swapped for name, router in (("exchanged", r), ("matched_disagreement", matched_disagreement(r)))]
    arms = Arms([Hybrid(turned, router, name=name) for name, router in of_each])
    run.sample("exchanged", arms, test, drawing.alone("base")).save(run.tables / "routing_exchanged.parquet")
    write_json(run.tables / "routing.json", facts)


def _best_of_each(done: list[Router]) -> set[str]:
    """Of each timing source the router with the largest area on calibration problems, of those whose arms reach over the whole curve."""
    of = {name: [d for d in done if d.name == name] for name in dict.fromkeys(r.name for r in done)}
    areas = {name: calibration_area(arms) if reaches([r.params["calibration"]["share_of_D"] for r in arms]) else np.nan for name, arms in of.items()}
    by_source: dict[str, list[str]] = {}
    for router in done:
        by_source.setdefault(sources({"router": router.spec()})["timing_source"], []).append(router.name)
    return {max(names, key=lambda name: np.nan_to_num(areas[name], nan=-np.inf)) for names in by_source.values()}


def trained_biases(pair: ModelPair) -> ModelPair | str:
    """The organism NAME-bias of a pair NAME, trained here or shipped: the pair's base, and the same with biases trained by RL; or why there is none."""
    name = f"{pair.name}-bias"
    if name not in ORGANISMS:
        return "no recipe trains biases alone on this base"
    folder, why = weights_of(ORGANISMS[name], 0)
    if folder is None:
        return f"{name}: {why} (latentreason organisms train {name})"
    found = ModelPair.from_folder(folder, name)
    return found if found.base.fingerprint == pair.base.fingerprint else f"{name} was trained on another base"


def routed_beside(run: Run) -> list[Router]:
    """The routed hybrids that rivals are compared with: the best oracle and the best base-only router of the main job, by calibration problems, at their budgets nearest to
    half of D and at the largest.
    """
    facts, routers = read_json(run.tables / "facts.json")["t1"], calibrated_routers(run, "t1")
    found: list[Router] = []
    for name in (facts["best_oracle"], facts["best_base_only"]):
        mine = sorted((r for r in routers if r.name == name), key=lambda r: r.params["calibration"]["budget"])
        found += {id(r): r for r in [min(mine, key=lambda r: abs(r.params["calibration"]["budget"] - 0.5)), mine[-1]]}.values() if mine else []
    return found


def _rivals(run: Run) -> None:
    """Each rival at the setting that did best on calibration problems, beside the routed hybrids; and what RL changed in the weights."""
    problems, test = run.problems("calibration", run.config.calibration_problems), run.problems("test", run.config.n_problems)
    trying, drawing, task = run.sampling(run.config.calibration_samples), run.sampling(run.config.rival_samples), run.config.task
    routed = Arms([Hybrid(run.pair, router) for router in routed_beside(run)])
    hybrids = run.sample("rivals-routed", routed, test, replace(drawing, keep_tokens=False, max_rows=run.rows))
    parts, facts = [hybrids.slim()], dict[str, Any]()
    for hybrid in routed.hybrids:
        (arm,), measured = hybrid.arms, hybrid.router.params["calibration"]
        live = sources({"router": hybrid.router.spec()})["timing_source"] == "RL model live"
        share = 1.0 if live else float(hybrids.arm(arm).table["n_routed"].sum() / hybrids.arm(arm).table["n_tokens"].sum())
        facts[arm] = {"uses": "RL timing, RL token" if live else "base timing, RL token", "passes": 2.0, "rl_logits": share, "setting": f"{measured['budget']:g} D", "routed": True,
                      "tried": [{"setting": measured["share_of_D"], "accuracy": measured["accuracy"]}]}  # fmt: skip
    examples = [] if "few_shot" in styles_of(task) else worked_examples(run.pair, run.problems("fit", run.config.fit_problems), trying)
    rivals = list(rivals_for(task, trying.prompt, examples, trying.temperature))
    if not examples:
        why = f"the prompts of {task} show examples: see prompt" if "few_shot" in styles_of(task) else "the base answers no fitting problem rightly, so there is no example"
        facts["few_shot"] = {"uses": "labels of fitting and calibration problems", "reason": why}
    if isinstance(biases := trained_biases(run.pair), str):
        facts[BIAS_VECTOR] = {"uses": BIAS_USES, "reason": biases}
    else:
        rivals.append(bias_vector(biases))
    for rival in rivals:
        try:
            setting, tried = tuned(rival, run.pair, problems, trying)
            drawn = rival.draw(run.pair, test, drawing, {setting: rival.grid[setting]})[setting]
        except ContextTooLong as error:
            facts[rival.name] = {"uses": rival.uses, "reason": str(error)}
            continue
        parts.append(Rollouts(drawn.slim().table.assign(arm=rival.name), {rival.name: {}}))
        facts[rival.name] = rival.facts(setting, tried) | ({"examples": examples} if rival.name == "few_shot" else {})
    concat(parts).save(run.tables / "rivals.parquet")
    write_json(run.tables / "rivals.json", facts)
    write_table(run.tables / "weight_changes.parquet", weight_changes(run.pair))


STAGES: dict[str, Callable[[Run], None]] = {"routing": _routing, "rivals": _rivals}
