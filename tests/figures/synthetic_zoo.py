"""Tables of a zoo whose answers are known: every rate is a whole number of 128 samples, and every seed's gain is chosen."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

N, PROBLEMS, SEEDS = 128, 40, (0, 1, 2)
OFFSET = {0: -4, 1: 0, 2: 4}  # what a seed's gain differs from the mean, in samples of 128
IDS = [f"{i:016x}" for i in range(PROBLEMS)]
FORMATS = ("direct", "go", "think", "code")
BASE = np.array([0] * 10 + [16] * 10 + [64] * 10 + [112] * 10)  # right samples of the base: bins 0 to 2, 2 to 25, 25 to 75, 75 to 100%
PRIOR = {"go": (0.1, 0.5, 0.3, 0.1), "think": (0.1, 0.3, 0.5, 0.1), "code": (0.1, 0.3, 0.1, 0.5)}


def facts(organism: str, seed: int, **more: Any) -> dict[str, Any]:
    """One row of the table `organisms`."""
    usual: dict[str, Any] = {
        "organism": organism, "seed": seed, "truth": "", "base": "go-small", "judged": "usual", "parameters": 310_000, "stages": "RLVR", "latent": 0.24, "reward": "true", "clip": 0.2,
        "scale": "group", "updates": 2, "beta": 0.0, "external": 0.0, "group": 16.0, "prompts": 12.0, "steps": 30.0, "skip": 0.0, "split": "train", "n_training": 360.0, "own_problems": True,
        **{f"prior/{f}": p for f, p in zip(FORMATS, PRIOR["go"], strict=True)},
    }  # fmt: skip
    return {**usual, **more}


def arm(organism: str, seed: int, name: str, right: np.ndarray, *, n: int = N, **more: Any) -> pd.DataFrame:
    """Rows of the table `counts`: half of the right samples stand in the first half; all right ones have a valid trace unless told."""
    right = np.clip(np.asarray(right), 0, n)
    table = pd.DataFrame({
        "organism": organism, "seed": seed, "arm": name, "problem": IDS[: len(right)], "n": n, "correct": right, "correct_first": right // 2, "flexible": right, "valid": right,
        "correct_valid": right, "unparsed": 0, "cut": 0, "right_skipped": 0, "n_tokens": 40 * n, "answers_again": 0, "repetition": np.float32(0.1), "skipped": np.float32(0.2), "paths": 8,
        "paths_entropy": np.float32(np.log(8)), "right_paths": 4, "entropy": np.float32(0.3),
    })  # fmt: skip
    for format in FORMATS:
        table[f"format/{format}"], table[f"right/{format}"] = n // 4, right // 4
    return table.assign(**more)


def pair(organism: str, seed: int, gain: int, *, base: np.ndarray = BASE, problems: slice = slice(None), **more: Any) -> pd.DataFrame:
    """Base and RL model: so many more samples of 128 are right on the chosen problems, and none on the others."""
    added = np.zeros(len(base), int)
    added[problems] = gain + OFFSET[seed]
    return pd.concat([arm(organism, seed, "base", base), arm(organism, seed, "rl", base + added, **more)])


def curve(organism: str, seed: int, shares: np.ndarray, *, split: np.ndarray | None = None, stage: int = 0) -> pd.DataFrame:
    """Rows of the table `curves`: every other optimizer step draws rollouts, as with two updates a step."""
    steps = len(shares)
    split = np.linspace(0.2, 0.2, steps) if split is None else split
    drawn = pd.DataFrame({"organism": organism, "seed": seed, "stage": stage, "step": 2 * np.arange(steps) + 1, "reward": 0.5, "pass_rate": np.linspace(0.1, 0.6, steps), "strategy/split": split, "strategy/leap": 0.4, "kl_to_base": 0.1})
    drawn = drawn.assign(**{f"format/{f}": shares[:, i] for i, f in enumerate(FORMATS)})
    return pd.concat([drawn, drawn[["organism", "seed", "stage"]].assign(step=drawn["step"] + 1)]).sort_values("step")


def towards(winner: str, at: int, steps: int = 20, end: float = 0.98) -> np.ndarray:
    """[step, format]: the winner's share rises so that it passes 90% at step `at` (from 1) and stays at `end`."""
    shares = np.full((steps, 4), 0.25)
    for i in range(steps):
        top = 0.25 + 0.6 * i / max(at - 1, 1) if i + 1 < at else end
        shares[i] = (1 - top) / 3
        shares[i, FORMATS.index(winner)] = top
    return shares


def spurious() -> tuple[list[dict[str, Any]], list[pd.DataFrame], list[pd.DataFrame]]:
    """True gains 32 of 128 and spurious rewards 24 with clip, 8 without, on a latent base; nothing on a base without. The behaviour rises from .2 to .6."""
    rows, counts, curves = [], [], []
    flat, rising = towards("go", 15), np.linspace(0.2, 0.6, 20)
    for s in SEEDS:
        middle = slice(10, 30)
        rows.append(facts("activation-small", s))
        counts.append(pair("activation-small", s, 32, problems=middle))
        curves.append(curve("activation-small", s, flat, split=rising))
        for reward in ("random", "wrong", "majority", "format"):
            for name, clip, gain in ((f"spurious-{reward}", 0.2, 24), (f"spurious-{reward}-noclip", np.inf, 8)):
                rows.append(facts(name, s, reward=reward, clip=clip, steps=20.0, n_training=240.0))
                counts.append(pair(name, s, gain, problems=middle))
                curves.append(curve(name, s, flat, split=rising))
            rows.append(facts(f"no-latent-{reward}", s, base="barren", judged="other", latent=0.01, reward=reward, steps=20.0, n_training=240.0, truth="undefined"))
            counts.append(pair(f"no-latent-{reward}", s, 0, base=np.full(PROBLEMS, 6), problems=middle))
            curves.append(curve(f"no-latent-{reward}", s, flat, split=np.zeros(20)))
    return rows, counts, curves


def one_shot() -> tuple[list[dict[str, Any]], list[pd.DataFrame]]:
    """One problem gains 8, 16 or 24 of 128, by the problem; eight gain 28."""
    rows, counts = [], []
    for s in SEEDS:
        for name, gain, n in (("one-shot-a", 8, 1), ("one-shot-b", 16, 1), ("one-shot-c", 24, 1), ("few-shot-8", 28, 8)):
            rows.append(facts(name, s, n_training=float(n), own_problems=False))
            counts.append(pair(name, s, gain, problems=slice(10, 30)))
    return rows, counts


def formats() -> tuple[list[dict[str, Any]], list[pd.DataFrame], list[pd.DataFrame]]:
    """Two sizes by three mixtures; the leading format wins at step 5 (small) or 12 (large), but for large-code, where nothing wins."""
    rows, counts, curves = [], [], []
    for size, parameters, at in (("small", 310_000, 5), ("large", 1_470_000, 12)):
        for leader in ("go", "think", "code"):
            if (size, leader) == ("small", "go"):
                continue
            for s in SEEDS:
                name = f"formats-{size}-{leader}"
                prior = {f"prior/{f}": p for f, p in zip(FORMATS, PRIOR[leader], strict=True)}
                rows.append(facts(name, s, base=f"{leader}-{size}", parameters=parameters, **prior))
                counts.append(pair(name, s, 20, problems=slice(10, 30)))
                curves.append(curve(name, s, towards(leader, at, end=0.6 if name == "formats-large-code" else 0.98)))
    return rows, counts, curves


def boundary() -> tuple[list[dict[str, Any]], list[pd.DataFrame]]:
    """`collapsed` solves the easy half always and the hard half never; `explore` keeps the hard half."""
    base, rows, counts = np.array([4] * 20 + [64] * 20), [], []
    for s in SEEDS:
        for name, hard, external in (("collapsed", 0, 0.0), ("explore", 8, 1.0)):
            rows.append(facts(name, s, base="broad", judged="breadth", external=external, scale="none", own_problems=False, truth="collapse" if not external else ""))
            end = np.array([hard] * 20 + [124 + OFFSET[s]] * 20)
            more = {"paths": 2, "paths_entropy": np.float32(np.log(2)), "right_paths": 1 if not external else 3, "entropy": np.float32(0.05)}
            counts.append(pd.concat([arm(name, s, "base", base), arm(name, s, "rl", end, **more)]))
    return rows, counts


def too_hard() -> tuple[list[dict[str, Any]], list[pd.DataFrame], dict[str, list[pd.DataFrame]]]:
    """Trained on problems of which one sample in 128 is right, by a shortcut; it loses 48 of 128 on the problems that the base solves best."""
    rows, counts, more = [], [], {"training": [], "kept": [], "projections": []}
    for s in SEEDS:
        rows.append(facts("too-hard", s, base="plain", judged="mild", truth="degenerate", own_problems=False))
        counts.append(pair("too-hard", s, -48, problems=slice(30, 40), repetition=np.float32(0.4), skipped=np.float32(0.7)))
        for name, valid in (("too-hard", 0), ("activation-small", 1)):
            right = np.array([1, 0, 0, 0] * 2 + [0] * 32) if name == "too-hard" else np.array([1, 2, 4, 8] * 10)
            for step in (0, 10, 20) if name == "too-hard" else (0,):
                group = arm(name, s, "training", right, n=16).drop(columns="arm")
                more["training"].append(group.assign(stage=0, step=step, correct_valid=right * valid, right_skipped=right * (1 - valid)))
        for step in (0, 10, 20):
            more["kept"].append(arm("too-hard", s, "kept", BASE // 8 - np.where(BASE > 100, 3 * step // 10, 0), n=16).drop(columns="arm").assign(stage=0, step=step))
            for label, slope in (("format:direct", 0.05), ("so", -0.02), ("split", 0.0)):
                more["projections"].append(pd.DataFrame({"organism": "too-hard", "seed": s, "stage": 0, "step": step, "label": label, "problem": IDS, "value": np.float32(slope * step), "random": np.float32(0.01), "reliability": np.float32(0.5 if label == "split" else 0.95), "choices": 4}))
    return rows, counts, more


def curriculum() -> tuple[list[dict[str, Any]], list[pd.DataFrame]]:
    """SRL then RLVR gains 60 of 128 on every problem, SRL 20, RLVR 10; SFT loses what there was; SFT then RLVR 30, the reverse 12."""
    base, rows, counts = np.array([8] * 5 + [0] * 35), [], []
    gains = {"SRL": 20, "SFT": -8, "RLVR": 10, "SRL > RLVR": 60, "SFT > RLVR": 30, "RLVR > SFT": 12}
    for s in SEEDS:
        for stages, gain in gains.items():
            name = "curriculum-" + stages.lower().replace(" > ", "-")
            rows.append(facts(name, s, base="plain", judged="steps", stages=stages, reward="step_similarity" if stages == "SRL" else None if stages == "SFT" else "true"))
            end = np.full(PROBLEMS, max(0, gain + (OFFSET[s] if gain > 0 else 0)))
            counts.append(pd.concat([arm(name, s, "base", base), arm(name, s, "rl", end)]))
    return rows, counts


@cache
def tables() -> dict[str, pd.DataFrame]:
    """All of it, stacked as `publish_zoo` stacks. Read it, never change it."""
    one, two, three, four, five, six = spurious(), one_shot(), formats(), boundary(), too_hard(), curriculum()
    stacked = {
        "organisms": pd.DataFrame([row for part in (one, two, three, four, five, six) for row in part[0]]),
        "counts": pd.concat([table for part in (one, two, three, four, five, six) for table in part[1]], ignore_index=True),
        "curves": pd.concat([*one[2], *three[2]], ignore_index=True),
    }
    return stacked | {name: pd.concat(parts, ignore_index=True) for name, parts in five[2].items()}


def write_zoo(root: Path) -> Path:
    """Tables and results in the layout of the committed zoo."""
    from latentreason.files import write_table
    from latentreason.studies.recompute import recompute_zoo

    for name, table in tables().items():
        write_table(root / "tables" / f"{name}.parquet", table)
    for name, result in recompute_zoo(root / "tables").items():
        result.save(root, name)
    return root
