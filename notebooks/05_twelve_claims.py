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
# # Twelve claims on reinforcement learning
#
# Each claim of the literature is a study of this package: a module that states the claim, its formula and what would refute it, and answers
# with an estimate and its interval. This notebook goes through all of them. It loads no model: it reads the results that are committed
# in `artifacts/results` and draws them. Where there is none yet, it says which command makes it.
#
# Claim and refutation are quoted from the docstring of the study (`help(lr.studies.recovery)`); formulas and limits are in `docs/studies.md`.

# %%
import inspect
import io
from dataclasses import asdict
from pathlib import Path

import pandas as pd
from IPython.display import Image, Markdown, display

import latentreason as lr
from latentreason.figures.figures import FIGURES
from latentreason.files import read_table
from latentreason.studies import STUDIES
from latentreason.studies.recompute import CLAIMS, JUDGED, ZOO
from latentreason.tables import COUNT_COLUMNS

places = [Path.cwd(), *Path.cwd().parents, Path(lr.__file__).parents[1]]
RESULTS = next((p / "artifacts/results" for p in places if (p / "artifacts/results").is_dir()), Path("artifacts/results"))

TWELVE = {
    "recovery": "When, not how",
    "geometry": "The strategies are there before RL",
    "passk": "The base model overtakes at large k",
    "boundary": "RL narrows, exploration widens",
    "planning": "Creation depends on the domain",
    "spurious": "Spurious rewards work nearly as well",
    "one_shot": "One example suffices",
    "formats": "RL echoes one format of pretraining",
    "contamination": "A gain can be memory",
    "coherence": "Locally coherent, not globally valid",
    "difficulty": "Over-hard problems harm",
    "curriculum": "Imitation first, then RL",
}
INSTRUMENT = {name: name.capitalize() for name in STUDIES if name not in TWELVE}

# %% [markdown]
# ## What there is
# A result lies in the folder of what it speaks of: a pair (`activation` is the built-in one, `smollm2-arith` a real language model), the
# `zoo` of organisms whose cause of gain is known by construction, or a `published` table.


# %%
def committed(study: str) -> dict[str, lr.Result]:
    """Folder -> what its committed result says of a study."""
    found = {file.parent.name: lr.Result.load(file.parent, study) for file in sorted(RESULTS.glob(f"*/{study}.json"))}
    stacked = [RESULTS / "zoo/tables" / f"{name}.parquet" for name in ("verdicts", "verdicts_temperatures")]
    if study == "verdict" and not found and all(file.is_file() for file in stacked):
        # the verdicts on all organisms lie in one table, of which the built-in pair is a part
        counts, tried = (read_table(file).query("organism == 'activation' and seed == 0") for file in stacked)
        if len(counts):
            tables = {"counts": counts[[*COUNT_COLUMNS]], "tried": tried[["temperature", "accuracy", "chosen"]]}
            found["activation"] = STUDIES[study].run(**tables)
    return found


def question(study: str) -> str:
    """What a study asks: its first line."""
    return inspect.getdoc(STUDIES[study]).splitlines()[0].partition(": ")[2]


results = {name: committed(name) for name in STUDIES}
overview = [{"study": n, "question": question(n), "committed for": ", ".join(results[n]) or "nothing yet"} for n in TWELVE | INSTRUMENT]
pd.DataFrame(overview).style.hide(axis="index").set_properties(**{"text-align": "left"})


# %%
def command(study: str) -> str:
    """What makes the result of a study."""
    if study in ZOO | JUDGED:
        after = ["calibrate"] if study in JUDGED else ["organisms measure all", "organisms publish"]
        return ", then ".join(f"`latentreason {verb}`" for verb in ["organisms train all", *after])
    verb = "verdict" if study == "verdict" else "claims" if study in CLAIMS else "reproduce"
    return f"`latentreason {verb} --pair activation`"


def picture(study: str, result: lr.Result) -> Image:
    """The study's figure. Few colours, of which line art has no more, keep the notebook small."""
    from PIL import Image as Pixels

    drawn, small = io.BytesIO(), io.BytesIO()
    FIGURES[study].plot({study: result}).savefig(drawn, dpi=90)
    pixels = Pixels.open(drawn).convert("RGB").quantize(128, Pixels.Quantize.MAXCOVERAGE, dither=Pixels.Dither.NONE)
    pixels.save(small, "PNG", optimize=True)
    return Image(small.getvalue())


MADE_FOR = {"contamination": "contaminated", "planning": "planning"}  # study -> the organism that was made to show it


def section(heading: str, study: str) -> None:
    """Claim, figure (of the organism made for it, else of the first folder), finding (of each), and what would refute the claim."""
    paragraphs = [" ".join(p.split()) for p in inspect.getdoc(STUDIES[study]).split("\n\n")]
    claim = next(p for p in paragraphs if p.startswith("Claim"))
    refuted = next(p for p in reversed(paragraphs) if "efuted" in p)
    for name, value in asdict(STUDIES[study].Config()).items():
        refuted = refuted.replace(f"`{name}`", f"{name} ({value})")
    display(Markdown(f"## {heading}\n`lr.studies.{study}`\n\n**Claim**{claim.removeprefix('Claim')}"))
    shown = sorted(results[study].items(), key=lambda item: item[0] != MADE_FOR.get(study))[:1]
    for folder, result in shown:
        caption = FIGURES[study].caption({study: result}).replace(result.finding, "")
        display(picture(study, result), Markdown(f"<small>{folder}. {caption}</small>"))
        if study == "contamination":  # what the score says, apart from memory and behaviour
            display(lr.studies.contamination.apart(result))
    said = ["\n".join([f"- *{folder}*: {result.finding}", *(f"  - {note}" for note in result.notes)]) for folder, result in results[study].items()]
    missing = f"No result is committed yet: {command(study)}."
    display(Markdown("**Finding**\n\n" + ("\n".join(said) or missing) + f"\n\n**What would refute it.** {refuted}"))


# %% [markdown]
# # The claims

# %%
for number, (study, title) in enumerate(TWELVE.items(), 1):
    section(f"{number}. {title}", study)

# %% [markdown]
# # The instrument
# The other studies ask whether the measurement can be believed: which signal finds the tokens that matter, what else recovers the gain, what
# the published table says once its gaps are signed, and whether the verdict on a pair is right where the cause is known by construction.

# %%
for study, title in INSTRUMENT.items():
    section(title, study)

# %% [markdown]
# ## Any of them anew
# `latentreason study NAME TABLES` computes a result from its tables again, `latentreason figures --check` all of them with their figures.
# On a pair of your own: `latentreason reproduce --pair BASE,RL`, then `latentreason claims --pair BASE,RL` and
# `latentreason verdict --pair BASE,RL`.
