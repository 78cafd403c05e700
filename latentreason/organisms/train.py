"""Train an organism: pretrain the base, train the RL model from it, write both as one artifact with a manifest.

Work goes on in a directory of its own (checkpoints, so a killed run resumes); the artifact holds what a user needs.
"""

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from latentreason.files import read_table, write_json, write_table
from latentreason.organisms.recipe import Recipe
from latentreason.organisms.trainers.grpo import train_rl
from latentreason.organisms.trainers.pretrain import pretrain
from latentreason.store import writing

SHIPPED = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def train(recipe: Recipe, out: str | Path, *, seed: int = 0, work: str | Path, progress: bool = True) -> Path:
    """Train both models.

    Args:
        recipe: what to grow.
        out: the artifact: `base/`, `rl/`, `curve_pretrain.parquet`, `curve_rl.parquet`, `manifest.json`.
        seed: of weights, corpus and RL.
        work: where checkpoints live; give the same folder again to resume.
        progress: show progress bars.

    Raises:
        ArtifactConflict: `out` or `work` belongs to another recipe or seed.
    """
    from latentreason.store import Parts

    work, config = Path(work), {"recipe": asdict(recipe), "seed": seed}
    Parts(work, config)  # claims the folder for this recipe and seed
    curves = {}
    stages: dict[str, Callable[[], pd.DataFrame]] = {
        "base": lambda: pretrain(recipe, seed, work / "base", progress=progress),
        "rl": lambda: train_rl(recipe, seed, work / "base", work / "rl", progress=progress),
    }
    for stage, run in stages.items():
        finished = work / stage / "finished.parquet"
        if not finished.exists():
            write_table(finished, run())
        curves[stage] = pd.DataFrame(read_table(finished))
    seconds = {"base": float(curves["base"]["seconds"].iloc[-1]), "rl": float(curves["rl"]["seconds"].iloc[-1])}
    with writing(out, kind="organism", name=recipe.name, config=config, seed=seed, runtime={"seconds": seconds}) as folder:
        for stage in ("base", "rl"):
            (folder / stage).mkdir()
            for name in SHIPPED:
                shutil.copyfile(work / stage / name, folder / stage / name)
        write_table(folder / "curve_pretrain.parquet", curves["base"])
        write_table(folder / "curve_rl.parquet", curves["rl"])
        write_json(folder / "recipe.json", config)
    return Path(out)
