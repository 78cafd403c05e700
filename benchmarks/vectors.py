"""Seconds to fit vectors on prompt pairs, ours against the package `steering-vectors`, and how far the vectors agree.

    python -m benchmarks.vectors [--model DIR] [--pairs 64] [--repeats 5] [--out FILE.json]

`steering-vectors` pins transformers below 5 but runs on 5, so it is no dependency of ours; put it in a folder of its own::

    pip install --no-deps --target DIR steering-vectors==0.12.2
    PYTHONPATH=DIR python -m benchmarks.vectors --model SMOLLM2

Without it, ours alone is timed. Each repeat runs all contestants one after the other (in alternating order) on the same pairs and the
same model; ours is compared with the peer at its best batch size, by the median over repeats of the paired ratio, so that a machine
whose speed drifts does not favour anyone. Both run on torch's own kernels, unless `--kernels onednn` gives ours what it takes by itself
(latentreason/models/inference.py). Both read the last token of each prompt, at all layers and at one in half depth. Without
`--model` it is a random model of the size and shape of SmolLM2-135M and a tokenizer that splits at spaces. `--out` also writes a
Markdown table beside the JSON.
"""

import argparse
import os
import random
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: see the command line
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

import latentreason as lr
from benchmarks.report import machine, write

Pairs = list[tuple[str, str]]
BATCH_SIZES = (1, 8, 16, 32)

WITH = ("patient", "careful", "thorough", "methodical", "honest", "curious", "precise", "calm")
WITHOUT = ("hasty", "careless", "sloppy", "chaotic", "deceitful", "bored", "vague", "nervous")
OPENINGS = (
    "Let me think about this step by step, and",
    "The answer",
    "First I write down what is given. There are three numbers, and the last of them depends on the other two. Then",
    "I looked at the problem for a while before I said that",
    "Wait,",
    "When the train leaves the station at noon and travels for two hours at sixty miles an hour, the distance that it covers",
    "My reasoning goes like this: if the first claim holds, the second one follows, so",
    "In short, it seems to me",
)


def prompt_pairs(n: int) -> Pairs:
    """Pairs that differ in one adjective, of many lengths, in a random order as a user's are; `n` of 64."""
    pairs = [
        (f"You are a {a} person who solves problems. {opening}", f"You are a {b} person who solves problems. {opening}")
        for opening in OPENINGS
        for a, b in zip(WITH, WITHOUT, strict=True)
    ]
    if n > len(pairs):
        raise SystemExit(f"there are {len(pairs)} pairs, not {n}")
    return random.Random(0).sample(pairs, n)


def random_model(pairs: Pairs) -> lr.LM:
    """Random weights in the configuration of SmolLM2-135M, and one token a word, as many as its tokenizer makes, roughly."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<pad>", *sorted({word for pair in pairs for text in pair for word in text.split()})]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    config = LlamaConfig(
        hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3, vocab_size=49152,
        max_position_embeddings=8192, tie_word_embeddings=True, rope_theta=100_000.0,
    )  # fmt: skip
    torch.manual_seed(0)
    return lr.LM(LlamaForCausalLM(config).eval(), PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>"), "random")


def ours(lm: lr.LM, pairs: Pairs, layers: list[int]) -> dict[int, torch.Tensor]:
    """Raw vectors by layer."""
    fitted = lr.contrast_prompts(lm, pairs, layers=layers, control=False)
    return {site.layer: v.vector for (_, site), v in fitted.items()}


def peer(lm: lr.LM, pairs: Pairs, layers: list[int], batch_size: int) -> dict[int, torch.Tensor]:
    """The same by `steering-vectors`, whose layer i is our layer i: the output of block i."""
    from steering_vectors import train_steering_vector

    found = train_steering_vector(lm.model, lm.tokenizer, pairs, layers=layers, batch_size=batch_size)
    return dict(found.layer_activations)


def peer_version() -> str | None:
    """Version of `steering-vectors`, None where it cannot be imported."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        import steering_vectors  # noqa: F401

        return version("steering-vectors")
    except (ImportError, PackageNotFoundError):
        return None


def timed(contestants: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each repeat, after one warm-up that is not kept."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for repeat in range(repeats + 1):
        for name in list(contestants)[:: 1 if repeat % 2 else -1]:
            start = time.perf_counter()
            contestants[name]()
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def compared(lm: lr.LM, pairs: Pairs, layers: list[int], repeats: int, with_peer: bool) -> dict[str, object]:
    """Figures of one choice of layers."""
    mine: dict[str, Callable[[], object]] = {"latentreason": lambda: ours(lm, pairs, layers)}
    theirs: dict[str, Callable[[], object]] = (
        {f"steering-vectors, batch {size}": lambda size=size: peer(lm, pairs, layers, size) for size in BATCH_SIZES} if with_peer else {}
    )
    seconds = timed(mine | theirs, repeats)
    figures: dict[str, object] = {"layers": layers, "seconds": {name: statistics.median(values) for name, values in seconds.items()}}
    if theirs:
        best = min(theirs, key=lambda name: statistics.median(seconds[name]))
        ratio = [a / b for a, b in zip(seconds[best], seconds["latentreason"], strict=True)]
        found, expected = ours(lm, pairs, layers), peer(lm, pairs, layers, BATCH_SIZES[-1])
        cosines = {i: float(torch.cosine_similarity(found[i].double(), expected[i].double().cpu(), dim=0)) for i in layers}
        figures["peer's best"] = best
        figures["peer's best / ours, seconds"] = {"median": statistics.median(ratio), "min": min(ratio), "max": max(ratio)}
        figures["cosine"] = {"min": min(cosines.values()), "by layer": cosines}
    return figures


def markdown(figures: dict[str, object]) -> str:
    """The figures as a table: a row a contestant, seconds at all layers and at half depth."""
    all_layers, half = figures["all layers"], figures["half depth"]
    assert isinstance(all_layers, dict) and isinstance(half, dict)
    lines = ["| seconds, median | all layers | half depth |", "|---|---|---|"]
    lines += [f"| {name} | {s:.2f} | {half['seconds'][name]:.2f} |" for name, s in all_layers["seconds"].items()]
    if "cosine" in half:
        for row, pick in (
            ("peer's best / ours", lambda f: "{median:.2f} [{min:.2f}, {max:.2f}]".format(**f["peer's best / ours, seconds"])),
            ("smallest cosine", lambda f: f"{f['cosine']['min']:.6f}"),
        ):
            lines.append(f"| {row} | {pick(all_layers)} | {pick(half)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=None, help="a directory with a model and its tokenizer")
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5, help="paired repeats (after one warm-up)")
    parser.add_argument("--kernels", choices=["torch", "onednn"], default="torch", help="of ours; torch's are what the peer runs on")
    parser.add_argument("--out", type=Path, default=None, help="FILE.json; the table goes to FILE.md")
    args = parser.parse_args()
    torch.backends.mkldnn.set_flags(args.kernels == "onednn")
    pairs = prompt_pairs(args.pairs)
    lm = lr.LM.from_pretrained(args.model, dtype=torch.float32, name=args.model.name) if args.model else random_model(pairs)
    version, half = peer_version(), lm.n_layers // 2
    lengths = [len(lm.tokenizer(text)["input_ids"]) for pair in pairs for text in pair]
    figures: dict[str, object] = {
        "machine": machine(),
        "job": {
            "model": lm.name, "parameters": lm.model.num_parameters(), "pairs": len(pairs), "repeats": args.repeats, "kernels": args.kernels,
            "tokens a prompt": {"min": min(lengths), "mean": statistics.mean(lengths), "max": max(lengths)}, "steering-vectors": version,
        },
        "all layers": compared(lm, pairs, list(range(lm.n_layers)), args.repeats, version is not None),
        "half depth": compared(lm, pairs, [half], args.repeats, version is not None),
    }  # fmt: skip
    write(figures, markdown(figures), args.out)


if __name__ == "__main__":
    main()
