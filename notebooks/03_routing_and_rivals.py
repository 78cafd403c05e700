# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Routing and its rivals
#
# If RL taught the base model *when*, a few well chosen tokens should carry the gain, and something should be able to tell which. Here: which
# signal finds them, can it be read off the base model alone, and what else on the same pair has the same gain?
#
# A **router** says when the RL model's token takes the place of the base model's. Everything is small: the full-size results of
# `latentreason compare`, which are committed, stand at the end. Numbers are means with 95% intervals over problems.

# %%
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

import latentreason as lr
from latentreason.hybrid.calibrate import calibrate  # many at once; `lr.calibrated` is for one

plt.rcParams["figure.dpi"] = 80
sample, calibrate = (partial(f, progress=False) for f in (lr.sample, calibrate))

tiny = bool(os.environ.get("LATENTREASON_TINY"))
n_problems, n_calibration, n = (4, 4, 1) if tiny else (50, 30, 4)

pair = lr.ModelPair.from_organism("activation")
problems = lr.load_task("chain", split="test", limit=n_problems, seed=0)
calibration = lr.load_task("chain", split="calibration", limit=n_calibration, seed=0)
sampling = lr.Sampling(n=n, max_new_tokens=32 if tiny else 96)

ends = sample(
    lr.Arms([lr.Hybrid(pair, lr.never(), name="base"), lr.Hybrid(pair, lr.always(), name="rl")]), problems, sampling
)
base, rl = ends.arm("base"), ends.arm("rl")
print({name: round(float(ends.arm(name).table["correct"].mean()), 3) for name in ends.arms})

# %% [markdown]
# `Arms` decodes several hybrids of one pair together. They share their random noise, hence most of their prefixes, so a sweep costs little
# more than one arm.
#
# ## A router of one's own
# A score of the `Step` (both models' logits, and more if the router asks), and where to look for its threshold. Ours asks how much RL
# talked the base model out of its favourite. What it reads is declared: that column says later where the timing comes from.


# %%
def regret(step):
    """By how many nats RL made the base model's favourite token less likely."""
    favourite = step.base_logprobs.argmax(-1, keepdim=True)
    return (step.base_logprobs - step.rl_logprobs).gather(1, favourite)[:, 0]


def on_regret(threshold=1.0):
    return lr.by_threshold("on_regret", regret, threshold, reads=frozenset({"base", "rl"}), search=(0.01, 20.0))


# %% [markdown]
# ## Several routers, the same budgets
# A budget is a share of **D**, the tokens that the RL model itself changes: at 1.0 D every router is the RL model, so a recovery without its
# budget says nothing. Thresholds come from calibration problems. `opposite` routes where a score is *lowest* first.

# %%
budgets = (0.5,) if tiny else (0.25, 0.5, 0.75)
candidates = [lr.on_divergence("js"), on_regret(), lr.on_entropy(), lr.opposite(lr.on_divergence("js"))]
routers = calibrate(candidates, pair, calibration, budgets, sampling=sampling, quick=tiny)
known = [
    {"router": r.name, "reads": ", ".join(sorted(r.reads)), "threshold": r.params["threshold"], **r.params["calibration"]}
    for r in routers
]
pd.DataFrame(known)[["router", "reads", "threshold", "budget", "share_of_D"]].round(3)

# %% [markdown]
# Each router stands beside two controls with its own budget: `matched_disagreement` changes as many tokens at random places where the two
# models differ, `matched_random` routes as often anywhere. The first is the one to beat: it has the RL model's tokens and its places,
# and only does not know *which* of them matter.

# %%
hybrid = sample(lr.Arms([lr.Hybrid(pair, router) for router in routers]), problems, sampling)
control = sample(
    lr.Arms([lr.Hybrid(pair, twin(router)) for router in routers for twin in (lr.matched_disagreement, lr.matched_random)]),
    problems,
    sampling,
)

# %% [markdown]
# The roles exchanged, with the same router: the RL model decodes, and the base model's tokens are put in where the two differ most. What is
# **lost** then is the other side of what is recovered.

# %%
turned = pair.exchanged()
back = calibrate([lr.on_divergence("js")], turned, calibration, budgets, sampling=sampling, quick=tiny)
exchanged = sample(lr.Arms([lr.Hybrid(turned, router) for router in back]), problems, sampling)

# %%
result = lr.studies.routing.run(base=base, rl=rl, hybrid=hybrid, control=control, exchanged=exchanged)
at_half = result.readable("changed_of_D", "accuracy", "recovery", by=["router", "control", "timing_source", "arm"]).query(
    "arm.str.endswith('@0.50')"
)
at_half.drop(columns="arm").reset_index(drop=True)

# %% [markdown]
# ## Base alone against the RL model live
# One number a router over all budgets: the area under its recovery from 0 to D, and by how much it exceeds that of its control. *Timing
# source* is what the router knows. Only "base alone" speaks of what was there before RL. Where a router's difference to
# `matched_disagreement` has an upper bound of 0 or less, it is refuted: it swaps no better tokens than as many at random. Where it includes 0, nothing is shown.

# %%
result.readable("area_difference", by=["router", "timing_source", "control"]).query("control == 'matched_disagreement'")

# %%
print(result)
result.plot()

# %%
result.readable("lost", by=["arm", "budget"])

# %% [markdown]
# ## Where two routers differ
# Recoveries can be alike for other reasons. On the RL model's own completions, each token that it changed: which of the two routers would
# have let it? `watched` records their scores at every token.

# %%
halves = {r.name: r for r in routers if r.params["calibration"]["budget"] == 0.5}
js, entropy = halves["on_divergence(js)"], halves["on_entropy"]
seen = sample(lr.Arms([lr.Hybrid(pair, lr.always())], watched=[js, entropy]), problems, sampling)
tokens = seen.table.explode(["token_ids", "base_token_ids", "changed", "score:0", "score:1"])
tokens = tokens[tokens["changed"].astype(bool)]
word = pair.base.tokenizer.convert_ids_to_tokens
said = pd.DataFrame(
    {
        "js": tokens["score:0"] > js.params["threshold"],
        "entropy": tokens["score:1"] > entropy.params["threshold"],
        "base to RL": [
            f"{word(int(b))} to {word(int(r))}" for b, r in zip(tokens["base_token_ids"], tokens["token_ids"], strict=True)
        ],
    }
)
by_pair = said.groupby("base to RL").agg(tokens=("js", "size"), js=("js", "mean"), entropy=("entropy", "mean"))
by_pair.sort_values("tokens", ascending=False).head(10).round(2)

# %% [markdown]
# The columns `js` and `entropy` are the share of these tokens that each router lets through: both see the choice of a format, and both let most of the
# `split`s of the format `code` pass by at this budget, about which the base model is sure. Now one problem that one of them gets right
# and the other does not, side by side:

# %%
from latentreason.figures.display import show

arms = {name: hybrid.arm(f"{name}@0.50") for name in ("on_divergence(js)", "on_entropy")}
right = [arm.table.set_index(["problem", "sample"])["correct"] for arm in arms.values()]
apart = [key for key in right[0].index if right[0][key] != right[1][key]] or [right[0].index[0]]
show(lr.concat(arms.values()), problem=apart[0][0], sample=apart[0][1], decode=lambda i: pair.base.tokenizer.decode([i]))

# %% [markdown]
# ## What it costs to ask
# The tokens do not depend on how the RL model is run. A router that reads the base model alone need not run it until a token is
# routed (`lazy`); one that reads both can let the base model draft a block and score it in one pass (`speculative`). One completion at
# a time, the RL model's forward passes counted:


# %%
def rl_passes(hybrid):
    """The tokens of a few problems, one at a time, and the forward passes of the RL model that they took."""
    passes = []
    counter = pair.rl.model.register_forward_pre_hook(lambda *_: passes.append(1))
    try:
        rows = [sample(hybrid, [p], replace(sampling, n=1)).table for p in problems[: 2 if tiny else 8]]
    finally:
        counter.remove()
    return [row["token_ids"][0].tolist() for row in rows], len(passes)


rows = []
for router, mode in ((entropy, "lazy"), (js, "speculative")):
    plain, in_step = rl_passes(lr.Hybrid(pair, router))
    other, fewer = rl_passes(lr.Hybrid(pair, router, mode=mode))
    assert other == plain, f"{mode} decoding must not change a token"
    rows.append(
        {
            "router": router.name,
            "mode": mode,
            "tokens": sum(map(len, plain)),
            "RL passes, lockstep": in_step,
            "RL passes in this mode": fewer,
        }
    )
pd.DataFrame(rows)

# %% [markdown]
# ## Rivals
# Other ways to the gain, each with the same calibration problems to choose its setting by: a lower **temperature** uses nothing of the RL
# model; **logit_delta** adds a multiple of the difference of logits (proxy tuning) at every token; **interpolation** mixes the weights. Two
# routers at 0.75 D stand beside them. If temperature alone came near 1, RL would have sharpened and no more.

# %%
from latentreason.hybrid.rivals import rivals_for, tuned

drawn, facts = [], {}
for rival in (r for r in rivals_for("chain") if r.name in ("temperature", "logit_delta", "interpolation")):
    some = replace(rival, grid=dict(list(rival.grid.items())[:2])) if tiny else rival
    setting, tried = tuned(some, pair, calibration, sampling)
    rollouts = rival.draw(pair, problems, sampling, {setting: rival.grid[setting]})[setting]
    drawn.append(lr.Rollouts(rollouts.table.assign(arm=rival.name), {rival.name: {}}))
    facts[rival.name] = rival.facts(setting, tried)
for name, uses, share in (("on_divergence(js)", "RL timing, RL token", 1.0), ("on_entropy", "base timing, RL token", None)):
    arm = hybrid.arm(f"{name}@{budgets[-1]:.2f}")
    drawn.append(arm)
    read = share or float(arm.table["n_routed"].sum() / arm.table["n_tokens"].sum())
    facts[arm.arms[0]] = {"uses": uses, "passes": 2, "rl_logits": read, "setting": f"{budgets[-1]:g} D", "tried": [], "routed": True}
rivals = lr.studies.rivals.run(base=base, rl=rl, rivals=lr.concat(drawn), facts=facts)
rivals.readable("accuracy", "recovery", by=["arm", "timing_source", "content_source", "setting", "rl_logits", "passes"])

# %% [markdown]
# Paired with each of the two routed hybrids, in shares of the gain:

# %%
rivals.readable("difference", by=["arm", "against"])

# %%
rivals.plot()

# %% [markdown]
# ## At full size
# The same two studies with 200 test problems, all routers, and fitted ones too (probes on the base's activations, and the value of a
# swap), as `latentreason compare` makes them. The best router of each group is the one that did best on calibration problems.

# %%
committed = Path(lr.__file__).parents[1] / "artifacts" / "results" / "activation"
full = lr.Result.load(committed, "routing")
print(full)
full.plot()

# %% [markdown]
# So the base model's own uncertainty finds tokens that matter better than as many disagreements at random. Whether it does so better than a clock, which routes as often at each exact position and
# looks at no model, cannot be said over the curve: the clock changes too few tokens, and at a quarter of D, which it reaches, it does as well or a little better. A probe of the base's state for where a strategy is
# about to open beats its clock over the curve, not at a quarter of D; but token and position alone predict those places as well as it does, so what it reads is the grammar.
# Refuted is `opposite`: it does worse than as many disagreements at random. `on_nearest` does in this seed of sampling, and better in two others (docs/routing.md has all of them side by side): its vectors are
# fitted anew each time. What the roles exchanged lose:

# %%
full.readable("lost", by=["arm"])

# %%
full_rivals = lr.Result.load(committed, "rivals")
print(full_rivals)
full_rivals.plot()

# %% [markdown]
# Sharpening the base model, by temperature, by power sampling or by votes, does not reach the gain on this pair; arithmetic on logits or
# weights does, at the price of the whole RL model. Neither says what the base model could do by itself: that is the question of
# notebook 04, where its own vectors take the place of the RL model's tokens.
