"""The worked examples of the documentation run as they stand."""

import re
from pathlib import Path

import pytest
import torch

from latentreason.tables import Rollouts
from latentreason.vectors.steering_vector import VectorSet

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.slow
def test_a_router_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (DOCS / "routing.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    exec(compile(block, "routing.md", "exec"), scope)
    rollouts = scope["rollouts"]
    assert isinstance(rollouts, Rollouts)
    assert rollouts.arms == ["on_surprise@0.50"] and rollouts.table["n_changed"].sum() > 0


def test_the_pairs_of_the_page_on_loading(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = DOCS.parent / "artifacts" / "organisms" / "activation"
    tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(folder / "base"), LoraConfig(target_modules="all-linear"))
    tuned.save_pretrained(tmp_path / "lora")
    block = re.findall(r"```python\n(.*?)```", (DOCS / "loading.md").read_text(), re.DOTALL)[0]
    scope: dict[str, object] = {"BASE": folder / "base", "RL": str(folder / "rl"), "LORA": tmp_path / "lora"}
    exec(compile(block, "loading.md", "exec"), scope)
    assert repr(scope["pair"]).startswith("base-lora: base ")


def test_vectors_from_prompt_pairs_and_from_a_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from_pairs, from_tensor, _ = re.findall(r"```python\n(.*?)```", (DOCS / "vectors.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    exec(compile(from_pairs, "vectors.md", "exec"), scope)
    assert VectorSet.load("thinking") == scope["vectors"]
    exec(compile(from_tensor, "vectors.md", "exec"), scope)
    lm, ids, logits = scope["pair"].base, scope["ids"], scope["logits"]  # type: ignore[attr-defined]
    with torch.no_grad():
        assert not torch.allclose(lm.model(ids).logits, logits, atol=0.1)
    (vector,) = VectorSet.from_gguf("think.gguf").values()
    torch.testing.assert_close(vector.vector, scope["vector"].vector)  # type: ignore[attr-defined]


def test_categories_without_labels() -> None:
    *_, block = re.findall(r"```python\n(.*?)```", (DOCS / "vectors.md").read_text(), re.DOTALL)
    scope: dict[str, object] = {}
    exec(compile(block, "vectors.md", "exec"), scope)
    assert set(scope["vectors"].labels) <= set(scope["found"].names) and len(scope["found"]) == 8  # type: ignore[attr-defined]


def test_every_link_between_documents_leads_somewhere() -> None:
    for page in [DOCS.parent / "README.md", *DOCS.glob("*.md")]:
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
