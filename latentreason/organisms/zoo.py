"""The recipes of the organisms that we ship. To make another one, add another Recipe here."""

from latentreason.organisms.corpus import Corpus, Habits
from latentreason.organisms.recipe import AdapterRecipe, Recipe

ACTIVATION = Recipe(
    name="activation",
    truth="timing",
    corpus=Corpus(
        formats={
            "": (0.10, 0.54, 0.26, 0.10),
            "A": (0.15, 0.75, 0.08, 0.02),
            "B": (0.06, 0.28, 0.62, 0.04),
            "C": (0.10, 0.28, 0.14, 0.48),
        },
        habits={
            "go": Habits(leap=0.55, split=0.12, check_wrong=0.05, check_right=0.01),
            "think": Habits(leap=0.20, split=0.35, check_wrong=0.30, check_right=0.03),
            "code": Habits(split=0.30),
        },
    ),
)
"""The base knows how to be right (single steps, splits, checks) but mostly chooses to leap: RL can only change WHEN."""

ORGANISMS = {recipe.name: recipe for recipe in (ACTIVATION,)}

SMOLLM2_ARITH = AdapterRecipe(name="smollm2-arith", base="smollm2", task="arith", style="few_shot")
"""A real language model (SmolLM2-135M-Instruct) that may answer at once or step by step; nobody knows the cause of its gain beforehand."""

ADAPTERS = {recipe.name: recipe for recipe in (SMOLLM2_ARITH,)}
