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
# # Steering: vectors in place of tokens
#
# A swapped token is the RL model's own word: it shows when, but it brings the what along. A **steering vector** that was fitted on the base model
# brings nothing from RL. So: does the base model have strategy vectors, do they do anything, and how much of the gain comes back when they
# are added where the RL model would have spoken?
#
# Two columns decide what a number says. **Base-fitted** vectors speak of what was there before RL; **RL-fitted** ones, and all that are
# trained on the RL model's tokens, are supervision. Everything is small; intervals are 95% over problems.

# %%
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

import latentreason as lr
from latentreason.hybrid.calibrate import calibrate
from latentreason.stats import mean_estimate

plt.rcParams["figure.dpi"] = 80
sample, calibrate = (partial(f, progress=False) for f in (lr.sample, calibrate))

tiny = bool(os.environ.get("LATENTREASON_TINY"))
n_fit, n_problems, n = (20, 4, 2) if tiny else (60, 40, 4)

pair = lr.ModelPair.from_organism("activation")
fit, calibration, problems = (
    lr.load_task("chain", split=split, limit=limit, seed=0)
    for split, limit in (("fit", n_fit), ("calibration", n_problems // 2), ("test", n_problems))
)
sampling = lr.Sampling(n=n, max_new_tokens=28 if tiny else 96)
ends = [lr.Hybrid(pair, lr.never(), name="base"), lr.Hybrid(pair, lr.always(), name="rl")]
own = sample(lr.Arms(ends), fit, sampling)  # each model's own traces, to fit on
text = lr.language("chain", pair.base.tokenizer)

# %% [markdown]
# ## Fit, with controls
# One vector a strategy and layer: mean activation before its first token, minus the mean before the other strategies'. `split_half` is the
# cosine between the vectors of two halves of the problems; a vector far below 1 is noise, and so is every cosine with it.

# %%
vectors = {
    name: lr.fit_vectors(lm, own.arm(name), text.spans(own.arm(name))) for name, lm in (("base", pair.base), ("rl", pair.rl))
}
middle = pair.base.n_layers // 2
pd.DataFrame(
    [
        {"fitted on": name, "strategy": v.label, "n": v.n, "scale": v.scale, "split_half": v.info["split_half"]}
        for name, found in vectors.items()
        for v in found.at(middle).values()
        if ":" not in v.label
    ]
).round(2)

# %% [markdown]
# Is the base model's vector the RL model's? A cosine alone is no evidence: what goes with a strategy (the format of the trace, the position)
# is in both models' vectors. So that part is taken out, and the same is done to labels that are shuffled within format and position. A strategy is
# refuted where its cosine does not exceed the 95th percentile of the shuffles.

# %%
from latentreason.geometry.measure import cosines

compared = cosines(pair, own.arm("base"), own.arm("rl"), text, n_shuffles=100, n_boot=200, min_spans=4 if tiny else 20)
at = compared[(compared["layer"] == middle) & (compared["family"] == "strategy")].set_index("label")


def of(quantity, kind):
    return at[(at["quantity"] == quantity) & (at["kind"] == kind)]


cosine, null = of("cosine_within", "base_rl"), of("cosine_within", "shuffled")
interval = cosine.apply(
    lambda r: f"{r['value']:.2f} [{r['lo']:.2f}, {r['hi']:.2f}]" if pd.notna(r["value"]) else r["reason"], axis=1
)
reliability = {
    f"reliability, {name}": of("reliability_within", kind)["value"].round(2)
    for name, kind in (("base", "base"), ("RL", "rl"))
}
pd.DataFrame({"cosine, base and RL": interval, "shuffles, 95th percentile": null["hi"].round(2), **reliability}).astype(
    object
).fillna("")

# %% [markdown]
# ## Which layer?
# A vector is added where a strategy is about to be chosen (`at_strategy`, which knows the grammar: fine for a look, no headline). Beside each
# stands its random twin of the same norm. If the twin opened as many splits, the direction would be nothing. Layers are tried on
# calibration problems, and the one chosen here is used from here on. The last one is shown and not chosen: after it come only the final norm
# and the unembedding, so a vector there is a bias on words.

# %%
label = "split"


def opened(arms, on):
    """How often the strategy is opened in a trace, and accuracy, by arm."""
    found = sample(lr.Arms(arms), on, sampling)
    found = lr.Rollouts(found.table.assign(opened=found.table["text"].str.count(label)))
    return pd.DataFrame(
        [
            {
                "arm": name,
                "opened": mean_estimate(found.arm(name).per_problem("opened").to_numpy()),
                "accuracy": mean_estimate(found.arm(name).per_problem().to_numpy(float)),
            }
            for name in found.arms
        ]
    )


def steered(chosen, strength, name):
    return lr.Hybrid(pair, lr.at_strategy(), lr.steer(chosen, label=label, strength=strength), name)


layers = range(pair.base.n_layers)
sets = {"base-fitted": vectors["base"], "RL-fitted": vectors["rl"], "random twin": vectors["base"].random_like(0)}
sweep = opened(
    [ends[0], *(steered(chosen.at(layer), 1.0, f"{name}|{layer}") for name, chosen in sets.items() for layer in layers)],
    calibration,
)

from latentreason.studies.palette import ARMS

_, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
for shift, (name, colour) in enumerate(zip(sets, (ARMS["base"], ARMS["rl"], ARMS["control"]), strict=True)):
    row = [sweep.set_index("arm")["opened"][f"{name}|{layer}"] for layer in layers]
    ax.errorbar(
        [layer + 0.08 * (shift - 1) for layer in layers],
        [e.value for e in row],
        [[e.value - e.lo for e in row], [e.hi - e.value for e in row]],
        fmt="o-",
        color=colour,
        label=name,
    )
ax.axhline(sweep["opened"][0].value, color="0.6", linestyle=":", label="not steered")
ax.set(xlabel="layer", xticks=list(layers), ylabel=f"{label}s opened a trace", title="strength 1")
ax.legend(frameon=False, fontsize=8)
layer = max(layers[:-1], key=lambda i: sweep.set_index("arm")["opened"][f"base-fitted|{i}"].value)
print("chosen: layer", layer)

# %% [markdown]
# ## How strong, and beside what?
# Strength 1 is the mean gap between "with" and "without". `steer_persistent` adds the vector to the last tokens together. The plainest rival is
# a **logit bias** on the word that opens the strategy: a vector that does no more than the bias says where the word is written, not how the
# strategy is represented. More splits need not be more right answers: see the last column.

# %%
doses = [steered(vectors["base"].at(layer), strength, f"base-fitted, {strength:g}") for strength in (0.25, 0.5, 1.0, 2.0)]
doses += [
    steered(vectors["rl"].at(layer), 1.0, "RL-fitted, 1"),
    steered(sets["random twin"].at(layer), 1.0, "random twin, 1"),
]
doses += [
    lr.Hybrid(
        pair,
        lr.at_strategy(),
        lr.steer_persistent(vectors["base"].at(layer), label=label, strength=1.0, window=8),
        "base-fitted, 1, window of 8",
    )
]
doses += [
    lr.Hybrid(pair, lr.at_strategy(), lr.logit_bias(text.tokens[label], nats), f"logit bias, {nats:g} nats")
    for nats in (1.0, 3.0)
]
opened([ends[0], *doses], problems)

# %% [markdown]
# ## How much of the gain?
# Now without the grammar: the router is `on_divergence("js")` at three quarters of D, and the vector is that of the **category** that an activation
# falls into, read off the RL model (an oracle) or off the base. Strengths are chosen on calibration problems, for controls as well. The column
# `uses` says where timing, category and vectors come from.

# %%
from latentreason.hybrid.steering import fit_category, random_category, steer_by
from latentreason.vectors.contrast import capture_onsets

when, own_when = calibrate(
    [lr.on_divergence("js"), lr.on_entropy()], pair, calibration, [0.75], sampling=sampling, quick=True
)
labels = tuple(label for label in vectors["base"].labels if label in vectors["rl"].labels)
category = {
    name: fit_category(
        capture_onsets(lm, own.arm(name), text.spans(own.arm(name)), layers=middle), layer=middle, model=name, labels=labels
    )
    for name, lm in (("base", pair.base), ("rl", pair.rl))
}
print({name: f"category right on {c.accuracy:.2f} of held-out onsets" for name, c in category.items()})

chosen = {name: found.at(layer) for name, found in sets.items()}
arms = {  # name: what it uses, router, action at a strength
    "base vectors": (
        "RL timing, RL category, base-fitted vectors",
        when,
        lambda s: steer_by(chosen["base-fitted"], category["rl"], strength=s),
    ),
    "RL vectors": (
        "RL timing, RL category, RL-fitted vectors",
        when,
        lambda s: steer_by(chosen["RL-fitted"], category["rl"], strength=s),
    ),
    "random vectors": (
        "RL timing, RL category, random vectors",
        when,
        lambda s: steer_by(chosen["random twin"], category["rl"], strength=s),
    ),
    "random category": (
        "RL timing, random category, base-fitted vectors",
        when,
        lambda s: steer_by(chosen["base-fitted"], random_category(labels), strength=s),
    ),
    "mean vector": ("RL timing, mean of base-fitted vectors", when, lambda s: lr.steer(chosen["base-fitted"], strength=s)),
    "base alone": (
        "base timing, base category, base-fitted vectors",
        own_when,
        lambda s: steer_by(chosen["base-fitted"], category["base"], strength=s),
    ),
    "swap": ("RL timing, RL token", when, lambda s: lr.swap()),
    "swap, base timing": ("base timing, RL token", own_when, lambda s: lr.swap()),
}

# %%
grid = (2.0,) if tiny else (1.0, 2.0, 4.0)
tried = sample(
    lr.Arms([lr.Hybrid(pair, r, act(s), f"{name}|{s}") for name, (_, r, act) in arms.items() for s in grid]),
    calibration,
    replace(sampling, keep_tokens=False),
)
accuracy = tried.table.groupby("arm")["correct"].mean()
best = {name: max(grid, key=lambda s: accuracy[f"{name}|{s}"]) for name in arms if "swap" not in name}


from latentreason.steered import read_again


def recovered(hybrids, uses, sampling):
    """Share of the gain of each hybrid, with what it uses and how many tokens a model reads for each token."""
    found = sample(lr.Arms([*ends, *hybrids]), problems, sampling)
    facts = {}
    for hybrid in hybrids:
        table = found.arm(hybrid.name).table
        models = 1 if uses[hybrid.name].startswith("base timing") and "again" in hybrid.action.reads else 2
        facts[hybrid.name] = {
            "uses": uses[hybrid.name],
            "passes": round(models + read_again(hybrid.action, table["routed"]), 1),
            "setting": best.get(hybrid.name, 1.0),
            "tried": [],
        }
    return lr.studies.rivals.run(
        base=found.arm("base"), rl=found.arm("rl"), rivals=lr.concat([found.arm(h.name) for h in hybrids]), facts=facts
    )


result = recovered(
    [lr.Hybrid(pair, r, act(best.get(name, 1.0)), name) for name, (_, r, act) in arms.items()],
    {name: uses for name, (uses, *_) in arms.items()},
    sampling,
)
result.readable("accuracy", "recovery", by=["arm", "timing_source", "content_source", "category_source", "setting", "passes"])

# %%
result.plot()

# %% [markdown]
# Base-fitted vectors recover a large part of the gain and random ones of the same norms nothing: the directions were there before RL. But *which* vector
# is added was read off the RL model. With a category at random the gain is gone, and with the base's own, too, though the base's own *timing* loses
# little where the RL model gives the token. Had "base alone" come near the first row, the base model would have had all of it; on this pair that is refuted.
# Nor does a vector say how a strategy is represented: a plain logit bias on the word of the same category is the arm that it would have to exceed, and in
# the full-size table below it does not.
#
# ## Vectors trained on the RL model's tokens
# `fit_optimised` moves a vector by gradient until the base model says what the RL model says where the two disagree. Problems are split: to
# train, to select the seed, to report. The loss is cross-entropy in nats on each part; "nothing added" is the base model. `optimism` is by how
# much the choice of the seed flatters itself. All rows are RL-fitted.

# %%
from latentreason.hybrid.presets import among, categorised, published_without, steer_best, venhoff_g1, venhoff_g3
from latentreason.vectors.optimised import fit_optimised

places = categorised(
    pair, own.arm("rl"), category["rl"], at_least=15 if tiny else 50
)  # rarer ones fall to the likeliest of these
how = {"layer": middle, "seeds": (0,) if tiny else (0, 1), "epochs": 1 if tiny else 6}
trained = {
    "one vector": fit_optimised(pair.base, own.arm("rl"), places.assign(strategy="bias"), **how),
    "a vector a category": fit_optimised(pair.base, own.arm("rl"), places, **how),
    "and a learned strength": fit_optimised(pair.base, own.arm("rl"), places, strength="learned", **how),
}
losses = pd.concat([found.table.assign(trained=name, optimism=found.optimism) for name, found in trained.items()])
losses["seed"] = losses["seed"].astype(str).replace("-1", "nothing added")
losses.set_index(["trained", "seed"])[["epochs", "train", "select", "report", "chosen", "optimism"]].round(3)

# %% [markdown]
# ## The reference's two algorithms, with the controls that they lack
# `venhoff_g1` tries strengths and windows and keeps the token that the RL model finds likeliest; `venhoff_g3` adds a vector with a learned strength.
# Both ask the RL model at every token where to act. Decoding is greedy, as theirs. Three controls at the same positions: the RL
# model's token (at greedy the RL model itself, by identity), its choice among the base's five likeliest tokens **without any steering**, and random
# vectors of the learned norms. A preset that does not exceed the last two has not shown that its vectors matter.

# %%
known = among(category["rl"], trained["a vector a category"].vectors.labels)
small = {"strengths": (0.5, 1.0), "windows": (None, 1)}
greedy = replace(sampling, n=1, temperature=0.0)
several, learned = (trained[name] for name in ("a vector a category", "and a learned strength"))
first, last = venhoff_g1(pair, several.vectors, known, **small), venhoff_g3(pair, learned, category["rl"])
without = published_without(first, several.vectors, lambda v: steer_best(v, known, **small))
without |= {
    "g3": published_without(
        last, learned.vectors, lambda v: steer_by(v, among(category["rl"], v.labels), strength=learned.strength)
    )["random vectors"]
}
knows = "RL logits at every token"
uses = {
    "venhoff_g1": f"{knows}, RL-fitted vectors", "venhoff_g1: swap": "RL token at the same positions", "venhoff_g1: rerank": f"{knows}, no vectors", "venhoff_g1: random vectors": f"{knows}, random vectors",
    "venhoff_g3": "RL tokens at every token, RL-fitted vectors", "venhoff_g3: random vectors": "RL tokens at every token, random vectors",
}  # fmt: skip
presets = recovered([first, last, *without.values()], uses, greedy)
presets.readable("accuracy", "recovery", by=["arm", "timing_source", "content_source", "passes"])

# %%
presets.plot()

# %% [markdown]
# The trained vectors matter: random ones do next to nothing. Yet the RL model's choice among five tokens of the base model does the same with no vector
# at all, and asks no more of the RL model. So the presets show that the base model can be pushed into the RL model's words, not that it knew when.

# %% [markdown]
# ## At full size
# 200 test problems, every layer and six strengths tried for each arm, as `latentreason compare` makes them:

# %%
committed = Path(lr.__file__).parents[1] / "artifacts" / "results"
full = lr.Result.load(committed / "activation", "steering")
print(full)
full.plot()

# %% [markdown]
# ## What the published table says
# The reference's own accuracies, recomputed: signed gaps with intervals, for all pairs. It has no control arm, so it cannot say whether it matters
# which tokens are steered; it can say for which kinds of training the recipe works at all.

# %%
audit = lr.Result.load(committed / "published", "published")
print(audit)
audit.plot()
