"""The main job, end to end: from a pair to tables, results, figures and a report, in stages that survive a kill.

Every stage writes its table under `tables/` once, whole; a run that is started again goes on with what is missing. Nothing
here reads a committed result.
"""

import resource
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from latentreason.errors import unknown_name
from latentreason.files import read_json, write_json, write_table
from latentreason.hybrid.calibrate import calibrate, calibration_area
from latentreason.hybrid.decode import Arms, Hybrid
from latentreason.models.pair import ModelPair, found_dir
from latentreason.models.prompts import Prompt, facts as prompt_facts
from latentreason.models.size import PairSize
from latentreason.organisms.problems import problems_of, recipe_named, room
from latentreason.organisms.recipe import Recipe, config_of
from latentreason.routing.controls import always, at_strategy, first_token, matched_disagreement, matched_random, never
from latentreason.routing.named import named, rebuilt
from latentreason.routing.oracle import on_disagreement
from latentreason.routing.router import Router
from latentreason.sampling.local import Sampling, sample
from latentreason.store import Parts, code_version, config_hash
from latentreason.strategies.language import Language, language
from latentreason.tables import Rollouts, concat
from latentreason.tasks import chain
from latentreason.tasks.problem import Problem
from latentreason.tasks.registry import TASKS, load_task


@dataclass(frozen=True)
class RunConfig:
    """Everything that can change a number of the main job. The defaults are the job of the built-in pair."""

    pair: str = "activation"  # an organism, the folder of one, or BASE,RL
    task: str = "chain"
    seed: int = 0
    n_problems: int = 200
    n_samples: int = 64
    budgets: tuple[float, ...] = (0.25, 0.5, 0.65, 0.8)
    routers: tuple[str, ...] = ("on_divergence(js)", "on_divergence(kl)", "on_divergence(tv)", "on_entropy")
    calibration_problems: int = 100
    calibration_samples: int = 4
    passk_problems: int = 100
    passk_samples: int = 2048
    passk_hybrid_samples: int = 128
    strategy_samples: int = 8
    trace_problems: int = 12
    geometry_problems: int = 200
    fit_problems: int = 400
    swaps: int = 4000
    compare_samples: int = 32
    rival_samples: int = 8
    geometry_samples: int | None = None  # a key that is None does not count in the hash of a run
    max_new_tokens: int | None = None
    style: str | None = None  # of the prompt; None is the task's own
    chat: bool | None = None
    quick_calibration: bool | None = None  # see `calibrate`
    system: str | None = None
    temperature: float | None = None  # of the sampled arms, 1 unless given; greedy ones stay greedy
    top_p: float | None = None
    revisions: tuple[str, str] | None = None  # this and the next two: how BASE,RL is loaded
    dtype: str | None = None
    renamed_special: bool | None = None
    trained_epochs: int | None = None  # of trained vectors, at most; where given, all of them are trained in a smaller size (`steered.size_of`)
    rl_prompt: Prompt | None = None  # of the RL model, where it is not that of the base model
    device_map: str | None = None  # from here on, what changes no number: "auto", or a device such as "cuda"
    skip: tuple[str, ...] | None = None  # stages of OPTIONAL to leave out
    max_rows: int | None = None  # at once; None is what suits small models
    memory: float | None = None  # bytes of the device, for the plan
    model: PairSize | None = None  # for the plan, where the models are not at hand


SILENT = ("device_map", "skip", "max_rows", "memory", "model")
"""Keys that change no number of a table: they do not count in the hash of a run."""


TINY = RunConfig(n_problems=6, n_samples=4, budgets=(0.5,), routers=("on_divergence(js)", "on_entropy"), calibration_problems=12, calibration_samples=2,
                 passk_problems=4, passk_samples=8, passk_hybrid_samples=4, strategy_samples=2, trace_problems=2, geometry_problems=12,
                 fit_problems=8, swaps=40, compare_samples=2, rival_samples=1, trained_epochs=1)  # fmt: skip
"""A run of seconds, for tests and notebooks: its numbers mean nothing."""


@dataclass(frozen=True)
class Run:
    """A run directory with the pair that it is about."""

    folder: Path
    config: RunConfig
    pair: ModelPair
    progress: bool = True

    @property
    def tables(self) -> Path:
        """Where the tables are."""
        return self.folder / "tables"

    def problems(self, split: str, limit: int) -> list[Problem]:
        """Problems of a split, under the run's seed."""
        return problems_for(self.config, split, limit)

    @cached_property
    def language(self) -> Language:
        """How to read the completions."""
        return language(self.config.task, self.pair.base.tokenizer)

    def sampling(self, n: int, temperature: str = "t1") -> Sampling:
        """At the run's temperature, or greedy (then n is 1)."""
        config = self.config
        drawn = Sampling(seed=config.seed, max_rows=config.max_rows, prompt=Prompt(config.style, bool(config.chat), config.system), rl_prompt=config.rl_prompt)
        asked = {key: value for key in ("temperature", "top_p", "max_new_tokens") if (value := getattr(config, key)) is not None}
        asked |= {} if "max_new_tokens" in asked or (recipe := recipe_for(config)) is None else {"max_new_tokens": min(drawn.max_new_tokens, room(recipe))}
        return replace(drawn, **{**asked, "n": n} if temperature == "t1" else {**asked, "n": 1, "temperature": 0.0, "top_p": 1.0})

    @property
    def rows(self) -> int:
        """Rows of many arms at once: they share most of their prefixes."""
        return self.config.max_rows or 65_536

    def sample(self, name: str, model: Any, problems: list[Problem], sampling: Sampling) -> Rollouts:
        """Sample with finished chunks kept in `parts/NAME`, so that a killed run goes on."""
        return sample(model, problems, sampling, out=self.folder / "parts" / name, progress=self.progress)


def recipe_for(config: RunConfig) -> Recipe | None:
    """The recipe of the run's pair where it is an organism on its own task, else None."""
    known = recipe_named(config.pair) if config.task == "chain" else None
    return known and known[0]


def problems_for(config: RunConfig, split: str, limit: int) -> list[Problem]:
    """Problems of a split, under the run's seed: of an organism those that its recipe draws, of any other pair those of the task."""
    if (recipe := recipe_for(config)) is not None:
        return problems_of(recipe, split=split, limit=limit, seed=config.seed)
    return load_task(config.task, split=split, limit=limit, seed=config.seed)


def identity(config: RunConfig, pair: ModelPair) -> dict[str, Any]:
    """What makes two runs the same: the configuration, the weights, and how problems are drawn where that is not the task's own way."""
    asked = {key: value for key, value in asdict(config).items() if value is not None and key not in SILENT}
    asked["pair"] = pair.name if found_dir(config.pair) == Path(config.pair) else config.pair  # wherever the folder lies
    recipe = recipe_for(config)
    drawn = {} if recipe is None or recipe.problems == chain.Draw() else {"problems": config_of(recipe.problems)}
    return {**asked, **drawn, "weights": [pair.base.fingerprint, pair.rl.fingerprint]}


def load_pair(config: RunConfig) -> ModelPair:
    """The pair of a run, loaded as its configuration says."""
    how = {key: value for key in ("revisions", "dtype", "device_map", "renamed_special") if (value := getattr(config, key)) is not None}
    return ModelPair.named(config.pair, **how)


def run_dir(config: RunConfig, root: Path = Path("artifacts/runs"), pair: ModelPair | None = None) -> Path:
    """The directory of a run: its name holds the hash of configuration and weights. `pair` spares loading them."""
    pair = pair or load_pair(config)
    return root / f"{pair.name}-{config_hash(identity(config, pair))[:8]}"


def run_name(folder: Path) -> str:
    """The pair's name, as it stands in the name of a run's folder."""
    return folder.name.rpartition("-")[0]


def reproduce(config: RunConfig, folder: Path, *, stages: "dict[str, Stage] | None" = None, pair: ModelPair | None = None, progress: bool = True) -> Run:
    """Compute all tables of a run (the model half). `studies.recompute` and the figures take it from there.

    Args:
        config: of the run.
        folder: of the run.
        stages: those of the main job unless given.
        pair: spares loading it.
        progress: show progress bars.

    Raises:
        ArtifactConflict: the folder belongs to another configuration.
        UnknownName: a stage to skip that is not optional.
    """
    for name in config.skip or ():
        if name not in OPTIONAL:
            raise unknown_name("stage to skip", name, OPTIONAL)
    pair = pair or load_pair(config)
    Parts(folder, identity(config, pair))  # claims the folder
    write_json(folder / "models.json", {name: {"revision": lm.revision, "is": lm.summary} for name, lm in (("base", pair.base), ("rl", pair.rl))})
    run = Run(folder, config, pair, progress)
    run.tables.mkdir(exist_ok=True)
    seconds: dict[str, float] = read_json(folder / "seconds.json") if (folder / "seconds.json").exists() else {}
    for name, stage in (STAGES if stages is None else stages).items():
        if name in seconds or name in (config.skip or ()):
            continue
        started = time.monotonic()
        stage(run)
        seconds[name] = time.monotonic() - started
        made = folder / "stages.json"
        write_json(made, {**(read_json(made) if made.is_file() else {}), name: code_version()})
        seconds["peak_gigabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        write_json(folder / "seconds.json", seconds)
    shutil.rmtree(folder / "parts", ignore_errors=True)
    return run


def _calibrate(run: Run) -> None:
    """Thresholds and control rates, sampled and greedy, and which routers are best, all on calibration problems."""
    facts: dict[str, Any] = {}
    for temperature, scale in (("t1", 1), ("greedy", 2)):
        problems = run.problems("calibration", run.config.calibration_problems * scale)
        sampling = replace(run.sampling(run.config.calibration_samples, temperature), max_rows=run.rows)
        routers = [named(r) for r in run.config.routers]
        done = calibrate([*routers, first_token(), at_strategy(run.language), on_disagreement()], run.pair, problems, run.config.budgets, sampling=sampling, quick=bool(run.config.quick_calibration), progress=run.progress)
        areas = {r.name: calibration_area([d for d in done if d.name == r.name]) for r in routers}
        base_only = [r.name for r in routers if r.reads == frozenset({"base"})]
        facts[temperature] = {
            "routers": [r.spec() for r in done], "calibration_area": areas, "best_oracle": max((r.name for r in routers if "rl" in r.reads), key=lambda a: areas[a], default=""),
            "best_base_only": max(base_only, key=lambda a: areas[a], default=""),
        }  # fmt: skip
    n_answers = TASKS[run.config.task].n_answers
    facts["passk"] = {"max_k": run.config.passk_samples // 2, "hybrid_max_k": run.config.passk_hybrid_samples // 2, "n_answers": n_answers}
    asked = {"prompt": (run.pair.base.tokenizer, run.sampling(1).prompt), "rl_prompt": (run.pair.rl.tokenizer, run.config.rl_prompt)}
    facts |= {key: prompt_facts(run.problems("test", run.config.n_problems), tokenizer, prompt) for key, (tokenizer, prompt) in asked.items() if prompt}
    facts["models"] = {lm.name: {**lm.info[lm.name], "dtype": str(lm.model.dtype), "tokens": lm.n_vocab} for lm in (run.pair.base, run.pair.rl)}
    write_json(run.tables / "facts.json", facts)


def calibrated_routers(run: Run, temperature: str) -> list[Router]:
    """Routers of the main job with their thresholds, at "t1" or "greedy"."""
    return [rebuilt(spec, run.language) for spec in read_json(run.tables / "facts.json")[temperature]["routers"]]


def few_layers(n: int) -> list[int]:
    """Blocks at which vectors are tried: all of a few; of many, those at about a tenth, a quarter, three eighths (the reference's), a half and three quarters."""
    return list(range(n)) if n <= 8 else sorted({round(share * n) for share in (0.1, 0.25, 0.37, 0.5, 0.75)})


def _best(run: Run, temperature: str) -> Router:
    """The best oracle router, at the budget nearest to half of D."""
    name = read_json(run.tables / "facts.json")[temperature]["best_oracle"]
    return min((r for r in calibrated_routers(run, temperature) if r.name == name), key=lambda r: abs(r.params["calibration"]["budget"] - 0.5))


def _label(router: Router) -> str:
    return f"{router.name}@{router.params['calibration']['budget']:.2f}"


def _curves(run: Run, temperature: str) -> None:
    """Ends (base, RL, timing, content) and, for each router, its budgets with both matched controls: in one go, for their prefixes are largely the same.
    Of the best oracle router, its control and always-RL, the tokens too.
    """
    problems, best = run.problems("test", run.config.n_problems), _best(run, temperature)
    timing = at_strategy(run.language)
    ends = {"base": never(), "rl": always(), "timing": timing, "content": ~timing, "first_token": first_token(), "not_first_token": ~first_token()}
    routers = dict(ends)
    for router in calibrated_routers(run, temperature):
        label = _label(router)
        routers |= {label: router, f"matched_disagreement:{label}": matched_disagreement(router), f"matched_random:{label}": matched_random(router)}
    kept = {_label(best): best.name, f"matched_disagreement:{_label(best)}": "matched_disagreement", "rl": "rl"}
    sampling = replace(run.sampling(run.config.n_samples, temperature), keep_tokens=tuple(kept), max_rows=run.rows)
    rollouts = run.sample(f"{temperature}-curves", Arms([Hybrid(run.pair, router, name=name) for name, router in routers.items()]), problems, sampling)
    some = rollouts.table[rollouts.table["sample"] < run.config.strategy_samples]
    strategies = [_strategies(run, Rollouts(some[some["arm"] == arm].assign(arm=name))) for arm, name in kept.items()]
    write_table(run.tables / f"{temperature}_strategies.parquet", pd.concat(strategies, ignore_index=True))
    rollouts = rollouts.slim()
    is_end = rollouts.table["arm"].isin(list(ends))
    for name, rows in (("ends", is_end), ("curves", ~is_end)):
        table = rollouts.table[rows].reset_index(drop=True)
        Rollouts(table, {arm: rollouts.info[arm] for arm in table["arm"].unique()}).save(run.tables / f"{temperature}_{name}.parquet")


def _strategies(run: Run, arm: Rollouts) -> pd.DataFrame:
    """Which strategies an arm's tokens belong to, and how many of each are changed."""
    kinds, changed = np.concatenate(run.language.kinds(arm)), np.concatenate(arm.table["changed"].to_list())
    count = pd.DataFrame({"strategy": kinds, "changed": changed}).groupby("strategy")["changed"].agg(changed="sum", tokens="size")
    return count.reset_index().assign(arm=arm.arms[0])[["arm", "strategy", "changed", "tokens"]]


def _passk(run: Run) -> None:
    """Many samples of base, RL and one hybrid; where the task has a checker, a right answer is also checked for a valid trace."""
    problems, check = run.problems("test", run.config.passk_problems), run.language.valid
    asked, parts = {p.id: p for p in problems}, []
    for name, model, n in (
        ("base", run.pair.base, run.config.passk_samples), ("rl", run.pair.rl, run.config.passk_samples),
        ("hybrid", Hybrid(run.pair, _best(run, "t1"), name="hybrid"), run.config.passk_hybrid_samples),
    ):  # fmt: skip
        sampling = run.sampling(n)
        rollouts = run.sample(f"passk-{name}", model, problems, sampling if name == "hybrid" else sampling.alone(name))
        if check is not None:
            keys = list(zip(rollouts.table["problem"], rollouts.table["text"], strict=True))
            right = {key for key, correct in zip(keys, rollouts.table["correct"], strict=True) if correct}
            valid = {key for key in right if check(key[1], asked[key[0]])}
            rollouts = Rollouts(rollouts.table.assign(valid=[key in valid for key in keys]), rollouts.info)
        parts.append(rollouts.slim())
    concat(parts).save(run.tables / "passk.parquet")


def _traces(run: Run) -> None:
    """A few completions of base, hybrid and RL, token by token, for the reader."""
    problems = {p.id: p for p in run.problems("test", run.config.trace_problems)}
    arms = Arms([Hybrid(run.pair, r, name=n) for n, r in (("base", never()), ("hybrid", _best(run, "t1")), ("rl", always()))])
    table = sample(arms, list(problems.values()), run.sampling(2), progress=run.progress).table
    words = run.pair.base.tokenizer.batch_decode([[i] for i in range(run.pair.base.n_vocab)])
    for column, source in (("tokens", "token_ids"), ("base_tokens", "base_token_ids")):
        table[column] = [[words[i] for i in ids] for ids in table[source]]
    table["question"] = [problems[p].question for p in table["problem"]]
    table["answer"] = [problems[p].answer for p in table["problem"]]
    columns = ["problem", "sample", "arm", "question", "answer", "correct", "tokens", "base_tokens", "source", "changed", "base_entropy", "divergence"]
    write_table(run.tables / "traces.parquet", table[columns])


TEMPERATURES_TRIED = (0.2, 0.4, 0.6, 0.8, 1.0)


def _elicitation(run: Run) -> None:
    """What of the gain better asking recovers: the base greedily, at its best temperature (by calibration problems), after each other prompt of the
    task, and under the flexible grade. Tasks with a single prompt have no such stage.
    """
    styles, own = TASKS[run.config.task].styles, run.sampling(1).prompt.style
    if len(styles) < 2:
        return
    test, calibration = run.problems("test", run.config.n_problems), run.problems("calibration", run.config.calibration_problems)
    drawing = replace(run.sampling(run.config.n_samples), keep_tokens=False)
    trying = replace(run.sampling(run.config.calibration_samples), keep_tokens=False)
    others = [t for t in TEMPERATURES_TRIED if t != drawing.temperature]
    tried = [{"setting": t, "accuracy": float(run.sample(f"elicitation-{t}", run.pair.base, calibration, replace(trying, temperature=t).alone("base")).table["correct"].mean())} for t in others]
    best = max(tried, key=lambda t: t["accuracy"])["setting"]
    greedy: dict[str, Any] = {"n": 1, "temperature": 0.0}
    asked = {"base, best temperature": replace(drawing, temperature=best)}
    for style in [s for s in styles if s != (own or next(iter(styles)))]:
        prompt = replace(drawing.prompt, style=style)
        asked |= {f"base, {style}": replace(drawing, prompt=prompt), f"base, {style}, greedy": replace(drawing, prompt=prompt, **greedy)}
    sampled, sharp = (Rollouts.load(run.tables / f"{name}_ends.parquet") for name in ("t1", "greedy"))  # what the curves began and ended with
    parts, facts = [], dict[str, Any]()

    def add(arm: str, table: pd.DataFrame, setting: float, uses: str) -> None:
        parts.append(Rollouts(table.assign(arm=arm).drop(columns=["n_routed", "n_changed"], errors="ignore"), {arm: {}}))
        sources = {"timing_source": "none", "content_source": "RL token" if arm.startswith("RL") else "base token"}
        facts[arm] = {"uses": uses, "passes": 1, "rl_logits": float(arm.startswith("RL")), "setting": setting, "tried": tried if "best" in arm else [], **sources}

    add("base, greedy", sharp.arm("base").table, 0.0, "nothing")
    add("RL, greedy", sharp.arm("rl").table, 0.0, "the RL model")
    for i, (arm, sampling) in enumerate(asked.items()):
        uses = "labels of calibration problems" if "best" in arm else "another prompt"
        add(arm, run.sample(f"elicitation-arm-{i}", run.pair.base, test, sampling.alone("base")).slim().table, sampling.temperature, uses)
    for name, arm, uses in (("base", "base, flexible grade", "nothing"), ("rl", "RL, flexible grade", "the RL model")):
        add(arm, (table := sampled.arm(name).table).assign(correct=table["grade_flexible"] == "correct"), drawing.temperature, uses)
    both = concat(parts)
    Rollouts(both.table.drop(columns=["grade_strict", "grade_flexible"]), both.info).save(run.tables / "elicitation.parquet")
    write_json(run.tables / "elicitation.json", facts)


def geometry_settings(config: RunConfig) -> Any:
    """How much the stage `geometry` measures."""
    from latentreason.studies import geometry

    return geometry.usual(config)


def _geometry(run: Run) -> None:
    from latentreason.studies import geometry

    problems = run.problems("fit", run.config.geometry_problems)
    geometry.collect(run.pair, run.config, run.tables, sampling=run.sampling(1), problems=problems)


Stage = Callable[[Run], None]
STAGES: dict[str, Stage] = {
    "calibrate": _calibrate,
    "curves, sampled": lambda run: _curves(run, "t1"),
    "curves, greedy": lambda run: _curves(run, "greedy"),
    "passk": _passk,
    "traces": _traces,
    "geometry": _geometry,
    "elicitation": _elicitation,
}
"""In the order of computing. Their names stand in `seconds.json`, which says what is done."""

OPTIONAL = ("traces", "geometry", "elicitation")
"""Stages on which no other stands."""
