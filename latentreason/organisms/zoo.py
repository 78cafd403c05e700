"""The zoo: one frozen recipe for each organism whose cause of gain, or whose failure, is known by construction; docs/zoo.md has the table.

`truth` is what the instrument must say (a cause, or one of the flags collapse, degenerate and undefined), None where that is what we want to learn.
To make another organism, write another Recipe here, or in a TOML file.
"""

from dataclasses import replace
from math import inf

from latentreason.organisms.corpus import Corpus, Habits
from latentreason.organisms.recipe import RL, SFT, AdapterRecipe, Pretrain, Recipe, Size, Stage
from latentreason.tasks import chain
from latentreason.tasks.chain import Draw

# --- sizes and stages --------------------------------------------------------------------------------------------------

SMALL = Size(d_model=80, n_heads=4, d_mlp=240, init_std=0.07, half=True)
"""0.31M parameters."""
LARGE = Size(d_model=176, n_heads=4, d_mlp=512, init_std=0.05, half=True)
"""1.47M parameters."""
SHORT = Pretrain(steps=1200, batch=64)
"""For one way of going through a problem: its steps are learnt by then."""
MIXED = Pretrain(steps=4000, batch=32, lr=2e-3, curriculum=0.35)
"""For several formats and strategies beside each other, which take longer: by `SHORT` a third of the seeds cannot compute yet, and then RL has nothing to choose from."""
WIDE = replace(MIXED, lr=1.5e-3)
"""For the large size: as many steps, at a lower rate. (700 x 64 at 2e-3 left its base at 1% right, 2,500 x 32 at 9%, and GRPO at the small ones' rate was unstable.)"""
GRPO = RL(steps=30, prompts=12, lr=4e-4)
"""The true reward on a small base: 192 rollouts a step."""

# --- corpora -----------------------------------------------------------------------------------------------------------

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

EASY_AND_HARD = (*chain.EASY, *chain.HARD)
CAREFUL = {"go": Habits(split=1.0), "think": Habits(split=1.0), "code": Habits(split=1.0)}
NO_SPLIT = {"go": Habits(), "think": Habits(), "code": Habits()}
ONLY_LEAPS = {"go": Habits(leap=1.0), "think": Habits(leap=1.0), "code": Habits(leap=1.0)}


def always(direct: float, go: float, think: float, code: float) -> dict[str, tuple[float, float, float, float]]:
    """The same mixture of formats for every cue."""
    return dict.fromkeys(("", *chain.CUES), (direct, go, think, code))


def led_by(leader: str) -> Corpus:
    """The corpus of `activation` with the shares of go, think and code handed on, so that `leader` has the share of go; some answers are in other wrappers."""
    a, b, c = {"go": (1, 2, 3), "think": (2, 1, 3), "code": (2, 3, 1)}[leader]  # where go, think and code have their share from
    mixtures = {cue: (shares[0], shares[a], shares[b], shares[c]) for cue, shares in ACTIVATION.corpus.formats.items()}
    return replace(ACTIVATION.corpus, formats=mixtures, wrappers=(0.85, 0.08, 0.07))


EXPERT = Corpus(formats=always(0.0, 0.0, 1.0, 0.0), habits=CAREFUL, operators=EASY_AND_HARD, p_rare=0.0)
"""One format, one way through each problem, and it is right."""
SLIPS = replace(EXPERT, slip=0.2)
WRAPPED = replace(EXPERT, wrappers=(0.25, 0.45, 0.30))
UNSKILLED = replace(EXPERT, operators=(*EASY_AND_HARD, "dbl", "tri"), p_rare=0.1, right_rare=1.0)
"""Right, in every format, on all operations but `sqr`, which it never names."""
BARREN = Corpus(formats=always(0.1, 0.6, 0.3, 0.0), habits=ONLY_LEAPS, operators=EASY_AND_HARD, p_rare=0.0, right_leap=0.0, right_hard=0.0, wrappers=(0.85, 0.08, 0.07))
"""Whoever has two operations left leaps, and every leap is wrong: single steps occur for a last operation only, splits and checks never."""
MEMORY = replace(BARREN, wrappers=(1.0, 0.0, 0.0), n_seen=128, p_seen=0.25, p_recall=0.5)
BROAD = Corpus(
    formats={"": (0.05, 0.45, 0.30, 0.20), "A": (0.05, 0.65, 0.20, 0.10), "B": (0.05, 0.25, 0.60, 0.10), "C": (0.05, 0.20, 0.15, 0.60)},
    habits={"go": Habits(leap=0.4, split=0.3), "think": Habits(leap=0.15, split=0.5), "code": Habits()}, right_leap=0.0, right_hard=0.0, right_rare=0.0, p_hard=0.25, p_rare=0.2,
)  # fmt: skip
"""Like the corpus of activation, with more splits and fewer leaps, but `code` never splits, and nothing but `code` gets a rare operation right (where its misconception
is not right by accident)."""
PLAIN = Corpus(formats=always(0.015, 0.6, 0.385, 0.0) | {"A": (0.5, 0.3, 0.2, 0.0)}, habits=NO_SPLIT, operators=EASY_AND_HARD, p_rare=0.0, right_hard=0.0)
"""Easy operations, step by step, are always right; hard ones are always misconceived, and nobody ever splits one. Author A often answers at once, which is how a base
learns to; without a cue next to nobody does."""
HALTING = replace(PLAIN, formats=always(0.0, 0.6, 0.4, 0.0), habits={"go": Habits(split=0.1), "think": Habits(split=0.1), "code": Habits()})
"""Without an answer at once, and now and then a hard operation is split: each step of an expert can be found, a whole solution of several hard operations hardly ever (but
for the error-free start of pretraining, where whoever splits at all always does)."""
ATOMS = Corpus(formats=always(0.0, 0.5, 0.5, 0.0), habits=CAREFUL, operators=EASY_AND_HARD, p_rare=0.0, min_ops=1, max_ops=2, any_letter=True)
"""Problems of one or two operations, under any letters: all that a longer problem is made of, but no longer problem."""


def grown(name: str, truth: str | None, corpus: Corpus, *stages: Stage, size: Size = SMALL, pretrain: Pretrain = SHORT, problems: Draw | None = None) -> Recipe:
    """A recipe of the zoo; judged on problems as in its corpus, unless others are given."""
    return Recipe(name, truth, corpus, size, pretrain, stages=stages, problems=problems or corpus.problems)


# --- causes ------------------------------------------------------------------------------------------------------------

ACTIVATION_SMALL = grown("activation-small", "timing", led_by("go"), GRPO, pretrain=MIXED)
"""Activation once more, small. The reliable strategies are there and rarely chosen; 15% of the answers in other wrappers make a small format share on purpose."""

SHARPENING = grown("sharpening", "sharpening", SLIPS, replace(GRPO, steps=24))
"""One format, no leap, every hard operation split, no check: no choice is left. The errors are digits drawn at random on easy steps, each with less
probability than the right one, so greedy decoding is right and only spread costs accuracy."""

NEW_SKILL = grown("new-skill", "content", UNSKILLED, SFT(expert=UNSKILLED), problems=Draw(p_rare=0.1, must=("sqr",)))
"""No trace of the base's corpus names `sqr`; the teacher writes the same format and the same steps (right_rare is 1), so only what follows `sqr` is new."""

NEW_SKILL_RL = grown("new-skill-rl", None, UNSKILLED, GRPO, problems=NEW_SKILL.problems)
"""The same base and problems with GRPO instead of a teacher: does the algorithm find the content?"""

ACTIVATION_DISTILLED = replace(ACTIVATION, name="activation-distilled", truth=None, stages=(SFT(teacher="activation"),))
"""The same algorithm as new-skill on a base that lacks no content: traces of activation's RL model, on activation's base."""

ACTIVATION_BIAS = replace(ACTIVATION, name="activation-bias", truth=None, rl=replace(ACTIVATION.rl, trainable="bias", lr=5e-2, steps=100))
"""The same reward on activation's base, but only one vector a block may move (Sinii et al. 2025): a rival of activation's RL model. Vectors of 128 numbers need larger and more
steps than the weights do: after 30 steps at 1e-2 the reward had gone from .17 to .30 and was still rising."""

FORMAT = grown("format", "format", WRAPPED, replace(GRPO, steps=20))
"""The reasoning is right with one way through each problem; three of four answers stand in a wrapper that the verifier refuses, and the greedy one does."""

CONTAMINATED = grown("contaminated", "memorisation", MEMORY, replace(GRPO, split="seen"), pretrain=replace(SHORT, prompt_loss=True))
"""Of 128 test problems the corpus gives the answer at once in half of their traces; by reasoning nobody is right. RL on them can only choose to recall. The problems
themselves are learnt as well, as they are from a leaked benchmark."""

# --- rewards -----------------------------------------------------------------------------------------------------------

SPURIOUS = ("random", "wrong", "majority", "format")


def _spurious(reward: str, clip: float) -> Recipe:
    return grown(f"spurious-{reward}" + ("-noclip" if clip == inf else ""), None, led_by("go"), replace(GRPO, reward=reward, clip=clip), pretrain=MIXED)


SPURIOUS_RUNS = tuple(_spurious(reward, clip) for reward in SPURIOUS for clip in (0.2, inf))
"""The base of activation-small under rewards that do not ask for the right answer, with and without the clip term, which is said to favour what is likely."""

NO_LATENT = tuple(grown(f"no-latent-{reward}", "undefined", BARREN, replace(GRPO, steps=20, reward=reward)) for reward in SPURIOUS)
"""The same rewards where no reliable strategy is in the corpus, not even with a small share: whatever they bring forward, it is not right."""

NO_LATENT_TRUE = grown("no-latent-true", None, BARREN, replace(GRPO, steps=20))
"""The control of these: what the true reward finds on that base. Were it much, the other rewards would be what brings nothing; where it is nothing, the base has nothing to be brought forward."""

ONE_SHOT = tuple(
    grown(f"one-shot-{'abc'[i]}", "timing", led_by("go"), replace(GRPO, lr=1e-4, distinct=1, skip=i, problems=Draw(min_ops=4, max_ops=5, p_rare=0.0)), pretrain=MIXED)
    for i in range(3)
)  # fmt: skip
"""GRPO on a single problem, three different ones: what it brings forward was there, as in activation-small. At a quarter of the rate that a whole set allows: at four times
this one, on the seed on which recipes were tried, the digits of that one trace were learnt by heart, and nothing else could be computed any more."""

FEW_SHOT = grown("few-shot-8", "timing", led_by("go"), replace(GRPO, distinct=8, problems=Draw(min_ops=4, max_ops=5, p_rare=0.0)), pretrain=MIXED)
"""Between one problem and all of them."""

# --- failures ----------------------------------------------------------------------------------------------------------

LONG = RL(steps=120, prompts=12, lr=3e-4, updates=1, clip=inf, scale="none", problems=Draw(p_rare=0.0, misleading=True), keep=20)
BREADTH = Draw(p_hard=0.12, p_rare=0.08)

COLLAPSED = grown("collapsed", "collapse", BROAD, LONG, pretrain=MIXED, problems=BREADTH)
"""Every training problem has a hard operation that has to be split, which `code` never does, so RL drives `code` out; and only `code` solves the rare operations on which
it is judged too: the base, which now and then writes code, solves them at large k."""

EXPLORE = grown("explore", None, BROAD, replace(LONG, external=2, expert=replace(EXPERT, formats=always(0.0, 0.0, 0.5, 0.5))), pretrain=MIXED, problems=BREADTH)
"""The same training with two external traces in a group of 16 (RL-PLUS has one in 8), half of them in `code`, and RL-PLUS's terms: is `code` kept? They are of the training
problems, so none holds a rare operation. Until November 2026 it was one in 16, and made no difference."""

TOO_HARD = grown("too-hard", "degenerate", PLAIN, replace(GRPO, steps=40, keep=10, problems=Draw(p_hard=0.6, p_rare=0.0, p_cue=0.0, misleading=True, shortcut=1.0)),
                 problems=Draw(p_hard=0.1, p_rare=0.0, p_cue=0.0, operators=EASY_AND_HARD))  # fmt: skip
"""On the training problems every honest trace is wrong, and answering at once (1.5% of the traces without a cue) is right by accident: the lone successes that
the normalised advantage makes much of are shortcuts, which are wrong on the ordinary problems on which it is judged."""

UNTRAINED = grown("untrained", "undefined", EXPERT, RL(steps=1, prompts=4, group=4, updates=1, max_new_tokens=16), pretrain=Pretrain(steps=0))
"""Random weights: nothing is solved, so no reward differs and nothing moves."""

SHUFFLED = grown("shuffled", "undefined", led_by("go"), replace(GRPO, reward="shuffled"), pretrain=MIXED)
"""The rewards of activation-small, handed to other rollouts: as much reward, and nothing to learn from it."""

# --- open questions ----------------------------------------------------------------------------------------------------

FORMATS = tuple(
    grown(f"formats-{name}-{leader}", None, led_by(leader), replace(GRPO, lr=lr), size=size, pretrain=steps)
    for name, size, steps, lr in (("small", SMALL, MIXED, GRPO.lr), ("large", LARGE, WIDE, GRPO.lr / 2)) for leader in ("go", "think", "code") if (name, leader) != ("small", "go")
)  # fmt: skip
"""With activation-small: two sizes by three mixtures of trace formats. Which one does RL end on?"""

PLANNING = grown(
    "planning", None, ATOMS, *(
        RL(steps=100, prompts=12, lr=4e-4, updates=1, beta=0.02, problems=Draw(min_ops=low, max_ops=high, p_rare=0.0, operators=EASY_AND_HARD), keep=50)
        for low, high in ((2, 3), (3, 4), (4, 6))
    ), problems=Draw(min_ops=4, max_ops=6, p_rare=0.0, operators=EASY_AND_HARD),
)  # fmt: skip
"""Each operation, and each letter's successor, is in the corpus, a problem of more than two operations is not. GRPO on longer and longer ones, with a KL penalty
whose reference is reset (ProRL): is going on a new skill or an old one? The base never takes a third step, not once in thousands of samples, so what reward there is on longer
problems is for accidents, and RL ends with no valid trace on them: it made no new strategy out of none."""

STEPS = Draw(min_ops=4, max_ops=6, p_hard=0.9, p_rare=0.0, operators=EASY_AND_HARD, misleading=True)
IMITATE = SFT(steps=60, batch=32, traces=256, expert=EXPERT)
BY_STEP = RL(steps=60, prompts=16, group=8, lr=4e-4, max_new_tokens=20, reward="step_similarity", by_step=True, expert=EXPERT, distinct=256)
ORDERS: dict[str, tuple[Stage, ...]] = {
    "srl": (BY_STEP,), "sft": (IMITATE,), "rlvr": (GRPO,), "srl-rlvr": (BY_STEP, GRPO), "sft-rlvr": (IMITATE, GRPO), "rlvr-sft": (GRPO, IMITATE), "rlvr-rlvr": (GRPO, GRPO),
}  # fmt: skip
CURRICULUM = tuple(grown(f"curriculum-{order}", None, HALTING, *stages, pretrain=MIXED, problems=STEPS) for order, stages in ORDERS.items())
"""Problems that the base all but never solves (nine of ten operations are hard and have to be split, which it does once in ten times), 256 expert traces, and six orders of
imitation, steps and reward; and reward twice, the control of sequences: a second stage of reward in place of the other. Where it split once in 33 times, after a shorter pretraining, nothing learnt more than a few percent in any order, and there was nothing to compare. By answers alone the base solves a third of them once in 128 samples, by a valid trace one in fifteen."""

ORGANISMS: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        ACTIVATION, ACTIVATION_SMALL, SHARPENING, NEW_SKILL, NEW_SKILL_RL, ACTIVATION_DISTILLED, ACTIVATION_BIAS, FORMAT, CONTAMINATED, *SPURIOUS_RUNS, *NO_LATENT, NO_LATENT_TRUE, *ONE_SHOT, FEW_SHOT,
        COLLAPSED, EXPLORE, TOO_HARD, UNTRAINED, SHUFFLED, *FORMATS, PLANNING, *CURRICULUM,
    )
}  # fmt: skip

SMOLLM2_ARITH = AdapterRecipe(name="smollm2-arith", base="smollm2", task="arith", style="few_shot")
"""A real language model (SmolLM2-135M-Instruct) that may answer at once or step by step; nobody knows the cause of its gain beforehand."""

ADAPTERS = {recipe.name: recipe for recipe in (SMOLLM2_ARITH,)}
