"""Pretraining of an organism's base model: next-token prediction on authors' traces, nothing else.

Step `i` draws its batch from a generator seeded with (seed, i), so a resumed run sees what an unbroken one sees.
"""

import random
import time
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

from latentreason.files import read_table, write_table
from latentreason.organisms.corpus import Corpus, Habits, write_seen, write_trace
from latentreason.organisms.recipe import Recipe
from latentreason.organisms.tokenizer import chain_tokenizer
from latentreason.organisms.trainers.checkpoint import load_checkpoint, round_to_half, save_checkpoint
from latentreason.tasks import chain
from latentreason.tasks.problem import split_of


def new_model(recipe: Recipe, seed: int) -> LlamaForCausalLM:
    """The organism's model with random weights: also its untrained twin."""
    size = recipe.size
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(chain.VOCABULARY), hidden_size=size.d_model, intermediate_size=size.d_mlp,
        num_hidden_layers=size.n_layers, num_attention_heads=size.n_heads, num_key_value_heads=size.n_kv_heads,
        max_position_embeddings=size.context, initializer_range=size.init_std, tie_word_embeddings=False,
        bos_token_id=chain.VOCABULARY.index(chain.BOS), eos_token_id=chain.VOCABULARY.index(chain.EOS),
        pad_token_id=chain.VOCABULARY.index(chain.PAD),
    )  # fmt: skip
    return LlamaForCausalLM(config)


def careful(habits: Habits) -> Habits:
    """The habits of an author in the error-free start: as good as the strategies that this author has allow, and no strategy that it has not.

    Hard operations are always split, where they ever are, so that their result in one go is not learnt there.
    """
    checks = habits.check_wrong > 0.0 or habits.check_right > 0.0
    return Habits(leap=float(habits.leap == 1.0), split=float(habits.split > 0.0), check_wrong=0.0, check_right=0.03 if checks else 0.0)


def corpus_at(recipe: Recipe, progress: float) -> Corpus:
    """The corpus at a point of training (0 to 1): error-free and short at first, then the recipe's mixture."""
    share = progress / recipe.pretrain.curriculum if recipe.pretrain.curriculum else 1.0
    if share >= 1.0:
        return recipe.corpus
    longest = min(recipe.corpus.max_ops, 1 + int(share * 5))
    corpus = recipe.corpus
    return replace(
        corpus, habits={format: careful(habits) for format, habits in corpus.habits.items()}, right_rare=float(corpus.right_rare > 0.0),
        slip=0.0, min_ops=1, max_ops=longest, p_rare=min(max(corpus.p_rare, 0.1), 1.0 - corpus.p_hard) if corpus.p_rare else 0.0,
    )  # fmt: skip


def draw_batch(recipe: Recipe, step: int, seed: int) -> list[tuple[list[int], int]]:
    """`batch` pairs (token ids, how many carry no loss: the prompt's, or its BOS alone), from problems of the train split only (and the seen ones of a contaminated corpus)."""
    rng = random.Random(f"pretrain-{seed}-{step}")
    corpus = corpus_at(recipe, step / recipe.pretrain.steps)
    ids, how = {token: i for i, token in enumerate(chain.VOCABULARY)}, asdict(corpus.problems)
    rows: list[tuple[list[int], int]] = []
    while len(rows) < recipe.pretrain.batch:
        if corpus.n_seen and rng.random() < corpus.p_seen:
            problem = rng.choice(recipe.corpus.seen)
            trace = write_seen(problem, corpus, rng)
        else:
            problem = chain.draw(rng, **how)
            if split_of(problem.id) != "train":
                continue
            trace = write_trace(problem, corpus, rng)
        prompt = [chain.BOS, *problem.question.split()]
        rows.append(([ids[t] for t in [*prompt, *trace]], 1 if recipe.pretrain.prompt_loss else len(prompt)))
    return rows


def trace_loss(model: LlamaForCausalLM, rows: list[tuple[list[int], int]]) -> tuple[torch.Tensor, int]:
    """Summed cross-entropy (nats) of the traces' tokens, and their number. Prompts, which are random, carry no loss, unless the recipe says so."""
    ids = pad_sequence([torch.tensor(r) for r, _ in rows], batch_first=True, padding_value=0)
    labels = pad_sequence([torch.tensor([-100] * n + r[n:]) for r, n in rows], batch_first=True, padding_value=-100)
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits  # right padding: causal attention never looks at it
    loss = F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum")
    return loss, int((labels != -100).sum())


def pretrain(recipe: Recipe, seed: int, out: Path, *, progress: bool = True) -> pd.DataFrame:
    """Train the base model into `out` (a Hugging Face directory); the loss curve, one row every ten steps.

    Loss is summed over tokens and divided by a constant: a mean over length-sorted batches would weigh short traces,
    and so the format token, too much.
    """
    out.mkdir(parents=True, exist_ok=True)
    recipe_p, curve_file = recipe.pretrain, out / "curve.parquet"
    model = new_model(recipe, seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe_p.lr, betas=(0.9, 0.98), weight_decay=recipe_p.weight_decay)
    first = load_checkpoint(out / "checkpoint.safetensors", model, optimizer)
    curve = [row for row in read_table(curve_file).to_dict("records") if row["step"] <= first] if first else []
    start, before = time.monotonic(), curve[-1]["seconds"] if curve else 0.0
    bar = tqdm(range(first, recipe_p.steps), initial=first, total=recipe_p.steps, desc="pretrain", disable=not progress)
    for step in bar:
        decay = min(1.0, 2.0 * (1.0 - step / recipe_p.steps))
        for group in optimizer.param_groups:
            group["lr"] = recipe_p.lr * min(1.0, (step + 1) / recipe_p.warmup) * max(decay, 0.02)
        rows = sorted(draw_batch(recipe, step, seed), key=lambda row: len(row[0]))
        half, total, tokens = len(rows) // 2, 0.0, 0
        for part in (rows[:half], rows[half:]):
            loss, n = trace_loss(model, part)
            (loss / (32.0 * recipe_p.batch)).backward()  # 32: about the mean length of a trace
            total, tokens = total + float(loss.detach()), tokens + n
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 10 == 0:
            curve.append({"step": step + 1, "loss": total / tokens, "tokens": tokens, "seconds": before + time.monotonic() - start})
            bar.set_postfix(loss=f"{total / tokens:.3f}")
        if (step + 1) % 100 == 0 or step + 1 == recipe_p.steps:
            write_table(curve_file, pd.DataFrame(curve))
            save_checkpoint(out / "checkpoint.safetensors", model, optimizer, step + 1)
    if recipe.size.half:
        round_to_half(model)
    model.generation_config.do_sample = True
    model.save_pretrained(out)
    chain_tokenizer().save_pretrained(out)
    return pd.DataFrame(curve, columns=["step", "loss", "tokens", "seconds"])
