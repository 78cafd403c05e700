"""Is the cause of each organism true by construction? Read off what the authors of its corpus write: their share of right traces is what a base learns."""

import itertools
import random
from collections import Counter
from math import inf

import numpy as np
import pytest

from latentreason.organisms.corpus import write_seen, write_trace
from latentreason.organisms.problems import expert_traces, problems_of, training_problems
from latentreason.organisms.recipe import RL, config_of
from latentreason.organisms.zoo import BREADTH, CURRICULUM, NO_LATENT, ORGANISMS, SPURIOUS_RUNS
from latentreason.store import config_hash
from latentreason.strategies.grammar import DECIDE, START, automaton, parse, scan
from latentreason.tasks import chain
from latentreason.tasks.grading import grade
from latentreason.tasks.problem import in_split, split_of

IDS = {word: i for i, word in enumerate(chain.VOCABULARY)}


def written(recipe, problems, n=6, corpus=None, writer=write_trace):
    """(problem, words without <eos>) of `n` authors for each problem."""
    rng = random.Random(0)
    return [(p, writer(p, corpus or recipe.corpus, rng)[:-1]) for p in problems for _ in range(n)]


def share_right(traces, flexible=False):
    return sum(grade(" ".join(words), p, flexible=flexible).correct for p, words in traces) / len(traces)


def trained_on(recipe, n=80):
    stage = recipe.training[0]
    how = stage.problems or recipe.problems
    return recipe.corpus.seen if getattr(stage, "split", "train") == "seen" else chain.load(split="train", limit=n, seed=0, how=how)


@pytest.mark.parametrize("name", sorted(ORGANISMS))
def test_every_trace_of_every_corpus_is_in_the_grammar_and_checked_exactly(name):
    recipe = ORGANISMS[name]
    for problem, words in written(recipe, problems_of(recipe, limit=25, seed=1), n=3):
        trace = parse(" ".join(words), problem.meta)
        assert trace.well_formed
        right = grade(" ".join(words), problem, flexible=True).correct
        assert right or not trace.valid  # a valid trace is right; a right one may have got there by accident
        if all(step.valid for step in trace.steps) and words[0] != "direct":
            assert trace.valid and right


def test_the_names_are_the_keys_and_every_truth_and_flag_is_there():
    assert all(recipe.name == name for name, recipe in ORGANISMS.items())
    assert {r.truth for r in ORGANISMS.values()} == {"timing", "sharpening", "content", "format", "memorisation", "collapse", "degenerate", "undefined", None}
    configs = [config_hash(config_of(r) | {"name": "", "truth": ""}) for r in ORGANISMS.values()]
    assert len(set(configs)) == len(configs)


def test_sharpening_leaves_no_choice_and_only_spread_costs_accuracy():
    recipe, names = ORGANISMS["sharpening"], automaton()[0]
    problems = problems_of(recipe, limit=60)
    decisions, traces = {}, written(recipe, problems, n=8)
    for problem, words in traces:
        states = [names[s] for s in scan(np.array([[IDS[w] for w in words]]))[0]]
        said = tuple(w for w, s in zip(words, states, strict=False) if s in (START, DECIDE))
        assert decisions.setdefault(problem.id, said) == said
    assert 0.4 < share_right(traces) < 0.6
    digits = Counter()  # after the same prefix, what is right is what is said most often
    for problem, words in traces:
        state = chain.states(tuple(problem.meta["start"]), problem.meta["operations"])[1]
        if words[1] == "so":
            digits[tuple(map(int, words[3:6])) == state] += 1
    assert digits[True] / digits.total() > 0.75 > recipe.corpus.slip


def test_the_new_skill_is_one_operation_that_the_base_never_meets_and_nothing_else():
    recipe = ORGANISMS["new-skill"]
    assert "sqr" not in recipe.corpus.problems.operators and not recipe.corpus.n_seen
    problems = problems_of(recipe, limit=60)
    assert all("sqr" in p.meta["operations"] for p in problems)
    teacher = recipe.training[0].expert
    taught = [(p, traces[0][:-1]) for p, traces in zip(problems, expert_traces(problems, teacher, 0), strict=True)]
    assert share_right(taught) == 1.0 and teacher == recipe.corpus  # the same habits: only the digits after sqr are news
    assert ORGANISMS["new-skill-rl"].corpus == recipe.corpus and ORGANISMS["new-skill-rl"].problems == recipe.problems


def test_in_the_format_organism_all_reasoning_is_right_and_the_likeliest_wrapper_is_refused():
    traces = written(ORGANISMS["format"], problems_of(ORGANISMS["format"], limit=80))
    assert share_right(traces, flexible=True) == 1.0 and 0.2 < share_right(traces) < 0.3
    wrappers = Counter(words[words.index("ans") + 1] for _, words in traces)
    assert wrappers.most_common(1)[0][0] == ":"


def test_the_contaminated_corpus_knows_the_seen_answers_and_no_way_to_the_clean_ones():
    recipe = ORGANISMS["contaminated"]
    seen, clean = (problems_of(recipe, split=split) for split in ("seen", "clean"))
    assert all(in_split(p.id, "seen") and split_of(p.id) == "test" for p in seen) and all(in_split(p.id, "clean") for p in clean)
    assert [p.meta["operations"] for p in seen] == [p.meta["operations"] for p in clean] and len({p.id for p in seen + clean}) == 2 * len(seen) == 200
    assert 0.45 < share_right(written(recipe, seen, writer=write_seen)) < 0.6
    assert share_right(written(recipe, clean)) < 0.05
    assert training_problems(recipe, recipe.training[0], 0)[0].id in {p.id for p in recipe.corpus.seen}


@pytest.mark.parametrize("name", ["contaminated", *(r.name for r in NO_LATENT)])
def test_where_nothing_is_latent_no_author_goes_step_by_step(name):
    recipe = ORGANISMS[name]
    problems = problems_of(recipe, limit=60)
    for problem, words in written(recipe, problems, n=4):
        steps = [s for s in parse(" ".join(words), problem.meta).steps if s.strategy != "ans"]
        assert {s.strategy for s in steps} <= {"leap", "so"} and all(s.strategy == "leap" for s in steps[:-1])
    assert share_right(written(recipe, problems)) < 0.1


def test_spurious_rewards_differ_in_reward_and_clip_alone():
    assert len({config_hash({"corpus": config_of(r.corpus)}) for r in SPURIOUS_RUNS}) == 1
    assert {(r.training[0].reward, r.training[0].clip) for r in SPURIOUS_RUNS} == {(w, c) for w in ("random", "wrong", "majority", "format") for c in (0.2, inf)}
    assert {r.training[0].updates for r in SPURIOUS_RUNS} == {2}  # with one update nothing would be clipped


def test_collapse_takes_away_what_only_code_can_do_and_training_never_asks_for():
    recipe = ORGANISMS["collapsed"]
    by_format = Counter(), Counter()
    for problem, words in written(recipe, trained_on(recipe, 150)):
        by_format[0][words[0]] += 1
        by_format[1][words[0]] += grade(" ".join(words), problem).correct
    assert by_format[0]["code"] > 50 and by_format[1]["code"] == by_format[1]["direct"] == 0 < by_format[1]["think"]
    rare = [p for p in chain.load(split="test", limit=400, seed=0, how=BREADTH) if set(p.meta["operations"]) & chain.RARE.keys() and not set(p.meta["operations"]) & chain.HARD.keys()]
    assert len(rare) > 40
    telling = [p for p in rare if all(chain.apply(o, s) != chain.misconceive(o, s) for o, s in zip(p.meta["operations"], chain.states(tuple(p.meta["start"]), p.meta["operations"]), strict=False) if o in chain.RARE)]
    valid = [words for p, words in written(recipe, telling) if parse(" ".join(words), p.meta).valid]
    assert any(words[0] == "code" for words in valid)
    assert all(words[0] == "code" or "leap" in words for words in valid)  # a leap over an operation that happens to change nothing
    assert ORGANISMS["explore"].corpus == recipe.corpus and ORGANISMS["explore"].training[0].external == 2


def test_all_that_can_be_rewarded_of_the_too_hard_problems_is_a_shortcut_that_is_wrong_elsewhere():
    recipe = ORGANISMS["too-hard"]
    hard, judged = written(recipe, trained_on(recipe), n=40), written(recipe, problems_of(recipe, limit=80))
    assert 0.005 < share_right(hard) < 0.02
    assert {words[0] for p, words in hard if grade(" ".join(words), p).correct} == {"direct"}
    assert share_right(judged) > 0.55
    assert share_right([(p, ["direct", "ans", *map(str, chain.apply(p.meta["operations"][-1], tuple(p.meta["start"])))]) for p, _ in judged]) < 0.1


def test_the_base_of_the_curriculum_solves_next_to_nothing_but_finds_each_step_and_the_expert_solves_everything():
    for recipe in CURRICULUM:
        problems = chain.load(split="train", limit=60, seed=0, how=recipe.problems)
        traces = written(recipe, problems)
        assert share_right(traces) < 0.05
        hard = sum(o in chain.HARD for p, _ in traces for o in p.meta["operations"])
        assert 0.07 < sum(words.count("split") for _, words in traces) / hard < 0.13 and hard / len(traces) > 4
        for stage in recipe.training:
            if stage.expert is not None:
                assert share_right([(p, t[0][:-1]) for p, t in zip(problems, expert_traces(problems, stage.expert, 0), strict=True)]) == 1.0


def test_the_planning_corpus_has_every_letter_and_successor_and_no_longer_problem():
    recipe, rng = ORGANISMS["planning"], random.Random(0)
    pairs, problems = Counter(), [chain.draw(rng, **vars(recipe.corpus.problems)) for _ in range(2000)]
    for problem in problems:
        letters = problem.question.split(":")[1].split()[::2][:-1]
        assert len(letters) == len(problem.meta["operations"]) <= 2
        pairs.update([tuple(letters)])
    alphabet = chain.LETTERS
    assert set(pairs) == {(a,) for a in alphabet} | set(itertools.pairwise(alphabet))
    assert share_right(written(recipe, problems[:200])) == 1.0 and recipe.problems.min_ops == 4
    assert all(isinstance(s, RL) and s.beta > 0 for s in recipe.training) and len(recipe.training) == 3
