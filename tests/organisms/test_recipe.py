"""Recipes that make no sense are refused with what to change."""

import json
from dataclasses import asdict, replace
from math import inf

import pytest

from latentreason.config import dump_config, from_dict, load_config
from latentreason.errors import InvalidInput, LatentReasonError
from latentreason.models.pair import organism_dir
from latentreason.organisms.corpus import Habits
from latentreason.organisms.recipe import RL, SFT, Pretrain, Recipe, Size, config_of
from latentreason.organisms.trainers.pretrain import new_model
from latentreason.organisms.zoo import ACTIVATION, EXPERT, ORGANISMS
from latentreason.store import config_hash
from latentreason.tasks import chain

CORPUS = ACTIVATION.corpus
EASY = replace(CORPUS, operators=tuple(chain.EASY), p_hard=0.0, p_rare=0.0)


def test_the_shipped_recipes_are_valid_and_go_by_their_names():
    assert {name: recipe.name for name, recipe in ORGANISMS.items()} == {name: name for name in ORGANISMS}
    assert ACTIVATION.truth == "timing"
    longest_prompt = 1 + 1 + 3 + 1 + 2 * CORPUS.max_ops + 1
    assert longest_prompt + ACTIVATION.rl.max_new_tokens <= ACTIVATION.size.context


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"formats": CORPUS.formats | {"A": (0.5, 0.5, 0.5, 0.0)}}, r"Format mixture \(0\.5, 0\.5, 0\.5, 0\.0\) of cue 'A' must have 4 parts that sum to 1"),
        ({"formats": CORPUS.formats | {"B": (0.5, 0.5)}}, "of cue 'B' must have 4 parts"),
        ({"formats": CORPUS.formats | {"B": (1.5, -0.5, 0.0, 0.0)}}, "cue 'B'|must lie in"),
        ({"formats": {k: v for k, v in CORPUS.formats.items() if k != "C"}}, r"\['C'\] missing"),
        ({"habits": {k: v for k, v in CORPUS.habits.items() if k != "think"}}, "habits for each of"),
        ({"habits": CORPUS.habits | {"go": Habits(leap=1.2)}}, r"Every probability of a corpus must lie in \[0, 1\], found 1\.2"),
        ({"habits": CORPUS.habits | {"go": Habits(check_right=-0.1)}}, "must lie in"),
        ({"right_leap": float("nan")}, "must lie in"),
        ({"p_hard": 2.0}, "must lie in"),
        ({"p_hard": 0.7, "p_rare": 0.5}, "p_hard|must lie in"),
        ({"separators": (1.5, -0.5)}, "eparators"),
        ({"separators": (0.0, 0.0)}, "eparators"),
        ({"min_ops": 0}, r"Need 1 <= min_ops <= max_ops <= 6"),
        ({"min_ops": 5, "max_ops": 4}, r"Need 1 <= min_ops <= max_ops <= 6"),
        ({"max_ops": 7}, "the number of step letters"),
    ],
)
def test_a_mixture_that_is_none_is_refused(changes, message):
    with pytest.raises(InvalidInput, match=message):
        replace(ACTIVATION, corpus=replace(CORPUS, **changes))


def test_there_are_letters_for_the_longest_problem():
    assert len(chain.LETTERS) >= CORPUS.max_ops


# --- configs -----------------------------------------------------------------------------------------------------------


def test_the_shipped_organism_keeps_its_config_and_hash_although_recipes_have_grown():
    manifest = json.loads((organism_dir("activation") / "manifest.json").read_text())
    config = {"recipe": config_of(ACTIVATION), "seed": 0}
    assert config_hash(config) == manifest["config_hash"]
    assert json.loads(json.dumps(config)) == manifest["config"]
    assert "slip" in asdict(ACTIVATION)["corpus"]  # there, and left out at its default


@pytest.mark.parametrize(
    "changes",
    [
        {"corpus": replace(CORPUS, slip=0.1)}, {"corpus": replace(CORPUS, wrappers=(0.5, 0.5, 0.0))}, {"rl": RL(reward="random", reward_args={"p": 0.3})}, {"rl": RL(keep=5)}, {"rl": RL(trainable="bias")},
        {"size": Size(half=True)}, {"problems": chain.Draw(p_rare=0.1)}, {"stages": (SFT(expert=EXPERT), RL())}, {"rl": RL(problems=chain.Draw(max_ops=4))},
    ],
)  # fmt: skip
def test_a_new_field_away_from_its_default_is_in_the_config_and_changes_the_hash(changes):
    config = config_of(replace(ACTIVATION, **changes))
    assert config_hash(config) != config_hash(config_of(ACTIVATION))
    assert from_dict(Recipe, json.loads(json.dumps(config).replace("Infinity", '"Infinity"'))) == replace(ACTIVATION, **changes)


@pytest.mark.parametrize("name", sorted(ORGANISMS))
def test_a_recipe_survives_its_toml_file(name, tmp_path):
    (tmp_path / "recipe.toml").write_text(dump_config(ORGANISMS[name]))
    assert load_config(Recipe, tmp_path / "recipe.toml") == ORGANISMS[name]


@pytest.mark.parametrize("size", [ACTIVATION.size, ORGANISMS["format"].size, ORGANISMS["formats-large-go"].size])
def test_the_number_of_weights_is_that_of_the_model(size):
    assert size.parameters == sum(p.numel() for p in new_model(replace(ACTIVATION, size=size), 0).parameters())


# --- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RL(reward="randm"), "Unknown reward 'randm'. Did you mean 'random'"),
        (lambda: RL(reward="random", reward_args={"q": 0.5}), "Unknown argument of the reward random 'q'"),
        (lambda: RL(group=1), "a lone sample has no advantage"),
        (lambda: RL(clip=0.0), "clip=inf for none"),
        (lambda: RL(beta=inf), "beta"),
        (lambda: RL(by_step=True, reward="step_similarity"), "need an expert"),
        (lambda: RL(expert=EXPERT), "nothing else does"),
        (lambda: RL(reward="step_similarity"), "use it with by_step=True"),
        (lambda: RL(external=1, expert=EXPERT), "scale='none', clip=inf"),
        (lambda: RL(external=16, expert=EXPERT, scale="none", clip=inf), "fewer than group=16"),
        (lambda: SFT(), "one source"),
        (lambda: SFT(expert=EXPERT, teacher="activation"), "one source"),
        (lambda: SFT(expert=EXPERT, steps=0), "at least 1"),
        (lambda: replace(ACTIVATION, truth="magic"), "Unknown truth 'magic'"),
        (lambda: replace(ACTIVATION, rl=RL(max_new_tokens=150)), "needs 169 positions .* its context has 160"),
        (lambda: replace(ACTIVATION, rl=RL(split="seen")), "trains on seen problems, but its corpus has none"),
        (lambda: replace(CORPUS, n_seen=5), "give both, or neither"),
        (lambda: replace(CORPUS, wrappers=(0.5, 0.2, 0.2)), "Wrappers .* must be 3 probabilities that sum to 1"),
        (lambda: replace(CORPUS, slip=1.5), "must lie in"),
        (lambda: RL(lr=inf), "lr finite"),
        (lambda: RL(reward="random", reward_args={"p": 2.0}), r"probability p in \[0, 1\]; found p=2.0"),
        (lambda: RL(external=1, expert=EXPERT, scale="none", clip=inf, updates=2), "updates=1"),
        (lambda: SFT(expert=EXPERT, keep=-1), "keep at least 0"),
        (lambda: Pretrain(curriculum=3.0), r"curriculum in \[0, 1\]"),
        (lambda: Pretrain(steps=-5), "steps and warmup of at least 0"),
        (lambda: Size(d_model=81), "multiple of n_heads"),
        (lambda: replace(ACTIVATION, corpus=EASY), "is trained on problems with dbl, fuse, mix, sqr, tri, warp, which neither its corpus nor an expert ever names. Give problems=corpus.problems"),
        (lambda: replace(ACTIVATION, corpus=EASY, problems=EASY.problems, rl=RL(problems=chain.Draw(p_rare=0.0))), "is trained on problems with fuse, mix, warp"),
        (lambda: replace(CORPUS, operators=("rot", "swp")), "hold none of"),
        (lambda: replace(CORPUS, operators=(*chain.OPERATIONS, "spin")), "No operation is called 'spin'"),
    ],
)  # fmt: skip
def test_a_recipe_that_makes_no_sense_says_what_to_change(build, message):
    with pytest.raises(LatentReasonError, match=message):
        build()


def test_operations_that_the_corpus_or_an_expert_names_or_must_asks_for_may_be_drawn():
    replace(ACTIVATION, corpus=EASY, problems=EASY.problems)
    replace(ACTIVATION, corpus=EASY, problems=replace(EASY.problems, must=("inc",)))
    replace(ACTIVATION, corpus=EASY, stages=(SFT(expert=CORPUS),))  # which is how the model meets them
