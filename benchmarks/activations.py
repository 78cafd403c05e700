"""Seconds to read activations, ours against a plain forward pass, nnsight and the TransformerLens bridge.

    python -m benchmarks.activations [--model DIR] [--repeats 9] [--out FILE.json]

8 sequences of 128 tokens, resid_post after all blocks; and after the block at half depth alone. `--model` is a Hugging Face directory
(SmolLM2-135M in fp32 for the quoted figures); without it a random model of that shape, so that it runs anywhere. Attention is eager for
everyone, since the bridge knows no other; with `--attention sdpa` everyone but the bridge has transformers' default, so that each is at its best.

Each repeat runs the contestants one after the other, in alternating order, on the same ids; quoted is the median over repeats of the ratio
within a repeat, so that a machine whose speed drifts favours nobody. `--clock cpu` counts processor time instead, for a busy machine. All keep the same values, in fp32, on the CPU. The peers in their
documented use, once as it stands in their quick starts (the whole forward pass), once stopped after the deepest block, which both can:

    plain          model(**batch): no activations at all
    limit          the same without the LM head, which nobody needs to read activations: what every method must pay
    nnsight        with model.trace(batch): save the output of each block;     stopped: tracer.stop() behind the last
    bridge         run_with_cache(ids, names_filter=[...]);                    stopped: stop_at_layer, which needs a later block
    ours           capture(lm, rollouts, sites), table and index included

Inside `capture` the linear layers run on oneDNN (latentreason/models/inference.py), which no peer does by itself. To tell kernels from the rest,
the rows "on oneDNN" give the limit and the bridge the same kernels, and `--kernels torch` takes them from ours.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pandas as pd
import torch

import latentreason as lr
from benchmarks.report import machine, write
from latentreason.models.inference import fast_linear

BATCH, LENGTH = 8, 128
TARGETS = {  # ratio of medians -> (what is asked for, whether it is a lower bound)
    "ours / plain": (0.8, False), "nnsight / ours": (1.2, True), "nnsight, stopped / ours": (1.2, True), "bridge / ours": (1.35, True), "ours, half depth / plain": (0.5, False),
}  # fmt: skip


def random_model(attention: str) -> lr.LM:
    """A random model with the shape of SmolLM2-135M, and a tokenizer of words."""
    from tokenizers import Tokenizer, models
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedTokenizerFast

    config = LlamaConfig(
        vocab_size=49_152, hidden_size=576, intermediate_size=1_536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
        max_position_embeddings=8_192, tie_word_embeddings=True, attn_implementation=attention,
    )  # fmt: skip
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(49_152)}, unk_token="w0"))
    with tempfile.TemporaryDirectory() as folder:
        PreTrainedTokenizerFast(tokenizer_object=words, bos_token="w1", eos_token="w2", pad_token="w2").save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    return lr.LM(AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval(), tokenizer, "random, shape of SmolLM2-135M")


def contestants(lm: lr.LM, kernels: str) -> dict[str, Callable[[], list[torch.Tensor]]]:
    """Name -> what it does, giving the activations of each block as [8 * 128, d_model] (plain: none)."""
    import nnsight
    from nnsight import TransformersModel

    from latentreason.activations import lens
    from latentreason.activations.copies import copied
    from latentreason.models.blocks import decoder

    rng = np.random.default_rng(0)
    # capture reads what predicts a completion: with one token more, exactly the 128 positions that the others read
    ids = rng.integers(0, lm.n_vocab, size=(BATCH, LENGTH + 1), dtype=np.int32)
    table = {"arm": "a", "problem": [f"p{i}" for i in range(BATCH)], "sample": 0, "prompt_ids": list(ids[:, :1]), "token_ids": list(ids[:, 1:])}
    rollouts, n, half = lr.Rollouts(pd.DataFrame(table)), lm.n_layers, lm.n_layers // 2 - 1  # half of the blocks run
    batch = {"input_ids": torch.from_numpy(ids[:, :LENGTH]).long(), "attention_mask": torch.ones(BATCH, LENGTH, dtype=torch.long)}
    traced = TransformersModel(copied(lm.model, share=True), task="text-generation", tokenizer=lens._tokenizer(lm.tokenizer), device="cpu")
    bridge = lens._bridge(lm)

    def ours(sites: Any) -> Callable[[], list[torch.Tensor]]:
        return lambda: list(lr.capture(lm, rollouts, sites).values.values())

    def plain() -> list[torch.Tensor]:
        lm.model(**batch, use_cache=False)
        return []

    def limit() -> list[torch.Tensor]:
        decoder(lm)(**batch, use_cache=False)
        return []

    def of_nnsight(layers: list[int], stop: bool) -> list[torch.Tensor]:
        values: list[torch.Tensor] = []
        with traced.trace(batch, use_cache=False) as tracer:
            values = nnsight.save([])
            for layer in layers:
                values.append(traced.model.layers[layer].output)
            if stop:
                tracer.stop()
        return [value.flatten(0, 1) for value in values]

    def of_bridge(layers: list[int], stop: int | None) -> list[torch.Tensor]:
        names = [f"blocks.{layer}.hook_resid_post" for layer in layers]
        _, cache = bridge.run_with_cache(
            batch["input_ids"], names_filter=names, attention_mask=batch["attention_mask"], stop_at_layer=stop, return_type=None, use_cache=False
        )
        return [cache[name].flatten(0, 1) for name in names]

    def on_onednn(run: Callable[[], list[torch.Tensor]]) -> Callable[[], list[torch.Tensor]]:
        return fast_linear()(run)

    every = list(range(n))
    found: dict[str, Callable[[], list[torch.Tensor]]] = {
        "plain": plain, "limit": limit, "ours": ours(every), "nnsight": lambda: of_nnsight(every, False), "nnsight, stopped": lambda: of_nnsight(every, True),
        "ours, half depth": ours(half), "nnsight, half depth, stopped": lambda: of_nnsight([half], True),
    }  # fmt: skip
    if bridge is not None:
        found |= {"bridge": lambda: of_bridge(every, None), "bridge, half depth, stopped": lambda: of_bridge([half], half + 1)}
    if kernels == "onednn":
        found |= {f"{name}, on oneDNN": on_onednn(found[name]) for name in ("limit", "bridge") if name in found}  # nnsight keeps the forward of each module as it found it
    return found


def main() -> None:
    """Run the benchmark, print a table, and write it with the figures where `--out` says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=None, help="Hugging Face directory of a Llama")
    parser.add_argument("--attention", choices=["eager", "sdpa"], default="eager")
    parser.add_argument("--kernels", choices=["onednn", "torch"], default="onednn", help="of ours; torch's are MKL's")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--repeats", type=int, default=9, help="after one warm-up")
    parser.add_argument("--out", type=Path, default=None, help="FILE.json; the table goes to FILE.md")
    args = parser.parse_args()
    clock = time.perf_counter if args.clock == "wall" else time.process_time
    if args.model is None:
        lm = random_model(args.attention)
    else:
        lm = lr.LM.from_pretrained(args.model, dtype=torch.float32, name=args.model.name)
        lm.model.set_attn_implementation(args.attention)
    with torch.inference_mode(), torch.backends.mkldnn.flags(enabled=args.kernels == "onednn"):
        runs = contestants(lm, args.kernels)
        found = {name: run() for name, run in runs.items()}
        for name, values in found.items():  # the same work, or no comparison
            for value, expected in zip(values, found["ours, half depth" if "half" in name else "ours"], strict=bool(values)):
                torch.testing.assert_close(value.float(), expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-3)
        del found
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for repeat in range(args.repeats):
            for name in list(runs)[:: -1 if repeat % 2 else 1]:
                start = clock()
                runs[name]()
                seconds[name].append(clock() - start)

    def ratio(a: str, b: str) -> dict[str, float]:
        each = [x / y for x, y in zip(seconds[a], seconds[b], strict=True)]
        return {"median": round(statistics.median(each), 3), "min": round(min(each), 3), "max": round(max(each), 3), "of medians": round(statistics.median(seconds[a]) / statistics.median(seconds[b]), 3)}

    pairs = {f"{name} / plain": ratio(name, "plain") for name in runs if name != "plain"}
    pairs |= {f"{name} / ours{', half depth' * ('half' in name)}": ratio(name, "ours, half depth" if "half" in name else "ours") for name in runs if name.startswith(("nnsight", "bridge"))}
    met = {name: pairs[name]["median"] >= bound if lower else pairs[name]["median"] <= bound for name, (bound, lower) in TARGETS.items() if name in pairs}
    figures = {
        "machine": machine(),
        "job": {"model": lm.name, "attention": args.attention, "kernels": args.kernels, "clock": args.clock, "batch": BATCH, "tokens": LENGTH, "blocks": lm.n_layers, "repeats": args.repeats},
        "seconds, median": {name: round(statistics.median(values), 4) for name, values in seconds.items()},
        "ratios": pairs, "targets": {name: {"asked": bound, "at least" if lower else "at most": True, "met": met[name]} for name, (bound, lower) in TARGETS.items() if name in met},
    }  # fmt: skip
    lines = ["| ratio, paired | median | min | max | ratio of the medians | asked |", "|---|---|---|---|---|---|"]
    for name, r in pairs.items():
        asked = f"{'at least' if TARGETS[name][1] else 'at most'} {TARGETS[name][0]}" if name in TARGETS else ""
        lines.append(f"| {name} | {r['median']} | {r['min']} | {r['max']} | {r['of medians']} | {asked} |")
    write(figures, "\n".join(lines), args.out)


if __name__ == "__main__":
    main()
