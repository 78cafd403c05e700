"""Study `geometry`: its statistics against planted truths and brute force, its decoders against `Hybrid`, and the whole on a tiny pair."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest
import torch

from latentreason.activations.editing import additions, editing
from latentreason.activations.sites import Activations, Site
from latentreason.errors import InvalidInput
from latentreason.files import read_table, write_json
from latentreason.geometry.cosines import ByProblem, centred, cosine, cosine_table
from latentreason.geometry.decoders import Dose, Doses, Points, Watched, logodds, logprob, read_again
from latentreason.geometry.doses import CONTENT, DECODED, STRENGTHS, _behaviour
from latentreason.geometry.measure import choices, cosines, measure, position_edges, untrained, with_strata
from latentreason.geometry.probes import HeldOut, auroc_table
from latentreason.hybrid.actions import logit_bias, steer
from latentreason.hybrid.decode import Arms, Hybrid
from latentreason.models.decoding import PrefixDecoder
from latentreason.models.language_model import LM
from latentreason.models.pair import ModelPair
from latentreason.organisms.recipe import Pretrain, Recipe, Size
from latentreason.organisms.tokenizer import chain_tokenizer
from latentreason.organisms.trainers.pretrain import new_model, pretrain
from latentreason.organisms.zoo import ACTIVATION
from latentreason.routing.controls import always
from latentreason.sampling.local import Sampling, sample
from latentreason.strategies.grammar import malformed
from latentreason.strategies.language import language
from latentreason.studies import geometry
from latentreason.studies.recompute import geometry_result
from latentreason.studies.result import Result
from latentreason.tables import Rollouts
from latentreason.tasks import chain
from latentreason.tasks.registry import load_task
from latentreason.vectors.contrast import diff_means
from latentreason.vectors.steering_vector import SteeringVector, VectorSet

RECIPE = Recipe(
    "tiny", None, ACTIVATION.corpus, Size(d_model=32, n_layers=2, n_heads=2, n_kv_heads=1, d_mlp=64),
    Pretrain(steps=120, batch=48, lr=1e-2, warmup=10, curriculum=0.0),
)  # fmt: skip
SMALL = geometry.Config(min_spans=6, n_halves=4, n_shuffles=100, probe_shuffles=1, n_random=3, n_boot=50, dose_problems=3, dose_samples=2)
IDS = {word: i for i, word in enumerate(chain.VOCABULARY)}
LANGUAGE = language("chain", chain_tokenizer())


@dataclass(frozen=True)
class Run:
    """What `collect` needs of a RunConfig."""

    task: str = "chain"
    geometry_problems: int = 16
    seed: int = 0
    geometry_samples: int | None = None


def changed(lm: LM, size: float, name: str) -> LM:
    """The model with noise on its weights."""
    other = untrained(lm, 0).model
    other.load_state_dict(lm.model.state_dict())
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in other.parameters():
            weight += size * torch.randn(weight.shape, generator=generator)
    return LM(other, lm.tokenizer, name)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Operations this small are ten times as slow on two threads where other work runs too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> ModelPair:
    """A base that has learnt the grammar and little else, and a neighbour of it."""
    folder = tmp_path_factory.mktemp("tiny")
    pretrain(RECIPE, 0, folder, progress=False)
    base = LM.from_pretrained(folder, name="base")
    return ModelPair(base, changed(base, 0.02, "rl"))


@pytest.fixture(scope="module")
def tables(pair: ModelPair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `collect` has written to."""
    folder = tmp_path_factory.mktemp("tables")
    write_json(folder / "facts.json", {"t1": {"best_oracle": "js"}})
    geometry.collect(pair, Run(), folder, SMALL)
    return folder


@pytest.fixture(scope="module")
def result(tables: Path) -> Result:
    return geometry_result(tables)


# ---- cosines


def planted(angle: float, *, n_problems: int = 60, each: int = 30, gap: float = 2.0, seed: int = 0, d: int = 48) -> tuple[Activations, Activations, Activations]:
    """Base, RL and an unrelated model on traces whose `check` moves the activation along directions at a given angle."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(d, 3)))[0].T
    directions = axes[0], math.cos(angle) * axes[0] + math.sin(angle) * axes[1], axes[2]
    n = n_problems * each
    out = []
    for direction in directions:
        check = rng.random(n) < 0.3
        values = torch.from_numpy(rng.normal(size=(n, d)) + gap * check[:, None] * direction).float()
        index = pd.DataFrame({
            "problem": [f"p{i // each}" for i in range(n)], "strategy": np.where(check, "check", "so").astype(object), "stratum": rng.choice(["go@1", "think@2"], n).astype(object),
            "position": rng.integers(0, 9, n), "absolute": rng.integers(9, 19, n), "previous": rng.integers(0, 5, n), "logprob:check": rng.normal(size=n), "logprob:so": rng.normal(size=n),
        })  # fmt: skip
        out.append(Activations({Site(0): values, Site(1): torch.from_numpy(rng.normal(size=(n, d))).float()}, index))
    return out[0], out[1], out[2]


def found(table: pd.DataFrame, quantity: str, kind: str, label: str = "check", layer: int = 0) -> pd.Series:
    rows = table[(table["quantity"] == quantity) & (table["kind"] == kind) & (table["label"] == label) & (table["layer"] == layer)]
    assert len(rows) == 1
    return rows.iloc[0]


def twin_of(model: Activations, like: Activations) -> Activations:
    """Unrelated activations, on the rows of `like`."""
    return Activations(model.values, like.index)


@pytest.mark.parametrize("angle", [0.0, 1.0, math.pi / 2])
def test_the_cosine_of_planted_directions_is_found_and_noise_has_none(angle: float) -> None:
    base, rl, other = planted(angle)
    table = cosine_table(base, rl, twin_of(other, base), twin_of(other, rl), n_shuffles=100, n_boot=200)
    for suffix in ("", "_within"):
        row = found(table, f"cosine{suffix}", "base_rl")
        # 1800 rows of unit noise in 48 dimensions: a vector of length 2 has an error of length about sqrt(48 / 378)
        assert row["value"] == pytest.approx(math.cos(angle), abs=0.07) and row["lo"] < row["value"] < row["hi"]
        assert found(table, f"reliability{suffix}", "base")["value"] > 0.9
        null = found(table, f"cosine{suffix}", "shuffled")
        assert null["value"] == pytest.approx(math.sqrt(2 / math.pi / 48), abs=0.04)  # mean |cosine| of random directions
        assert (found(table, f"p_value{suffix}", "shuffled")["value"] == 1 / 101) == (angle < 1.5)
        assert abs(found(table, f"cosine{suffix}", "untrained")["value"]) < 0.3
        noise = found(table, f"cosine{suffix}", "base_rl", layer=1)
        assert abs(noise["value"]) < 0.5 and found(table, f"p_value{suffix}", "shuffled", layer=1)["value"] > 0.01
        assert abs(found(table, f"reliability{suffix}", "base", layer=1)["value"]) < 0.3


def test_a_vector_that_is_only_its_format_has_a_plain_cosine_of_1_and_none_within() -> None:
    base, rl, other = planted(0.0, gap=0.0)
    for model in (base, rl):
        think = (model.index["stratum"] == "think@2").to_numpy(bool, copy=True)
        model.values[Site(0)][:, 5] += 8.0 * torch.from_numpy(think)  # both models know the format ...
        often = think & (np.random.default_rng(3).random(len(think)) < 0.8)
        model.index["strategy"] = np.where(often, "check", "so").astype(object)  # ... and the strategy goes with it
    table = cosine_table(base, rl, twin_of(other, base), twin_of(other, rl), n_shuffles=100, n_boot=50)
    assert found(table, "cosine", "base_rl")["value"] > 0.98 and found(table, "cosine", "shuffled")["value"] > 0.98
    assert found(table, "p_value", "shuffled")["value"] > 0.01
    assert abs(found(table, "cosine_within", "base_rl")["value"]) < 0.5 and found(table, "p_value_within", "shuffled")["value"] > 0.01


def test_weights_on_problems_are_the_vectors_of_repeated_problems() -> None:
    base, _, _ = planted(0.0, n_problems=4, each=12)
    values = base.values[Site(0)].numpy()
    check = (base.index["strategy"] == "check").to_numpy()
    problems = ["p0", "p1", "p2", "p3"]
    sums = ByProblem.of(values[:, None], base.index, problems, ("check", "so"))
    repeated = np.concatenate([np.flatnonzero(base.index["problem"] == p) for p, k in zip(problems, (2, 0, 1, 1), strict=True) for _ in range(k)])
    got = sums.vectors("check", np.array([[0.25] * 4, [0.5, 0, 0.25, 0.25], [0.0] * 4]))[:, 0]
    np.testing.assert_allclose(got[0], diff_means(values, check), atol=1e-5)
    np.testing.assert_allclose(got[1], diff_means(values[repeated], check[repeated]), atol=1e-5)
    assert np.isnan(got[2]).all()
    within = centred(values[:, None], base.index)
    assert abs(within[(base.index["stratum"] == "go@1").to_numpy()].mean(0)).max() < 1e-5
    assert np.isnan(cosine(np.zeros((1, 3)), np.ones((1, 3)))).all() and cosine(np.array([3.0, 4]), np.array([6.0, 8])) == pytest.approx(1)


def test_too_few_spans_are_nan_with_a_reason_not_a_number() -> None:
    base, rl, other = planted(0.0)
    rl.index.loc[rl.index["strategy"] == "check", "strategy"] = "so"
    rl.index.loc[:3, "strategy"] = "check"
    table = cosine_table(base, rl, twin_of(other, base), twin_of(other, rl), n_shuffles=100, n_boot=20)
    row = found(table, "cosine", "base_rl")
    assert math.isnan(row["value"]) and row["reason"] == "too few spans: 4 RL with, at least 20 are needed"
    assert row["n_base"] > 400 and row["n_rl"] == 4
    assert found(table, "reliability", "base")["value"] > 0.9  # what needs the base alone stays
    assert table["value"].notna().eq(table["value"].notna() | (table["reason"] == "")).all()


# ---- AUROC


def test_auroc_and_its_replicates_equal_scikit_learn() -> None:
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    positive, problem = rng.random(80) < 0.4, rng.integers(0, 6, 80)
    scores = np.round(rng.normal(size=80) + positive, 1)  # with ties
    weights = np.vstack([np.full(6, 1 / 6), rng.multinomial(6, np.full(6, 1 / 6), 5) / 6])
    got = HeldOut(positive, problem, weights).auroc(scores)
    np.testing.assert_allclose(got, [roc_auc_score(positive, scores, sample_weight=w[problem]) for w in weights])
    assert np.isnan(HeldOut(np.ones(80, dtype=bool), problem, weights).auroc(scores)).all()


def test_a_planted_gap_has_the_auroc_of_two_gaussians_and_shuffled_labels_are_chance() -> None:
    base, _, other = planted(0.0, gap=2.0)
    table = auroc_table(base, twin_of(other, base), [f"p{i}" for i in range(30)], n_shuffles=2, n_boot=200)
    probe = found(table, "auroc", "probe")
    assert probe["value"] == pytest.approx(NormalDist().cdf(2 / math.sqrt(2)), abs=0.03) and probe["n"] == 30
    for kind in ("untrained", "token_position", "logprob", "shuffled"):
        baseline = found(table, "auroc", kind)
        assert baseline["value"] == pytest.approx(0.5, abs=0.15 if kind == "shuffled" else 0.08)  # one direction of 48 may fall on the planted one
        assert found(table, "auroc_difference", kind)["lo"] > 0
        assert found(table, "auroc_difference", kind)["value"] == pytest.approx(probe["value"] - baseline["value"])
    assert found(table, "auroc", "probe", layer=1)["value"] == pytest.approx(0.5, abs=0.08)
    assert found(table, "auroc", "probe", label="so")["value"] == pytest.approx(probe["value"])


def test_probes_with_too_few_spans_in_a_half_say_which() -> None:
    base, _, other = planted(0.0)
    base.index.loc[base.index["problem"].isin([f"p{i}" for i in range(30)]), "strategy"] = "so"
    table = auroc_table(base, twin_of(other, base), [f"p{i}" for i in range(30)], n_boot=20)
    assert table["value"].isna().all() and "0 fitted on with" in found(table, "auroc", "probe")["reason"]


# ---- decoders


@pytest.fixture(scope="module")
def vector(pair: ModelPair) -> SteeringVector:
    raw = torch.randn(32, generator=torch.Generator().manual_seed(0))
    return SteeringVector.of(Site(0), raw, "check", 9)


def test_doses_decode_token_for_token_as_hybrids_do(pair: ModelPair, vector: SteeringVector) -> None:
    problems, sampling = load_task("chain", split="fit", limit=5), Sampling(n=2, max_new_tokens=40)
    at_one, one = vector, VectorSet((vector,))
    hybrids = [
        Hybrid(pair, always(), steer(one, strength=2.0), "up"), Hybrid(pair, always(), steer(one, strength=-1.5), "down"),
        Hybrid(pair, always(), logit_bias(IDS["check"], 3.0), "bias"), Hybrid(pair, always(), logit_bias(IDS["check"], 0.0), "base"),
    ]  # fmt: skip
    doses = [Dose("up", Site(0), 2.0 * at_one.vector), Dose("down", Site(0), -1.5 * at_one.vector), Dose("bias", token=IDS["check"], bias=3.0), Dose("base")]
    expected, got = (sample(arms, problems, sampling, progress=False).table.set_index(["arm", "problem", "sample"])["token_ids"] for arms in (Arms(hybrids), Doses(pair.base, doses)))
    plain = sample(pair.base, problems, sampling, progress=False).table.set_index(["problem", "sample"])["token_ids"]
    same = [np.array_equal(got[key], tokens) for key, tokens in expected.items()]
    assert len(same) == 40 and sum(same) >= 39  # a near tie may fall otherwise in another batch
    assert all(np.array_equal(got["base", p, s], tokens) for (p, s), tokens in plain.items())
    assert sum(np.array_equal(got["up", p, s], tokens) for (p, s), tokens in plain.items()) < 10


def test_reading_again_equals_an_edited_pass_and_leaves_the_caches_alone(pair: ModelPair, vector: SteeringVector) -> None:
    with torch.inference_mode():
        decoder = PrefixDecoder([pair.base], [[1, 5, 9, 33, 12], [1, 7, 2], [1, 20, 21, 22]])
        before = [(layer.keys[:, :, : layer.length].clone(), layer.values[:, :, : layer.length].clone()) for layer in decoder.readers[0].layers]
        got = read_again(decoder, [(Site(0), lambda hidden, places: hidden + 3 * vector.vector)])
        with editing(pair.base, additions([vector], 3.0)):
            expected, place = decoder.again(0, torch.arange(3))
        unedited = read_again(decoder, [])
    torch.testing.assert_close(got, expected[place], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(unedited, decoder.logits[0], atol=1e-4, rtol=1e-4)
    assert (got - unedited).abs().max() > 0.1
    for layer, (keys, values) in zip(decoder.readers[0].layers, before, strict=True):
        assert layer.length == 5 and torch.equal(layer.keys[:, :, :5], keys) and torch.equal(layer.values[:, :, :5], values)


def test_a_watched_model_samples_as_before_and_its_log_probabilities_are_those_of_a_forward_pass(pair: ModelPair) -> None:
    problems, sampling = load_task("chain", split="fit", limit=4), Sampling(n=2)
    watched = sample(Watched(pair.base, {"check": IDS["check"], "format:go": IDS["go"]}), problems, sampling, progress=False).table
    plain = sample(pair.base, problems, sampling, progress=False).table
    for one, other in zip(watched.itertuples(), plain.itertuples(), strict=True):
        assert np.array_equal(one.token_ids, other.token_ids)
        ids = torch.tensor([[*one.prompt_ids, *one.token_ids]])
        with torch.inference_mode():
            logprobs = pair.base.model(input_ids=ids).logits[0].log_softmax(-1)
        for name, token in (("check", "check"), ("format:go", "go")):
            expected = logprobs[len(one.prompt_ids) - 1 : -1, IDS[token]]
            np.testing.assert_allclose(watched.loc[one.Index, f"logprob:{name}"], expected.numpy(), atol=2e-4)


def test_a_bias_of_b_nats_moves_the_log_odds_by_b() -> None:
    logits = torch.randn(5, 9, generator=torch.Generator().manual_seed(0))
    biased = logits.clone()
    biased[:, 3] += 1.7
    torch.testing.assert_close(logodds(biased, 3), logodds(logits, 3) + 1.7)
    p = logprob(logits, 3).exp()
    torch.testing.assert_close(logodds(logits, 3), (p / (1 - p)).log())


def test_points_answer_for_each_prefix_as_a_pass_over_it_alone(pair: ModelPair, vector: SteeringVector) -> None:
    prefixes = [[1, 5, 9, 33, 12], [1, 7, 2]]
    points = Points.of(pair.base, prefixes, torch.arange(2))
    with torch.inference_mode():
        alone = torch.stack([pair.base.model(input_ids=torch.tensor([p])).logits[0, -1] for p in prefixes])
    torch.testing.assert_close(points.logits(), alone, atol=1e-4, rtol=1e-4)
    assert (points.logits(Site(0), 3 * vector.vector) - alone).abs().max() > 0.1


def test_the_action_logit_bias_refuses_what_makes_no_sense(pair: ModelPair) -> None:
    with pytest.raises(InvalidInput, match="is not finite"):
        logit_bias(3, math.inf)
    with pytest.raises(InvalidInput, match="There is no token 999"):
        sample(Hybrid(pair, always(), logit_bias(999, 1.0)), load_task("chain", split="fit", limit=1), Sampling(n=1), progress=False)
    assert logit_bias(3, 1.0).spec() == {"name": "logit_bias", "params": {"token_id": 3, "bias": 1.0}}


# ---- what is measured


def test_the_untrained_twin_has_the_weights_of_a_new_model_and_disturbs_no_random_numbers(pair: ModelPair) -> None:
    state = torch.get_rng_state()
    twin = untrained(pair.base, 7)
    assert torch.equal(torch.get_rng_state(), state)
    expected = new_model(RECIPE, 7).state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in twin.model.state_dict().items())
    torch.set_rng_state(state)


def test_choices_know_the_token_that_is_read_the_format_and_the_stratum(pair: ModelPair) -> None:
    rollouts = sample(Watched(pair.base, {"so": IDS["so"]}), load_task("chain", split="fit", limit=6), Sampling(n=3), progress=False)
    onsets = choices(pair.base, rollouts, LANGUAGE)
    assert len(onsets) > 20
    for row in onsets.index.itertuples():
        trace = rollouts.table.iloc[row.row]
        whole = [*trace["prompt_ids"], *trace["token_ids"]]
        assert (trace["problem"], trace["sample"]) == (row.problem, row.sample)
        assert whole[row.absolute] == row.token and whole[row.absolute - 1] == row.previous
        first = chain.VOCABULARY[trace["token_ids"][0]]
        assert row.format == (f"format:{first}" if first in chain.FORMATS else "")
    edges = position_edges([onsets])
    strata = with_strata(onsets, edges).index["stratum"]
    assert (strata[onsets.index["strategy"].str.startswith("format:")] == "").all() and strata.nunique() > 4
    assert len(edges) <= 9 and (np.diff(edges) > 0).all()


def test_malformed_is_leaving_the_grammar_not_being_cut_short() -> None:
    texts = ["go so a 7 1 4 , ans 7 1 4 <eos>", "go so a 7", "go so so , so a 7 1 4 , ans 7 1 4 <eos>", "check", "direct ans 1 2 3 <eos>"]
    assert malformed([np.array([IDS[w] for w in t.split()]) for t in texts]).tolist() == [False, False, True, True, False]


def test_behaviour_under_a_dose_is_counted_by_trace_and_problem() -> None:
    texts = ["go so a 7 1 4 , check a 7 1 4 , check a 7 1 4 , ans 7 1 4", "go so a 7 1 4 , ans 7 1 4", "go " + "so " * 20, "go so"]
    finish = ["stop", "stop", "length", "length"]
    ids = [np.array([IDS[w] for w in t.split()] + [IDS["<eos>"]] * (f == "stop")) for t, f in zip(texts, finish, strict=True)]
    keys = {"arm": "base", "problem": ["p", "p", "q", "q"], "sample": [0, 1, 0, 1], "finish": finish, "correct": [True, False, False, False]}
    got = _behaviour(pd.DataFrame({**keys, "text": texts, "token_ids": ids}), ["check", "so", "leap"], LANGUAGE, 50, 0)
    expected = {"check": 0.5, "so": 1.0, "leap": 0.0, "accuracy": 0.25, "truncated": 0.5, "malformed": 0.25}
    assert {name: got["base", name].value for name in expected} == expected
    grams = [[tuple(t[i : i + 8]) for i in range(len(t) - 7)] for t in map(list, ids)]
    repeated = sum(len(g) - len(set(g)) for g in grams)
    assert got["base", "repetition"].value == pytest.approx(repeated / sum(map(len, grams))) and repeated > 10


# ---- run, on tables made by hand


def by_hand(**change: dict[str, float]) -> dict[str, pd.DataFrame]:
    """Tables of two strategies and a format that pass everything, with changes as `check__cosine_within={"value": 0.1}`."""
    numbers = {
        ("cosine", "reliability", "base"): (0.95, 0.9, 0.97), ("cosine", "cosine", "base_rl"): (0.8, 0.7, 0.9), ("cosine", "cosine", "shuffled"): (0.5, 0.2, 0.9),
        ("cosine", "cosine_within", "base_rl"): (0.8, 0.7, 0.9), ("cosine", "cosine_within", "shuffled"): (0.3, 0.1, 0.6),
        ("cosine", "cosine_within", "untrained_both"): (0.6, 0.5, 0.7),
        **{("auroc", "auroc_difference", kind): (0.1, 0.05, 0.15) for kind in ("untrained", "token_position", "shuffled")},
        ("auroc", "auroc_difference", "logprob"): (-0.01, -0.02, 0.0), ("auroc", "auroc", "probe"): (0.9, 0.85, 0.95),
        ("dose", "logprob", "vector"): (-1.0, -1.2, -0.8), ("dose", "logprob_above_random", "vector"): (1.5, 1.2, 1.8), ("dose", "p_random", "vector"): (0.04, math.nan, math.nan),
        ("dose", "logodds_change", "vector"): (1.0, 0.9, 1.1),
    }  # fmt: skip
    rows: dict[str, list[dict[str, object]]] = {name: [] for name in geometry.TABLES}
    for label in ("check", "so", "format:go"):
        for (table, quantity, kind), (value, lo, hi) in numbers.items():
            row = {
                "quantity": quantity, "label": label, "family": "format" if ":" in label else "strategy", "layer": 1, "kind": kind, "value": value, "lo": lo, "hi": hi, "n": 9,
                "method": "by hand", "reason": "", **change.get(f"{label}__{quantity}__{kind}", {}),
            }  # fmt: skip
            rows[table].append({**row, "strength": 1.0} if table == "dose" else row)
    return {name: pd.DataFrame(table) for name, table in rows.items()}


def test_run_counts_the_strategies_that_meet_every_criterion() -> None:
    result = geometry.run(**by_hand())
    assert result.estimate("strategies", kind="all").value == 2 and result.estimate("formats", kind="all").value == 1
    assert result.estimate("strategies", kind="auroc_logprob").value == 0 and result.estimate("strategies", kind="cosine_plain").value == 0
    assert result.estimate("strategies", kind="cosine_traces").value == 2
    assert result.estimate("cosine", label="check", layer=1, kind="base_rl").value == 0.8  # the measured rows are there too
    assert result.said.startswith("Of 2 strategies, 2 (check, so) have a base vector that meets all four criteria")
    assert result.details["layers"] == {"check": 1, "so": 1, "format:go": 1}


@pytest.mark.parametrize(
    ("change", "criterion"),
    [
        ({"check__reliability__base": {"value": 0.79}}, "reliability"),
        ({"check__cosine_within__base_rl": {"value": 0.59}}, "cosine"),
        ({"check__cosine_within__base_rl": {"value": -0.9}}, "cosine"),
        ({"check__auroc_difference__token_position": {"lo": -0.01}}, "auroc"),
        ({"check__logprob_above_random__vector": {"lo": -0.1}}, "causal"),
        ({"check__p_random__vector": {"value": 0.1}}, "causal"),
    ],
)
def test_one_criterion_that_fails_is_named_and_refutes(change: dict[str, dict[str, float]], criterion: str) -> None:
    result = geometry.run(**by_hand(**change))
    assert result.estimate("criterion", label="check", kind=criterion).value == 0
    assert result.estimate("criterion", label="check", kind="all").reason == f"fails {criterion}"
    assert result.estimate("strategies", kind="all").value == 1
    assert f"check ({criterion} fails: " in result.said and "1 refute the claim by one that fails with enough spans, 0 are undecided" in result.said


def test_what_is_undefined_is_undecided_with_its_reason_and_never_a_failure() -> None:
    gone = {"value": math.nan, "lo": math.nan, "hi": math.nan, "reason": "too few spans: 2 RL with"}
    result = geometry.run(**by_hand(check__cosine_within__base_rl=gone))
    met = result.estimate("criterion", label="check", kind="cosine")
    assert math.isnan(met.value) and met.reason == "too few spans: 2 RL with"
    assert math.isnan(result.estimate("criterion", label="check", kind="all").value)
    assert "check (cosine is undecided: too few spans: 2 RL with)" in result.said and "0 refute the claim by one that fails with enough spans, 1 are undecided" in result.said
    lost = {"layer": math.nan, **gone}
    nothing = geometry.run(**by_hand(**{f"so__{q}__vector": lost for q in ("logprob", "logodds_change", "logprob_above_random", "p_random")}))
    assert nothing.estimate("criterion", label="so", kind="reliability").reason == "too few spans: 2 RL with"
    assert nothing.details["layers"]["so"] is None


def test_run_says_which_column_is_missing_and_takes_empty_tables() -> None:
    with pytest.raises(InvalidInput, match=r"'auroc' lacks the columns \['hi', 'lo'\]"):
        geometry.run(**{**by_hand(), "auroc": by_hand()["auroc"].drop(columns=["lo", "hi"])})
    empty = geometry.run(**{name: table.iloc[:0] for name, table in by_hand().items()})
    assert empty.said.startswith("No strategy was opened") and math.isnan(empty.estimate("strategies", kind="all").value)


# ---- the whole, on a tiny pair


def assert_finite_or_reasoned(table: pd.DataFrame) -> None:
    assert ((table["value"].map(np.isfinite)) | (table["reason"] != "")).all()
    no_interval = table["lo"].isna() | table["hi"].isna()
    assert (table["reason"][no_interval] != "").all()
    defined = table[table["value"].notna() & ~no_interval]
    assert (defined["lo"] <= defined["hi"]).all() and (defined["n"] > 0).all()


def test_collect_writes_three_tables_whose_numbers_are_finite_or_have_a_reason(tables: Path) -> None:
    read = {name: read_table(tables / f"geometry_{name}.parquet") for name in geometry.TABLES}
    for table in read.values():
        assert {"quantity", "label", "family", "layer", "kind", "value", "lo", "hi", "n", "method", "reason"} <= set(table)
        assert_finite_or_reasoned(table)
    cosine_, auroc, dose = read.values()
    assert set(cosine_["quantity"]) == {f"{q}{s}" for q in ("cosine", "reliability", "p_value") for s in ("", "_within")}
    assert set(cosine_["layer"]) == {0, 1} and {"so", "leap", "format:go"} <= set(cosine_["label"])
    assert set(auroc["kind"]) == {"probe", "logprob", "untrained", "token_position", "shuffled"}
    assert auroc["value"].dropna().between(-1, 1).all() and auroc["value"].notna().any()
    assert set(dose["timing_source"]) == {"none (every position)"} and set(dose["content_source"]) == set(CONTENT.values())
    decoded = dose[dose["quantity"] == "frequency"]
    assert set(decoded["label"]) == set(DECODED) and set(decoded["kind"]) == set(CONTENT) and set(decoded["strength"]) == set(STRENGTHS)
    assert not dose.duplicated(["quantity", "label", "layer", "kind", "strength"]).any()


def test_collect_adds_its_settings_to_the_facts_and_keeps_the_others(tables: Path) -> None:
    facts = json.loads((tables / "facts.json").read_text())
    assert facts["t1"] == {"best_oracle": "js"} and geometry.Config(**facts["geometry"]) == SMALL


def test_no_dose_is_the_base_and_the_unit_of_the_bias_matches_the_vector(tables: Path) -> None:
    dose = read_table(tables / "geometry_dose.parquet")
    for (_, quantity), group in dose[dose["strength"] == 0].groupby(["label", "quantity"]):
        assert group["value"].nunique() <= 1, quantity
    at_one = dose[(dose["strength"] == 1) & (dose["quantity"] == "logodds_change")].dropna(subset=["value"])
    assert len(at_one)
    for label, group in at_one.groupby("label"):
        biases = dose[(dose["label"] == label) & (dose["kind"] == "logit_bias") & (dose["quantity"] == "logprob")]
        assert biases["unit"].unique() == pytest.approx([group["value"].max()])
        assert set(biases["layer"]) == {group.loc[group["value"].idxmax(), "layer"]} == {0}  # never the last layer


def test_a_logit_bias_raises_what_it_speaks_for(tables: Path) -> None:
    dose = read_table(tables / "geometry_dose.parquet")
    for label in dose[dose["quantity"] == "logprob"]["label"].unique():
        line = dose[(dose["label"] == label) & (dose["kind"] == "logit_bias") & (dose["quantity"] == "logprob")].dropna(subset=["value"]).sort_values("strength")
        unit = line["unit"].iloc[0] if len(line) else 0
        assert (np.sign(np.diff(line["value"])) == np.sign(unit)).all()


def test_the_result_survives_saving_and_its_figures_can_be_drawn(result: Result, tmp_path: Path) -> None:
    import matplotlib.pyplot as plt

    assert_finite_or_reasoned(result.table)
    result.save(tmp_path)
    again = Result.load(tmp_path, "geometry")
    assert again.said == result.said and len(again.table) == len(result.table)
    assert again.plot().get_ylabel() == "cosine" and geometry.plot(result, within=False).get_ylabel() == "cosine"
    axes = geometry.plot_dose(again)
    assert axes.shape == (len(geometry.PANELS), len(DECODED)) and axes[0, 0].get_legend() is not None
    assert geometry.plot_dose(again, axes) is axes
    plt.close("all")


def test_the_same_seed_gives_the_same_tables(pair: ModelPair, tables: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentreason.geometry.measure.dose_table", lambda *args, **settings: pd.DataFrame())  # seconds
    settings = {name: value for name, value in asdict(SMALL).items() if name != "reliability"}
    again = measure(pair, load_task("chain", split="fit", limit=16, seed=0), LANGUAGE, **settings)
    for name in ("cosine", "auroc"):
        pd.testing.assert_frame_equal(again[name], read_table(tables / f"geometry_{name}.parquet"), check_dtype=False, atol=1e-6)


def test_cosines_alone_are_those_of_the_whole_measurement(pair: ModelPair, tables: Path) -> None:
    problems, sampling = load_task("chain", split="fit", limit=16, seed=0), Sampling(n=SMALL.n_samples, seed=SMALL.seed)
    own, theirs = (sample(lm, problems, sampling, progress=False) for lm in (pair.base, pair.rl))
    how = {"min_spans": SMALL.min_spans, "n_halves": SMALL.n_halves, "n_shuffles": SMALL.n_shuffles, "n_boot": SMALL.n_boot}
    found = cosines(pair, own, theirs, LANGUAGE, seed=SMALL.seed, **how)
    pd.testing.assert_frame_equal(found, read_table(tables / "geometry_cosine.parquet"), check_dtype=False, atol=1e-6)


def test_a_pair_that_has_learnt_nothing_gives_reasons_instead_of_numbers(tmp_path: Path) -> None:
    base = LM(new_model(RECIPE, 3).eval(), chain_tokenizer(), "base")
    geometry.collect(ModelPair(base, changed(base, 0.1, "rl")), Run(geometry_problems=6), tmp_path, replace(SMALL, min_spans=20))
    read = {name: read_table(tmp_path / f"geometry_{name}.parquet") for name in geometry.TABLES}
    for table in read.values():
        assert_finite_or_reasoned(table)
    result = geometry.run(**read)
    assert not (result.table[(result.table["quantity"] == "criterion")]["value"] == 1).any()
    geometry.plot(result), geometry.plot_dose(result)


def test_rollouts_are_not_changed_by_reading_them(pair: ModelPair) -> None:
    rollouts = sample(pair.base, load_task("chain", split="fit", limit=3), Sampling(n=2), progress=False)
    before = rollouts.table.copy(deep=True)
    choices(pair.base, rollouts, LANGUAGE)
    pd.testing.assert_frame_equal(Rollouts(rollouts.table).table, before)
