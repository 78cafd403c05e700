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
# # Quickstart: when, or how?
#
# RL lifts a base model from few right answers to nearly all. Did it learn *how* to do something new, or *when* to do what it could do
# already? We take a pair of small models whose history we know, let the base model decode, and swap only a few tokens for the RL model's.
#
# Everything runs on a laptop's CPU in a few minutes. With the environment variable `LATENTREASON_TINY=1` the sizes shrink, to test the
# notebook itself.

# %%
import os

import latentreason as lr

tiny = bool(os.environ.get("LATENTREASON_TINY"))
n_problems, n = (8, 4) if tiny else (100, 16)

pair = lr.ModelPair.from_organism("activation")
problems = lr.load_task("chain", split="test", limit=n_problems, seed=0)
print(problems[0].question, "->", problems[0].answer)

# %% [markdown]
# A problem is a start state of three digits and a list of operations. A completion picks a format, goes through the operations by
# strategies (single steps, leaps, splits, checks) and ends with the answer. Errors come from bad choices: a leap is nearly always wrong.
#
# ## Base and RL model
# The base's and the RL model's samples share their random noise, so that they differ only where the models do. `Hybrid(pair, always())`
# is the RL model with a record of what the base would have said at each token.

# %%
sampling = lr.Sampling(n=n)
base = lr.sample(lr.Hybrid(pair, lr.never(), name="base"), problems, sampling)
rl = lr.sample(lr.Hybrid(pair, lr.always(), name="rl"), problems, sampling)
for name, rollouts in {"base": base, "rl": rl}.items():
    print(name, "accuracy", rollouts.table["correct"].mean().round(3))
D = rl.table["n_changed"].sum() / rl.table["n_tokens"].sum()
print(f"D: the RL model changes {D:.1%} of its tokens")

# %%
base

# %% [markdown]
# ## A router, at half of D
# `on_divergence("js")` swaps where the two models' next-token distributions differ most; `on_entropy` looks at the base model alone.
# Thresholds are chosen on calibration problems, never on the test problems. Each router comes with a control that changes as many tokens
# at random places where the two models differ.

# %%
calibration = lr.load_task("chain", split="calibration", limit=12 if tiny else 100, seed=0)
hybrids, controls = [], []
for router in (lr.on_divergence("js"), lr.on_entropy()):
    chosen = lr.calibrated(router, pair, calibration, changed=0.5)
    hybrids.append(lr.sample(lr.Hybrid(pair, chosen), problems, sampling))
    controls.append(lr.sample(lr.Hybrid(pair, lr.matched_disagreement(chosen), name=f"control of {router.name}"), problems, sampling))

# %%
result = lr.studies.recovery.run(base=base, rl=rl, hybrid=lr.concat(hybrids), control=lr.concat(controls))
print(result)
result.plot()

# %%
shown = result.table.query("quantity in ['recovery', 'changed_of_D', 'recovery_difference']")
shown[["quantity", "arm", "control", "value", "lo", "hi"]]

# %% [markdown]
# ## Who said what
# The trace reader colours tokens by who said them; swapped tokens that changed something are marked.

# %%
from latentreason.figures.display import show

show(hybrids[0], problem=problems[0].id, sample=0, decode=lambda i: pair.base.tokenizer.decode([i]))

# %% [markdown]
# ## Strategy vectors of the base model
# One vector a strategy and layer, from the base model's own traces: mean activation where the strategy is about to begin, minus the mean
# where another one is. They are fitted on problems of their own (split `fit`) and tried on the test problems. `split_half` is the cosine
# between two halves of the data: below it no cosine to another model can be trusted.
#
# A vector moves how often its strategy is chosen; whether answers get better is another question, and a dose of 2 at all layers is too
# strong: the model splits again and again. A norm-matched random vector is the control. The figure `dose` of the main job shows the range.

# %%
fit = lr.sample(pair.base, lr.load_task("chain", split="fit", limit=n_problems, seed=0), sampling)
vectors = lr.fit_vectors(pair.base, fit, lr.tag(fit), layers=[2])
print(vectors.labels)


def steered(chosen, strength):
    return lr.sample(lr.Hybrid(pair, lr.at_strategy(), action=lr.steer(chosen, label="split", strength=strength), name="steered"), problems, sampling)


arms = {"base": base, "split, 0.5": steered(vectors, 0.5), "split, 2": steered(vectors, 2.0), "random, 2": steered(vectors.random_like(0), 2.0)}
for name, rollouts in arms.items():
    print(f"{name:10}", "splits a trace:", rollouts.table["text"].str.count("split").mean().round(2), "accuracy", rollouts.table["correct"].mean().round(3))
