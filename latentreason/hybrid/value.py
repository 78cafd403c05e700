"""What a swap is worth: the effect on the answer of the RL model's token in place of the base model's, place by place.

A plain divergence says that the models differ, not that it matters. Here each of many swaps is tried both ways, and the completion is
continued a few times by a hybrid. The mean difference in grades is the value of the swap, in accuracy (-1 to 1); its cost, in changed
tokens, is the swap itself and the mean difference in later changes: a swap that makes others superfluous may cost less than nothing.
Routing where value exceeds a multiple of the cost is one step of policy improvement on "accuracy minus a price a changed token"::

    values = swap_values(pair, lr.load_task("chain", split="fit"))
    router = on_value(*value_probes(pair, values, layers=(2, 3)))
"""

from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from latentreason.activations.capture import capture
from latentreason.activations.sites import Site
from latentreason.errors import InvalidInput
from latentreason.hybrid.decode import Arms, Hybrid
from latentreason.models.decoding import Batch
from latentreason.models.pair import ModelPair
from latentreason.models.prompts import in_thought, render
from latentreason.routing.controls import always, random_places
from latentreason.routing.probe import Probe, fit_probe
from latentreason.routing.router import Router
from latentreason.sampling.local import Sampling, graded, sample, stop_tokens
from latentreason.sampling.noise import gumbel, row_key
from latentreason.tables import Rollouts
from latentreason.tasks.problem import Problem, split_of


@dataclass(frozen=True)
class SwapValues:
    """Values of swaps.

    Attributes:
        table: one row a swap: arm, problem, sample, start (position in the completion), base_token, rl_token, value (accuracy), cost
            (changed tokens), n (continuations on each side).
        rollouts: the completions in which they were found, token by token, each after the base model's prompt.
        rl_rollouts: the same after the RL model's prompt, where it has one of its own (`Sampling.rl_prompt`); else the same table.
    """

    table: pd.DataFrame
    rollouts: Rollouts
    rl_rollouts: Rollouts


def swap_values(pair: ModelPair, problems: list[Problem], *, sampling: Sampling = Sampling(n=4), limit: int = 2000, continuations: int = 8,
                continued_by: Router | None = None, progress: bool = True) -> SwapValues:  # fmt: skip
    """Try swaps both ways, and continue each with a hybrid.

    Args:
        pair: the two models.
        problems: of the split fit or train.
        sampling: of the completions in which swaps are found: always-RL, and half of the disagreements at random.
        limit: how many swaps at most, drawn at random.
        continuations: completions on each side of a swap; both sides share their noise.
        continued_by: router of the hybrid that goes on; None for always-RL (what is lost if this one swap is left out).
        progress: show a progress bar.

    Raises:
        InvalidInput: problems of the test split, or a pair that never differs.
    """
    if any(split_of(p.id) == "test" for p in problems):
        raise InvalidInput("Swap values must not see the test split: pass load_task(..., split='fit').")
    half = random_places("half", [0], [0.5], disagreements=True)
    found = sample(Arms([Hybrid(pair, always(), name="rl"), Hybrid(pair, half, name="half")]), problems, sampling, progress=progress)
    swaps = pd.DataFrame([
        {**{key: r[key] for key in ("arm", "problem", "sample")}, "row": i, "start": int(t), "base_token": int(r["base_token_ids"][t]), "rl_token": int(r["token_ids"][t])}
        for i, r in enumerate(found.table.to_dict("records")) for t in np.flatnonzero(r["changed"])
    ])  # fmt: skip
    if swaps.empty:
        raise InvalidInput("The two models never differ on these problems: there is nothing to swap.")
    swaps = swaps.sample(min(limit, len(swaps)), random_state=sampling.seed).sort_values(["row", "start"], ignore_index=True)
    goes_on = Hybrid(pair, always() if continued_by is None else continued_by)
    theirs = found
    if sampling.rl_prompt is not None:
        own = {p.id: np.array(render(p, pair.rl.tokenizer, sampling.rl_prompt), dtype=np.int32) for p in problems}
        theirs = replace(found, table=found.table.assign(prompt_ids=found.table["problem"].map(own.get)))
    grades, changes = _both_ways(goes_on, found.table, theirs.table, swaps, {p.id: p for p in problems}, sampling, continuations, progress)
    value, cost = (both[:, 0].mean(-1) - both[:, 1].mean(-1) for both in (grades, changes))
    return SwapValues(swaps.drop(columns="row").assign(value=value, cost=1 + cost, n=continuations), found, theirs)


def _both_ways(goes_on: Hybrid, rollouts: pd.DataFrame, theirs: pd.DataFrame, swaps: pd.DataFrame, problems: dict[str, Problem], sampling: Sampling, n: int,
               progress: bool) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Grades and later changes [swap, side, continuation]: side 0 with the RL model's token, side 1 with the base model's. `theirs` has the RL model's prompts."""
    tokenizer, prompt = goes_on.tokenizer, [[ids.tolist() for ids in table["prompt_ids"]] for table in (rollouts, theirs)]
    stop = stop_tokens(next(iter(problems.values())), tokenizer, sampling)
    ends = goes_on.pair.base.eos_ids | goes_on.pair.rl.eos_ids | stop
    grades, changes = np.zeros((2, len(swaps), 2, n))
    jobs: list[tuple[int, int, int, list[int]]] = []  # swap, side, row of the completion, completion so far
    asked, thinking = [problems[p] for p in swaps["problem"]], [in_thought(prompt[0][row], tokenizer) for row in swaps["row"]]

    def right(i: int, tokens: list[int], stopped: bool) -> bool:
        return graded(str(tokenizer.decode(tokens, skip_special_tokens=True)), asked[i], sampling, stopped=stopped, thinking=thinking[i])[0].correct

    for i, swap in enumerate(swaps.to_dict("records")):
        row = rollouts.iloc[int(swap["row"])]
        for side, token in enumerate((swap["rl_token"], swap["base_token"])):
            begun = [*row["token_ids"][: swap["start"]].tolist(), token]
            if token in ends or len(begun) >= sampling.max_new_tokens:
                grades[i, side] = right(i, begun, token in ends)
            else:
                jobs.append((i, side, int(swap["row"]), begun))
    jobs.sort(key=lambda job: len(job[3]))
    alike = [list(group) for _, group in groupby(jobs, key=lambda job: len(job[3]) // 4)]  # about as much room is left to each
    size = max(1, 4096 // n)
    for part in tqdm([group[i : i + size] for group in alike for i in range(0, len(group), size)], desc="swap values", disable=not progress):
        keys = torch.tensor([row_key(sampling.seed, f"value-{i}", s) for i, *_ in part for s in range(n)])  # the same for both sides
        room = max(sampling.max_new_tokens - len(begun) for *_, begun in part)
        index = torch.arange(len(part)).repeat_interleave(n)
        base, rl = ([of[row] + begun for _, _, row, begun in part] for of in prompt)
        decoded = goes_on.decode(Batch(base, index, keys, sampling.temperature, sampling.top_p, room, gumbel, rl if sampling.rl_prompt is not None else None, stop))
        tokens, changed, length, stopped = (t.cpu() for t in (decoded.records["token_ids"], decoded.records["changed"], decoded.length, decoded.stopped))
        for at in range(len(part) * n):
            (i, side, _, begun), s = part[at // n], at % n
            end = min(int(length[at]), sampling.max_new_tokens - len(begun))
            grades[i, side, s] = right(i, [*begun, *tokens[at, :end].tolist()], bool(stopped[at]) and end == int(length[at]))
            changes[i, side, s] = int(changed[at, :end].sum())
    return grades, changes


def value_probes(pair: ModelPair, values: SwapValues, *, layers: tuple[int, ...], base_only: bool = False, seed: int = 0) -> tuple[Probe, Probe]:
    """Ridge probes that predict the value and the cost of a swap from the residual streams at the token.

    Args:
        pair: the two models.
        values: from `swap_values`.
        layers: numbers of blocks to read.
        base_only: read the base model alone; the labels still come from the RL model.
        seed: of the held-out problems.
    """
    spans, activations = values.table[["arm", "problem", "sample", "start"]], dict[str, Any]()
    lms = {"base": pair.base} if base_only else {"base": pair.base, "rl": pair.rl}
    for name, lm in lms.items():
        read = capture(lm, values.rollouts if lm is pair.base else values.rl_rollouts, [Site(layer) for layer in layers], at=spans)
        activations |= {f"{name}:{site.layer}": read.values[site].numpy() for site in read.sites}
    how: dict[str, Any] = {"timing_source": "trained on RL labels" if base_only else "RL model live", "groups": values.table["problem"].to_numpy(str), "seed": seed, "fitted_on": {name: lm.fingerprint for name, lm in lms.items()}}
    value, cost = (fit_probe(activations, values.table[name].to_numpy(float), label=name, **how) for name in ("value", "cost"))
    return value, cost
