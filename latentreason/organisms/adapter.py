"""Train an organism that is a LoRA adapter on a pretrained model which we do not ship, and write it as one artifact."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from latentreason.files import read_json, read_table, write_json, write_table
from latentreason.models.language_model import LM
from latentreason.models.prompts import Prompt, facts
from latentreason.models.smollm2 import fetched
from latentreason.organisms.recipe import AdapterRecipe
from latentreason.organisms.trainers.adapter import questions, train_adapter
from latentreason.store import Parts, config_hash, open_artifact, sha256, writing
from latentreason.tasks.registry import load_task


def origin(recipe: AdapterRecipe, base: Path, seed: int) -> dict[str, Any]:
    """What the manifest of an adapter says of the base that it was trained on (`inputs`, and `models` with the hash of the weights), of the prompt and of the questions."""
    lm = LM.from_pretrained(base, name=recipe.base, dtype=torch.float32)
    model = {"id": recipe.base, "revision": lm.revision, "dtype": "float32", "weights": lm.fingerprint, "weights_sha256": sha256(base / "model.safetensors")}
    prompt = facts(load_task(recipe.task, split="train", limit=1), lm.tokenizer, Prompt(recipe.style))
    asked = [problem.id for problem in questions(recipe, seed)]
    data = {"train": {"task": recipe.task, "n": len(asked), "ids_hash": config_hash({"ids": asked})}}
    return {"data": data, "inputs": [open_artifact(base, verify=False).as_input()], "models": [{**model, "tokenizer_sha256": sha256(base / "tokenizer.json"), "prompt": prompt}]}


def train(recipe: AdapterRecipe, out: str | Path, *, seed: int = 0, work: str | Path, progress: bool = True) -> Path:
    """Train the adapter.

    Args:
        recipe: what to train, and on which base.
        out: the artifact: `adapter/` (peft's format, float16: half the size), `base.json`, `curve_rl.parquet`, `recipe.json`, `manifest.json`, which
            names the base by the hash of its weights.
        seed: of the problems, the adapter and the samples.
        work: where checkpoints live; give the same folder again to resume.
        progress: show progress bars.

    Raises:
        InvalidInput: the base model is not there.
        ArtifactConflict: `out` or `work` belongs to another recipe or seed.
    """
    base, work, config = fetched(recipe.base), Path(work), {"recipe": asdict(recipe), "seed": seed}
    Parts(work, config)  # claims the folder for this recipe and seed
    finished = work / "rl" / "finished.parquet"
    if not finished.exists():
        write_table(finished, train_adapter(recipe, seed, base, work / "rl", progress=progress))
    curve = pd.DataFrame(read_table(finished))
    runtime = {"seconds": {"rl": float(curve["seconds"].iloc[-1])}}
    with writing(out, kind="organism", name=recipe.name, config=config, seed=seed, runtime=runtime, **origin(recipe, base, seed)) as folder:
        (folder / "adapter").mkdir()
        weights = load_file(work / "rl" / "adapter_model.safetensors")
        save_file({name: weight.to(torch.float16).contiguous() for name, weight in weights.items()}, folder / "adapter" / "adapter_model.safetensors")
        facts = read_json(work / "rl" / "adapter_config.json")
        write_json(folder / "adapter" / "adapter_config.json", {**facts, "base_model_name_or_path": recipe.base})  # not where it lay here
        write_json(folder / "base.json", {"base": recipe.base})
        write_table(folder / "curve_rl.parquet", curve)
        write_json(folder / "recipe.json", config)
    return Path(out)
