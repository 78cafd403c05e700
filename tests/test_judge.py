"""The collection of a verdict's tables: what each arm is, how the temperature is chosen, and the way from a pair to a verdict, on organisms and on text."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from latentreason import grow, judge, judge_zoo
from latentreason.cli import app
from latentreason.config import dump_config
from latentreason.errors import ArtifactConflict, InvalidInput, UnknownName
from latentreason.files import read_table
from latentreason.judge import TINY, Case, case_of, collect, eight, mildest
from latentreason.models.language_model import LM
from latentreason.models.pair import ModelPair, organism_dir
from latentreason.organisms.problems import problems_of, recipe_in
from latentreason.organisms.recipe import RL, Pretrain, Size
from latentreason.organisms.train import train
from latentreason.organisms.zoo import ACTIVATION, ORGANISMS
from latentreason.publish import publish_verdict
from latentreason.sampling.local import Sampling, sample
from latentreason.studies import verdict
from latentreason.tables import COUNT_COLUMNS
from latentreason.tasks.registry import load_task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SMALL = replace(TINY, n_problems=3, calibration_problems=3, breadth_problems=2, training_problems=2, max_new_tokens=40)


@pytest.fixture(scope="module")
def pair() -> ModelPair:
    return ModelPair.from_organism()


def test_if_rl_is_the_base_at_a_lower_temperature_then_timing_and_content_are_null_players(pair):
    """Logits over tau are the base at tau: whichever tokens come from RL, an arm equals the one without them."""
    tau = 0.5
    colder = copy.deepcopy(pair.base.model)
    with torch.no_grad():
        colder.lm_head.weight.div_(tau)
    arms = eight(ModelPair(pair.base, LM(colder, pair.base.tokenizer, "rl")), "chain", tau)
    table = sample(arms, load_task("chain", split="calibration", limit=3), Sampling(n=4, max_new_tokens=48), progress=False).table
    text = {arm: part["text"].to_list() for arm, part in table.groupby("arm")}
    assert text["base"] == text["timing"] == text["content"] == text["timing+content"]
    assert text["sharpening"] == text["sharpening+timing"] == text["sharpening+content"] == text["rl"] != text["base"]


def test_the_ends_are_the_two_models_and_at_1_sharpening_is_a_null_player(pair):
    problems, sampling = load_task("chain", split="calibration", limit=3), Sampling(n=3, max_new_tokens=48)
    text = {arm: part["text"].to_list() for arm, part in sample(eight(pair, "chain", 1.0), problems, sampling, progress=False).table.groupby("arm")}
    assert text["base"] == sample(pair.base, problems, sampling, progress=False).table["text"].to_list() == text["sharpening"]
    assert text["rl"] == sample(pair.rl, problems, sampling, progress=False).table["text"].to_list() == text["timing+content"]
    assert text["timing"] == text["sharpening+timing"] and text["content"] == text["sharpening+content"] and len({*map(tuple, text.values())}) == 4


def test_the_mildest_temperature_that_does_as_much_is_chosen():
    rng = np.random.default_rng(0)
    noise = {t: np.clip(0.2 + 0.05 * rng.standard_normal(50), 0, 1) for t in (0.2, 0.5, 0.9, 1.0)}
    assert mildest({**noise, 0.2: noise[1.0] + 0.001 * rng.standard_normal(50)}, np.full(50, 0.9)) >= 0.9  # noise does not sharpen
    helps = {t: np.full(50, level) + 0.001 * rng.standard_normal(50) for t, level in ((0.2, 0.9), (0.4, 0.9), (0.6, 0.7), (1.0, 0.3))}
    assert mildest(helps, np.full(50, 1.0)) == 0.4
    assert mildest(helps, np.full(50, 0.65)) == 0.6  # nobody is sharpened beyond RL
    assert mildest(helps, np.full(50, 0.1)) == 1.0


def test_noise_does_not_sharpen_although_the_best_of_nine_temperatures_is_favoured_by_chance():
    rng, chosen = np.random.default_rng(1), []
    for _ in range(200):  # every temperature solves a problem with the same probability
        rates = rng.uniform(0.0, 0.5, 60)
        chosen.append(mildest({t: rng.binomial(8, rates) / 8 for t in np.linspace(0.2, 1.0, 9)}, np.full(60, 0.9)))
    assert np.mean(np.array(chosen) == 1.0) > 0.9
    real = {t: np.full(50, 0.2 + 0.05 * (t < 1)) + 0.01 * rng.standard_normal(50) for t in (0.5, 1.0)}
    assert mildest(real, np.full(50, 0.9)) == 1.0  # sure, and a fourteenth of the gain: not worth flattening the RL model for
    assert mildest(real, np.full(50, 0.4)) == 0.5


def test_an_organism_goes_from_its_recipe_to_a_verdict_and_is_not_collected_twice(pair, tmp_path, monkeypatch):
    case = case_of(ORGANISMS["activation"], SMALL, 0)
    counts, tried = collect(pair, case, SMALL, tmp_path / "out", progress=False)
    assert tuple(counts) == (*COUNT_COLUMNS, "key") and counts.groupby("part")["arm"].nunique().to_dict() == {"judged": 8, "training": 2, "breadth": 2}
    assert (counts.groupby("part")["n"].first() == [4, 2, 2]).all() and tried["chosen"].sum() == 1 and tried["temperature"].tolist() == [0.5, 1.0]
    assert counts.loc[counts["part"] == "judged", "valid"].isna().all() and counts.loc[counts["part"] != "judged", "valid"].notna().all()
    assert (counts["valid"].fillna(0) <= counts["strict"]).all() and verdict.run(counts=counts, tried=tried).details["verdict"] in verdict.VERDICTS
    monkeypatch.setattr(judge, "sample", None)  # what is there is read
    again, _ = collect(pair, case, SMALL, tmp_path / "out", progress=False)
    assert again.equals(counts)
    with pytest.raises(ArtifactConflict):
        collect(pair, case, replace(SMALL, seed=1), tmp_path / "out", progress=False)


def test_seen_problems_stand_beside_their_clean_twins():
    case = case_of(ORGANISMS["contaminated"], SMALL, 0)
    assert case.seen is not None and [p.meta["operations"] for p in case.seen] == [p.meta["operations"] for p in case.judged] and case.training is not None
    assert {p.id for p in case.training} <= {p.id for p in ORGANISMS["contaminated"].corpus.seen}
    problems = {"judged": case.judged, "calibration": case.calibration}
    for how, said in (
        ({"seen": case.seen[:1]}, "each seen problem needs its clean twin"), ({"seen": case.judged}, "is judged and in the split 'seen'"), ({"calibration": case.judged}, "split 'calibration'"),
        ({"judged": []}, "one of the two lists is empty"), ({"training": load_task("arith", limit=1)}, "of several tasks"),
    ):  # fmt: skip
        with pytest.raises(InvalidInput, match=said):
            Case(**{**problems, **how})
    with pytest.raises(InvalidInput, match="sharpening lowers it"):
        replace(SMALL, temperatures=(1.5,))


def test_a_pair_on_text_gets_a_verdict_too(tmp_path, byte_tokenizer: "PreTrainedTokenizerBase"):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=257, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=512,
                         eos_token_id=0, pad_token_id=0, initializer_range=0.3)  # fmt: skip
    pair = ModelPair(*(LM(LlamaForCausalLM(config).eval().requires_grad_(False), byte_tokenizer, name) for name in ("base", "rl")), "two")
    for temperature, samples in ((1.0, 2), (0.0, 1)):
        folder = judge_zoo.collected(pair, "arith", tmp_path / f"{temperature}", tiny=True, progress=False, temperature=temperature, max_new_tokens=8)
        counts = read_table(folder / "tables" / "verdict.parquet")
        assert set(counts.loc[counts["part"] == "judged", "n"]) == {samples} and ("breadth" in set(counts["part"])) is (temperature > 0) and "training" not in set(counts["part"])
        result = verdict.run(counts=counts, tried=read_table(folder / "tables" / "verdict_temperatures.parquet"))
        assert result.details["verdict"] == "undefined" and "not measured" in result.details["flags"]["degenerate"]["reason"]  # random models solve nothing


@pytest.fixture
def commanded(monkeypatch, tmp_path):
    """Run a command line in an empty folder, with collections of the smallest size; what it printed."""
    from typer.testing import CliRunner

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(judge, "TINY", SMALL)
    monkeypatch.setattr(judge_zoo, "TINY", SMALL)
    monkeypatch.setattr(judge_zoo, "organism_dirs", lambda: {"activation": organism_dir("activation")})  # as if nothing else were shipped

    def run(line: str) -> str:
        result = CliRunner().invoke(app, line.split())
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return " ".join(result.output.split())

    return run


def test_the_calibration_skips_what_is_not_trained_keeps_what_is_there_and_its_figures_check(commanded, tmp_path, monkeypatch):
    from latentreason.figures.figures import check_figures

    said = commanded("calibrate --tiny --quiet --seed 0 --seed 1 --organisms activation --organisms sharpening")
    assert "skipped sharpening, seed 0: not trained yet" in said and "skipped activation, seed 1: not trained yet" in said and "Confusion matrix" in said
    tables = tmp_path / "artifacts" / "results" / "zoo" / "tables"
    stacked = read_table(tables / "verdicts.parquet")
    assert [*stacked][:2] == ["organism", "seed"] and set(stacked["organism"]) == {"activation"} and set(stacked["seed"]) == {0}
    assert read_table(tables / "verdicts_truths.parquet").to_dict("records") == [{"organism": "activation", "truth": "timing"}, {"organism": "sharpening", "truth": "sharpening"}]
    assert "Not judged: activation seeds 1, 2; sharpening seeds 0, 1, 2." in said
    before = (tables / "verdicts.parquet").stat().st_mtime_ns
    assert "On the seed that set the thresholds" in commanded("calibrate --tiny --quiet --seed 0 --organisms activation")
    assert (tables / "verdicts.parquet").stat().st_mtime_ns == before
    monkeypatch.setattr(judge_zoo, "weights_of", lambda *_: (None, "not trained yet"))  # on another machine
    assert judge_zoo.collect_zoo([ACTIVATION], [0], tables, SMALL, progress=False) == {}
    figures = Path("artifacts/figures/zoo")
    assert all((figures / f"{name}.png").is_file() for name in ("calibration", "verdicts")) and check_figures(tables.parent, figures) == []
    changed = replace(ACTIVATION, truth="format")  # what was collected of the recipe of before says nothing of this one
    assert judge_zoo.collect_zoo([changed], [0], tables, SMALL, progress=False) == {"activation, seed 0": "not trained yet"}
    assert all(read_table(tables / f"{name}.parquet").empty for name in judge_zoo.STACKED)


def test_a_zoo_that_does_not_exist_and_one_that_is_not_trained_are_said_so(commanded):
    with pytest.raises(UnknownName, match="Did you mean 'sharpening'"):
        commanded("calibrate --organisms sharpning")
    with pytest.raises(InvalidInput, match="nothing to judge: train organisms first"):
        commanded("calibrate --organisms sharpening --seed 7")


def test_the_command_verdict_prints_the_finding_and_draws(commanded):
    with pytest.raises(InvalidInput, match="Only a whole verdict"):
        commanded("verdict --tiny --quiet --out one --publish")
    said = commanded("verdict --tiny --quiet --out one")
    assert "Verdict: " in said and Path("one/verdict.json").is_file() and Path("one/figures/verdict.png").is_file()
    publish_verdict(Path("one"), "activation", Path("artifacts"))
    assert {f.name for f in Path("artifacts/results/activation").iterdir()} == {"tables", "verdict.json", "verdict.parquet"} and Path("artifacts/figures/verdict.png").is_file()


# --- organisms of one's own --------------------------------------------------------------------------------------------


def test_a_recipe_of_ones_own_is_planned_trained_measured_and_judged_from_its_file(commanded, tmp_path):
    """Other seed, corpus mixture and operators, through the fields of the recipe alone."""
    pytest.importorskip("trl")
    corpus = replace(ACTIVATION.corpus, operators=("rot", "inc", "rev", "mix"), min_ops=1, max_ops=2, p_rare=0.0, formats=dict.fromkeys(ACTIVATION.corpus.formats, (0.1, 0.6, 0.3, 0.0)))
    recipe = replace(ACTIVATION, name="mine", truth="undefined", corpus=corpus, problems=corpus.problems, size=Size(d_model=16, n_layers=1, n_heads=2, n_kv_heads=1, d_mlp=16, context=32),
                     pretrain=Pretrain(steps=2, batch=4), rl=RL(steps=1, prompts=2, group=4, updates=1, max_new_tokens=8, reward="random"))  # fmt: skip
    (tmp_path / "mine.toml").write_text(dump_config(recipe))
    assert "mine" in commanded("organisms train mine.toml --seed 3 --dry-run") and not Path("artifacts").exists()
    assert "mine.toml" in commanded("organisms measure mine.toml --seed 3 --quiet")  # not trained yet: how to
    folder = train(recipe, grow.run_dir("mine", 3), seed=3, work=grow.work_dir(3), progress=False)
    assert recipe_in(folder) == (recipe, 3) and recipe_in(tmp_path) is None and recipe_in(organism_dir("smollm2-arith")) is None
    assert "mine, seed 3: measured in" in commanded("organisms measure mine.toml --seed 3 --problems 4 --samples 2 --quiet")
    said = commanded(f"verdict --pair {folder} --tiny --quiet --out one")  # the context holds no 40 new tokens
    assert "Verdict: undefined" in said
    judged = read_table(Path("one") / "tables" / "verdict.parquet").query("part == 'judged'")
    assert set(judged["problem"]) == {p.id for p in problems_of(recipe, limit=SMALL.n_problems)}  # its own problems
    said = commanded("calibrate --tiny --quiet --organisms mine.toml --seed 3")
    assert "Of 1 verdicts on organisms of held-out seeds 1 are right" in said
    tables = Path("artifacts/runs/calibration/tables")  # one's own organisms do not enter the committed zoo unasked
    assert not Path("artifacts/results/zoo").exists()
    assert judge_zoo.collect_zoo([ACTIVATION], [0], tables, SMALL, progress=False) == {}
    truths = read_table(tables / "verdicts_truths.parquet")  # what a recipe states is kept beside the zoo's
    assert truths.set_index("organism")["truth"].to_dict() == {"activation": "timing", "mine": "undefined"}
