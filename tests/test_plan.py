"""Configurations of public pairs, and the plan of a run: it bounds what a run really takes, and needs neither weights nor a network."""

import re
import socket
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from latentreason import reproduce as job
from latentreason.cli import app
from latentreason.config import load_config
from latentreason.errors import InvalidInput, UnknownName
from latentreason.files import read_json
from latentreason.hybrid.decode import Hybrid
from latentreason.models.pair import ModelPair
from latentreason.models.prompts import Prompt
from latentreason.plan import Plan, chosen_config, configs, plan
from latentreason.reproduce import OPTIONAL, STAGES, TINY, RunConfig, identity
from latentreason.routing.controls import always
from latentreason.sampling import local
from latentreason.studies.recompute import sampled_at
from latentreason.tasks.registry import TASKS

ROOT = Path(__file__).parents[1]
ARCHITECTURES = {  # base -> width, width of the feed-forward layers, heads, tied embeddings: from the models' config.json
    "Qwen/Qwen2.5-0.5B": (896, 4864, 14, True), "Qwen/Qwen2.5-1.5B": (1536, 8960, 12, True), "Qwen/Qwen2.5-Math-1.5B": (1536, 8960, 12, True),
    "Qwen/Qwen2.5-7B": (3584, 18944, 28, False), "Qwen/Qwen2.5-Math-7B": (3584, 18944, 28, False), "Qwen/Qwen2.5-14B": (5120, 13824, 40, False),
    "Qwen/Qwen2.5-32B": (5120, 27648, 40, False), "meta-llama/Llama-3.1-8B": (4096, 14336, 32, False), "mistralai/Mistral-7B-v0.1": (4096, 14336, 32, False),
    "mistralai/Mistral-Small-24B-Base-2501": (5120, 32768, 32, False), "deepseek-ai/deepseek-math-7b-base": (4096, 11008, 32, False),
    "smollm2-arith": (576, 1536, 9, True),
}  # fmt: skip


def sampling(config: RunConfig, *asked: Any) -> local.Sampling:
    """`Run.sampling`, which needs no pair."""
    return job.Run.sampling(SimpleNamespace(config=config), *asked)  # type: ignore[arg-type]


@pytest.fixture
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a plan reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.usefixtures("_no_network")
@pytest.mark.parametrize("name", configs())
def test_each_configuration_that_comes_with_the_package_is_sound(name: str) -> None:
    text, config = configs()[name].read_text(), load_config(RunConfig, configs()[name])
    styles = TASKS[config.task].styles
    assert (config.style or next(iter(styles))) in styles
    sampling(config, config.n_samples)
    assert set(config.skip or ()) <= set(OPTIONAL)
    base, comma, rl = config.pair.partition(",")
    assert (not comma) == (config.revisions is None)
    for model, revision in zip((base, rl), config.revisions or (), strict=False):
        assert re.fullmatch(r"[0-9a-f]{40}", revision) or (revision == "main" and re.search(rf'# "main": the commit of .*{re.escape(model.split("/")[1])}.* could not be looked up', text))
    size = config.model
    assert size is not None
    width, inner, heads, tied = ARCHITECTURES[base]
    block = width * size.head_dim * (2 * heads + 2 * size.n_kv_heads) + 3 * width * inner
    expected = size.n_layers * block + (1 if tied else 2) * size.vocabulary * width
    assert size.parameters == pytest.approx(expected, rel=0.02)
    assert size.rl == pytest.approx(size.parameters, rel=0.16)
    planned = plan(config, local=False)
    assert planned.notes == ()
    assert set(planned.stages["stage"]) == {"total", *STAGES} - set(config.skip or ()) - ({"elicitation"} if len(styles) < 2 else set())
    if comma:
        assert config.memory is not None and planned.weights < config.memory
        fetched = plan(config)  # nothing of it is on this machine
        assert fetched.fetch[:2] == tuple(f"hf download {m}" + (f" --revision {r}" if r != "main" else "") for m, r in zip((base, rl), config.revisions or (), strict=True))
        pd.testing.assert_frame_equal(fetched.draws, planned.draws)


def test_a_configuration_is_found_by_the_name_of_its_pair() -> None:
    config = chosen_config("orz-7b", seed=3)
    assert config.pair == "Qwen/Qwen2.5-7B,Open-Reasoner-Zero/Open-Reasoner-Zero-7B" and config.seed == 3
    tiny = chosen_config("orz-7b", tiny=True)
    assert (tiny.pair, tiny.style, tiny.revisions, tiny.temperature) == (config.pair, config.style, config.revisions, config.temperature)
    assert (tiny.n_problems, tiny.passk_samples, tiny.routers) == (TINY.n_problems, TINY.passk_samples, TINY.routers)
    assert chosen_config(tiny=True) == TINY and chosen_config("activation") == RunConfig()


@pytest.mark.usefixtures("unchecked_shapes")  # stand-ins for models
def test_what_changes_no_number_does_not_change_the_identity_of_a_run() -> None:
    pair: Any = SimpleNamespace(base=SimpleNamespace(fingerprint="a"), rl=SimpleNamespace(fingerprint="b"))
    usual, silent = RunConfig(), RunConfig(device_map="auto", max_rows=3, memory=1.0, skip=("traces",), model=load_config(RunConfig, configs()["orz-7b"]).model)
    assert identity(silent, pair) == identity(usual, pair)
    assert len(identity(usual, pair)) == 20 and identity(RunConfig(temperature=0.6), pair) != identity(usual, pair)


def test_sampled_arms_have_the_temperature_of_the_run_and_greedy_ones_none() -> None:
    config = RunConfig(temperature=0.6, top_p=0.95, max_new_tokens=7, style="boxed", chat=True, system="S", seed=2)
    drawn, greedy = sampling(config, 3), sampling(config, 3, "greedy")
    assert (drawn.n, drawn.temperature, drawn.top_p, drawn.max_new_tokens, drawn.seed) == (3, 0.6, 0.95, 7, 2)
    assert drawn.prompt == greedy.prompt == Prompt("boxed", True, "S")
    assert (greedy.n, greedy.temperature, greedy.top_p, greedy.max_new_tokens) == (1, 0.0, 1.0, 7)
    assert sampling(RunConfig(), 5) == local.Sampling(n=5)


def test_stages_that_others_stand_on_are_not_skipped(tmp_path: Path) -> None:
    done: list[str] = []
    stages = {name: lambda run, name=name: done.append(name) for name in STAGES}
    pair = ModelPair.from_organism("activation")
    job.reproduce(replace(TINY, skip=("geometry",)), tmp_path, stages=stages, pair=pair, progress=False)
    assert done == [name for name in STAGES if name != "geometry"]
    job.reproduce(TINY, tmp_path, stages=stages, pair=pair, progress=False)  # the same run, now without leaving it out
    assert done[-1] == "geometry" and len(done) == len(STAGES)
    with pytest.raises(UnknownName, match="stage to skip 'passk'"):
        job.reproduce(replace(TINY, skip=("passk",)), tmp_path, stages=stages, pair=pair, progress=False)


# --- a plan bounds what a run takes ------------------------------------------------------------------------------------


class Counted:
    """Rows and tokens that a run drew, and tokens that its models read, by stage."""

    def __init__(self, pair: ModelPair, patch: pytest.MonkeyPatch) -> None:
        self.rows, self.tokens, self.read, self.stage = Counter[str](), Counter[str](), Counter[tuple[str, str]](), ""
        for name, lm in (("base", pair.base), ("rl", pair.rl)):
            lm.model.get_input_embeddings().register_forward_pre_hook(lambda _, args, name=name: self.read.update({(self.stage, name): args[0].numel()}))
        original = local._decode_chunk

        def counting(*args: Any) -> pd.DataFrame:
            table = original(*args)
            self.rows[self.stage] += len(table)
            self.tokens[self.stage] += int(table["n_tokens"].sum())
            return table

        patch.setattr(local, "_decode_chunk", counting)

    def stages(self) -> dict[str, Any]:
        """Those of the main job, which say where they are."""

        def entering(name: str) -> Any:
            def stage(run: job.Run) -> None:
                self.stage = name
                STAGES[name](run)

            return stage

        return {name: entering(name) for name in STAGES}


CONFIG = replace(TINY, temperature=0.6, top_p=0.95, calibration_problems=6)


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Counted, Plan, Path, ModelPair]]:
    """A tiny run at another temperature, counted, and its plan."""
    with pytest.MonkeyPatch.context() as patch:
        pair, folder = ModelPair.from_organism("activation"), tmp_path_factory.mktemp("runs") / "activation-0"
        counts = Counted(pair, patch)
        job.reproduce(CONFIG, folder, stages=counts.stages(), pair=pair, progress=False)
        yield counts, plan(CONFIG), folder, pair


def test_a_plan_bounds_the_tokens_of_a_run_and_counts_its_rows(counted: tuple[Counted, Plan, Path, ModelPair]) -> None:
    counts, planned, _, _ = counted
    stages = planned.stages.set_index("stage")
    for stage in STAGES:
        if stage == "elicitation":  # `chain` has one prompt
            assert stage not in stages.index and counts.rows[stage] == 0
            continue
        row = stages.loc[stage]
        if stage in ("calibrate", "geometry"):  # thresholds that were tried before, strategies that are too rare
            assert 0 < counts.rows[stage] <= row["rows"]
        else:
            assert counts.rows[stage] == row["rows"]
        assert 0 < counts.tokens[stage] <= row["new_tokens"]
        for model in ("base", "rl"):
            assert 0 < counts.read[stage, model] <= row[f"{model}_passes"], (stage, model)


def test_a_plan_counts_the_rows_of_the_committed_tables() -> None:
    planned = plan(RunConfig())
    tables = ROOT / "artifacts" / "results" / "activation" / "tables"
    compared = 0
    for row in planned.files.to_dict("records"):
        if row["rows"] and (tables / Path(row["file"]).name).is_file():
            assert pq.read_metadata(tables / Path(row["file"]).name).num_rows == row["rows"], row["file"]
            compared += 1
    assert compared == 6


def test_a_plan_knows_the_size_of_models_that_it_does_not_load(counted: tuple[Counted, Plan, Path, ModelPair]) -> None:
    _, planned, _, pair = counted
    weights = sum(p.numel() for p in pair.base.model.parameters())
    assert (planned.size.parameters, planned.size.rl) == (weights, sum(p.numel() for p in pair.rl.model.parameters()))
    assert planned.weights == 3 * 4 * weights  # base, RL and the untrained twin, in float32
    assert planned.size.cache_bytes(planned.itemsize) == pair.base.cache_bytes
    assert planned.size.context == pair.base.context
    assert planned.rows_that_fit == int(local.MEMORY // planned.row) and local.rows_that_fit(Hybrid(pair, always()), planned.positions) == min(local.MAX_ROWS, planned.rows_that_fit)


def test_what_will_not_go_is_said_beforehand() -> None:
    assert any("rows of a problem are decoded together" in note for note in plan(TINY, memory=0.02e9).notes)
    assert "do not fit" in plan(TINY, memory=1e6).notes[0]
    assert "have 160: lower max_new_tokens" in plan(replace(TINY, max_new_tokens=150)).notes[0]
    assert plan(replace(TINY, max_rows=50_000), memory=8e9).notes[-1].startswith("max_rows=50000, and ")
    assert plan(TINY, memory=80e9).notes == ()
    with pytest.raises(InvalidInput, match=r"A/B and C/D is not on this machine.*\[model\]"):
        plan(RunConfig(pair="A/B,C/D"))
    with pytest.raises(UnknownName, match="organism 'activaton'"):
        plan(RunConfig(pair="activaton"))


def test_a_lora_pair_shares_its_weights(tmp_path: Path, make_tiny: Any, tiny_tokenizer: Any) -> None:
    peft = pytest.importorskip("peft")
    make_tiny("llama").save_pretrained(tmp_path / "base")
    tiny_tokenizer.save_pretrained(tmp_path / "base")
    tuned = peft.get_peft_model(type(make_tiny("llama"))(make_tiny("llama").config), peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    tuned.save_pretrained(tmp_path / "adapter")
    planned = plan(RunConfig(pair=f"{tmp_path / 'base'},{tmp_path / 'adapter'}", skip=("geometry",), task="countdown", style="boxed", max_new_tokens=16), local=True)
    pair = ModelPair.named(f"{tmp_path / 'base'},{tmp_path / 'adapter'}")
    held = {w.data_ptr(): w.numel() for lm in (pair.base, pair.rl) for w in lm.model.parameters()}
    assert planned.weights == 4 * sum(held.values())


# --- what is printed ---------------------------------------------------------------------------------------------------


def test_a_run_says_how_it_was_sampled_and_with_which_models(counted: tuple[Counted, Plan, Path, ModelPair]) -> None:
    _, _, folder, _ = counted
    assert sampled_at(folder / "tables") == 0.6
    assert read_json(folder / "models.json") == {name: {"revision": None, "is": f"{name} 799.9K parameters, float32, cpu"} for name in ("base", "rl")}


@pytest.mark.usefixtures("_no_network")
def test_a_dry_run_prints_the_plan_and_loads_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a dry run loaded a model")

    monkeypatch.setattr(ModelPair, "from_pretrained", refuse)
    monkeypatch.chdir(tmp_path)
    runner = CliRunner(env={"COLUMNS": "200"})
    known = runner.invoke(app, ["reproduce", "--pair", "orz-7b", "--dry-run"])
    assert known.exit_code == 0, known.output
    assert "hf download Open-Reasoner-Zero/Open-Reasoner-Zero-7B" in known.output and "Weights: 45.69 GB" in known.output and "This will not go" not in known.output
    tight = runner.invoke(app, ["reproduce", "--pair", "orz-7b", "--dry-run", "--memory", "24"])
    assert "This will not go: The weights take 45.7 GB" in tight.output
    (tmp_path / "mine.toml").write_text('n_problems = 7\nskip = ["geometry"]\n')
    own = runner.invoke(app, ["reproduce", "--config", "mine.toml", "--dry-run"])
    assert own.exit_code == 0 and "activation on chain: at most" in own.output and "geometry" not in own.output
    assert not list(tmp_path.glob("artifacts*"))
    assert "--pair orz-7b --dry-run" in runner.invoke(app, ["reproduce", "--help"]).output


def test_distilled_pairs_ask_their_rl_model_in_its_own_chat_template() -> None:
    for name in [name for name in configs() if name.startswith(("deepseek-r1-distill", "qwq"))]:
        drawn = sampling(load_config(RunConfig, configs()[name]), 2)
        assert (drawn.prompt, drawn.rl_prompt) == (Prompt("boxed"), Prompt("boxed", chat=True)), name
        assert drawn.alone("base").rl_prompt is None and drawn.alone("rl") == drawn
