"""Working memory of `capture` from 100 to 10,000 rollouts: flat where it reduces, beside the size of the activations that it does not keep.

    python -m benchmarks.memory [--rollouts 100 1000 10000] [--out artifacts/figures/backends_memory]

Captures from synthetic rollouts with a random Llama (d_model 512, 4 blocks, all read), each kind in a process of its own. `held` is what that process
has before a capture begins (imports, model, rollouts, spans), after a capture of two rollouts that loads the code; `peak` the largest that it has during
the capture. `working` is peak - held - result - index: what capture needs beyond what it was given and what it returns. `activations` is the size
of the activations of all generated tokens, kept or not. glibc is told to give freed memory back, so that memory in use is measured; `as glibc keeps it`
is the largest job without that. Linux alone: the peak is set back through /proc. Writes OUT.json and, with matplotlib, OUT.png.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch

MODES = {
    "mean by strategy": {"reduce": "mean", "by": "strategy"},
    "mean a rollout": {"reduce": "mean"},
    "every token": {},
}
"""Name -> arguments of `capture`; spans of two strategies where there is a `by`."""
BATCH_TOKENS, PROMPT, COMPLETION, D_MODEL, N_LAYERS = 1_024, 4, (6, 18), 512, 4  # 100 rollouts are more than one batch; completions have from 6 to 18 tokens, so batches differ in shape


GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def resident(field: str) -> float:
    """MB: `VmRSS` is now, `VmHWM` the largest since `forget_peak`."""
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field)) / 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def measure(mode: str, sizes: list[int]) -> list[dict[str, float]]:
    """Capture in this process, from so many rollouts each time."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    import latentreason as lr

    torch.set_num_threads(1)
    config = LlamaConfig(
        vocab_size=64, hidden_size=D_MODEL, intermediate_size=D_MODEL, num_hidden_layers=N_LAYERS, num_attention_heads=8, num_key_value_heads=1,
        max_position_embeddings=128,
    )  # fmt: skip
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(64)}, unk_token="w0"))
    lm = lr.LM(LlamaForCausalLM(config).eval(), PreTrainedTokenizerFast(tokenizer_object=words), "tiny")
    return [captured(lm, mode, n) for n in sizes]


def captured(lm: Any, mode: str, n: int) -> dict[str, float]:
    """Capture from `n` rollouts."""
    import numpy as np
    import pandas as pd

    import latentreason as lr

    rng = np.random.default_rng(0)
    keys = pd.DataFrame({"arm": "tiny", "problem": [f"p{i}" for i in range(n)], "sample": 0})
    prompts, lengths = list(rng.integers(0, 64, size=(n, PROMPT), dtype=np.int32)), rng.integers(COMPLETION[0], COMPLETION[1] + 1, size=n)
    completions = [rng.integers(0, 64, size=length, dtype=np.int32) for length in lengths]
    rollouts = lr.Rollouts(keys.assign(prompt_ids=prompts, token_ids=completions))
    how = dict(MODES[mode])
    if "by" in how:
        half = lengths // 2
        how["at"] = pd.concat([keys.assign(start=0, end=half, strategy="first"), keys.assign(start=half, end=lengths, strategy="second")])
    few = {**how, "at": how["at"][how["at"]["problem"].isin(["p0", "p1"])]} if "at" in how else how
    lr.capture(lm, lr.Rollouts(rollouts.table.head(2)), range(N_LAYERS), batch_tokens=BATCH_TOKENS, **few)
    gc.collect()
    held = resident("VmRSS")
    forget_peak()
    found = lr.capture(lm, rollouts, range(N_LAYERS), batch_tokens=BATCH_TOKENS, **how)
    peak = resident("VmHWM")
    result = sum(values.numel() * values.element_size() for values in found.values.values()) / 2**20
    index = float(found.index.memory_usage(deep=True).sum()) / 2**20
    activations = int(lengths.sum()) * D_MODEL * N_LAYERS * 4 / 2**20
    return {"held": held, "peak": peak, "result": result, "index": index, "working": peak - held - result - index, "activations": activations}


def draw(table: dict[str, dict[str, dict[str, float]]], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    for (mode, by_n), colour, marker in zip(table.items(), ("#0072B2", "#009E73", "#D55E00"), "os^", strict=True):
        ax.plot([int(n) for n in by_n], [at["working"] for at in by_n.values()], marker=marker, color=colour, label=mode)
    first = next(iter(table.values()))
    ax.plot([int(n) for n in first], [at["activations"] for at in first.values()], "--", color="black", label="all activations: the result of 'every token', else never held")
    ax.set(xscale="log", yscale="log", xlabel="rollouts", ylabel="MB", title="capture: peak above what it was given and what it returns", ylim=(1, None))
    ax.legend(frameon=False)
    figure.savefig(path, dpi=150, metadata={"Software": None})


def alone(mode: str, sizes: list[int], environment: dict[str, str]) -> dict[str, dict[str, float]]:
    """Measured in a process of its own; by number of rollouts."""
    command = [sys.executable, "-m", "benchmarks.memory", "--one", mode, "--rollouts", *map(str, sizes)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | environment)
    found = {str(n): {name: round(value, 1) for name, value in at.items()} for n, at in zip(sizes, json.loads(run.stdout.splitlines()[-1]), strict=True)}
    for n, at in found.items():
        print(f"{mode:18} {n:>7} rollouts: working {at['working']:7.1f} MB, result {at['result']:7.1f}, index {at['index']:6.1f}; all activations {at['activations']:7.1f}", flush=True)
    return found


def main() -> None:
    """Measure in fresh processes, print a table, write JSON and figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, nargs="+", default=[100, 1_000, 10_000])
    parser.add_argument("--out", type=Path, default=Path("artifacts/figures/backends_memory"))
    parser.add_argument("--one", metavar="MODE", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args.rollouts)))
        return
    table = {mode: alone(mode, args.rollouts, GIVE_BACK) for mode in MODES}
    first, last = str(args.rollouts[0]), str(args.rollouts[-1])
    growth = {mode: round(by_n[last]["working"] / by_n[first]["working"], 3) for mode, by_n in table.items()}
    kept = alone(next(iter(MODES)), args.rollouts[-1:], {})
    job = {
        "batch_tokens": BATCH_TOKENS, "prompt_tokens": PROMPT, "completion_tokens": COMPLETION, "d_model": D_MODEL, "blocks_read": N_LAYERS
    }  # fmt: skip
    figures = {
        "unit": "MB", "job": job, "memory": table, "working at most rollouts / at fewest": growth, "as glibc keeps it": {next(iter(MODES)): kept}
    }  # fmt: skip
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n")
    draw(table, args.out.with_suffix(".png"))
    print(json.dumps(growth))


if __name__ == "__main__":
    main()
