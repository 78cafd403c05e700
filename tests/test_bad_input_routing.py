"""Routing and steering with what cannot work: a typed error that says the fix, or a reason in the result.

Beside the code that refuses it are tested: budgets outside (0, 1] (hybrid/test_calibrate.py), a probe of one class (routing/test_probe.py), categories without
spans (hybrid/test_steering.py, test_text_run.py), layers that a model does not have (hybrid/test_resid.py), and end-of-text inside a speculative block (hybrid/test_modes.py).
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

import latentreason as lr
from latentreason import steered
from latentreason.activations.sites import Site
from latentreason.errors import InvalidInput
from latentreason.files import read_json, read_table
from latentreason.hybrid.calibrate import calibrated
from latentreason.hybrid.decode import Arms
from latentreason.hybrid.presets import steer_best
from latentreason.hybrid.steering import Category, bias_by, random_category, steer_by
from latentreason.models.decoding import Batch
from latentreason.models.language_model import LM
from latentreason.models.pair import ModelPair
from latentreason.reproduce import TINY, Run
from latentreason.routing.base_only import on_entropy
from latentreason.routing.controls import always, never, opposite
from latentreason.routing.oracle import on_divergence
from latentreason.routing.probe import Probe, on_nearest, on_probe, on_value
from latentreason.routing.router import by_threshold
from latentreason.sampling.noise import gumbel
from latentreason.strategies.tagging import tag
from latentreason.studies import recovery, rivals
from latentreason.tables import Rollouts
from latentreason.vectors.steering_vector import SteeringVector, VectorSet

DRAW = lr.Sampling(n=2, max_new_tokens=8)
LABELS = ("a", "b")


def vectors(width, layer=0):
    noise = torch.randn(2, width, generator=torch.Generator().manual_seed(1))
    return VectorSet(tuple(SteeringVector.of(Site(layer), noise[i], label, 5) for i, label in enumerate(LABELS)))


@pytest.fixture(scope="module")
def pair():
    return ModelPair.from_organism()


@pytest.fixture(scope="module")
def problems():
    return lr.load_task("chain", split="calibration", limit=4)


def test_vectors_of_another_model_are_refused_and_can_be_tried_on_purpose(pair):
    of_another = replace(vectors(pair.base.d_model), info={"weights": "0123456789abcdef"})
    for action in (lr.steer(of_another), lr.steer_persistent(of_another), steer_by(of_another, random_category(LABELS)), steer_best(of_another, random_category(LABELS))):
        with pytest.raises(InvalidInput, match=r"were fitted on the weights 0123456789abcdef.*neither those of.*dataclasses.replace\(vectors, info=\{\}\)"):
            lr.Hybrid(pair, on_entropy(), action)
    with pytest.raises(InvalidInput, match="The vectors of 'on_nearest' were fitted on the weights"):
        lr.Hybrid(pair, on_nearest(of_another, 0))
    lr.Hybrid(pair, on_entropy(), lr.steer(replace(of_another, info={})))
    for lm in (pair.base, pair.rl):
        lr.Hybrid(pair, on_entropy(), lr.steer(replace(of_another, info={"weights": lm.fingerprint})))


def test_categories_and_probes_of_another_model_are_refused_even_of_equal_width(pair):
    def category(fitted_on):
        return Category("base:1", LABELS, torch.zeros(2, pair.base.d_model), torch.zeros(2), fitted_on=fitted_on)

    def probe(fitted_on):
        return Probe({"base:1": torch.zeros(pair.base.d_model)}, 0.0, "x", "base alone", {"fitted_on": fitted_on})

    for wrong in ("0123456789abcdef", pair.rl.fingerprint):  # the category is read off the base, so the RL model's weights are another's
        for action in (steer_by(vectors(pair.base.d_model), category(wrong)), bias_by(dict.fromkeys(LABELS, 1), category(wrong), bias=1.0), steer_best(vectors(pair.base.d_model), category(wrong))):
            with pytest.raises(InvalidInput, match=rf"The category of .* fitted on the weights {wrong}, which are not those of 'base'.*replace\(category, fitted_on=\"\"\)"):
                lr.Hybrid(pair, on_entropy(), action)
        good, bad = probe({"base": pair.base.fingerprint}), probe({"base": wrong})
        for router in (on_probe(bad), on_value(good, bad), on_value(bad, good), on_entropy() | on_probe(bad), ~on_probe(bad), opposite(on_probe(bad))):
            with pytest.raises(InvalidInput, match=f"The probe 'x' of .* was fitted on the weights {wrong}, which are not those of 'base'"):
                lr.Hybrid(pair, router)
    with pytest.raises(InvalidInput, match="The probe 'x' of .* was fitted on the weights 0123456789abcdef"):  # a fingerprint alone is that of all its places
        lr.Hybrid(pair, on_probe(probe("0123456789abcdef")))
    lr.Hybrid(pair, on_probe(probe(pair.base.fingerprint)))
    for said in ("", pair.base.fingerprint):
        lr.Hybrid(pair, on_probe(probe({"base": said} if said else {})), steer_by(vectors(pair.base.d_model), category(said)))


@pytest.mark.parametrize("budget", [-0.1, 0.0, 1.2])
def test_a_budget_is_a_share_of_d(pair, problems, budget):
    with pytest.raises(InvalidInput, match=r"must be shares of D in \(0, 1\]"):
        calibrated(on_divergence(), pair, problems, budget, progress=False)


@pytest.mark.parametrize(("router", "said"), [(on_entropy(1e9), "nothing, so it is the base model"), (on_entropy(-1.0), "every token")])
def test_a_threshold_that_routes_nothing_or_everything_is_said_in_the_result(pair, problems, router, said):
    arms = lr.sample(Arms([lr.Hybrid(pair, r, name=name) for name, r in (("base", never()), ("rl", always()), ("mine", router))]), problems, DRAW, progress=False)
    result = recovery.run(base=arms.arm("base"), rl=arms.arm("rl"), hybrid=arms.arm("mine"), config=recovery.Config(n_boot=50))
    assert result.details["thresholds"] == f"The threshold of mine routes {said}." and result.said.endswith(result.details["thresholds"])
    middling = lr.sample(lr.Hybrid(pair, on_entropy(0.3), name="mine"), problems, DRAW, progress=False)
    assert "thresholds" not in recovery.run(base=arms.arm("base"), rl=arms.arm("rl"), hybrid=middling, config=recovery.Config(n_boot=50)).details


def test_a_router_that_reads_a_model_that_is_not_loaded_or_not_run(pair, problems):
    teacher = by_threshold("on_teacher", lambda step: step.resid["teacher:1"].sum(-1), 0.0, frozenset({"teacher:1"}))
    with pytest.raises(InvalidInput, match="reads 'teacher:1', but a pair has the models 'base' and 'rl' alone"):
        lr.sample(lr.Hybrid(pair, teacher), problems, DRAW, progress=False)
    secret = by_threshold("secret", lambda step: step.rl_logprobs.amax(-1), 0.0, frozenset({"base"}))
    with pytest.raises(InvalidInput, match=r"must say so, with reads=\{'base', 'rl'\}"):
        lr.sample(lr.Hybrid(pair, secret, mode="lazy"), problems, DRAW, progress=False)


@pytest.mark.usefixtures("unchecked_shapes")
def test_vectors_probes_and_categories_of_another_model_are_refused_by_width_or_block(make_tiny, tiny_tokenizer):
    two = ModelPair(*(LM(make_tiny("llama", seed), tiny_tokenizer, name) for seed, name in ((0, "base"), (1, "rl"))))  # of width 32, with 3 blocks
    batch = Batch([[1, 9, 40]], torch.zeros(2, dtype=torch.long), torch.arange(2), 1.0, 1.0, 4, gumbel)
    chance = random_category(LABELS)
    narrow = Probe({"base:1": torch.ones(16)}, 0.0, "x", "base alone")
    cases = {
        "The vectors at .* have width 16, 'base' has d_model 32. Were they": lr.Hybrid(two, always(), lr.steer(vectors(16), label="a")),
        "The vectors at .* have width 16, 'base' has d_model 32. Were they fitted on another model": lr.Hybrid(two, always(), steer_by(vectors(16), chance)),
        "The vectors at .* have width 48": lr.Hybrid(two, always(), steer_best(vectors(48), chance, strengths=(1.0,), windows=(1,))),
        "7": lr.Hybrid(two, always(), steer_by(vectors(32, layer=7), chance)),
        "The probe 'x' was fitted on activations of width 16, and those at 'base:1' have 32": lr.Hybrid(two, on_probe(narrow)),
        "The set of vectors was fitted on activations of width 16, and those at 'base:0' have 32": lr.Hybrid(two, on_nearest(vectors(16), 0)),
        "The category was fitted on activations of width 16": lr.Hybrid(two, always(), steer_by(vectors(32), Category("rl:1", LABELS, torch.zeros(2, 16), torch.zeros(2)))),
    }
    for message, hybrid in cases.items():
        with pytest.raises(InvalidInput, match=message):
            hybrid.decode(batch)


def test_a_strategy_without_spans_has_a_reason_and_no_vector(pair, problems):
    own = lr.sample(pair.base, problems, DRAW, progress=False)
    spans = tag(own)
    table = spans.table[spans.table["strategy"].str.startswith("format:")].copy()
    table["strategy"] = ["once", *["often"] * 3, *["other"] * (len(table) - 4)]
    with pytest.raises(InvalidInput, match="No strategy has a vector: no spans"):
        lr.fit_vectors(pair.base, own, lr.Spans(table.iloc[:0]), layers=1)
    table["start"] = np.arange(len(table)) % 5 + 1
    table["end"] = table["start"] + 1
    fitted = lr.fit_vectors(pair.base, own, lr.Spans(table), layers=1)
    assert fitted.skipped["once"] == f"1 spans with and {len(table) - 1} without: at least 2 of each are needed" and "once" not in fitted.labels


def test_a_strength_that_turns_text_into_loops_is_flagged_by_repetition_and_by_likelihood(pair, tmp_path):
    """A vector along one token's row of the head, far too strong: every token is that one."""
    row = pair.base.model.get_output_embeddings().weight[pair.base.tokenizer.get_vocab()["7"]].detach().clone()
    along = VectorSet((SteeringVector.of(Site(pair.base.n_layers - 1), row, "seven", 5),))
    run = Run(tmp_path / "run", replace(TINY, n_problems=6, rival_samples=1, strategy_samples=2, max_new_tokens=24), pair, progress=False)
    run.tables.mkdir(parents=True)
    strengths = {"none": 0.0, "far too strong": 1000.0}
    facts = {name: {"uses": "nothing", "setting": strength, "tried": []} for name, strength in strengths.items()}
    steered._drawn(run, "steering", [lr.Hybrid(pair, always(), lr.steer(along, strength=strength), name) for name, strength in strengths.items()], facts, 2)
    arms, facts = Rollouts.load(run.tables / "steering.parquet"), read_json(run.tables / "steering.json")
    ends = lr.sample(Arms([lr.Hybrid(pair, router, name=name) for name, router in (("base", never()), ("rl", always()))]), run.problems("test", 6), run.sampling(2), progress=False)
    result = rivals.run(base=ends.arm("base"), rl=ends.arm("rl"), rivals=arms, facts=facts, fluency=read_table(run.tables / "steering_fluency.parquet"))
    assert result.details["fluency"] == {"none": {"repeats": False, "unlikely": False}, "far too strong": {"repeats": True, "unlikely": True}}
    assert result.estimate("repeated", arm="far too strong").value > 0.9 > 0.3 > result.estimate("repeated", arm="base").value
    assert result.said.endswith("far too strong.") and facts["none"]["passes"] == 2.0
