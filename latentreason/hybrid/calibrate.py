"""Calibration: thresholds for a budget of changed tokens, and the rates of matched controls, on problems of their own.

Nothing here may see the test split. All routers and budgets are searched together: each round is one joint decode.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from latentreason.errors import InvalidInput
from latentreason.hybrid.decode import Arms, Hybrid
from latentreason.models.pair import ModelPair
from latentreason.models.prompts import render
from latentreason.routing.controls import always, matched_disagreement, matched_random, never
from latentreason.routing.router import Router, with_threshold
from latentreason.sampling.local import Sampling, rows_that_fit, sample
from latentreason.tasks.problem import Problem, split_of

SHARED = 4
"""How many more rows fit than `rows_that_fit` says, because arms share prefixes."""

ROUNDS, PARTS = 3, 8
"""Rounds of the search, and into how many parts each cuts what is left: 512 steps in all (of 2.4% from 1e-4 to 20)."""

TRIED, FURTHER = 7, 4
"""Thresholds that the quick search tries, between which it reads off those of the budgets; and how many more of a router that changes too much at the highest of them."""


def calibrated(router: Router, pair: ModelPair, problems: list[Problem], changed: float = 0.5, *, sampling: Sampling = Sampling(n=4), quick: bool = False, progress: bool = True) -> Router:
    """The router with the threshold that changes `changed` of D, and with the rates for its matched controls.

    Args:
        router: one with a threshold (which is replaced), or one without (then only the rates are measured).
        pair: the two models.
        problems: of the calibration split.
        changed: budget of changed tokens, as a share of D (what always-RL changes).
        sampling: at the temperature that the hybrid will run at.
        quick: a third of the decoding, see `calibrate`.
        progress: show a progress bar.

    Warns:
        UserWarning: the router cannot come within 0.1 D of the budget: its score takes few values, or it has no threshold.

    Raises:
        InvalidInput: a budget outside (0, 1], or problems of the test split.
    """
    if not isinstance(changed, int | float):
        raise InvalidInput(f"changed={changed!r} is not one budget; for several use latentreason.hybrid.calibrate.calibrate([router], ..., budgets).")
    chosen = calibrate([router], pair, problems, [changed], sampling=sampling, quick=quick, progress=progress)[0]
    share = chosen.params["calibration"]["share_of_D"]
    if abs(share - changed) > 0.1:
        why = "it has no threshold" if router.score is None else f"no threshold between {router.search[0]:g} and {router.search[1]:g} comes nearer"
        warnings.warn(f"Router {router.name} changes {share:.2f} of D, not {changed:g}: {why}.", stacklevel=2)
    return chosen


def calibrate(routers: Sequence[Router], pair: ModelPair, problems: list[Problem], budgets: Sequence[float], *,
              sampling: Sampling = Sampling(n=4), quick: bool = False, progress: bool = True) -> list[Router]:  # fmt: skip
    """Each router at each budget (routers without a threshold once), in the order router by router.

    Args:
        routers: with a threshold, or without.
        pair: the two models.
        problems: of the calibration split.
        budgets: of changed tokens, as shares of D.
        sampling: at the temperature that the hybrids will run at.
        quick: try a few thresholds, read those of the budgets off between them, and correct the controls once: a third of the decoding, for
            models whose forward passes are dear. Budgets are met less closely (the shares achieved are recorded), and the rates of the controls
            after their correction are not measured here: study `recovery` has them on the test problems.
        progress: show a progress bar.

    Raises:
        InvalidInput: a budget outside (0, 1], problems of the test split, or a pair in which nothing can be routed.
    """
    if not budgets or not all(0 < b <= 1 for b in budgets):
        raise InvalidInput(f"Budgets {list(budgets)} must be shares of D in (0, 1].")
    if leaked := sum(split_of(p.id) == "test" for p in problems):
        raise InvalidInput(f"{leaked} of {len(problems)} problems belong to the test split by their hash, which calibration must not see: pass load_task(..., split='calibration').")
    bar = tqdm(total=4 if quick else ROUNDS + 6, desc="calibrate", disable=not progress)
    positions = sampling.max_new_tokens + max(len(render(p, pair.base.writer, sampling.prompt)) for p in problems)
    rows = sampling.max_rows or SHARED * rows_that_fit(Hybrid(pair, always()), positions)

    def decode(arms: Sequence[Router], keep_tokens: bool = True, watched: Sequence[Router] = ()) -> list[pd.DataFrame]:
        hybrids = [Hybrid(pair, router, name=f"{i}") for i, router in enumerate(arms)]
        drawn = replace(sampling, keep_tokens=keep_tokens, max_rows=rows)
        table = sample(Arms(hybrids, watched), problems, drawn, progress=False).table
        bar.update()
        groups = dict(list(table.groupby("arm")))
        return [groups[f"{i}"] for i in range(len(arms))]

    scored = list({id(r): r for r in routers if r.score is not None}.values())
    start, full = decode([never(), always()], watched=scored if quick else ())
    d = _changed(full)
    if d == 0:
        raise InvalidInput("The RL model changes no token of the base model on the calibration problems: there is nothing to route.")
    edges = _edges(full)
    jobs = [(r, b) for r in routers for b in (budgets if r.score is not None else [math.nan])]
    searched = [(r, b) for r, b in jobs if r.score is not None]

    def shares(arms: Sequence[Router]) -> list[float]:
        return [_changed(table) / d for table in decode(arms, False)]

    chosen = _read_off(searched, shares, [_quantiles(full, i, r) for i, r in enumerate(scored)], [_highest((start, full), i, r) for i, r in enumerate(scored)]) if quick else _search(searched, shares)
    finals = [chosen.pop(0) if r.score is not None else r for r, _ in jobs]

    tables = decode(finals)
    facts: list[dict[str, Any]] = []
    for (_, budget), table in zip(jobs, tables, strict=True):
        count = _by_stratum(table, edges)
        changed = _changed(table)
        facts.append({
            "budget": changed / d if math.isnan(budget) else budget, "D": d, "changed": changed, "share_of_D": changed / d, "edges": edges,
            "target": (count["changed"] / count["tokens"].clip(1)).tolist(),
            "routed_rate": (count["routed"] / count["tokens"].clip(1)).tolist(),
            "swap_rate": (count["changed"] / count["disagree"].clip(1)).clip(0, 1).tolist(),
            "routed_at": _by_position(table),
            "accuracy": float(table["correct"].mean()), "base_accuracy": float(start["correct"].mean()), "rl_accuracy": float(full["correct"].mean()),
            "n_problems": len(problems), "n_samples": sampling.n, "temperature": sampling.temperature,
        })  # fmt: skip
    for _ in range(1 if quick else 3):  # a control walks through other prefixes than the hybrid, so its rates are corrected by what they achieve
        controls = [matched_disagreement(_with(r, f)) for r, f in zip(finals, facts, strict=True)]
        for fact, table in zip(facts, decode(controls), strict=True):
            count = _by_stratum(table, edges)
            achieved = count["changed"] / count["tokens"].clip(1)
            ratio = np.where(achieved > 0, np.array(fact["target"]) / np.maximum(achieved, 1e-9), 1.0)
            fact["swap_rate"] = np.clip(np.array(fact["swap_rate"]) * ratio.clip(0.5, 2.0), 0, 1).tolist()
    controls = [c for r, f in zip(finals, facts, strict=True) for c in (matched_disagreement(_with(r, f)), matched_random(_with(r, f)))]
    tables = [] if quick else decode(controls)
    for i, fact in enumerate(facts if tables else ()):
        fact["control_changed_ratio"] = _changed(tables[2 * i]) / fact["changed"] if fact["changed"] else None
        routed = float(np.dot(fact["routed_rate"], _by_stratum(tables[2 * i + 1], edges)["tokens"]))
        fact["control_routed_ratio"] = float(tables[2 * i + 1]["n_routed"].sum()) / routed if routed else None
    bar.close()
    return [_with(r, f) for r, f in zip(finals, facts, strict=True)]


def calibration_area(routers: Sequence[Router]) -> float:
    """Area under one router's recovery over 0 to D on the calibration problems: what "best" is chosen by."""
    facts = [r.params["calibration"] for r in routers]
    gain = facts[0]["rl_accuracy"] - facts[0]["base_accuracy"]
    if not gain > 0:
        return math.nan
    points = sorted([(0.0, 0.0), (1.0, 1.0), *((min(f["share_of_D"], 1.0), (f["accuracy"] - f["base_accuracy"]) / gain) for f in facts)])
    x, y = np.array(points).T
    return float(np.trapezoid(y, x))


def _search(jobs: Sequence[tuple[Router, float]], shares: Callable[[Sequence[Router]], list[float]]) -> list[Router]:
    """Each job's router with the threshold whose share of D (`shares` measures it) is nearest to the job's budget.

    Each round cuts the bracket of thresholds (of their logarithms, where the range is positive) into equal parts and keeps one; of
    all thresholds tried, the best is taken.
    """
    brackets = [tuple(map(math.log, r.search)) if r.search[0] > 0 else r.search for r, _ in jobs]
    best: list[tuple[float, Router]] = [(math.inf, r) for r, _ in jobs]
    for _ in range(ROUNDS if jobs else 0):
        cuts = [np.linspace(low, high, PARTS + 1)[1:-1] for low, high in brackets]
        thresholds = [[float(np.exp(cut) if r.search[0] > 0 else cut) for cut in row] for (r, _), row in zip(jobs, cuts, strict=True)]
        tried = {(id(r), at): with_threshold(r, at) for (r, _), row in zip(jobs, thresholds, strict=True) for at in row}
        found = dict(zip(tried, shares(list(tried.values())), strict=True))
        for i, ((router, budget), row) in enumerate(zip(jobs, thresholds, strict=True)):
            excess = [found[id(router), at] - budget for at in row]
            best[i] = min([best[i], *((abs(e), tried[id(router), at]) for e, at in zip(excess, row, strict=True))], key=lambda b: b[0])
            part = sum(e > 0 for e in excess)  # a higher threshold changes fewer tokens
            bounds = [brackets[i][0], *cuts[i], brackets[i][1]]
            brackets[i] = (bounds[part], bounds[part + 1])
    return [router for _, router in best]


def _read_off(jobs: Sequence[tuple[Router, float]], shares: Callable[[Sequence[Router]], list[float]], thresholds: Sequence[list[float]], highest: Sequence[float]) -> list[Router]:
    """Each job's router with a threshold between those tried (one list for each distinct router, in the order of the jobs): a single round, and a second one
    for routers of which the highest threshold tried still changes more than a budget: up to the highest score seen.
    """
    routers = list({id(r): r for r, _ in jobs}.values())
    least = {id(r): min(b for other, b in jobs if other is r) for r in routers}
    tried: dict[int, dict[float, float]] = {id(r): {} for r in routers}

    def measure(rows: Sequence[tuple[Router, list[float]]]) -> None:
        arms = [(r, at) for r, row in rows for at in row]
        for (r, at), share in zip(arms, shares([with_threshold(r, at) for r, at in arms]) if arms else [], strict=True):
            tried[id(r)][at] = share

    measure(list(zip(routers, thresholds, strict=True)))
    beyond = [(r, _between(r, row[0], top)) for r, row, top in zip(routers, thresholds, highest, strict=True) if tried[id(r)][row[0]] > least[id(r)]]
    measure(beyond)
    chosen = []
    for router, budget in jobs:
        at = sorted(tried[id(router)], reverse=True)
        share = np.maximum.accumulate([tried[id(router)][a] for a in at])
        found = float(np.interp(budget, share, _scaled(router, at)))
        chosen.append(with_threshold(router, math.exp(found) if router.search[0] > 0 else found))
    return chosen


def _scaled(router: Router, at: Sequence[float]) -> np.ndarray:
    """Thresholds on the scale on which the router is searched."""
    return np.log(at) if router.search[0] > 0 else np.asarray(at)


def _between(router: Router, low: float, high: float) -> list[float]:
    """Some thresholds above `low`, the last of them `high`."""
    start, end = _scaled(router, [low, max(low, high)])
    cuts = np.linspace(start, end, FURTHER + 1)[1:] if end > start else np.empty(0)
    return [float(cut) for cut in (np.exp(cuts) if router.search[0] > 0 else cuts)]


def _highest(tables: Sequence[pd.DataFrame], index: int, router: Router) -> float:
    """The highest score at any token."""
    return float(np.concatenate([row for table in tables for row in table[f"score:{index}"]]).clip(*router.search).max())


def _quantiles(full: pd.DataFrame, index: int, router: Router) -> list[float]:
    """Falling thresholds that span the budgets: quantiles of the score at the tokens that the RL model changes on its own completions."""
    changed = np.concatenate(full["changed"].to_list())
    scores = np.concatenate(full[f"score:{index}"].to_list())[changed].clip(*router.search)
    return sorted({float(s) for s in np.quantile(scores, np.linspace(0.05, 0.9, TRIED))}, reverse=True)


def _with(router: Router, facts: dict[str, Any]) -> Router:
    return replace(router, params={**router.params, "calibration": facts})


def _changed(table: pd.DataFrame) -> float:
    return float(table["n_changed"].sum() / table["n_tokens"].sum())


def _edges(table: pd.DataFrame) -> list[int]:
    """Strata of position: the first token alone, then fifths of the rest."""
    positions = np.concatenate([np.arange(1, n) for n in table["n_tokens"]])
    return [0, *sorted({1, *(np.quantile(positions, [0.2, 0.4, 0.6, 0.8]).astype(int).tolist() if len(positions) else ())})]


def _by_stratum(table: pd.DataFrame, edges: list[int]) -> pd.DataFrame:
    """Tokens, and those routed, changed and disagreed upon, by stratum of position."""
    stratum = np.searchsorted(edges, np.concatenate([np.arange(n) for n in table["n_tokens"]]), side="right") - 1
    columns = {name: np.bincount(stratum, np.concatenate(table[name].to_list()), len(edges)) for name in ("routed", "changed", "disagree")}
    return pd.DataFrame({"tokens": np.bincount(stratum, minlength=len(edges)), **columns})


def _by_position(table: pd.DataFrame) -> list[float]:
    """The routed rate at each exact position, of the completions that reach it; nothing is routed beyond the last."""
    position = np.concatenate([np.arange(n) for n in table["n_tokens"]])
    rate = np.bincount(position, np.concatenate(table["routed"].to_list())) / np.bincount(position)
    return [round(float(r), 4) for r in np.trim_zeros(rate, "b")]
