"""Study `contamination`: is the RL gain memory of the problems, and does it move apart from the behaviour?

Claim (Wu et al. 2025, arXiv 2507.10532): a gain on a benchmark can be memory. Qwen2.5-Math-7B completes 54.6% of MATH-500 problems from their
first 60% and answers 53.6% of them so cut, and next to none of problems that are newer than it.

Formula: a problem is cut after 40, 60 and 80% of its words. `exact_match`: the greedy continuation, without template, says all other words;
`rouge_l`: harmonic mean of precision and recall of the longest common subsequence with them (Lin 2004); `answer_completed`: that continuation
gives the answer; `answer_truncated`: the cut problem, asked in the task's own prompt, is answered rightly; `min_k`: mean log-probability of the
least likely 20% of the tokens (Shi et al. 2024, arXiv 2310.16789), of the question, and of the gold answer given at once. Each on
problems that the corpus held (seen) and on others of the same kind (clean): of a benchmark, where nobody gives others, problems of a generated task
(`TWINS` beside `TASKS`), asked like its own, and the finding names it. `behaviour`: total variation distance of the shares of the strategies,
half of the base samples against the other half of the RL samples; its control is base against base.

False alarms: of an organism two more sets are asked, a placebo (fresh problems of its distribution, which no corpus held, taken for seen) and their twins, made as clean ones are. Whatever the study
finds between these two is no memory: the interval of `placebo minus twin` must include 0 (in 95 of 100 pairs), also where the pair is contaminated.

One table, three groups: `score` (accuracy), `memory`, `behaviour`. A behaviour that changes as much on clean problems, where the score does not, is not what the score measures.

Refuted where the interval of the difference between the gain on seen and on clean problems has an upper bound of 0 or less: then the gain is no memory of
these problems. Where it includes 0, its upper bound is the most of the gain that can be memory.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from latentreason.errors import InvalidInput
from latentreason.stats import Estimate, over, replicate_weights, summary, undefined
from latentreason.studies.palette import ARMS, NAMES
from latentreason.studies.result import Result, of_one_pair, rows, whether

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SPLITS = ("seen", "clean")
BOTH = "seen minus clean"
PLACEBO, ALARM = ("placebo", "placebo twin"), "placebo minus twin"
"""Splits in the places of seen and clean, of problems that nobody saw; and the difference between them."""
GROUPS = {
    "accuracy": "score", "exact_match": "memory", "rouge_l": "memory", "answer_completed": "memory", "answer_truncated": "memory",
    "min_k_question": "memory", "min_k_answer": "memory", "behaviour": "behaviour",
}  # fmt: skip
"""Measure -> what it speaks of. Accuracies are shares, `min_k` nats, `behaviour` a distance between 0 and 1."""

COLUMNS = ("split", "problem", "arm", "measure", "label", "share", "draw", "value")
CLOSING = {"chain": "="}
"""Task -> the word that ends each of its questions, which a cut question gets back when it is asked."""
AT_ONCE = {"chain": "direct ans {}"}
"""Task -> how an answer is given at once; else a sentence."""


@dataclass(frozen=True)
class Config:
    """Settings: shares of the words that are given, share of the least likely tokens, samples of each problem (even) for score and behaviour."""

    shares: tuple[float, ...] = (0.4, 0.6, 0.8)
    k: float = 0.2
    n_samples: int = 16
    n_boot: int = 2000
    seed: int = 0


def run(*, table: pd.DataFrame, config: Config = Config()) -> Result:
    """Seen against clean problems, base against RL model.

    Args:
        table: what `collect` wrote, of one pair: columns `COLUMNS`. Of one split alone all that compares the two is undefined, with the reason. Where it holds the
            splits `PLACEBO`, each measure has rows of these, too.
        config: settings.

    Raises:
        InvalidInput: not such a table, several pairs, a missing arm, or a measure that lacks some of the problems.
    """
    frame = of_one_pair(table, "contamination", COLUMNS)
    if strange := sorted(set(frame["split"]) - {*SPLITS, *PLACEBO}):
        raise InvalidInput(f"The splits are {', '.join((*SPLITS, *PLACEBO))}, found {strange[0]!r}.")
    held = {split: sorted(set(frame[frame["split"] == split]["problem"])) for split in (*SPLITS, *PLACEBO)}
    if not (held["seen"] or held["clean"]) or bool(held[PLACEBO[0]]) != bool(held[PLACEBO[1]]):
        raise InvalidInput(f"The splits are seen and clean (at least one of them), and placebo with its twins; found {sorted(set(frame['split']))}.")
    found = _measured(frame, {split: held[split] for split in SPLITS}, BOTH, config)
    if held[PLACEBO[0]]:
        found += _measured(frame, {split: held[split] for split in PLACEBO}, ALARM, config)
    details: dict[str, Any] = {"n_problems": sum(len(held[split]) for split in SPLITS), "problems": {split: len(held[split]) for split in SPLITS}, "n_samples": config.n_samples}
    details |= {"placebo": len(held[PLACEBO[0]])} if held[PLACEBO[0]] else {}
    twin = str(frame["twin"].iloc[0]) if "twin" in frame else ""  # older tables know of none
    details |= {"twin": twin} if twin else {}
    result = Result("contamination", asdict(config), pd.DataFrame(found), details)
    return result.saying(_said(result))


def _measured(frame: pd.DataFrame, problems: dict[str, list[str]], between: str, config: Config) -> list[dict[str, Any]]:
    """Rows of all measures on two splits (name -> problems), and between them."""
    weights = {split: replicate_weights(len(ids), config.n_boot, config.seed + i) for i, (split, ids) in enumerate(problems.items()) if ids}
    scalars = frame[(frame["measure"] != "behaviour") & frame["split"].isin(list(problems))].groupby(["measure", "share", "split", "arm", "problem"])["value"].mean()
    found: list[dict[str, Any]] = []
    for measure, share in sorted({key[:2] for key in scalars.index}, key=lambda key: (list(GROUPS).index(key[0]), key[1])):
        draws: dict[tuple[str, str], np.ndarray] = {}
        for split in weights:
            for arm in ("base", "rl"):
                values = scalars.get((measure, share, split, arm), pd.Series(dtype=float)).reindex(problems[split])
                if values.isna().any():
                    raise InvalidInput(f"{int(values.isna().sum())} {split} problems have no {measure} of the {arm} model; collect both models on the same problems.")
                draws[split, arm] = weights[split] @ values.to_numpy(float)
            draws[split, "change"] = draws[split, "rl"] - draws[split, "base"]
        found += _compared(measure, draws, problems, ("base", "rl", "change"), between, share=float(share))
    moves = {split: _behaviour(frame[(frame["measure"] == "behaviour") & (frame["split"] == split)], problems[split], w) for split, w in weights.items()}
    if all(moves.values()):
        draws = {(split, arm): values for split, of in moves.items() for arm, values in of.items()}
        found += _compared("behaviour", draws, problems, ("control", "change", "above"), between, share=1.0)
    else:
        none = undefined("no strategy was found in the traces of one of the models", sum(map(len, problems.values())))
        found += [rows("behaviour", none, group="behaviour", split=split, arm="change", share=1.0) for split in (*problems, between)]
    return found


def _compared(measure: str, draws: dict[tuple[str, str], np.ndarray], problems: dict[str, list[str]], arms: Sequence[str], between: str, *, share: float) -> list[dict[str, Any]]:
    """A row for each arm on each split and between the splits, whose problems are drawn independently of each other."""
    out = []
    first, second = problems
    for arm in arms:
        where = {"group": GROUPS[measure], "arm": arm, "share": share}
        for split, ids in problems.items():
            out.append(rows(measure, summary(draws[split, arm], len(ids), share=arm in ("base", "rl") and not measure.startswith("min_k")) if ids else undefined(_absent(problems), 0), split=split, **where))
        n = sum(map(len, problems.values()))
        both = undefined(_absent(problems), n) if _absent(problems) else summary(draws[first, arm] - draws[second, arm], n, note="; two independent sets of problems")
        out.append(rows(measure, both, split=between, **where))
    return out


def _absent(problems: dict[str, list[str]]) -> str:
    """Why seen and clean problems cannot be compared; empty where they can."""
    first, second = problems.values()
    if not first:
        return "no problem is known to have been seen"
    return "" if second else "the split has no clean twin"


def _behaviour(part: pd.DataFrame, ids: list[str], weights: np.ndarray) -> dict[str, np.ndarray]:
    """Distance between the strategies of base and RL model, of base and base, and of the one above the other; empty without strategies."""
    labels = sorted(set(part["label"]))
    counts = part.pivot_table(index=["arm", "draw", "problem"], columns="label", values="value", aggfunc="sum", fill_value=0.0)

    def shares(arm: str, draw: int) -> np.ndarray:
        index = pd.MultiIndex.from_product([[arm], [draw], ids], names=["arm", "draw", "problem"])
        drawn = weights @ counts.reindex(index=index, columns=labels, fill_value=0.0).to_numpy(float)
        return over(drawn, np.repeat(drawn.sum(1, keepdims=True), len(labels), axis=1))

    if not labels:
        return {}
    first, second, other = shares("base", 0), shares("base", 1), shares("rl", 1)
    if any(np.isnan(of[0]).any() for of in (first, second, other)):
        return {}
    control, change = (np.abs(first - of).sum(1) / 2 for of in (second, other))
    return {"control": control, "change": change, "above": change - control}


def _said(result: Result) -> list[str]:
    gains = {split: result.estimate("accuracy", split=split, arm="change") for split in (*SPLITS, BOTH)}
    cut = cut_of(result)

    def told(quantity: str, **where: Any) -> str:
        part = {split: result.estimate(quantity, split=split, **where) for split in SPLITS}
        return " against ".join(f"{e} of the {split}" for split, e in part.items() if e.defined)

    memory = f"From {cut:.0%} of a problem the base says the rest of {told('exact_match', arm='base', share=cut)} ones, its continuation answers {told('answer_completed', arm='base', share=cut)} ones, and asked the cut problem it answers {told('answer_truncated', arm='base', share=cut)} ones." if (result.table["quantity"] == "exact_match").any() else ""
    moved = [f"{e} on {split}" for split in SPLITS if (e := result.estimate("behaviour", split=split, arm="change")).defined]
    control = [f"{e}" for split in SPLITS if (e := _maybe(result, split)).defined]
    behaviour = f"Behaviour moves by {' and '.join(moved)} problems (base against base {', '.join(control)})." if moved else "Behaviour cannot be compared."
    difference = gains[BOTH]
    if difference.defined:
        verdict = whether(difference, "so that part of the gain is memory", "which refutes memory as the cause", "so there is no evidence that the gain is memory, of which the upper bound is the most")
        verdict = "so there is no gain whose cause could be memory" if gains["seen"].lo <= 0 and difference.lo <= 0 else verdict
        first = f"RL gains {gains['seen']} on seen and {gains['clean']} on clean problems, a difference of {difference}, {verdict} (an upper bound of 0 or less refutes memory as the cause)."
    else:
        split = next(s for s in SPLITS if gains[s].defined)
        first = f"Seen minus clean is undefined ({difference.reason}), RL gains {gains[split]} on {split} problems; with both splits, an upper bound of the difference of 0 or less would refute memory as the cause."
    twin = result.details.get("twin")
    return [first, memory, behaviour, _said_of_placebo(result), f"Clean problems are of the generated task {twin}." if twin else ""]


def cut_of(result: Result) -> float:
    """The share of a problem's words of which finding and figure speak: the one nearest to 60%."""
    return min(set(result.table[result.table["quantity"] == "exact_match"]["share"]), key=lambda share: abs(share - 0.6), default=0.6)


def _said_of_placebo(result: Result) -> str:
    """What the study makes of problems that nobody saw; "" where they were not asked."""
    if not result.details.get("placebo"):
        return ""
    gain = result.estimate("accuracy", split=ALARM, arm="change")
    found = [r for r in result.table[(result.table["split"] == ALARM) & (result.table["arm"] == "change") & (result.table["group"] == "memory")].to_dict("records") if np.isfinite(r["value"])]
    alarms = sum(r["lo"] > 0 or r["hi"] < 0 for r in found)
    verdict = "which is a false alarm" if gain.lo > 0 or gain.hi < 0 else "no false alarm"
    return f"Between {result.details['placebo']} problems that nobody saw and their twins the gains differ by {gain}, {verdict}; of {len(found)} measures of memory there {alarms} have an interval without 0 (of which 1 in 20 would by chance)."


def _maybe(result: Result, split: str) -> Estimate:
    part = result.table[(result.table["quantity"] == "behaviour") & (result.table["arm"] == "control")]
    return result.estimate("behaviour", split=split, arm="control") if len(part) else undefined("", 0)


def apart(result: Result) -> pd.DataFrame:
    """The change from base to RL model as one table, what the score says apart from memory and behaviour: a row a measure, a column a split."""
    changes = result.table[result.table["arm"] == "change"]
    out = []
    for (group, quantity, share), part in changes.groupby(["group", "quantity", "share"], sort=False):
        cells = {r["split"]: str(Estimate(r["value"], r["lo"], r["hi"], int(r["n"]), r["method"], r["reason"])) for r in part.to_dict("records")}
        out.append({"group": group, "measure": quantity, "given": f"{share:.0%}", **cells})
    return pd.DataFrame(out, columns=["group", "measure", "given", *SPLITS, BOTH])


def plot(result: Result, ax: "Axes | None" = None) -> "Axes":
    """What is said of a problem from its first words: exact match and answers, seen (solid) and clean (dashed), base and RL model."""
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    for line in drawn(result):
        marker, style = ("o", "-") if line["split"] == "seen" else ("s", "--")
        opened = line["quantity"] == "exact_match"
        label = f"{NAMES.get(line['arm'], line['arm'])}, {line['split']}: {'says the rest' if opened else 'answers'}"
        colour = ARMS[line["arm"]]
        ax.plot(line["share"], line["value"], style, marker=marker, markersize=5, color=colour, markerfacecolor="white" if opened else colour, label=label)
        ax.vlines(line["share"], line["lo"], line["hi"], color=colour, linewidth=1)
    ax.set(xlabel="share of the problem's words given", ylabel="share of the problems", ylim=(-0.03, 1.03))
    ax.legend(frameon=False, fontsize=7)
    return ax


def drawn(result: Result) -> list[dict[str, Any]]:
    """The lines of `plot`: exact match and answers from cut problems, by arm and split."""
    out = []
    for quantity in ("answer_truncated", "exact_match"):
        part = result.table[(result.table["quantity"] == quantity) & result.table["arm"].isin(["base", "rl"]) & result.table["split"].isin(SPLITS)].dropna(subset=["value"])
        for (split, arm), group in part.groupby(["split", "arm"], sort=False):
            ordered = group.sort_values("share")
            out.append({"quantity": quantity, "split": split, "arm": arm, **{c: ordered[c].tolist() for c in ("share", "value", "lo", "hi")}})
    return out


def collect(pair: Any, config: Config, out: str | Path, *, seen: Any = None, clean: Any = None, placebo: Any = None, limit: int = 200, sampling: Any = None,
            draw: Callable[..., Any] | None = None) -> pd.DataFrame:  # fmt: skip
    """Measure a pair, write `contamination.parquet`, and return it.

    Args:
        pair: a ModelPair.
        config: settings.
        out: the folder of a run's tables.
        seen, clean: lists of problems that training held, and of others of the same kind; None for both: those of the organism's recipe. Where `clean` is
            None, a benchmark is compared with as many problems of its generated twin (`TWINS`). One alone, or beside [], is measured and not compared.
        placebo: two lists, of problems that nobody saw and of their twins; None for none, but of an organism those of its recipe.
        limit: how many of the recipe's, at most.
        sampling: how score and behaviour are drawn, but for the number of samples.
        draw: (name, model, problems, sampling) -> Rollouts, by default `sample`.

    Raises:
        InvalidInput: no problems are given, and the pair is no organism of the zoo; or an odd number of samples.
        MissingDependency: the generated twin needs an optional package.
    """
    from latentreason.files import write_table
    from latentreason.models.prompts import Prompt, render
    from latentreason.models.scoring import token_logprobs
    from latentreason.organisms.problems import placebo_problems, problems_of
    from latentreason.organisms.zoo import ORGANISMS
    from latentreason.sampling.local import Sampling, sample
    from latentreason.strategies.language import language
    from latentreason.tasks.overlap import cut, rouge_l
    from latentreason.tasks.problem import Problem
    from latentreason.tasks.registry import TWINS, load_task

    sampling = sampling or Sampling()
    draw = draw or (lambda name, model, problems, how: sample(model, problems, how))
    if config.n_samples < 2 or config.n_samples % 2:
        raise InvalidInput(f"n_samples={config.n_samples}: score and behaviour are compared between two halves of the samples; give an even number.")
    if seen is None and clean is None:
        if pair.name not in ORGANISMS:
            raise InvalidInput(f"Nobody knows what {pair.name!r} has seen: give seen= and clean=, two lists of problems (or one of them).")
        recipe = ORGANISMS[pair.name]
        seen = problems_of(recipe, split="seen", limit=limit) if recipe.corpus.n_seen else None
        clean = problems_of(recipe, split="clean", limit=limit)
        placebo = placebo or placebo_problems(recipe, limit=limit)
    twin = TWINS.get(seen[0].task, "") if seen and clean is None else ""
    if twin:  # of the benchmark's task from here on: one prompt, one grader
        clean = [replace(p, task=seen[0].task) for p in load_task(twin, split="test", limit=len(seen), seed=sampling.seed)]
    sets: dict[str, list[Problem]] = {name: given for name, given in zip(SPLITS, (seen, clean), strict=True) if given}
    sets |= dict(zip(PLACEBO, placebo, strict=True)) if sets and placebo else {}
    if not sets or len({p.task for problems in sets.values() for p in problems}) > 1:
        raise InvalidInput("Give problems of one task: at least one of seen= and clean= must hold some.")
    if twice := sorted({p.id for p in sets.get(PLACEBO[0], [])} & {p.id for name, of in sets.items() if name != PLACEBO[0] for p in of}):
        raise InvalidInput(f"Problem {twice[0]} is a placebo and in another split: a placebo is a problem that nobody saw, and that stands nowhere else.")
    task = next(iter(sets.values()))[0].task
    closing, tokenizer = CLOSING.get(task, ""), pair.base.tokenizer
    greedy, found = replace(sampling, n=1, temperature=0.0, top_p=1.0), list[dict[str, Any]]()

    def add(split: str, arm: str, measure: str, values: dict[str, float], share: float = 1.0, label: str = "", half: int = 0) -> None:
        found.extend({"split": split, "problem": p, "arm": arm, "measure": measure, "label": label, "share": share, "draw": half, "value": float(v)} for p, v in values.items())

    for split, problems in sets.items():
        bodies = {p.id: p.question.removesuffix(closing).rstrip() if closing else p.question for p in problems}
        for arm, lm in (("base", pair.base), ("rl", pair.rl)):
            cuts = {f"{p.id}/{share:g}": (p, share, *cut(bodies[p.id], share)) for share in config.shares for p in problems}
            rest = {name: [*follows, *([closing] if closing else [])] for name, (*_, follows) in cuts.items()}
            # a task of no name has the plain style: the words of the problem and nothing else
            bare = [Problem(name, begun, p.answer, "part of a problem", {**p.meta, "grader": p.meta.get("grader", p.task)}) for name, (p, _, begun, _) in cuts.items()]
            said = draw(f"contamination-{split}-{arm}-completed", lm, bare, replace(greedy, prompt=Prompt("plain"), rl_prompt=None, stop="")).table
            asked = [replace(p, id=name, question=" ".join([begun, *([closing] if closing else [])])) for name, (p, _, begun, _) in cuts.items()]
            answered = draw(f"contamination-{split}-{arm}-truncated", lm, asked, greedy).table
            words = {name: text.split()[: len(rest[name])] for name, text in zip(said["problem"], said["text"], strict=True)}
            measured: dict[str, dict[str, float]] = {
                "exact_match": {name: float(words[name] == rest[name]) for name in cuts}, "rouge_l": {name: rouge_l(words[name], rest[name]) for name in cuts},
                "answer_completed": dict(zip(said["problem"], said["correct"], strict=True)), "answer_truncated": dict(zip(answered["problem"], answered["correct"], strict=True)),
            }  # fmt: skip
            for share in config.shares:
                for measure, values in measured.items():
                    add(split, arm, measure, {p.id: values[name] for name, (p, given, *_) in cuts.items() if given == share}, share)
            rollouts = draw(f"contamination-{split}-{arm}", lm, problems, replace(sampling, n=config.n_samples))
            late = rollouts.table["sample"] >= sampling.first_sample + config.n_samples // 2
            for half in (0, 1):
                right = rollouts.table[late == bool(half)].groupby("problem")["correct"].mean()
                add(split, arm, "accuracy", dict(zip(right.index, right, strict=True)), half=half)
            spans = language(task, tokenizer).spans(rollouts).table
            halves = (spans["sample"] >= sampling.first_sample + config.n_samples // 2).astype(int)
            counts = spans.groupby([halves, "strategy", "problem"]).size().rename("n").reset_index()
            for half, label, p, n in counts[["sample", "strategy", "problem", "n"]].itertuples(index=False):
                add(split, arm, "behaviour", {p: n}, label=label, half=int(half))
            for measure, texts in _scored(problems, bodies, task, tokenizer, lambda p: render(p, tokenizer, sampling.prompt)).items():
                numbers = token_logprobs(lm, [texts[p.id] for p in problems])
                add(split, arm, measure, {p.id: float(np.sort(of)[: max(1, round(config.k * len(of)))].mean()) for p, of in zip(problems, numbers, strict=True)})
    table = pd.DataFrame(found, columns=list(COLUMNS)).assign(pair=pair.name, task=task, twin=twin)[["pair", "task", "twin", *COLUMNS]]
    write_table(Path(out) / "contamination.parquet", table)
    return table


def _scored(problems: Any, bodies: dict[str, str], task: str, tokenizer: Any, prompt: Callable[[Any], list[int]]) -> dict[str, dict[str, tuple[list[int], list[int]]]]:
    """(prompt, continuation) as token ids whose least likely tokens are looked at: the question alone, and the gold answer after the whole prompt."""
    ids = {p.id: tokenizer(bodies[p.id], add_special_tokens=False)["input_ids"] for p in problems}
    bos = tokenizer.bos_token_id
    question = {p: ([bos], of) if bos is not None else (of[:1], of[1:]) for p, of in ids.items()}
    at_once = AT_ONCE.get(task, " The answer is {}.")
    answer = {p.id: (prompt(p), tokenizer(at_once.replace("{}", p.answer), add_special_tokens=False)["input_ids"]) for p in problems}
    return {"min_k_question": question, "min_k_answer": answer}
