"""Measure a trained organism: the tables that the studies of the zoo read, before they are stacked over organisms and seeds.

    measure(recipe, "artifacts/runs/organisms/too-hard-0", out, seed=0, cache=cache)

A model that several organisms share (a base, a first stage) is sampled once: what is counted lies in `cache` under the hash of its weights.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from latentreason.errors import InvalidInput
from latentreason.files import read_table, write_table
from latentreason.measure.counts import counts, entropy
from latentreason.measure.facts import facts, judged_on
from latentreason.measure.projections import projections
from latentreason.models.language_model import LM
from latentreason.models.pair import ModelPair
from latentreason.organisms.problems import problems_of, training_problems
from latentreason.organisms.recipe import RL, Recipe, config_of
from latentreason.sampling.local import Sampling, sample
from latentreason.store import config_hash, open_artifact, writing
from latentreason.tasks.problem import Problem

NEW_TOKENS = 96
MAX_ROWS = 2048
"""Rows decoded at once: more are no faster on a CPU, and take memory. Changes nothing that is sampled."""
CURVE = ("stage", "step", "seconds", "reward", "reward_std", "frac_reward_zero_std", "pass_rate", "pass_flexible", "valid", "repetition", "entropy", "kl_to_base", "kl", "loss", "note",
         "completions/mean_length", "completions/clipped_ratio", "clip_ratio/region_mean", "grad_norm")  # fmt: skip
CURVES = ("format/", "strategy/", "wrapper/", "step/")
"""Columns of a training curve that are kept, and beginnings of such columns: the others are trl's books."""


@dataclass(frozen=True)
class Measuring:
    """How much is measured.

    Attributes:
        n_problems, n_samples: test problems, and samples of each, of base and RL model.
        kept_samples: of each kept checkpoint.
        n_training: training problems on which groups of the trainer's size are drawn.
        entropy_samples: completions of a problem along which entropy is taken.
        fit_problems, fit_samples: on which strategy vectors are fitted (split `fit`).
        read_samples: base traces of a test problem on which activations are projected.
        layer: of the vectors; None for the middle one.
        seed: of the sampling.
    """

    n_problems: int = 100
    n_samples: int = 128
    kept_samples: int = 16
    n_training: int = 100
    entropy_samples: int = 4
    fit_problems: int = 100
    fit_samples: int = 8
    read_samples: int = 2
    layer: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises InvalidInput for a number below 1 (below 2 for n_samples and kept_samples, whose halves are compared)."""
        if min(self.n_problems, self.n_training, self.entropy_samples, self.fit_problems, self.fit_samples, self.read_samples) < 1 or min(self.n_samples, self.kept_samples) < 2:
            raise InvalidInput(f"Every number of a measurement must be at least 1, n_samples and kept_samples at least 2; found {self}.")


def measure(recipe: Recipe, trained: Path, out: Path, *, seed: int, cache: Path, how: Measuring = Measuring(), progress: bool = True) -> Path:
    """Write the tables of one organism and one training seed: an artifact; one that is there already is left as it is.

    Args:
        recipe: of the organism.
        trained: its artifact, as `train` or `ship` wrote it.
        out: folder of the tables: `organisms` (one row of facts), `curves`, `counts` (base and RL model), `training` (groups on training problems), and where
            weights were kept on the way `kept` and `projections`.
        seed: of the training.
        cache: where counts of single models lie.
        how: how much.
        progress: show a bar.

    Raises:
        CorruptArtifact: the organism has not been trained, or a file of it differs.
        ArtifactConflict: `out` holds the measurement of other weights, or with other settings.
    """
    manifest = open_artifact(trained)
    config = {"recipe": config_of(recipe), "seed": seed, "measuring": asdict(how), "organism": manifest.as_input()["hash"]}
    if (out / "manifest.json").is_file() and open_artifact(out).config_hash == config_hash(config):
        return out
    with writing(out, kind="measurement", name=recipe.name, config=config, seed=seed, inputs=[manifest.as_input()]) as folder:
        for name, table in _tables(recipe, trained, seed, cache, how, progress).items():
            write_table(folder / f"{name}.parquet", table)
    return out


def _tables(recipe: Recipe, trained: Path, seed: int, cache: Path, how: Measuring, progress: bool) -> dict[str, pd.DataFrame]:
    pair, problems = ModelPair.from_folder(trained, recipe.name), judged_on(recipe, how.n_problems)
    longest = max(len(p.meta["operations"]) for p in problems)
    full = Sampling(n=how.n_samples, seed=how.seed, max_new_tokens=min(NEW_TOKENS, recipe.size.context - 7 - 2 * longest), max_rows=MAX_ROWS)
    brief = replace(full, n=how.kept_samples)
    kept = kept_of(recipe, trained, pair)
    drawn = groups(recipe, seed, how, [(0, 0, pair.base), *kept])
    jobs: list[tuple[str, dict[str, Any], LM, list[Problem], Sampling]] = [("counts", {"arm": lm.name}, lm, problems, full) for lm in (pair.base, pair.rl)]
    jobs += [("kept", {"stage": stage, "step": step}, lm, problems, brief) for stage, step, lm in ([(0, 0, pair.base), *kept] if kept else [])]
    jobs += [("training", {"stage": stage, "step": step}, lm, asked, replace(full, n=size)) for stage, step, lm, asked, size in drawn]
    parts: dict[str, list[pd.DataFrame]] = {}
    for table, where, lm, asked, sampling in tqdm(jobs, desc=f"measure {recipe.name}", unit="model", disable=not progress):
        found = counted(lm, asked, sampling, cache, how.entropy_samples)
        parts.setdefault(table, []).append(pd.concat([pd.DataFrame(where, index=found.index), found], axis=1))
    tables = {name: pd.concat(each, ignore_index=True) for name, each in parts.items()}
    tables |= {"organisms": facts(recipe, seed, problems), "curves": _curve(trained)}
    if kept:
        fit, read = replace(full, n=how.fit_samples), replace(full, n=how.read_samples)
        read_off = projections(pair.base, kept, problems_of(recipe, split="fit", limit=how.fit_problems), problems, fit=fit, read=read, layer=how.layer)
        tables |= {} if read_off is None else {"projections": read_off}
    return tables


def counted(lm: LM, problems: list[Problem], sampling: Sampling, cache: Path, entropy_samples: int) -> pd.DataFrame:
    """`counts` and `entropy` of a model; read where they have been counted before, from a file that is named by weights, problems and sampling."""
    asked = {k: v for k, v in asdict(sampling).items() if k not in ("max_rows", "keep_tokens")}
    file = cache / f"{config_hash({'weights': lm.fingerprint, 'problems': [p.id for p in problems], 'sampling': asked, 'entropy': entropy_samples})[:24]}.parquet"
    if not file.is_file():
        rollouts = sample(lm, problems, sampling, progress=False)
        write_table(file, counts(rollouts, problems).merge(entropy(lm, rollouts, entropy_samples), left_on="problem", right_index=True))
    return read_table(file)


def kept_of(recipe: Recipe, trained: Path, pair: ModelPair) -> list[tuple[int, int, LM]]:
    """(stage, step, model) of the weights that were kept on the way, in order; the last is the RL model."""
    found = []
    for folder in sorted((trained / "kept").glob("stage-*-step-*")):
        stage, step = (int(part) for part in folder.name.removeprefix("stage-").split("-step-"))
        found.append((stage, step, LM.from_pretrained(folder, tokenizer=pair.base.tokenizer, name="kept")))
    last = (len(recipe.training) - 1, recipe.training[-1].steps)
    return [*(each for each in found if each[:2] != last), (*last, pair.rl)] if found else []


def groups(recipe: Recipe, seed: int, how: Measuring, models: list[tuple[int, int, LM]]) -> list[tuple[int, int, LM, list[Problem], int]]:
    """On which training problems, and how many at once, each model is sampled as its trainer did; only stages of RL with the true reward on whole traces."""
    found = []
    for stage, step, lm in models:
        rl = recipe.training[stage]
        if isinstance(rl, RL) and not rl.by_step and rl.reward == "true":
            unique = list({p.id: p for p in training_problems(recipe, rl, seed)}.values())
            found.append((stage, step, lm, unique[: how.n_training], rl.group))
    return found


def _curve(trained: Path) -> pd.DataFrame:
    curve = read_table(trained / "curve_rl.parquet")
    curve = curve[[c for c in map(str, curve) if c in CURVE or c.startswith(CURVES)]]
    curve = curve.assign(**{name: fill for name, fill in (("stage", 0), ("note", "")) if name not in curve})
    return curve.astype({c: "float32" for c in curve if curve[c].dtype == "float64"})
