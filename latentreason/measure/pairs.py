"""Measure any pairs for the studies of the zoo: what each model does as counts, and beside it what is known of each training, from a file.

    measure_pairs(load_config(Pairs, "pairs.toml"), Path("runs/mine"))       # then: recompute_zoo("runs/mine/tables")

Pairs are compared where they share a base and their problems. Of an organism with a recipe the recipe says what is known; what the file says of it goes before that.
"""

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from latentreason.errors import InvalidInput, unknown_name
from latentreason.files import write_json, write_table
from latentreason.measure.facts import facts, judged_on
from latentreason.measure.organism import MAX_ROWS, NEW_TOKENS, Measuring, counted, groups, kept_of
from latentreason.measure.projections import projections
from latentreason.models.adapters import is_adapter, with_adapter
from latentreason.models.language_model import LM
from latentreason.models.pair import ModelPair, found_dir
from latentreason.models.prompts import Prompt
from latentreason.organisms.problems import problems_of, recipe_named, room
from latentreason.organisms.recipe import Recipe
from latentreason.sampling.local import Sampling
from latentreason.store import config_hash
from latentreason.tasks.problem import Problem
from latentreason.tasks.registry import TASKS, load_task

USUAL: dict[str, Any] = {"truth": "", "stages": "RLVR", "reward": "true", "clip": 0.2, "scale": "group", "updates": 1, "beta": 0.0, "external": 0, "group": 16, "prompts": None, "steps": None, "lr": None, "skip": 0,
                         "split": "train", "n_training": None, "own_problems": True}  # fmt: skip
"""Facts of a training of which nothing is stated. None is not known, and what asks for it is undefined."""


@dataclass(frozen=True)
class Kept:
    """Weights that were kept on the way: a directory, hub id or adapter on the pair's base, and the step (of a stage) that it is of."""

    step: int
    model: str
    stage: int = 0


@dataclass(frozen=True)
class Trained:
    """One pair, and what is known of its training; None is not stated. `pair` is as on the command line: a name, a folder, or BASE,RL.

    Attributes:
        name: of the training; pairs of one name are seeds of it.
        seed: of the training.
        base: pairs with an equal label are compared as of one base (the bases of several seeds differ); "" for equal weights.
        truth: the cause of the gain, where somebody knows it; no study of these reads it.
        stages: such as "RLVR", "SFT", or "SRL > RLVR" (study `curriculum`).
        reward: "true", or a spurious one: random, wrong, majority, format, or what the study's settings name (`spurious`).
        clip: of the ratio; inf for none (`spurious`).
        scale: "group" for advantages divided by their deviation, "none" without; group: samples of a problem in a step (`difficulty`).
        external: external traces in a group, as in RL-PLUS (`boundary`).
        n_training: different training problems; few: so few that they came again and again (`one_shot`).
        own_problems: trained on problems like those that it is judged on.
        steps: of the last stage, at which the RL model stands; prompts: problems of a step (`formats`).
        latent: share of valid traces that pretraining held; None for what the base does: right samples, with a valid trace where a checker exists (`spurious`).
        prior: trace format -> its share in pretraining; empty for what the base does (`formats`).
        training_split: split of the task like that which RL trained on, to see how hard it was for the base; "" for none (`difficulty`).
        kept: weights on the way (`formats`, `spurious`, `difficulty`).
        revisions, renamed_special: how BASE,RL is loaded.
    """

    name: str
    pair: str
    seed: int = 0
    base: str = ""
    truth: str | None = None
    stages: str | None = None
    reward: str | None = None
    clip: float | None = None
    scale: str | None = None
    group: int | None = None
    external: int | None = None
    n_training: int | None = None
    few: bool | None = None
    own_problems: bool | None = None
    steps: int | None = None
    prompts: int | None = None
    latent: float | None = None
    prior: dict[str, float] = field(default_factory=dict)
    training_split: str = ""
    kept: tuple[Kept, ...] = ()
    revisions: tuple[str, str] | None = None
    renamed_special: bool | None = None

    def __post_init__(self) -> None:
        """Raises InvalidInput where facts contradict each other or one is missing that another needs."""
        if self.few and not self.n_training:
            raise InvalidInput(f"{self.name!r} was trained on few problems: say how many, n_training = 1 or more.")
        if self.kept and (self.steps is None or max(k.step for k in self.kept if k.stage == max(k.stage for k in self.kept)) >= self.steps or min(k.step for k in self.kept) < 1):
            raise InvalidInput(f"{self.name!r} has kept weights: their steps are at least 1, and steps = N says at which later one the RL model stands.")

    @property
    def stated(self) -> dict[str, Any]:
        """Facts that are columns of the table `organisms`."""
        columns = {*USUAL, "few"}
        return {f.name: value for f in fields(self) if f.name in columns and (value := getattr(self, f.name)) is not None}


@dataclass(frozen=True)
class Pairs:
    """Pairs, the problems that they are judged on, and how these are asked. An organism of the task `chain` is judged on the problems of its recipe.

    Attributes:
        pairs: at least one.
        task, split, problem_seed: of the problems.
        measuring: how much.
        temperature, top_p, max_new_tokens, max_rows: as of `Sampling`; max_new_tokens None for 96.
        style, chat, system: of the prompt; rl_prompt: of the RL models, where theirs is another.
        dtype, device_map: how BASE,RL is loaded.
        studies: study -> keys of its Config, such as {"boundary": {"max_k": 16}}.
    """

    pairs: tuple[Trained, ...]
    task: str = "chain"
    split: str = "test"
    problem_seed: int = 0
    measuring: Measuring = Measuring()
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int | None = None
    max_rows: int | None = None
    style: str | None = None
    chat: bool = False
    system: str | None = None
    rl_prompt: Prompt | None = None
    dtype: str | None = None
    device_map: str | None = None
    studies: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises:
        UnknownName: no such task.
        InvalidInput: no pairs, a name and seed twice, or few training problems beside a full set of unknown size.
        """
        if self.task not in TASKS:
            raise unknown_name("task", self.task, TASKS)
        keys = [(p.name, p.seed) for p in self.pairs]
        if not keys or len(set(keys)) < len(keys):
            raise InvalidInput("List at least one pair, each with a name of its own, or a seed of its own beside others of its name.")
        if any(p.few for p in self.pairs) and (unknown := [p.name for p in self.pairs if p.n_training is None and recipe_named(p.pair) is None]):
            raise InvalidInput(f"Some pairs were trained on few problems, so n_training of the others must be stated, too: {', '.join(unknown)}.")

    def sampling(self, recipe: Recipe | None) -> Sampling:
        """How the samples of base and RL model are drawn."""
        longest = self.max_new_tokens or (NEW_TOKENS if recipe is None else min(NEW_TOKENS, room(recipe)))
        return Sampling(n=self.measuring.n_samples, temperature=self.temperature, top_p=self.top_p, max_new_tokens=longest, seed=self.measuring.seed, max_rows=self.max_rows or MAX_ROWS,
                        prompt=Prompt(self.style, self.chat, self.system), rl_prompt=self.rl_prompt)  # fmt: skip

    def settings(self) -> dict[str, dict[str, Any]]:
        """Study -> its settings for these pairs: all of them are looked at, and curves go to half of the samples."""
        largest = max(2, 2 ** ((self.measuring.n_samples // 2).bit_length() - 1))
        names = sorted({p.name for p in self.pairs})  # whatever was done to them: what says nothing of RLVR is told so
        usual: dict[str, dict[str, Any]] = {"boundary": {"organisms": names, "max_k": largest}, "difficulty": {"organisms": names}, "curriculum": {"max_k": largest}}
        usual |= {} if self.task == "chain" else {"spurious": {"behaviour": "format/code"}}
        return {name: {**usual.get(name, {}), **self.studies.get(name, {})} for name in {**usual, **self.studies}}


def measure_pairs(config: Pairs, out: Path, *, progress: bool = True) -> Path:
    """Write the tables of the zoo for these pairs: `tables/{organisms,counts,curves,training,kept,projections}.parquet`, and `settings.json` for the studies.

    A model that was counted before on the same problems, in the same way, is not counted again (`models/`): a killed run goes on, and pairs can be added.

    Args:
        config: the pairs.
        out: a folder of their own.
        progress: show a bar.

    Raises:
        UnknownName, CorruptArtifact, VocabMismatch, MissingData: as of `ModelPair.named` and `load_task`.
        InvalidInput: also for kept weights that are no model.
    """
    stacked: dict[str, list[pd.DataFrame]] = {}
    for each in tqdm(config.pairs, desc="measure", unit="pair", disable=not progress):
        for name, table in _tables(each, config, out / "models").items():
            first = pd.DataFrame({"organism": each.name, "seed": each.seed}, index=table.index)
            stacked.setdefault(name, []).append(pd.concat([first, table], axis=1))
    tables = out / "tables"
    for name in ("organisms", "counts", "curves", "training", "kept", "projections"):
        if name in stacked:
            write_table(tables / f"{name}.parquet", pd.concat(stacked[name], ignore_index=True))
        else:
            (tables / f"{name}.parquet").unlink(missing_ok=True)  # of an earlier list
    write_json(tables / "settings.json", config.settings())
    return out


def _tables(each: Trained, config: Pairs, cache: Path) -> dict[str, pd.DataFrame]:
    how, grown = config.measuring, recipe_named(each.pair) if config.task == "chain" else None
    recipe = None if grown is None else grown[0]
    pair = _loaded(each, config)
    problems = judged_on(recipe, how.n_problems) if recipe else load_task(config.task, split=config.split, limit=how.n_problems, seed=config.problem_seed)
    full = config.sampling(recipe)
    kept = _kept(each, config, pair, recipe)

    def count(lm: LM, asked: list[Problem], n: int) -> pd.DataFrame:
        return counted(lm, asked, replace(full, n=n).alone("base" if lm is pair.base else "rl"), cache, how.entropy_samples)

    tables = {"counts": pd.concat([count(lm, problems, how.n_samples).assign(arm=arm) for arm, lm in (("base", pair.base), ("rl", pair.rl))], ignore_index=True)}
    way = [(0, 0, pair.base), *kept]
    if kept:
        tables["kept"] = pd.concat([count(lm, problems, how.kept_samples).assign(stage=stage, step=step) for stage, step, lm in way], ignore_index=True)
        fit = problems_of(recipe, split="fit", limit=how.fit_problems) if recipe else load_task(config.task, split="fit", limit=how.fit_problems, seed=config.problem_seed)
        alone = full.alone("base")
        found = projections(pair.base, kept, fit, problems, fit=replace(alone, n=how.fit_samples), read=replace(alone, n=how.read_samples), layer=how.layer)
        tables |= {} if found is None else {"projections": found}
    if drawn := _groups(each, config, grown, way):
        tables["training"] = pd.concat([count(lm, asked, size).assign(stage=stage, step=step) for stage, step, lm, asked, size in drawn], ignore_index=True)
    tables["curves"] = _curve(tables, each)
    return {"organisms": _facts(each, pair, grown, problems, tables), **tables}


def _loaded(each: Trained, config: Pairs) -> ModelPair:
    how: dict[str, Any] = {"revisions": each.revisions, "renamed_special": each.renamed_special, "dtype": config.dtype, "device_map": config.device_map}
    return ModelPair.named(each.pair, **({k: v for k, v in how.items() if v is not None} if "," in each.pair else {}))


def _kept(each: Trained, config: Pairs, pair: ModelPair, recipe: Recipe | None) -> list[tuple[int, int, LM]]:
    """(stage, step, model), in order; the last is the RL model."""
    folder = found_dir(each.pair)
    if recipe is not None and folder is not None and not each.kept:
        return kept_of(recipe, folder, pair)
    found = []
    for k in sorted(each.kept, key=lambda k: (k.stage, k.step)):
        lm = with_adapter(pair.base, k.model) if is_adapter(k.model) else LM.from_pretrained(k.model, dtype=pair.base.model.dtype, device_map=config.device_map, name="kept")
        found.append((k.stage, k.step, ModelPair(pair.base, lm, each.name, pair.renamed_special).rl))  # or VocabMismatch
    return [*found, (found[-1][0], each.steps or 0, pair.rl)] if found else []


def _groups(each: Trained, config: Pairs, grown: tuple[Recipe, int] | None, models: list[tuple[int, int, LM]]) -> list[tuple[int, int, LM, list[Problem], int]]:
    """On which training problems, and how many at once, each model is sampled as its trainer did."""
    if grown is not None:
        return groups(*grown, config.measuring, models)
    if not each.training_split:
        return []
    asked = load_task(config.task, split=each.training_split, limit=config.measuring.n_training, seed=config.problem_seed)
    return [(stage, step, lm, asked, each.group or USUAL["group"]) for stage, step, lm in models]


def _curve(tables: dict[str, pd.DataFrame], each: Trained) -> pd.DataFrame:
    """The training as the kept weights show it on the judged problems, or its two ends alone: one row a set of weights, `at` the step that it is of (NaN: not known)."""
    if "kept" in tables:
        steps = [(stage, step, part) for (stage, step), part in tables["kept"].groupby(["stage", "step"], sort=True)]
    else:
        ends = [tables["counts"][tables["counts"]["arm"] == arm] for arm in ("base", "rl")]
        steps = [(0, 0, ends[0]), (0, each.steps or 1, ends[1])]
    rows = []
    for stage, step, part in steps:
        n = part["n"].sum()
        sums = {c: part[c].sum() / n for c in map(str, part) if c.startswith(("format/", "strategy/")) and c != "format/none"}
        known = "kept" in tables or each.steps is not None
        rows.append({"stage": int(str(stage)), "step": int(str(step)), "at": float(str(step)) if known else float("nan"), "pass_rate": part["correct"].sum() / n, "pass_flexible": part["flexible"].sum() / n,
                     "repetition": part["repetition"].mean(), "entropy": part["entropy"].mean(), "completions/mean_length": part["n_tokens"].sum() / n, "note": "", **sums})  # fmt: skip
    return pd.DataFrame(rows)


def _facts(each: Trained, pair: ModelPair, grown: tuple[Recipe, int] | None, problems: list[Problem], tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The row of the table `organisms`, as of `facts`, and: few, rollouts (of a point of the curve), prior_from and latent_from (stated, corpus, or base: its samples)."""
    base = tables["counts"][tables["counts"]["arm"] == "base"]
    column = "correct" if base["correct_valid"].isna().any() else "correct_valid"
    shares = {c: float(base[c].sum() / base["n"].sum()) for c in map(str, base) if c.startswith("format/") and c != "format/none"}
    point = tables["kept"].groupby(["stage", "step"])["n"].sum().min() if "kept" in tables else base["n"].sum()
    row: dict[str, Any] = {
        **USUAL, "base": config_hash({"weights": pair.base.fingerprint})[:12], "judged": config_hash({"problems": [p.id for p in problems]})[:12],
        "parameters": sum(w.numel() for w in pair.rl.model.parameters()), "latent": float(base[column].sum() / base["n"].sum()), "latent_from": "base", "prior_from": "base",
        **{f"prior/{name.removeprefix('format/')}": share for name, share in shares.items()},
    }  # fmt: skip
    if grown is not None:
        row |= {"latent_from": "corpus", "prior_from": "corpus", **{str(k): v for k, v in facts(*grown, problems).iloc[0].items()}}
    row |= {"rollouts": int(point)} | each.stated | ({"base": each.base} if each.base else {})
    row["few"] = each.few if each.few is not None else bool(grown is not None and row["stages"] == "RLVR" and row["n_training"] < row["steps"] * row["prompts"])
    if each.latent is not None:
        row |= {"latent": each.latent, "latent_from": "stated"}
    if each.prior:
        row |= {**{name: 0.0 for name in row if name.startswith("prior/")}, **{f"prior/{name}": share for name, share in each.prior.items()}, "prior_from": "stated"}
    numbers = ("clip", "updates", "beta", "external", "group", "prompts", "steps", "lr", "skip", "n_training")
    return pd.DataFrame([row]).astype(dict.fromkeys(numbers, "float64"))

