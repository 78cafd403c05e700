"""The picture of a pair in one small table: is it the organism that its recipe asks for?"""

import pandas as pd

from latentreason.hybrid.decode import Arms, Hybrid
from latentreason.models.pair import ModelPair
from latentreason.routing.controls import always, at_strategy, first_token, never
from latentreason.sampling.local import Sampling, sample
from latentreason.stats import Estimate, gap_recovered, mean_estimate, pooled_ratio
from latentreason.strategies.language import language
from latentreason.tasks import chain
from latentreason.tasks.problem import Problem
from latentreason.tasks.registry import load_task


def picture(pair: ModelPair, task: str = "chain", *, problems: list[Problem] | None = None, seed: int = 0, n_problems: int = 200, n_samples: int = 16,
            progress: bool = True) -> pd.DataFrame:  # fmt: skip
    """Accuracy of base and RL model, D, and what the first token, timing and content positions recover, at temperature 1 and greedy.

    Args:
        pair: an organism.
        task: of its problems.
        problems: None for `n_problems` of the task's test split.
        seed: of the training, for the table.
        n_problems, n_samples: how many, and samples of each at temperature 1.
        progress: show a bar.

    Returns:
        One row an estimate: seed, temperature, quantity, arm, value, lo, hi, n, text.
    """
    problems, timing = problems or load_task(task, split="test", limit=n_problems), at_strategy(language(task, pair.base.tokenizer))
    routers = {"base": never(), "rl": always(), "first_token": first_token(), "timing": timing, "content": ~timing}
    arms = Arms([Hybrid(pair, router, name=name) for name, router in routers.items()])
    rows: list[dict[str, object]] = []

    def add(temperature: float, quantity: str, arm: str, e: Estimate) -> None:
        rows.append({"seed": seed, "temperature": temperature, "quantity": quantity, "arm": arm, "value": e.value, "lo": e.lo, "hi": e.hi, "n": e.n, "text": str(e)})

    for temperature, n in ((1.0, n_samples), (0.0, 1)):
        rollouts = sample(arms, problems, Sampling(n=n, temperature=temperature), progress=progress)
        grades = {name: rollouts.arm(name).matrix() for name in routers}
        changed = {name: rollouts.arm(name).per_problem("n_changed", how="sum").to_numpy(float) for name in routers}
        tokens = {name: rollouts.arm(name).per_problem("n_tokens", how="sum").to_numpy(float) for name in routers}
        for name in routers:
            add(temperature, "accuracy", name, mean_estimate(grades[name], share=True))
            if name != "base":
                add(temperature, "changed", name, pooled_ratio(changed[name], tokens[name]))
            if name not in ("base", "rl"):
                add(temperature, "gap recovered", name, gap_recovered(grades["base"], grades["rl"], grades[name]))
        formats = rollouts.table["text"].str.split().str[0].fillna("")
        for name in ("base", "rl"):
            for form in chain.FORMATS if task == "chain" else ():
                share = (formats == form)[rollouts.table["arm"] == name].groupby(rollouts.table["problem"]).mean()
                add(temperature, f"format {form}", name, mean_estimate(share.to_numpy(float), share=True))
    return pd.DataFrame(rows)
