"""A synthetic run: tables with the columns and info that hybrid decoding writes, the results computed from them, and a reader of pages."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from latentreason.figures.figures import FIGURES
from latentreason.studies.recompute import JUDGED, OF_THEIR_OWN, ZOO
from latentreason.tables import Rollouts

N_PROBLEMS = 24
SWEPT = {"on_divergence(js)": 0.22, "on_divergence(kl)": 0.15, "on_entropy": 0.10}  # router -> how far it lies above its control
SINGLE = {"first_token": (0.45, 0.30), "at_strategy": (0.70, 0.85)}  # router -> changed / D, recovery
MADE = [name for name, figure in FIGURES.items() if not {"geometry", "published", *OF_THEIR_OWN, *ZOO, *JUDGED} & {*figure.inputs}]  # the tiny run has geometry; no run is an audit, or the zoo
EVIL = "</span><script>alert('x')</script> \"quoted\" & <b>bold</b>"


def spec(name: str, *, control: str = "", budget: float = 0.5) -> dict[str, Any]:
    """What `Hybrid.info` says of a calibrated router, or of a matched control of it."""
    facts = {"budget": budget, "D": 0.08, "changed": 0.08 * budget, "share_of_D": budget, "edges": [0, 1, 5], "temperature": 1.0}
    params: dict[str, Any] = {"threshold": 0.1, "calibration": facts}
    if control:
        params = {"edges": [0, 1, 5], "rates": [0.3, 0.2, 0.1], "seed": 0, "of": name, "budget": budget}
    router = {"name": control or name, "params": params, "reads": ["base"]}
    return {"router": router, "action": {"name": "swap", "params": {}}, "pair": "synthetic"}


class Maker:
    """Draws arms whose accuracy lies `recovery` of the way from base to RL, and that change `share` of D of their tokens."""

    def __init__(self, seed: int, samples: int, gap: float = 0.5, full: float = 0.08) -> None:
        self.rng, self.samples, self.gap, self.full = np.random.default_rng(seed), samples, gap, full
        self.base = self.rng.uniform(0.1, 0.4, N_PROBLEMS)

    def arm(self, name: str, recovery: float, share: float) -> pd.DataFrame:
        problem = np.repeat([f"p{i:02d}" for i in range(N_PROBLEMS)], self.samples)
        rate = np.repeat(np.clip(self.base + recovery * self.gap, 0, 1), self.samples)
        tokens = self.rng.integers(20, 60, len(problem))
        changed = self.rng.binomial(tokens, self.full * share) if share else np.zeros(len(problem), int)
        correct = self.rng.random(len(problem)) < rate
        grade = np.where(correct, "correct", "wrong").astype(object)
        return pd.DataFrame({
            "problem": problem, "sample": np.tile(np.arange(self.samples), N_PROBLEMS), "arm": name, "finish": "stop", "n_tokens": tokens,
            "n_routed": np.minimum(2 * changed, tokens), "n_changed": changed, "correct": correct, "grade_strict": grade,
            "grade_flexible": grade, "seed": 0,
        })  # fmt: skip


def write_temperature(tables: Path, temperature: str, make: Maker) -> None:
    """The tables of study `recovery` at one temperature."""
    ends = {"base": (0, 0), "rl": (1, 1), "timing": (0.8, 0.6), "content": (0.15, 0.4)}
    Rollouts(pd.concat([make.arm(name, *where) for name, where in ends.items()], ignore_index=True), {a: {} for a in ends}).save(
        tables / f"{temperature}_ends.parquet"
    )
    points = [(r, b, b + lift * 4 * b * (1 - b), b) for r, lift in SWEPT.items() for b in (0.25, 0.5, 0.75)]
    points += [(r, share, recovered, 0.9 * share) for r, (share, recovered) in SINGLE.items()]
    arms, info = [], {}
    for router, share, recovered, control in points:
        for kind, height in (("", recovered), ("matched_disagreement", control), ("matched_random", control / 3)):
            name = f"{kind + ' of ' if kind else ''}{router}@{share:g}"
            arms.append(make.arm(name, height, share if kind != "matched_random" else share / 3))
            info[name] = spec(router, control=kind, budget=share)
    Rollouts(pd.concat(arms, ignore_index=True), info).save(tables / f"{temperature}_curves.parquet")
    strategies = {"format:think": 40, "so": 30, "split": 22, "check": 14, "leap": 9, "ans": 3, "run": 0}
    arms_by_strategy = {"rl": 10, "on_divergence(js)@0.5": 5, "on_entropy@0.5": 5, "matched_disagreement of on_divergence(js)@0.5": 5}
    records = [
        {"arm": arm, "strategy": s, "changed": int(make.rng.poisson(n * scale)), "tokens": 40 * n + 10}
        for arm, scale in arms_by_strategy.items()
        for s, n in strategies.items()
    ]
    pd.DataFrame(records).to_parquet(tables / f"{temperature}_strategies.parquet")


def write_passk(tables: Path, make: Maker) -> None:
    """The table of study `passk`: 16 samples a problem for k to 8; RL cannot solve some problems that the base solves."""
    arms = []
    for name, recovery in (("base", -0.2), ("rl", 0.8), ("hybrid", 0.5)):
        table = make.arm(name, recovery, 0.0)
        if name == "rl":
            table.loc[table["problem"].isin(["p00", "p01", "p02"]), ["correct", "grade_strict"]] = [False, "wrong"]
        table["valid"] = table["correct"] & (make.rng.random(len(table)) < 0.9)
        arms.append(table)
    Rollouts(pd.concat(arms, ignore_index=True), {}).save(tables / "passk.parquet")


def write_traces(tables: Path) -> None:
    """The table of the trace reader, with text that tries to break out of the page."""
    rows = []
    for problem in ("p00", "p01"):
        for sample in (0, 1):
            for arm in ("base", "hybrid", "rl"):
                tokens = ["think", "so", EVIL if arm == "hybrid" else "a", "7", "1", "4", "ans", "<eos>"]
                changed = [arm != "base" and t in (0, 3) for t in range(len(tokens))]
                rows.append({
                    "problem": problem, "sample": sample, "arm": arm, "question": f"{EVIL} 4 7 1 : a rot =", "answer": "7 1 4",
                    "correct": arm != "base", "tokens": tokens, "base_tokens": ["go", *tokens[1:3], "9", *tokens[4:]],
                    "source": [int(c) if arm == "hybrid" else int(arm == "rl") for c in changed], "changed": changed,
                    "base_entropy": [0.1 * t for t in range(len(tokens))], "divergence": [0.02 * t for t in range(len(tokens))],
                })  # fmt: skip
    pd.DataFrame(rows).to_parquet(tables / "traces.parquet")


@contextmanager
def few_draws() -> Iterator[None]:
    """Results from tables take 200 draws, not 2000: these tests compare numbers, they do not read them."""
    from latentreason.studies import recovery

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recovery, "Config", partial(recovery.Config, n_boot=200))
        yield


def write_run(root: Path, *, gap: float = 0.5) -> Path:
    """Tables and results in the layout of a run."""
    from latentreason.studies.recompute import recompute

    tables = root / "tables"
    tables.mkdir(parents=True)
    for seed, (temperature, samples) in enumerate((("t1", 8), ("greedy", 1))):
        write_temperature(tables, temperature, Maker(seed, samples, gap))
    write_passk(tables, Maker(2, 16))
    write_traces(tables)
    chosen = {"best_oracle": "on_divergence(js)", "best_base_only": "on_entropy"}
    passk = {"max_k": 8, "hybrid_max_k": 4, "n_answers": 1000, "n_boot": 200}
    (tables / "facts.json").write_text(json.dumps({"t1": chosen, "greedy": chosen, "passk": passk, "note": EVIL}))
    with few_draws():
        for name, result in recompute(tables, ["recovery", "recovery_greedy", "passk"]).items():
            result.save(root, name)
    return root


class Page(HTMLParser):
    """The elements of a page: (tag, attributes, own text); fails on a tag that is not closed in order."""

    VOID = ("meta", "img", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str], list[str]]] = []
        self.open: list[int] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {k: v or "" for k, v in attrs}, []))
        if tag not in self.VOID:
            self.open.append(len(self.found) - 1)

    def handle_endtag(self, tag: str) -> None:
        assert self.found[self.open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.found[self.open[-1]][2].append(data)

    def all(self, tag: str) -> list[tuple[dict[str, str], str]]:
        return [(attributes, "".join(text)) for name, attributes, text in self.found if name == tag]


def tokens(text: str) -> list[tuple[dict[str, str], str]]:
    return [span for span in Page(text).all("span") if "title" in span[0]]
