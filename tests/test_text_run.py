"""The whole main job on natural text: random models, a byte tokenizer and the task `arith`. Nothing in it may need the organisms' language."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from latentreason import claims, reproduce as job
from latentreason.figures.figures import check_figures, load_results
from latentreason.files import read_json, read_table
from latentreason.models.prompts import Prompt
from latentreason.publish import finish, finish_claims
from latentreason.tasks import arith

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SMALL = replace(job.TINY, task="arith", n_problems=4, n_samples=2, max_new_tokens=12, calibration_problems=4, passk_problems=3, passk_samples=4, passk_hybrid_samples=4,
                geometry_problems=6, geometry_samples=1)  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, byte_tokenizer: "PreTrainedTokenizerBase") -> str:
    """Two random Llamas that read bytes, as BASE,RL."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=257, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
                         max_position_embeddings=512, eos_token_id=0, pad_token_id=0, initializer_range=0.3)  # fmt: skip
    root = tmp_path_factory.mktemp("pair")
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    for name in ("base", "rl"):
        model.save_pretrained(root / name)
        byte_tokenizer.save_pretrained(root / name)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.05 * torch.randn_like(weight))
    return f"{root / 'base'},{root / 'rl'}"


def test_the_main_job_runs_on_text_and_says_why_nothing_can_be_told(folders: str, tmp_path: Path) -> None:
    config = replace(SMALL, pair=folders, rl_prompt=Prompt("few_shot_steps"))
    job.reproduce(config, tmp_path / "base-rl-0", progress=False)
    page = finish(tmp_path / "base-rl-0", config)
    results = load_results(tmp_path / "base-rl-0")
    assert {"recovery", "recovery_greedy", "passk", "geometry", "elicitation"} <= set(results)
    gap = results["recovery"].table.query("quantity == 'recovery'")
    assert gap["value"].isna().all() and (gap["reason"] != "").all()  # random models solve nothing, so there is no gain to recover
    assert check_figures(tmp_path / "base-rl-0", tmp_path / "base-rl-0" / "figures") == []
    traces = read_table(tmp_path / "base-rl-0" / "tables" / "traces.parquet")
    assert set(traces["arm"]) == {"base", "hybrid", "rl"}
    kinds = set(read_table(tmp_path / "base-rl-0" / "tables" / "t1_strategies.parquet")["strategy"])
    assert "content" in kinds and not kinds & {"so", "leap", "digit", "format"}
    assert "base, few_shot_steps" in read_json(tmp_path / "base-rl-0" / "tables" / "elicitation.json")
    facts = read_json(tmp_path / "base-rl-0" / "tables" / "facts.json")
    assert facts["prompt"]["style"] == "few_shot" and len(facts["prompt"]["template"]) == 16
    assert {name: of["dtype"] for name, of in facts["models"].items()} == {"base": "torch.float32", "rl": "torch.float32"}
    assert page.read_text().count("<figure") >= 6


def test_the_studies_that_draw_traces_of_their_own_run_on_text(folders: str, tmp_path: Path) -> None:
    folder = tmp_path / "base-rl-0"
    job.reproduce(replace(SMALL, pair=folders), folder, stages=claims.STAGES, progress=False)
    assert set(finish_claims(folder)) == {"contamination", "coherence", "planning", "taxonomy"}
    results = load_results(folder)
    alone = results["contamination"].estimate("accuracy", split="seen minus clean", arm="change")
    assert alone.reason == "the split has no clean twin" and results["contamination"].details["problems"] == {"seen": 4, "clean": 0}
    noise = results["coherence"].details  # random bytes: counted, not dropped
    assert noise["checker"].startswith("arithmetic") and all(sum(of.values()) == 3 * 2 for of in noise["status"].values())
    assert set(results["planning"].details["domains"]) <= set(arith.FAMILIES)
    assert check_figures(folder, folder / "figures") == []
