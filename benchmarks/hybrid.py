"""What a hybrid costs: lockstep, lazy and speculative decoding against the two models alone, and against the reference's first generation.

    python -m benchmarks.hybrid [--pair activation | BASE,RL | MODEL] [--repeats 5] [--out FILE.json]

A single MODEL directory stands for a pair of it and a copy with slightly noisy weights, the noise as large as leaves at most 5% of the
tokens changed (the share is printed). Contestants of a repeat run one after the other, in alternating order; what is quoted is the median
over repeats of the paired ratio, with the smallest and the largest. But for `speculative`, no completion ends before the limit, so all make
the same number of steps. Prompts stand at the top of this file; for an organism they are problems of the task `chain`.

The reference's first generation (Venhoff et al. 2025, arXiv 2510.07364; `first_generation` below) reads the whole sequence afresh for every
question it asks: the RL model twice, the base model once, and, where the two favourites differ, the base model once more for each candidate
(coefficient x window of a steering vector); the RL model's likeliest candidate is emitted. It is too slow to be run to the end: one agreed
and one disagreed token are timed at five lengths of the sequence, and their costs are summed over all lengths by the trapezoid rule, weighted
by the share of disagreements that our greedy run over the same tokens has. The category and its vector are one fixed vector at the middle
layer for both sides, which costs neither of them anything. Ours tries the same coefficients at the last position in one batched pass. The
reference's code answers one text at a time; ours takes many at once, so both are timed: one text, and `--batch` texts, greedily and all different.
"""

import argparse
import copy
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: see the command line

import numpy as np
import torch
from torch import Tensor

import latentreason as lr
from benchmarks.report import machine, write
from latentreason.activations.hf import edit
from latentreason.activations.sites import Site
from latentreason.hybrid.actions import STEERED, Action
from latentreason.models.decoding import Batch, Moment, sampled
from latentreason.models.inference import inference
from latentreason.models.prompts import render
from latentreason.routing.controls import random_places
from latentreason.sampling.noise import gumbel, row_key

TEXTS = (
    "Question: A farmer has 17 sheep and buys 8 more. Then 5 run away. How many sheep are left? Answer step by step.\n",
    "Write a short story about a lighthouse keeper who finds a letter in a bottle.\n",
    "Explain in simple words why the sky is blue during the day and red in the evening.\n",
    "List the steps to prove that the square root of two is irrational, one by one.\n",
)
COEFFICIENTS, WINDOWS = tuple(c / 10 for c in range(1, 11)), (0, -1, -15, -50, -100)  # of the reference; 0 is every position
NOISES = (0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1)
Figures = dict[str, Any]


# --- the pair and the jobs -----------------------------------------------------------------------------------------------


def noisy(lm: lr.LM, noise: float) -> lr.LM:
    """A copy with Gaussian noise on each matrix, in units of its own standard deviation."""
    model, generator = copy.deepcopy(lm.model), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.add_(torch.randn(weight.shape, generator=generator).to(weight) * noise * weight.std())
    return lr.LM(model, lm.tokenizer, "rl")


def load(name: str) -> tuple[lr.ModelPair, Figures]:
    """The pair, and what it is."""
    if "," in name or not Path(name).is_dir():
        return lr.ModelPair.named(name), {"pair": name.split("/")[-1]}
    base, low, high = replace(lr.LM.from_pretrained(name), name="base"), 0, len(NOISES)
    shares: dict[float, float] = {}
    while high - low > 1:  # the smallest noise is taken unseen only if no other will do
        middle = (low + high) // 2
        pair = lr.ModelPair(base, noisy(base, NOISES[middle]))
        shares[NOISES[middle]] = changed_share(lr.Hybrid(pair, lr.always()), jobs(pair, 1, 32))
        low, high = (middle, high) if shares[NOISES[middle]] <= 0.05 else (low, middle)
    pair = lr.ModelPair(base, noisy(base, NOISES[low]), f"{Path(name).name} and a noisy copy")
    shares.setdefault(NOISES[low], changed_share(lr.Hybrid(pair, lr.always()), jobs(pair, 1, 32)))
    return pair, {"pair": pair.name, "noise": NOISES[low], "changed by always-RL": shares[NOISES[low]]}


def endless(lm: lr.LM) -> lr.LM:
    """The same model with no token that ends a completion."""
    lm = replace(lm)
    lm.__dict__["eos_ids"] = frozenset({-1})
    return lm


def prompts_of(pair: lr.ModelPair) -> list[list[int]]:
    """Four prompts: problems of the task `chain` of one length where the tokenizer is an organism's, else the texts above."""
    if "leap" in pair.base.tokenizer.get_vocab():
        rendered = [render(p, pair.base.tokenizer) for p in lr.load_task("chain", split="test", limit=60)]
        common = statistics.mode(map(len, rendered))
        return [ids for ids in rendered if len(ids) == common][:4]
    return [pair.base.tokenizer(text)["input_ids"] for text in TEXTS]


def many_prompts(pair: lr.ModelPair, n: int) -> list[list[int]]:
    """So many different prompts: problems of one length, or the first of the texts above with a number before it."""
    if "leap" in pair.base.tokenizer.get_vocab():
        rendered = [render(p, pair.base.tokenizer) for p in lr.load_task("chain", split="test", limit=20 * n)]
        common = statistics.mode(map(len, rendered))
        return [ids for ids in rendered if len(ids) == common][:n]
    return [pair.base.tokenizer(f"{i + 1}. {TEXTS[0]}")["input_ids"] for i in range(n)]  # as long as the text that the reference is timed on


def jobs(pair: lr.ModelPair, batch: int, new_tokens: int, temperature: float = 1.0) -> list[Batch]:
    """Four batches of one row each, or one batch of so many rows over the four prompts."""
    prompts = prompts_of(pair)
    if batch == 1:
        return [Batch([p], torch.zeros(1, dtype=torch.long), torch.tensor([row_key(0, "benchmark", i)]), temperature, 1.0, new_tokens, gumbel) for i, p in enumerate(prompts)]
    keys = torch.tensor([row_key(1, "benchmark", i) for i in range(batch)])
    return [Batch(prompts, torch.arange(batch) % len(prompts), keys, temperature, 1.0, new_tokens, gumbel)]


def changed_share(hybrid: lr.Hybrid, work: list[Batch], column: str = "changed") -> float:
    """Share of the tokens that are changed (or routed, or disagreed upon)."""
    found = [(d.records[column][i, :n].double().sum(), n) for d in map(hybrid.decode, work) for i, n in enumerate(d.length.tolist())]
    return float(sum(c for c, _ in found) / sum(n for _, n in found))


# --- paired timing -------------------------------------------------------------------------------------------------------


def seconds(run: Callable[[], object]) -> float:
    """Of one run."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def paired(contestants: dict[str, Callable[[], object]], repeats: int) -> dict[str, np.ndarray]:
    """Seconds of each contestant in each repeat; the first round is a warm-up."""
    out: dict[str, list[float]] = {name: [] for name in contestants}
    for repeat in range(repeats + 1):
        for name in list(contestants)[:: 1 if repeat % 2 else -1]:
            took = seconds(contestants[name])
            if repeat:
                out[name].append(took)
    return {name: np.array(values) for name, values in out.items()}


def ratio(name: str, values: np.ndarray, target: str) -> Figures:
    """A figure with its spread, and whether its target ("<= 1.1") is reached."""
    median, (sign, bound) = float(np.median(values)), target.split()
    return {"figure": name, "median": median, "min": float(values.min()), "max": float(values.max()), "target": target, "reached": median <= float(bound) if sign == "<=" else median >= float(bound)}


def against_the_models(pair: lr.ModelPair, batch: int, new_tokens: int, repeats: int) -> tuple[list[Figures], Figures]:
    """Lockstep against both models alone, and a base-only router that routes a tenth, lazily, against the base alone."""
    pair = lr.ModelPair(endless(pair.base), endless(pair.rl), pair.name)
    work, tenth = jobs(pair, batch, new_tokens), random_places("tenth", [0], [0.1])
    hybrids = {"lockstep": lr.Hybrid(pair, lr.on_divergence("js", 0.1)), "lockstep, a tenth": lr.Hybrid(pair, tenth), "lazy, a tenth": lr.Hybrid(pair, tenth, mode="lazy")}
    runs = {name: (lambda model=model: [model.decode(b) for b in work]) for name, model in {"base": pair.base, "rl": pair.rl, **hybrids}.items()}
    took = paired(runs, repeats)
    lazy_target = "<= 1.35" if batch == 1 else "<= 1.6"
    tokens = sum(len(b.problem) for b in work) * new_tokens
    return [
        ratio(f"batch {batch}: lockstep / (base + RL)", took["lockstep"] / (took["base"] + took["rl"]), "<= 1.1"),
        ratio(f"batch {batch}: lazy, 10% routed / base", took["lazy, a tenth"] / took["base"], lazy_target),
    ], {f"batch {batch}": {"milliseconds a token": {name: 1000 * float(np.median(s)) / tokens for name, s in took.items()}, "routed": changed_share(hybrids["lazy, a tenth"], work, "routed")}}


def speculation(pair: lr.ModelPair, new_tokens: int, repeats: int) -> tuple[list[Figures], Figures]:
    """Speculative against lockstep, one row at a time, with the loosest of some thresholds at which at most 5% of the tokens are changed."""
    work = jobs(pair, 1, new_tokens)
    for threshold in (0.0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5):
        router = lr.on_divergence("js", threshold)
        share = changed_share(lr.Hybrid(pair, router), work)
        if share <= 0.05:
            break
    hybrids = {mode: lr.Hybrid(pair, router, mode=mode) for mode in ("lockstep", "speculative")}
    took = paired({mode: (lambda hybrid=hybrid: [hybrid.decode(b) for b in work]) for mode, hybrid in hybrids.items()}, repeats)
    same = all(torch.equal(a.records["token_ids"], b.records["token_ids"]) for a, b in zip(*([h.decode(b) for b in work] for h in hybrids.values()), strict=True))
    facts = {"router": f"on_divergence(js) above {threshold}", "changed": share, "same tokens as lockstep": same}
    return [ratio("batch 1: lockstep / speculative", took["lockstep"] / took["speculative"], ">= 1.2")], {"speculative": facts}


def flatness(pair: lr.ModelPair, new_tokens: int) -> tuple[list[Figures], Figures]:
    """Milliseconds a token in windows of one long completion. Growth that the two models alone have too is attention's own."""
    pair = lr.ModelPair(endless(pair.base), endless(pair.rl), pair.name)
    edges = np.array([1, *(n for n in (64, 128, 256, 512, 1024, 2048) if n <= new_tokens)])
    took: dict[str, np.ndarray] = {}
    for name, model in {"base": pair.base, "rl": pair.rl, "lockstep": lr.Hybrid(pair, lr.on_divergence("js", 0.1))}.items():
        clock: list[float] = []

        def ticking(keys: Tensor, positions: Tensor, n_vocab: int, clock: list[float] = clock) -> Tensor:
            clock.append(time.perf_counter())
            return gumbel(keys, positions, n_vocab)

        model.decode(replace(jobs(pair, 1, int(edges[-1]) + 1)[0], noise=ticking))
        took[name] = 1000 * np.diff(np.array(clock)[edges]) / np.diff(edges)
    alone, growth = took["base"] + took["rl"], {name: float(by[-1] / by[0]) for name, by in took.items()}
    figure = ratio(f"growth of the time a token from the first 64 to the last window before {edges[-1]}: lockstep over the models alone", np.array([growth["lockstep"] * alone[0] / alone[-1]]), "<= 1.1")
    return [figure], {"windows end at": edges[1:].tolist(), "milliseconds a token": {name: by.tolist() for name, by in took.items()}, "growth": growth}


# --- the reference's first generation ------------------------------------------------------------------------------------


def pushing(vector: Tensor, window: int) -> Callable[[Tensor, Any], Tensor]:
    """Add a vector at the last positions of a full sequence, or at all (window 0)."""

    def change(hidden: Tensor, places: Any) -> Tensor:
        hidden = hidden.clone()
        hidden[:, window:] += vector.to(hidden)  # [0:] is all
        return hidden

    return change


def last_logits(lm: lr.LM, ids: list[int]) -> Tensor:
    """Of a full forward pass, without a cache."""
    return lm.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1, : lm.n_vocab].float()


def first_generation(pair: lr.ModelPair, ids: list[int], site: Site, vector: Tensor, windows: tuple[int, ...], disagree: bool | None = None) -> int:
    """One token of the reference's algorithm; `disagree` overrides what the models say, to time either case."""
    last_logits(pair.rl, ids)  # its activation, for the category
    base = int(last_logits(pair.base, ids).argmax())
    rl = last_logits(pair.rl, ids)
    if not (base != int(rl.argmax()) if disagree is None else disagree):
        return base
    candidates = []
    for coefficient in COEFFICIENTS:
        for window in windows:
            with edit(pair.base, [(site, pushing(coefficient * vector, window))]):
                candidates.append(int(last_logits(pair.base, ids).argmax()))
    return max(candidates, key=lambda token: float(rl[token]))


def same_candidates(site: Site, vector: Tensor) -> Action:
    """Ours: all coefficients at the last position in one forward pass from the cache; the RL model's likeliest candidate."""
    n = len(COEFFICIENTS)

    def tokens(moment: Moment) -> Tensor:
        pushes = torch.tensor(COEFFICIENTS)[:, None] * vector

        def change(hidden: Tensor, places: Any) -> Tensor:
            return hidden + pushes.repeat(len(hidden) // n, 1)[:, None].to(hidden)

        with edit(moment.decoder.lms[0], [(site, change)]):
            logits, first = moment.decoder.again(0, moment.slot, copies=n)
        candidates = torch.stack([sampled(logits, replace(moment, slot=first + i)) for i in range(n)], dim=1)
        return candidates.gather(1, moment.logits[1][moment.slot].gather(1, candidates).argmax(1, keepdim=True))[:, 0]

    return Action("same_candidates", {}, STEERED, frozenset({"rl", "again"}), tokens)


@inference()  # the same kernels for both
def against_the_reference(pair: lr.ModelPair, new_tokens: int, texts: int, repeats: int) -> tuple[list[Figures], Figures]:
    """The reference, extrapolated as the top of this file says, over our run of as many greedy tokens: of one text, and of several, which the reference answers one after the other."""
    pair = lr.ModelPair(endless(pair.base), endless(pair.rl), pair.name)
    batch, site = jobs(pair, 1, new_tokens, temperature=0.0)[0], Site(pair.base.n_layers // 2)
    vector = torch.randn(pair.base.d_model, generator=torch.Generator().manual_seed(0))
    hybrid = lr.Hybrid(pair, lr.on_disagreement(), same_candidates(site, vector))
    decoded = hybrid.decode(batch)
    row, share = batch.prompts[0] + decoded.records["token_ids"][0].tolist(), float(decoded.records["disagree"][0].double().mean())
    check = all(first_generation(pair, row[: len(batch.prompts[0]) + t], site, vector, (-1,)) == row[len(batch.prompts[0]) + t] for t in range(min(3, new_tokens)))
    many = many_prompts(pair, texts)
    wide = Batch(many, torch.arange(len(many)), torch.arange(len(many)), 0.0, 1.0, new_tokens, gumbel)
    wide_share = changed_share(hybrid, [wide], "disagree")
    took = paired({"one": lambda: hybrid.decode(batch), "many": lambda: hybrid.decode(wide)}, repeats)
    lengths = np.linspace(len(batch.prompts[0]), len(row) - 1, 5).astype(int)
    figures, facts = [], {"disagreements": share, "disagreements of all texts": wide_share, "ours, seconds": {name: float(np.median(s)) for name, s in took.items()}, "first tokens are the same": check}
    for name, windows in (("same candidates", (-1,)), ("all of its windows", WINDOWS)):
        cost = [[seconds(lambda d=d, n=n, w=windows: first_generation(pair, row[:n], site, vector, w, d)) for n in lengths.tolist()] for d in (False, True)]
        facts[f"reference, {name}"] = {"lengths": lengths.tolist(), "agreed": cost[0], "disagreed": cost[1]}
        for run, of, n in (("one", share, 1), ("many", wide_share, len(many))):
            a_token = (1 - of) * np.array(cost[0]) + of * np.array(cost[1])
            theirs = n * (float(np.trapezoid(a_token, lengths)) + float(a_token[-1]))
            facts[f"reference, {name}"][f"seconds, extrapolated, {n} texts"] = theirs
            at_once = f", {n} texts one after the other / ours, all at once" if n > 1 else " / ours"
            figures.append(ratio(f"reference ({name}){at_once}, {new_tokens} new tokens", theirs / took[run], ">= 20"))
    return figures, facts


# --- the page ------------------------------------------------------------------------------------------------------------


def page(found: Figures) -> str:
    """The figures as a Markdown table."""
    lines = ["| figure | median | range | target | reached |", "|---|---|---|---|---|"]
    lines += [f"| {f['figure']} | {f['median']:.2f} | {f['min']:.2f} to {f['max']:.2f} | {f['target']} | {'yes' if f['reached'] else '**no**'} |" for f in found["figures"]]
    return "\n".join(lines)


def main() -> None:
    """Run what is asked for, print the page, write it with --out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", default="activation", help="an organism, BASE,RL, or one model directory")
    parser.add_argument("--repeats", type=int, default=5, help="paired repeats (after one warm-up)")
    parser.add_argument("--new-tokens", type=int, default=96)
    parser.add_argument("--batch", type=int, default=32, help="the larger of the two batch sizes")
    parser.add_argument("--long", type=int, default=1024, help="new tokens of the run that shows time by place (less where the context is shorter)")
    parser.add_argument("--reference-tokens", type=int, default=128, help="new tokens of the comparison with the reference (less where the context is shorter)")
    parser.add_argument("--only", nargs="*", default=["models", "speculative", "flat", "reference"])
    parser.add_argument("--out", type=Path, default=None, help="FILE.json; the table goes to FILE.md")
    args = parser.parse_args()
    pair, facts = load(args.pair)
    room = min((lm.context or 1 << 30) for lm in (pair.base, pair.rl)) - max(map(len, prompts_of(pair)))
    found: Figures = {
        "machine": machine(),
        "pair": facts, "job": {"repeats": args.repeats, "new_tokens": args.new_tokens, "prompts": [len(p) for p in prompts_of(pair)]}, "figures": [],
    }  # fmt: skip
    parts: dict[str, list[Callable[[], tuple[list[Figures], Figures]]]] = {
        "models": [lambda b=b: against_the_models(pair, b, args.new_tokens, args.repeats) for b in (1, args.batch)],
        "speculative": [lambda: speculation(pair, args.new_tokens, args.repeats)],
        "flat": [lambda: flatness(pair, min(args.long, room - 1))],
        "reference": [lambda: against_the_reference(pair, min(args.reference_tokens, room), args.batch, args.repeats)],
    }
    for part in args.only:
        for run in parts[part]:
            figures, more = run()
            found["figures"] += figures
            found[part] = {**found.get(part, {}), **more}
    write(found, page(found), args.out)


if __name__ == "__main__":
    main()
