"""Tokens per second of our sampler and hybrid decode, against transformers' `generate` and against base-only plus RL-only.

    python -m benchmarks.sampling [--pairs 5] [--problems 50] [--samples 16] [--out FILE.json]

Each repeat runs the contestants one after the other (in alternating order) on the same prompts, models, number of samples
and length limit; what is quoted is the median over repeats of the paired ratio, so that a machine whose speed drifts does not
favour anyone. `generate` gets its best plain use: all rows in one left-padded batch, KV cache, `num_return_sequences`, its
own stop at end-of-text. Tokens are those of the completions, up to and including end-of-text, for everyone.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: see the command line

import torch

import latentreason as lr
from benchmarks.report import machine, write
from latentreason.models.prompts import render
from latentreason.tasks.problem import Problem


def generate(lm: lr.LM, problems: list[Problem], samples: int, max_new_tokens: int) -> int:
    """Tokens made by `transformers` generate at temperature 1."""
    prompts = [render(p, lm.tokenizer) for p in problems]
    longest = max(map(len, prompts))
    ids = torch.tensor([[lm.tokenizer.pad_token_id] * (longest - len(p)) + p for p in prompts])
    with torch.inference_mode():
        out = lm.model.generate(
            input_ids=ids, attention_mask=(ids != lm.tokenizer.pad_token_id).long(), do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
            num_return_sequences=samples, max_new_tokens=max_new_tokens, pad_token_id=lm.tokenizer.pad_token_id,
        )  # fmt: skip
    completions = out[:, longest:]
    ended = (completions == lm.tokenizer.eos_token_id).int()
    return int(((ended.cumsum(1) - ended) == 0).sum())


def ours(model: object, problems: list[Problem], samples: int, max_new_tokens: int) -> int:
    """Tokens made by `sample`, grading included."""
    rollouts = lr.sample(model, problems, lr.Sampling(n=samples, max_new_tokens=max_new_tokens, keep_tokens=False), progress=False)  # type: ignore[arg-type]
    return int(rollouts.table["n_tokens"].sum())


def timed(run: Callable[[], int]) -> tuple[float, int]:
    """Seconds and tokens of one run."""
    start = time.perf_counter()
    tokens = run()
    return time.perf_counter() - start, tokens


def main() -> None:
    """Run the benchmark and print one line a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5, help="paired repeats (after one warm-up)")
    parser.add_argument("--problems", type=int, default=50)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--max-new-tokens", type=int, default=96)
    parser.add_argument("--organism", default="activation")
    parser.add_argument("--out", type=Path, default=None, help="FILE.json; the table goes to FILE.md")
    args = parser.parse_args()
    pair = lr.ModelPair.from_organism(args.organism)
    problems = lr.load_task("chain", split="test", limit=args.problems)
    router = lr.on_divergence("js", 0.1)
    job = (problems, args.samples, args.max_new_tokens)
    contestants: dict[str, Callable[[], int]] = {
        "generate, base": lambda: generate(pair.base, *job),
        "sample, base": lambda: ours(pair.base, *job),
        "sample, rl": lambda: ours(pair.rl, *job),
        "sample, hybrid on_divergence(js)": lambda: ours(lr.Hybrid(pair, router), *job),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    tokens: dict[str, list[int]] = {name: [] for name in contestants}
    for repeat in range(args.pairs + 1):
        for name in list(contestants)[:: 1 if repeat % 2 else -1]:
            s, t = timed(contestants[name])
            if repeat:  # the first is the warm-up
                seconds[name].append(s)
                tokens[name].append(t)
    rate = {name: [t / s for t, s in zip(tokens[name], seconds[name], strict=True)] for name in contestants}
    speed_up = [a / b for a, b in zip(rate["sample, base"], rate["generate, base"], strict=True)]
    per_token = {name: [1 / r for r in rate[name]] for name in rate}
    overhead = [h / (b + r) for h, b, r in zip(per_token["sample, hybrid on_divergence(js)"], per_token["sample, base"], per_token["sample, rl"], strict=True)]
    figures: dict[str, Any] = {
        "machine": machine(),
        "job": {"problems": args.problems, "samples": args.samples, "max_new_tokens": args.max_new_tokens, "pairs": args.pairs},
        "tokens_per_second": {name: statistics.median(values) for name, values in rate.items()},
        "sample / generate, tokens per second": {"median": statistics.median(speed_up), "min": min(speed_up), "max": max(speed_up)},
        "hybrid / (base + rl), seconds per token": {"median": statistics.median(overhead), "min": min(overhead), "max": max(overhead)},
    }
    lines = ["| tokens per second, median | |", "|---|---|", *(f"| {name} | {value:,.0f} |" for name, value in figures["tokens_per_second"].items())]
    lines += [f"| **{name}** | {r['median']:.2f} [{r['min']:.2f}, {r['max']:.2f}] |" for name, r in figures.items() if " / " in name]
    write(figures, "\n".join(lines), args.out)


if __name__ == "__main__":
    main()
