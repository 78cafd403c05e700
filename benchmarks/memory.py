"""Peak memory of `capture` from 100 to 10,000 rollouts: flat where it reduces, the size of the result where it does not.

    python -m benchmarks.memory [--rollouts 100 1000 10000] [--out artifacts/figures/backends_memory]

Each number is the peak resident memory of a process of its own that captures from synthetic rollouts with a tiny random Llama (d_model
128, 2 blocks, both read). `imported` is that process before it made a model, which is most of it; `made` is with model and rollouts.
Writes OUT.json and, with matplotlib, OUT.png.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch

MODES = {
    "mean by strategy": {"reduce": "mean", "by": "strategy"},
    "mean a rollout": {"reduce": "mean"},
    "every token": {},
}
"""Name -> arguments of `capture`; spans of two strategies where there is a `by`."""
BATCH_TOKENS, PROMPT, COMPLETION, D_MODEL, N_LAYERS = 2_048, 8, 32, 128, 2


def peak() -> float:
    """MB, largest so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)


def measure(mode: str, n: int) -> dict[str, float]:
    """Capture once in this process."""
    import numpy as np
    import pandas as pd
    import torch
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    import latentreason as lr

    _ = lr.capture, lr.LM, lr.Rollouts
    torch.set_num_threads(1)
    imported = peak()
    config = LlamaConfig(
        vocab_size=64, hidden_size=D_MODEL, intermediate_size=D_MODEL, num_hidden_layers=N_LAYERS, num_attention_heads=4, max_position_embeddings=128
    )
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(64)}, unk_token="w0"))
    lm = lr.LM(LlamaForCausalLM(config).eval(), PreTrainedTokenizerFast(tokenizer_object=words), "tiny")
    rng = np.random.default_rng(0)
    keys = pd.DataFrame({"arm": "tiny", "problem": [f"p{i}" for i in range(n)], "sample": 0})
    prompts, completions = (list(rng.integers(0, 64, size=(n, length), dtype=np.int32)) for length in (PROMPT, COMPLETION))
    rollouts = lr.Rollouts(keys.assign(prompt_ids=prompts, token_ids=completions))
    how = dict(MODES[mode])
    if "by" in how:
        half = COMPLETION // 2
        how["at"] = pd.concat([keys.assign(start=0, end=half, strategy="first"), keys.assign(start=half, end=COMPLETION, strategy="second")])
    made = peak()
    found = lr.capture(lm, rollouts, range(N_LAYERS), batch_tokens=BATCH_TOKENS, **how)
    result = sum(values.numel() * values.element_size() for values in found.values.values()) / 2**20
    return {"imported": imported, "made": made, "peak": peak(), "result": result, "rows": float(len(found))}


def draw(table: dict[str, dict[str, dict[str, float]]], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    for (mode, by_n), colour, marker in zip(table.items(), ("#0072B2", "#009E73", "#D55E00"), "os^", strict=True):
        ax.plot([int(n) for n in by_n], [at["peak"] for at in by_n.values()], marker=marker, color=colour, label=mode)
    first = next(iter(table.values()))
    ax.plot([int(n) for n in first], [at["imported"] for at in first.values()], ":", color="grey", label="imports alone")
    ax.set(xscale="log", xlabel="rollouts", ylabel="peak resident memory (MB)", ylim=(0, None), title="capture: memory does not grow with what it reduces")
    ax.legend(frameon=False)
    figure.savefig(path, dpi=150, metadata={"Software": None})


def main() -> None:
    """Measure in fresh processes, print a table, write JSON and figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, nargs="+", default=[100, 1_000, 10_000])
    parser.add_argument("--out", type=Path, default=Path("artifacts/figures/backends_memory"))
    parser.add_argument("--one", nargs=2, metavar=("MODE", "N"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one[0], int(args.one[1]))))
        return
    table: dict[str, dict[str, dict[str, float]]] = {}
    for mode in MODES:
        for n in args.rollouts:
            run = subprocess.run([sys.executable, "-m", "benchmarks.memory", "--one", mode, str(n)], capture_output=True, text=True, check=True)
            at = json.loads(run.stdout.splitlines()[-1])
            table.setdefault(mode, {})[str(n)] = {name: round(value, 1) for name, value in at.items()}
            print(f"{mode:18} {n:>7} rollouts: peak {at['peak']:7.1f} MB, of which imports {at['imported']:6.1f}, result {at['result']:7.1f}", flush=True)
    growth = {mode: round(list(by_n.values())[-1]["peak"] / next(iter(by_n.values()))["peak"], 3) for mode, by_n in table.items()}
    job = {
        "batch_tokens": BATCH_TOKENS, "prompt_tokens": PROMPT, "completion_tokens": COMPLETION, "d_model": D_MODEL, "blocks_read": N_LAYERS
    }  # fmt: skip
    figures = {"unit": "MB", "job": job, "peak": table, "peak at most rollouts / at fewest": growth}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n")
    draw(table, args.out.with_suffix(".png"))
    print(json.dumps(growth))


if __name__ == "__main__":
    main()
