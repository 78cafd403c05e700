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
# # Grow an organism
#
# An organism is a pair (base, RL model) whose history we wrote ourselves, so that we know what an instrument must say of it. This notebook
# makes one that is not in the zoo, from its recipe to a verdict, without a line of code in the package: other weights (seed), another corpus,
# other operations.
#
# It takes about three minutes on a free core. With the environment variable `LATENTREASON_TINY=1` the sizes shrink, to test the notebook itself; then
# nothing is learned, and the verdict says so.

# %%
import os
import random
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from transformers.utils.logging import disable_progress_bar

import latentreason as lr
from latentreason.config import dump_config
from latentreason.errors import InvalidInput
from latentreason.files import read_table
from latentreason.judge import TINY, Judging, case_of, collect
from latentreason.measure.organism import Measuring, measure
from latentreason.organisms.corpus import Habits, write_trace
from latentreason.organisms.estimate import described, estimate
from latentreason.organisms.problems import problems_of
from latentreason.organisms.recipe import RL, Pretrain, Size
from latentreason.organisms.train import train
from latentreason.organisms.zoo import ACTIVATION
from latentreason.studies import boundary, formats, verdict

disable_progress_bar()  # of reading and writing weights
warnings.simplefilter("ignore", FutureWarning)  # of libraries, about settings that are not ours
tiny = bool(os.environ.get("LATENTREASON_TINY"))
folder = Path(tempfile.mkdtemp())  # a folder of your own resumes a training that was interrupted

# %% [markdown]
# ## The recipe
# We start from `activation`, whose base model can be right but mostly chooses badly, and change what we like with `dataclasses.replace`.
#
# - **Operations**: four easy ones and the two hard ones that are made of them, in problems of two or three.
# - **Corpus**: two of the four trace formats. Authors who write `go` leap half of the time, and a leap is nearly always wrong; those who write
#   `think` leap less. A hard operation is right if it is split into its parts, and few split.
# - **Size**, and the length of both trainings: as small as still learns.
#
# All that is wrong in this corpus comes from a bad choice, so RL can only change *when* strategies are used. We write that down as the truth
# before we look.

# %%
corpus = replace(
    ACTIVATION.corpus,
    operators=("rot", "inc", "rev", "dec", "mix", "warp"), min_ops=2, max_ops=3, p_hard=0.4, p_rare=0.0,
    formats=dict.fromkeys(ACTIVATION.corpus.formats, (0.0, 0.7, 0.3, 0.0)),  # direct, go, think, code; the same for every cue
    habits={"go": Habits(leap=0.5, split=0.1), "think": Habits(leap=0.2, split=0.4), "code": Habits()},
)  # fmt: skip
recipe = replace(
    ACTIVATION,
    name="mine", truth="timing", corpus=corpus, problems=corpus.problems,
    size=Size(d_model=16, n_layers=2, n_heads=2, n_kv_heads=1, d_mlp=32) if tiny else Size(d_model=64, n_layers=3, d_mlp=192, init_std=0.08),
    pretrain=Pretrain(steps=20, batch=8) if tiny else Pretrain(steps=1100, batch=64, lr=4e-3),
    rl=RL(steps=2, prompts=2, group=4, max_new_tokens=24) if tiny else RL(steps=24, prompts=12, group=16, lr=3e-4, max_new_tokens=48),
)  # fmt: skip
seed = 3

for problem in problems_of(recipe, limit=3):
    print(problem.question, "->", problem.answer, "| an author:", " ".join(write_trace(problem, recipe.corpus, random.Random(seed))))

# %% [markdown]
# A recipe that makes no sense is refused where it is written, before anything is trained.

# %%
for wrong in ({"formats": corpus.formats | {"A": (0.0, 0.7, 0.4, 0.0)}}, {"operators": ("rot", "mix")}):
    try:
        replace(corpus, **wrong)
    except InvalidInput as error:
        print(error)

# %% [markdown]
# ## The plan
# Minutes on two free cores, by the pace at which the built-in pair was trained.

# %%
plan = estimate([recipe], seed, folder / "work")
plan.assign(what=described(recipe))[["organism", "truth", "parameters", "what", "minutes", "base", "megabytes"]].round(2)

# %% [markdown]
# ## Training
# First the base, on the authors' traces; then GRPO on it, rewarded for right answers. `folder / "work"` keeps each model under a name made
# of all that went into it, so that a second recipe with the same corpus would not train its base again.

# %%
trained = train(recipe, folder / "mine", seed=seed, work=folder / "work", progress=False)
print(*sorted(file.name for file in trained.iterdir()))

# %%
curve = read_table(trained / "curve_rl.parquet").dropna(subset=["pass_rate"])
figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.2), layout="constrained")
left.plot(np.arange(1, len(curve) + 1), curve["pass_rate"], ".-")
left.set(ylabel="right, of the rollouts of a step", ylim=(0, 1), title="Pass rate in training")
for strategy in ("so", "leap", "split"):
    right.plot(np.arange(1, len(curve) + 1), curve[f"strategy/{strategy}"], ".-", label=strategy)
right.set(ylabel="times a trace", title="Strategies")
right.legend(frameon=False)
for ax in (left, right):
    ax.set_xlabel("RL step")

# %% [markdown]
# ## Measuring
# `measure` samples both models on the same test problems and counts: a row a problem and model. The studies of the zoo read these tables.
# They know an organism by what was done to it, so a new one needs no entry anywhere.

# %%
how = Measuring(n_problems=4, n_samples=4, n_training=2) if tiny else Measuring(n_problems=100, n_samples=32, n_training=60)
tables = measure(recipe, trained, folder / "measured", seed=seed, cache=folder / "counts", how=how, progress=False)
counts = read_table(tables / "counts.parquet").groupby("arm").sum(numeric_only=True)
shown = {"right": "correct", "with a valid trace": "correct_valid", "outside the grammar": "unparsed", "in format think": "format/think"}
pd.DataFrame({name: counts[column] / counts["n"] for name, column in shown.items()}).round(3)

# %%
curves, organisms, rows = (read_table(tables / f"{name}.parquet").assign(organism=recipe.name, seed=seed) for name in ("curves", "organisms", "counts"))
print(formats.run(curves=curves, organisms=organisms))
print(boundary.run(counts=rows, organisms=organisms, config=boundary.Config(max_k=2 if tiny else 16)))

# %% [markdown]
# ## The verdict
# What the judge gets is counts of right samples: eight arms, in which base and RL tokens are mixed by position (where a strategy is chosen,
# and everywhere else) and by temperature; training problems, and many samples of some problems for the flags.

# %%
judging = replace(TINY, max_new_tokens=24) if tiny else Judging(n_samples=16, breadth_samples=64, max_new_tokens=48)
pair = lr.ModelPair.from_folder(trained, recipe.name)
counts, tried = collect(pair, case_of(recipe, judging, seed), judging, folder / "judged", progress=False)
result = verdict.run(counts=counts, tried=tried)
print(result)
axes = result.plot()

# %%
shares = result.table[result.table["quantity"].isin(["gain", "part", "share", "lead"])]
shares[["quantity", "cause", "over", "value", "lo", "hi", "n", "reason"]].round(3)

# %% [markdown]
# Parts add up to the gain; shares are parts of it, signed. A small part is no noise where its interval leaves out 0: a model so small and so
# briefly trained also writes wrong digits by chance, which a lower temperature would mend. Beside the cause stand flags, each with what was
# measured:

# %%
for name, flag in result.details["flags"].items():
    print(f"{name:11} {'RAISED' if flag['raised'] else 'no':7} {flag['reason']}")
print(f"\ntruth: {recipe.truth}; verdict: {result.details['verdict']}")

# %% [markdown]
# If the verdict is not the truth, this is where to look: *undefined* means that the lower bound of the gain is not above 0 (too little
# training, or too few problems to see it), *undecided* and *mixed* that the parts' intervals do not tell one cause from another. A small model
# that has not learned its operations well makes errors that are no choice; whatever RL mends there is content, or sharpening.
#
# ## The judge is blind
# It receives counts and nothing else (`key` says only which rows were collected together): a table that says whose it is is refused.

# %%
print(list(counts))
try:
    verdict.run(counts=counts.assign(organism=recipe.name, reward=recipe.rl.reward), tried=tried)
except InvalidInput as error:
    print(error)

# %% [markdown]
# Problems under other names, in another order, change no number.

# %%
names = {problem: f"problem {i}" for i, problem in enumerate(np.random.default_rng(1).permutation(counts["problem"].unique()))}
renamed = counts.assign(problem=counts["problem"].map(names)).sample(frac=1, random_state=1)
again = verdict.run(counts=renamed, tried=tried)
print("the same to the last digit:", again.table.equals(result.table) and again.finding == result.finding)

# %% [markdown]
# And where there is nothing to explain, it says so: here the base model stands in for its own RL model.

# %%
nothing = lr.ModelPair(pair.base, pair.base, "nothing")
counts, tried = collect(nothing, case_of(recipe, judging, seed), judging, folder / "nothing", progress=False)
print(verdict.run(counts=counts, tried=tried))

# %% [markdown]
# ## The same from the command line
# A recipe is a TOML file, too. What it leaves out is as in `Recipe`; a key that does not exist names its neighbour.
#
# ```bash
# latentreason organisms train mine.toml --seed 3
# latentreason organisms measure mine.toml --seed 3
# latentreason verdict --pair artifacts/runs/organisms/mine-3
# latentreason calibrate --organisms mine.toml --seed 3      # beside the truth that the recipe states
# ```

# %%
(folder / "mine.toml").write_text(dump_config(recipe))
print((folder / "mine.toml").read_text()[:500], "...")
