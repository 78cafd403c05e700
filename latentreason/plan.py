"""Which configuration a run has, and what it will take, before any weight is loaded.

Configurations of public pairs come with the package (`configs/NAME.toml`); `latentreason reproduce --pair NAME` takes that of its pair.
What a run takes is counted, never timed: every number of a plan is an upper bound, unless it says otherwise. Example::

    plan(chosen_config("orz-7b")).stages
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from latentreason.config import load_config
from latentreason.errors import InvalidInput, unknown_name
from latentreason.geometry.doses import CONTENT, DECODED, POINTS, STRENGTHS
from latentreason.hybrid.calibrate import FURTHER, PARTS, ROUNDS, TRIED
from latentreason.models.adapters import is_adapter
from latentreason.models.pair import found_dir
from latentreason.models.prompts import Prompt, render
from latentreason.models.size import PairSize, at_hand, sources, tokenizer_of
from latentreason.reproduce import TEMPERATURES_TRIED, TINY, RunConfig, geometry_settings, problems_for
from latentreason.sampling.local import MEMORY, Sampling
from latentreason.strategies.rules import RULES
from latentreason.tasks import benchmarks, chain
from latentreason.tasks.problem import Problem
from latentreason.tasks.registry import TASKS, load_task


def configs() -> dict[str, Path]:
    """Name -> file of the configurations that come with the package."""
    folder = Path(str(resources.files("latentreason"))) / "configs"
    return {file.stem: file for file in sorted(folder.glob("*.toml"))}


def chosen_config(pair: str | None = None, config: str | Path | None = None, seed: int | None = None, *, tiny: bool = False) -> RunConfig:
    """The configuration that a command line asks for: a file, a name, or that of the pair; with pair and seed as given.

    Raises:
        InvalidInput: a size given twice, or a file that is no configuration.
        UnknownName: no configuration of that name comes with the package.
    """
    if tiny and config is not None:
        raise InvalidInput("--tiny and --config both say how large the run is: give one of them.")
    known = configs()
    if config is not None:
        file = Path(config)
        if not file.is_file() and file.suffix != ".toml" and str(config) not in known:
            raise unknown_name("config", str(config), known)
        chosen = load_config(RunConfig, known.get(str(config), file))
    elif pair in known:
        chosen, pair = load_config(RunConfig, known[pair]), None
    else:
        chosen = RunConfig()
    if tiny:
        sizes = {f.name: getattr(TINY, f.name) for f in fields(RunConfig) if getattr(TINY, f.name) != getattr(RunConfig(), f.name)}
        chosen = replace(chosen, **sizes)
    return replace(chosen, pair=chosen.pair if pair is None else pair, seed=chosen.seed if seed is None else seed)


ENDS = 6
"""Arms of the curves that are no router of the configuration: base, RL, timing, content, the first token, and all but it."""

HEADROOM = 0.9
"""Share of the memory that weights and caches may fill."""

SLIM, TRACED, ALONE, HYBRID = 12, 12, 8, 32
"""Bytes on the disk: a row without its tokens (measured on the built-in pair: 1.3 to 12), and a token of a trace (12 there), of a model
alone and of a hybrid (what is recorded of it, uncompressed).
"""


@dataclass(frozen=True)
class Draw:
    """Calls of `sample`, counted before they are made.

    Attributes:
        stage: of the main job.
        what: is drawn.
        problems, arms, samples: of a call; their product is the number of completions.
        calls: how many of them.
        base, rl: forward passes of each model for a token of a completion.
        style: of the prompt, None for the run's own.
        copies: how often a prompt is read. Arms share prompts, doses do not.
        further_base, further_rl: tokens that are read besides; those of the untrained twin count as the base's.
        token_bytes: on the disk, until the run has ended; 0 where no tokens are kept.
    """

    stage: str
    what: str
    problems: int
    arms: int
    samples: int
    calls: int = 1
    base: int = 1
    rl: int = 1
    style: str | None = None
    copies: int = 1
    further_base: int = 0
    further_rl: int = 0
    token_bytes: int = 0

    @property
    def rows(self) -> int:
        """Completions."""
        return self.problems * self.arms * self.samples * self.calls


@dataclass(frozen=True)
class Plan:
    """What a run takes, at most.

    Attributes:
        config: of the run.
        draws: calls of `sample`: stage, what, problems, arms, samples, calls, rows, new_tokens, base_passes, rl_passes (tokens read by each model,
            prompts included; the untrained twin counts as base), gigabytes (caches and logits of one problem's rows, which are decoded together).
        files: one row a file: file, rows, bytes (roughly).
        size: of the models.
        itemsize: bytes of a weight.
        positions: of the longest row.
        memory: bytes of the device, None where nobody said.
        fetch: commands that get what is not at hand.
        notes: what will not go as asked.
    """

    config: RunConfig
    draws: pd.DataFrame
    files: pd.DataFrame
    size: PairSize
    itemsize: int
    positions: int
    memory: float | None
    fetch: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def stages(self) -> pd.DataFrame:
        """One row a stage: problems (the most of a call), arms, rows, new_tokens, base_passes, rl_passes; the last one is the total."""
        draws = self.draws.assign(arms=self.draws["arms"] * self.draws["calls"])
        summed = ["arms", "rows", "new_tokens", "base_passes", "rl_passes"]
        table = draws.groupby("stage", sort=False).agg({"problems": "max", **dict.fromkeys(summed, "sum")}).reset_index()
        return pd.concat([table, pd.DataFrame([{"stage": "total", "problems": table["problems"].max(), **table[summed].sum()}])], ignore_index=True)

    @property
    def weights(self) -> int:
        """Bytes of base and RL model, and of the untrained twin where the stage `geometry` makes one."""
        twin = 0 if "geometry" in (self.config.skip or ()) else self.size.parameters
        return (self.size.parameters + self.size.rl - self.size.shared + twin) * self.itemsize

    @property
    def row(self) -> int:
        """Bytes of the longest row of a hybrid: caches of both models, logits and what is computed from them. Rows that share a prefix take less."""
        return 2 * _row(self.size, self.itemsize, self.positions)

    @property
    def rows_that_fit(self) -> int:
        """Rows of a hybrid at once beside the weights; where nobody said how much memory there is, those that `sample` reckons with."""
        free = MEMORY if self.memory is None else HEADROOM * self.memory - self.weights
        return max(0, int(free // self.row))


def plan(config: RunConfig, *, memory: float | None = None, local: bool = True) -> Plan:
    """Count what a run takes. Loads no weight and needs no network.

    Args:
        config: of the run.
        memory: bytes of the device; by default that of the configuration.
        local: look at what is on this machine: architecture, tokenizer, problems. Otherwise the table `[model]` says it all.

    Raises:
        InvalidInput: the models are not at hand and the configuration has no table `[model]`.
        UnknownName: no such task, style or organism.
    """
    if config.task not in TASKS:
        raise unknown_name("task", config.task, TASKS)
    found = at_hand(config.pair, config.revisions) if local else None
    if found is None and config.model is None:
        base, rl = sources(config.pair, config.revisions)
        missing = " and ".join(s.path for s in (base, rl) if not s.here) or config.pair
        raise InvalidInput(f"{missing} is not on this machine, and the configuration has no table [model] with parameters, n_layers, n_kv_heads, head_dim and vocabulary. Fix: add one, or fetch the models.")
    size, stored = found if found is not None else (config.model, torch.float32)
    assert size is not None
    dtype = stored if config.dtype in (None, "auto") else getattr(torch, config.dtype, None)
    if not isinstance(dtype, torch.dtype):
        raise unknown_name("dtype", str(config.dtype), ("auto", "bfloat16", "float16", "float32"))
    problems, prompt_tokens = _problems(config, local), _prompts(config, size, local and found is not None)
    new = config.max_new_tokens or Sampling().max_new_tokens
    draws = [d for d in _draws(config, problems, prompt_tokens, new, size.n_layers) if d.stage not in (config.skip or ())]
    table = pd.DataFrame([_counted(d, prompt_tokens(d.style), new, size, dtype.itemsize) for d in draws])
    positions = max(prompt_tokens(d.style) for d in draws) + new
    memory = config.memory if memory is None else memory
    bare = Plan(config, table, _files(draws, new), size, dtype.itemsize, positions, memory, _fetch(config), ())
    return replace(bare, notes=tuple(_notes(bare)))


def overview() -> str:
    """The configurations that come with the package as a Markdown table: what stands in `docs/recipes.md` between its two marks."""
    head = "| name | task | prompt | T, top_p | new tokens | device | weights | a row | rows that fit | completions | new tokens in all | tokens read: base, RL |"
    lines = [head, "|" + "---|" * (head.count("|") - 1)]
    for name, file in configs().items():
        config = load_config(RunConfig, file)
        planned = plan(config, local=False)
        total = planned.stages.iloc[-1]
        prompt = _told(config.style or next(iter(TASKS[config.task].styles)), config.chat)
        if config.rl_prompt is not None:
            prompt += f"; RL: {_told(config.rl_prompt.style or next(iter(TASKS[config.task].styles)), config.rl_prompt.chat)}"
        device = "-" if planned.memory is None else f"{planned.memory / 1e9:.0f} GB"
        reads = f"{total['base_passes'] / 1e6:,.0f} M, {total['rl_passes'] / 1e6:,.0f} M"
        cells = [
            f"`{name}`", config.task, prompt, f"{config.temperature or 1:g}, {config.top_p or 1:g}", str(config.max_new_tokens), device, f"{planned.weights / 1e9:.1f} GB",
            f"{planned.row / 1e6:,.0f} MB", f"{planned.rows_that_fit:,}", f"{total['rows']:,}", f"{total['new_tokens'] / 1e6:,.0f} M", reads,
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _told(style: str, chat: bool | None) -> str:
    return f"{style}, chat" if chat else style


def _row(size: PairSize, itemsize: int, positions: int) -> int:
    """Bytes of a row in one model, as `rows_that_fit` of the sampler counts them."""
    return size.cache_bytes(itemsize) * positions + 16 * size.vocabulary


def _counted(draw: Draw, prompt: int, new: int, size: PairSize, itemsize: int) -> dict[str, Any]:
    """A draw as a row of the table. Every problem is in one chunk, so its prompt is read once; slots are never more than rows."""
    read = draw.problems * draw.copies * draw.calls * prompt
    models = bool(draw.base) + bool(draw.rl)
    return {
        "stage": draw.stage, "what": draw.what, "problems": draw.problems, "arms": draw.arms, "samples": draw.samples, "calls": draw.calls, "rows": draw.rows, "new_tokens": draw.rows * new,
        "base_passes": bool(draw.base) * read + draw.base * draw.rows * new + draw.further_base, "rl_passes": bool(draw.rl) * read + draw.rl * draw.rows * new + draw.further_rl,
        "gigabytes": draw.arms * draw.samples * models * _row(size, itemsize, prompt + new) / 1e9,
    }  # fmt: skip


def _problems(config: RunConfig, local: bool) -> Callable[[str, int], int]:
    """(split, limit) -> how many problems there are; the limit where they cannot be counted here."""

    def count(split: str, limit: int) -> int:
        if TASKS[config.task].fixed:
            file = benchmarks.at_hand(config.task) if local else None
            return limit if file is None else min(limit, len(load_task(config.task, split=split, limit=None, source=file)))
        return limit

    return cache(count)


def _prompts(config: RunConfig, size: PairSize, local: bool) -> Callable[[str | None], int]:
    """Tokens of the longest prompt of either model, by style; what `[model]` says where tokenizer or problems are not at hand."""
    task = TASKS[config.task]
    if not local or (task.fixed and benchmarks.at_hand(config.task) is None):
        return lambda style: size.prompt_tokens
    base, rl = sources(config.pair, config.revisions)
    tokenizer = tokenizer_of(base)
    own = [] if config.rl_prompt is None else [(tokenizer if is_adapter(rl.path) else tokenizer_of(rl), config.rl_prompt)]
    limits = {"test": max(config.n_problems, config.passk_problems, config.trace_problems), "calibration": 2 * config.calibration_problems, "fit": config.geometry_problems}
    asked: list[Problem] = [p for split, limit in limits.items() for p in problems_for(config, split, limit)]

    def longest(style: str | None) -> int:
        prompt = Prompt(style or config.style, bool(config.chat), config.system)
        return max(len(render(problem, writer, how)) for writer, how in [(tokenizer, prompt), *own] for problem in asked)

    return cache(longest)


def _draws(config: RunConfig, count: Callable[[str, int], int], prompt_tokens: Callable[[str | None], int], new: int, n_layers: int) -> Iterator[Draw]:
    """What each stage of the main job draws; the stages themselves are in `reproduce`."""
    swept = len(config.routers) * len(config.budgets)
    finals = swept + 3  # and the three without a threshold
    for what, scale, n in (("sampled", 1, config.calibration_samples), ("greedy", 2, 1)):
        problems = count("calibration", scale * config.calibration_problems)
        first, more = (PARTS - 1) * len(config.routers), (PARTS - 1) * swept  # at first all budgets of a router try the same thresholds
        quick = [("search", TRIED * len(config.routers), 1), ("search on, at most", FURTHER * len(config.routers), 1)]
        search = quick if config.quick_calibration else [("search", first, 1), ("search on", more, ROUNDS - 1)]
        for name, arms, calls in (("ends", 2, 1), *search, ("routers", finals, 1), ("one control", finals, 1 if config.quick_calibration else 3), ("both controls", 2 * finals, not config.quick_calibration)):
            yield Draw("calibrate", f"{name}, {what}", problems, arms, n, calls)
    for what, n in (("sampled", config.n_samples), ("greedy", 1)):
        yield Draw(f"curves, {what}", "ends, routers and their controls", count("test", config.n_problems), ENDS + 3 * finals, n, token_bytes=3 * HYBRID // (ENDS + 3 * finals))
    tested = count("test", config.passk_problems)
    yield Draw("passk", "base", tested, 1, config.passk_samples, rl=0, token_bytes=ALONE)
    yield Draw("passk", "RL", tested, 1, config.passk_samples, base=0, token_bytes=ALONE)
    yield Draw("passk", "hybrid", tested, 1, config.passk_hybrid_samples, token_bytes=HYBRID)
    yield Draw("traces", "base, hybrid, RL", count("test", config.trace_problems), 3, 2)
    yield from _geometry(config, count("fit", config.geometry_problems), prompt_tokens(None) + new, n_layers)
    styles = TASKS[config.task].styles
    if len(styles) > 1:
        own = config.style or next(iter(styles))
        temperature = Sampling().temperature if config.temperature is None else config.temperature
        tried = len([t for t in TEMPERATURES_TRIED if t != temperature])
        yield Draw("elicitation", "base at other temperatures", count("calibration", config.calibration_problems), 1, config.calibration_samples, tried, rl=0)
        asked, n = count("test", config.n_problems), config.n_samples
        yield Draw("elicitation", "base at its best temperature", asked, 1, n, rl=0)
        for style in [s for s in styles if s != own]:
            yield Draw("elicitation", f"base, {style}", asked, 1, n, rl=0, style=style)
            yield Draw("elicitation", f"base, {style}, greedy", asked, 1, 1, rl=0, style=style)


def _geometry(config: RunConfig, problems: int, positions: int, n_layers: int) -> Iterator[Draw]:
    """Traces of both models, read again by both and by an untrained twin; doses at choice points and in free decoding."""
    settings = geometry_settings(config)
    exact = config.task == "chain"
    labels = len(chain.FORMATS) + len(chain.STRATEGIES) + 1 if exact else len(RULES)
    traces = problems * settings.n_samples * positions
    points = (POINTS + exact) * (problems + 2)  # of both halves, by family
    doses = labels * (problems + 2) * POINTS * (n_layers + (len(STRENGTHS) - 1) * (settings.n_random + 2))
    if not exact:
        yield Draw("geometry", "base traces, to find the tokens that open a strategy", problems, 1, settings.n_samples, rl=0)
    yield Draw("geometry", "base traces", problems, 1, settings.n_samples, rl=0, further_base=3 * traces + points * positions + doses)
    yield Draw("geometry", "RL traces", problems, 1, settings.n_samples, base=0, further_rl=traces)
    decoded, steps = min(labels, len(DECODED)), len(STRENGTHS) - 1
    steered, biased = decoded * (len(CONTENT) - 1) * steps, decoded * steps + 1
    dosed = min(settings.dose_problems, problems - problems // 2)
    yield Draw("geometry", "doses of vectors", dosed, steered, settings.dose_samples, base=2, rl=0, copies=steered)
    yield Draw("geometry", "doses of logit biases", dosed, biased, settings.dose_samples, rl=0, copies=biased)


def _files(draws: list[Draw], new: int) -> pd.DataFrame:
    """What is written, roughly."""
    rows = {stage: sum(d.rows for d in draws if d.stage == stage) for stage in dict.fromkeys(d.stage for d in draws)}
    files: list[tuple[str, int, float]] = []
    for what, name in (("sampled", "t1"), ("greedy", "greedy")):
        drawn = next(d for d in draws if d.stage == f"curves, {what}")
        for table, arms in (("ends", ENDS), ("curves", drawn.arms - ENDS)):
            n = drawn.rows // drawn.arms * arms
            files.append((f"tables/{name}_{table}.parquet", n, SLIM * n))
        files.append((f"tables/{name}_strategies.parquet", 0, 4e3))
    files.append(("tables/passk.parquet", rows["passk"], SLIM * rows["passk"]))
    if "traces" in rows:
        files.append(("tables/traces.parquet", rows["traces"], TRACED * new * rows["traces"]))
    if "geometry" in rows:
        files.append(("tables/geometry_*.parquet", 0, 6e4))
    if "elicitation" in rows:
        files.append(("tables/elicitation.parquet", rows["elicitation"], SLIM * rows["elicitation"]))
    kept = sum(d.rows * d.token_bytes * new for d in draws)
    files += [("tables/*.json", 0, 1e5), ("results, figures, report", 0, 5e6), ("parts/ (until the run has ended)", 0, kept)]
    return pd.DataFrame(files, columns=["file", "rows", "bytes"])


def _fetch(config: RunConfig) -> tuple[str, ...]:
    """Commands that get what is not on this machine."""
    missing = "," not in config.pair and found_dir(config.pair) is None
    commands = [f"latentreason organisms train {config.pair}"] if missing else [s.command for s in sources(config.pair, config.revisions) if not s.here]
    if TASKS[config.task].fixed and benchmarks.at_hand(config.task) is None:
        commands.append(benchmarks.command(config.task))
    return tuple(commands)


def _notes(bare: Plan) -> Iterator[str]:
    """Reasons why the run would end early."""
    size, config = bare.size, bare.config
    if size.context is not None and bare.positions - 1 > size.context:
        yield f"A prompt and its completion take up to {bare.positions} positions, and the models have {size.context}: lower max_new_tokens."
    if bare.memory is None:
        return
    free = (HEADROOM * bare.memory - bare.weights) / 1e9
    if free <= 0:
        yield f"The weights take {bare.weights / 1e9:.1f} GB, which do not fit into {bare.memory / 1e9:.0f} GB: take more memory, or skip geometry, which needs a third model."
        return
    for row in bare.draws[bare.draws["gigabytes"] > free].to_dict("records"):
        yield (
            f"{row['stage']} ({row['what']}): {row['arms'] * row['samples']} rows of a problem are decoded together and may take {row['gigabytes']:.1f} GB, "
            f"with {free:.1f} GB free: lower the samples, the budgets or the routers."
        )
    if config.max_rows is not None and config.max_rows > bare.rows_that_fit:
        yield f"max_rows={config.max_rows}, and {bare.rows_that_fit} of the longest rows fit: lower max_rows."
