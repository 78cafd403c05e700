"""What a verdict is made of, for any pair: eight arms on the problems that are judged, base and RL model on seen, training and many-sample problems.

The eight arms are the sets of the players sharpening, timing and content (see `studies.verdict`). They decode together: under shared noise they have
most prefixes in common, and where the calibrated temperature is 1 an arm with sharpening is the arm without it.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from latentreason.errors import InvalidInput
from latentreason.files import read_table, write_table
from latentreason.hybrid.decode import Arms, Hybrid
from latentreason.models.pair import ModelPair
from latentreason.models.prompts import Prompt
from latentreason.organisms.problems import problems_of, room, training_problems
from latentreason.organisms.recipe import RL, Recipe
from latentreason.routing.controls import always, at_strategy, never
from latentreason.sampling.local import Sampling, sample
from latentreason.stats import coalitions
from latentreason.store import Parts, config_hash
from latentreason.strategies.language import language
from latentreason.tables import COUNT_COLUMNS, Rollouts
from latentreason.tasks import chain
from latentreason.tasks.problem import Problem
from latentreason.tasks.registry import load_task

PLAYERS = ("sharpening", "timing", "content")
ROWS = 65_536
"""Rows of all arms at once: they share most of their prefixes."""


@dataclass(frozen=True)
class Judging:
    """How much is sampled for a verdict. The defaults are meant for about a minute an organism of 0.3M parameters on two free cores.

    Attributes:
        n_problems, n_samples: of the eight arms, and of seen problems.
        calibration_problems, calibration_samples: for the temperature.
        temperatures: tried, as multiples of `temperature`; 1 is always tried.
        tolerance: a milder temperature is as good as the best within so many standard errors of their paired difference.
        least: a lower temperature must bring the base at least so much of the RL gain, and more than two standard errors, or it stays at 1.
        breadth_problems, breadth_samples: for pass@k to half as many samples; 0 samples for none.
        training_problems, training_samples: of base and RL model.
        temperature: of the arms; at 0 they are greedy, one sample each, and there is no pass@k.
        max_new_tokens, prompt, seed: as of `Sampling`.
    """

    n_problems: int = 100
    n_samples: int = 8
    calibration_problems: int = 60
    calibration_samples: int = 8
    temperatures: tuple[float, ...] = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    tolerance: float = 1.0
    least: float = 0.1
    breadth_problems: int = 64
    breadth_samples: int = 128
    training_problems: int = 64
    training_samples: int = 8
    temperature: float = 1.0
    max_new_tokens: int = 96
    prompt: Prompt = Prompt()
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises InvalidInput for a temperature to be tried that is not lower."""
        if not all(0.0 < t <= 1.0 for t in self.temperatures):
            raise InvalidInput(f"temperatures={self.temperatures} must lie in (0, 1]: they are multiples of the arms' own, and sharpening lowers it.")

    def sampling(self, n: int, **more: Any) -> Sampling:
        """At the temperature of the arms, n samples; greedy one."""
        drawn = Sampling(n=n if self.temperature else 1, temperature=self.temperature, max_new_tokens=self.max_new_tokens, seed=self.seed, prompt=self.prompt)
        return replace(drawn, **more)


TINY = Judging(n_problems=6, n_samples=2, calibration_problems=6, calibration_samples=2, temperatures=(0.5,), breadth_problems=4, breadth_samples=4, training_problems=4, training_samples=2)
"""A verdict of seconds, whose numbers mean nothing."""


@dataclass(frozen=True)
class Case:
    """The problems that a pair is judged by.

    Attributes:
        judged: for the eight arms.
        calibration: for the temperature, none of them judged.
        seen: problems that the base's corpus, or RL, may have held; `judged` are then their clean twins, in the same order.
        training: as RL trained on, for shortcuts.

    Raises:
        InvalidInput: a split with no clean twins, or problems that are in two splits.
    """

    judged: list[Problem]
    calibration: list[Problem]
    seen: list[Problem] | None = None
    training: list[Problem] | None = None

    def __post_init__(self) -> None:
        if not self.judged or not self.calibration:
            raise InvalidInput("A verdict needs problems to judge by, and others to calibrate the temperature on; one of the two lists is empty.")
        if self.seen is not None and len(self.seen) != len(self.judged):
            raise InvalidInput(f"There are {len(self.seen)} seen problems and {len(self.judged)} clean ones: each seen problem needs its clean twin, in the same order.")
        judged = {p.id for p in self.judged}
        for name, others in (("calibration", self.calibration), ("seen", self.seen or [])):
            if both := judged & {p.id for p in others}:
                raise InvalidInput(f"Problem {min(both)} is judged and in the split {name!r}; the two must be disjoint.")
        if len({p.task for p in [*self.judged, *self.calibration, *(self.seen or []), *(self.training or [])]}) > 1:
            raise InvalidInput("The problems are of several tasks; a pair is judged on one.")


def case_of_task(task: str, config: Judging) -> Case:
    """The problems of a task: no seen split, and no knowledge of what RL trained on."""
    judged, calibration = (load_task(task, split=split, limit=n, seed=config.seed) for split, n in (("test", config.n_problems), ("calibration", config.calibration_problems)))
    return Case(judged, calibration)


def case_of(recipe: Recipe, config: Judging, seed: int) -> Case:
    """The problems of an organism, which are the same for every seed of its training but for those that it trained on."""
    seen = problems_of(recipe, split="seen", limit=config.n_problems) if recipe.corpus.n_seen else None
    judged = problems_of(recipe, split="clean" if seen else "test", limit=config.n_problems)
    stage, n = recipe.training[-1], config.training_problems
    if isinstance(stage, RL):
        training = list({p.id: p for p in training_problems(recipe, stage, seed)}.values())[:n]
    else:
        training = chain.load(split="train", limit=n, seed=seed, how=stage.problems or recipe.problems)
    return Case(judged, problems_of(recipe, split="calibration", limit=config.calibration_problems), seen, training)


def fitted(config: Judging, recipe: Recipe) -> Judging:
    """The same, with no more new tokens than the context of an organism holds."""
    return replace(config, max_new_tokens=min(config.max_new_tokens, room(recipe)))


def identity(pair: ModelPair, case: Case, config: Judging) -> dict[str, Any]:
    """What makes two collections the same: weights, problems and settings."""
    splits = {name: [p.id for p in split or []] for name, split in vars(case).items()}
    return {"judging": asdict(config), "problems": config_hash({"ids": splits}), "weights": [pair.base.fingerprint, pair.rl.fingerprint]}


def collect(pair: ModelPair, case: Case, config: Judging, out: Path, *, progress: bool = True) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables of a verdict: counts, and the temperatures tried. Resumes its own unfinished work, and reads what is finished.

    Args:
        pair: any pair.
        case: its problems.
        config: how much to sample.
        out: a folder of its own; gets `tables/verdict.parquet` and `tables/verdict_temperatures.parquet`.
        progress: show bars.

    Raises:
        ArtifactConflict: `out` belongs to another pair, other problems or other settings.
    """
    Parts(out, identity(pair, case, config))
    files = [out / "tables" / f"{name}.parquet" for name in ("verdict", "verdict_temperatures")]
    if not all(file.is_file() for file in files):
        tried = temperatures(pair, case, config, out / "parts", progress=progress)
        tau = float(tried.loc[tried["chosen"], "temperature"].iloc[0])
        (out / "tables").mkdir(exist_ok=True)
        for file, table in zip(files, (counts(pair, case, config, tau, out / "parts", progress=progress), tried), strict=True):
            write_table(file, table)
    key = config_hash(identity(pair, case, config))  # tables of before it was written have it from here
    return read_table(files[0]).assign(key=key), read_table(files[1]).assign(key=key)


def temperatures(pair: ModelPair, case: Case, config: Judging, parts: Path, *, progress: bool = True) -> pd.DataFrame:
    """The base's flexible accuracy on calibration problems at each temperature, and which one is chosen; accuracies of the RL model beside it.

    Returns:
        One row a temperature (a multiple of the arms' own): temperature, accuracy, rl_accuracy, chosen.
    """
    sampling = config.sampling(config.calibration_samples, keep_tokens=False, max_rows=ROWS)
    ladder = sorted({*config.temperatures, 1.0})
    arms = Arms([Hybrid(pair, never(), name=f"{t:g}", mode="lazy", tempering=(t, 1.0)) for t in ladder])  # lazy: the RL model is never asked
    tried = sample(arms, case.calibration, sampling, out=parts / "temperatures", progress=progress)
    rl = _flexible(sample(pair.rl, case.calibration, sampling, out=parts / "temperatures-rl", progress=progress))
    grades = {t: _flexible(tried.arm(f"{t:g}")) for t in ladder}
    best = mildest(grades, rl, config.tolerance, config.least)
    return pd.DataFrame([{"temperature": t, "accuracy": float(g.mean()), "rl_accuracy": float(rl.mean()), "chosen": t == best} for t, g in grades.items()])


def mildest(base: dict[float, Float[np.ndarray, "problem"]], rl: Float[np.ndarray, "problem"], tolerance: float = 1.0, least: float = 0.1) -> float:
    """The highest temperature that does as much for the base as any, or as much as RL does, if that is less.

    As much: not below by more than `tolerance` standard errors of the paired difference by problem (the one-standard-error rule of Breiman et al.
    1984). Nobody is sharpened beyond the RL model. The best of several is favoured by chance, so a lower temperature counts only where it gains more than two standard errors
    over the highest, and at least `least` of what RL gains.
    """
    best, plain = max(base.values(), key=lambda grades: float(grades.mean())), base[max(base)]
    gained = best - plain
    if gained.mean() <= max(2.0 * _error(gained), least * float(rl.mean() - plain.mean())):
        return max(base)
    target = rl if rl.mean() < best.mean() else best

    def short(grades: np.ndarray) -> bool:
        return bool((target - grades).mean() > tolerance * _error(target - grades))

    return max(t for t, grades in base.items() if grades is best or not short(grades))


def _error(values: Float[np.ndarray, "problem"]) -> float:
    """Standard error of the mean."""
    return float(values.std(ddof=min(1, len(values) - 1)) / np.sqrt(len(values)))


def eight(pair: ModelPair, task: str, tau: float) -> Arms:
    """One arm a set of players: RL tokens at timing, at content positions, or both; base tokens at tau with sharpening, RL tokens at 1 / tau without."""
    timing = at_strategy(language(task, pair.base.tokenizer))
    where = {frozenset[str](): never(), frozenset({"timing"}): timing, frozenset({"content"}): ~timing, frozenset({"timing", "content"}): always()}
    return Arms([
        Hybrid(pair, where[members - {"sharpening"}], name=name, tempering=(tau, 1.0) if "sharpening" in members else (1.0, 1.0 / tau))
        for name, members in coalitions(PLAYERS).items()
    ])  # fmt: skip


def counts(pair: ModelPair, case: Case, config: Judging, tau: float, parts: Path, *, progress: bool = True) -> pd.DataFrame:
    """The table of counts at a temperature: columns `COUNT_COLUMNS`."""
    task = case.judged[0].task
    check = language(task, pair.base.tokenizer).valid

    def draw(name: str, model: Any, problems: list[Problem], sampling: Sampling) -> Rollouts:
        return sample(model, problems, sampling, out=parts / name, progress=progress)

    plain = config.sampling(config.n_samples, keep_tokens=False)
    found = [_counted("judged", draw("judged", eight(pair, task, tau), case.judged, replace(plain, max_rows=ROWS)))]
    if case.seen is not None:
        twins = {seen.id: clean.id for seen, clean in zip(case.seen, case.judged, strict=True)}
        found += [_counted("seen", draw(f"seen-{lm.name}", lm, case.seen, plain), arm, twins=twins) for arm, lm in (("base", pair.base), ("rl", pair.rl))]
    asked = {"training": (case.training or [], config.training_samples), "breadth": (case.judged[: config.breadth_problems] if config.temperature else [], config.breadth_samples)}
    for part, (problems, n) in asked.items():
        for arm, lm in (("base", pair.base), ("rl", pair.rl)) if problems and n else ():
            found.append(_counted(part, draw(f"{part}-{arm}", lm, problems, config.sampling(n)), arm, check, {p.id: p for p in problems}))
    return pd.concat(found, ignore_index=True)[[*COUNT_COLUMNS]]


def _counted(part: str, rollouts: Rollouts, arm: str = "", check: Callable[[str, Problem], bool] | None = None, problems: dict[str, Problem] | None = None,
             twins: dict[str, str] | None = None) -> pd.DataFrame:  # fmt: skip
    """Rollouts as counts; a trace is checked where its answer is right."""
    table = rollouts.table.assign(flexible=rollouts.table["grade_flexible"] == "correct", **({"arm": arm} if arm else {}))
    table["valid"] = np.nan
    if check is not None and problems is not None:
        known: dict[tuple[str, str], bool] = {}
        for key in set(zip(table.loc[table["correct"], "problem"], table.loc[table["correct"], "text"], strict=True)):
            known[key] = check(key[1], problems[key[0]])
        table["valid"] = [float(known.get(key, False)) for key in zip(table["problem"], table["text"], strict=True)]
    by = table.groupby(["arm", "problem"], sort=False)
    out = by.agg(n=("correct", "size"), strict=("correct", "sum"), flexible=("flexible", "sum")).reset_index()
    return out.assign(part=part, twin=[(twins or {}).get(problem, "") for problem in out["problem"]], valid=by["valid"].sum(min_count=1).to_numpy())


def _flexible(rollouts: Rollouts) -> np.ndarray:
    """Flexible accuracy by problem, in sorted order of ids."""
    right = (rollouts.table["grade_flexible"] == "correct").groupby(rollouts.table["problem"], sort=True).mean()
    return right.to_numpy(float)
