"""The task `chain`: its arithmetic by hand, and problems that are reproducible, distinct and split by their hash."""

import hashlib
import random
from collections import Counter

import pytest
from scipy import stats

from latentreason.errors import InvalidInput, UnknownName
from latentreason.tasks import chain
from latentreason.tasks.grading import grade
from latentreason.tasks.problem import SPLITS, content_hash, in_split, split_of
from latentreason.tasks.registry import load_task


@pytest.mark.parametrize(
    ("operation", "right", "misconception"),
    [
        ("rot", (0, 9, 5), (0, 9, 5)),
        ("swp", (0, 5, 9), (0, 5, 9)),
        ("rev", (9, 0, 5), (9, 0, 5)),
        ("inc", (6, 1, 0), (6, 1, 0)),
        ("dec", (4, 9, 8), (4, 9, 8)),
        ("flip", (4, 9, 0), (4, 9, 0)),
        ("mix", (1, 0, 6), (0, 9, 5)),  # rot, then inc
        ("fuse", (9, 4, 0), (0, 5, 9)),  # swp, then flip
        ("warp", (8, 9, 4), (4, 9, 8)),  # dec, then rev
        ("dbl", (0, 0, 8), (7, 2, 1)),
        ("tri", (5, 0, 7), (8, 3, 2)),
        ("sqr", (5, 0, 1), (9, 4, 3)),
    ],
)
def test_each_operation_on_5_0_9(operation, right, misconception):
    assert chain.apply(operation, (5, 0, 9)) == right
    assert chain.misconceive(operation, (5, 0, 9)) == misconception


def test_the_table_above_has_all_operations():
    assert set(chain.OPERATIONS) == {"rot", "swp", "rev", "inc", "dec", "flip", "mix", "fuse", "warp", "dbl", "tri", "sqr"}


def test_every_result_is_a_state_and_a_hard_misconception_is_always_wrong():
    for a in range(10):
        for b in range(10):
            for c in range(10):
                for operation in chain.OPERATIONS:
                    for result in (chain.apply(operation, (a, b, c)), chain.misconceive(operation, (a, b, c))):
                        assert len(result) == 3 and all(isinstance(d, int) and 0 <= d <= 9 for d in result)
                for operation in ("mix", "fuse"):  # their second part changes every state
                    assert chain.apply(operation, (a, b, c)) != chain.misconceive(operation, (a, b, c))


def test_prompt_and_problem_by_hand():
    problem = chain.problem((4, 7, 1), ["rot", "mix", "inc"], "B")
    assert problem.question == "B 4 7 1 : a rot b mix c inc ="
    assert chain.states((4, 7, 1), ["rot", "mix", "inc"]) == [(4, 7, 1), (7, 1, 4), (2, 5, 8), (3, 6, 9)]
    assert problem.answer == "3 6 9"
    assert problem.id == hashlib.sha256(b"4 7 1 : a rot b mix c inc =").hexdigest()[:16]
    assert problem.id == chain.problem((4, 7, 1), ["rot", "mix", "inc"]).id  # the cue is no part of what is asked
    assert problem.meta == {"start": [4, 7, 1], "operations": ["rot", "mix", "inc"], "cue": "B"}


def test_the_vocabulary_has_each_word_once_and_all_words_of_prompts():
    assert len(set(chain.VOCABULARY)) == len(chain.VOCABULARY)
    for problem in load_task("chain", limit=50):
        assert set(problem.question.split()) <= set(chain.VOCABULARY)


# --- problems ----------------------------------------------------------------------------------------------------------


def test_loading_is_deterministic_and_problems_are_distinct():
    problems = load_task("chain", split="test", limit=300, seed=3)
    assert problems == load_task("chain", split="test", limit=300, seed=3)
    assert [p.meta for p in problems] == [p.meta for p in load_task("chain", split="test", limit=300, seed=3)]
    assert len({p.id for p in problems}) == 300
    assert load_task("chain", split="test", limit=100, seed=3) == problems[:100]  # a limit cuts, it does not choose others
    assert {p.id for p in problems} != {p.id for p in load_task("chain", split="test", limit=300, seed=4)}


def test_splits_are_disjoint_whatever_the_seeds():
    ids = {split: {p.id for seed in range(4) for p in load_task("chain", split=split, limit=80, seed=seed)} for split in SPLITS}
    assert set(ids) == {"train", "fit", "calibration", "test"}
    assert sum(map(len, ids.values())) == len(set().union(*ids.values()))
    assert all(split_of(i) == split for split in ids for i in ids[split])


def test_buckets_of_the_splits_cover_all_hashes_in_the_stated_shares():
    assert sorted(bucket for buckets in SPLITS.values() for bucket in buckets) == list(range(100))
    counts = Counter(split_of(content_hash(str(i))) for i in range(20_000))
    expected = [20_000 * len(SPLITS[split]) / 100 for split in SPLITS]
    assert stats.chisquare([counts[split] for split in SPLITS], expected).pvalue > 1e-3


def test_the_distribution_of_problems_is_the_one_asked_for():
    rng = random.Random(0)
    problems = [chain.draw(rng, min_ops=2, max_ops=5, p_hard=0.4, p_rare=0.1, p_cue=0.25) for _ in range(4000)]
    lengths = Counter(len(p.meta["operations"]) for p in problems)
    assert set(lengths) == {2, 3, 4, 5} and stats.chisquare([lengths[n] for n in (2, 3, 4, 5)]).pvalue > 1e-3
    operations = Counter(o for p in problems for o in p.meta["operations"])
    n = sum(operations.values())
    expected = {**dict.fromkeys(chain.EASY, 0.5 / 6), **dict.fromkeys(chain.HARD, 0.4 / 3), **dict.fromkeys(chain.RARE, 0.1 / 3)}
    assert stats.chisquare([operations[o] for o in expected], [n * share for share in expected.values()]).pvalue > 1e-3
    cues = Counter(p.meta["cue"] for p in problems)
    assert stats.chisquare([cues[c] for c in ("", "A", "B", "C")], [3000, 1000 / 3, 1000 / 3, 1000 / 3]).pvalue > 1e-3


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": "chian"}, UnknownName, r"^Unknown task 'chian'\. Did you mean 'chain'\? Known: aime24, "),
        ({"name": "chain", "split": "tests"}, UnknownName, r"^Unknown split 'tests'\. Did you mean 'test'\? Known: calibration, fit, test, train\.$"),
        ({"name": "chain", "limit": 0}, InvalidInput, r"^limit=0 gives no problems; ask for at least 1\.$"),
    ],
)
def test_what_does_not_exist_is_named_with_the_nearest(arguments, error, message):
    with pytest.raises(error, match=message):
        load_task(**arguments)


# --- distributions, halves of test, wrappers ---------------------------------------------------------------------------


def test_a_draw_keeps_to_its_operators_and_holds_what_it_must():
    how = chain.Draw(p_hard=0.3, p_rare=0.2, operators=(*chain.EASY, "mix", "dbl"), must=("sqr",))
    problems = chain.load(split="test", limit=200, seed=0, how=how)
    used = Counter(o for p in problems for o in p.meta["operations"])
    assert set(used) == {*chain.EASY, "mix", "dbl", "sqr"} and all("sqr" in p.meta["operations"] for p in problems)


def test_misleading_problems_and_shortcuts_are_what_a_hand_computation_says():
    rng = random.Random(3)
    for _ in range(60):
        problem = chain.draw(rng, p_hard=0.6, p_rare=0.0, misleading=True, shortcut=0.5)
        state = misled = tuple(problem.meta["start"])
        for operation in problem.meta["operations"]:
            misled = chain.apply(chain.HARD[operation][0] if operation in chain.HARD else operation, misled)
            state = chain.apply(operation, state)
        assert misled != state and " ".join(map(str, state)) == problem.answer
    wanted = [chain.draw(rng, p_hard=0.6, misleading=True, shortcut=1.0) for _ in range(20)]
    assert all(" ".join(map(str, chain.apply(p.meta["operations"][-1], tuple(p.meta["start"])))) == p.answer for p in wanted)
    none = [chain.draw(rng, p_hard=0.6, misleading=True) for _ in range(50)]
    assert not any(" ".join(map(str, chain.apply(p.meta["operations"][-1], tuple(p.meta["start"])))) == p.answer for p in none)


def test_letters_may_begin_anywhere_and_do_not_make_another_problem():
    here, there = chain.problem((4, 7, 1), ["rot", "inc"]), chain.problem((4, 7, 1), ["rot", "inc"], first=3)
    assert there.question == "4 7 1 : d rot e inc =" and there.id == here.id and there.answer == here.answer and "first" not in here.meta
    rng = random.Random(0)
    firsts = Counter(chain.draw(rng, min_ops=5, max_ops=6, any_letter=True).question.split(":")[1].split()[0] for _ in range(200))
    assert set(firsts) == {"a", "b"}


def test_seen_and_clean_are_disjoint_halves_of_test_and_twins_are_matched():
    seen, clean = (chain.load(split=split, limit=150, seed=0) for split in ("seen", "clean"))
    assert {split_of(p.id) for p in seen + clean} == {"test"} and not {p.id for p in seen} & {p.id for p in clean}
    twins = chain.clean_twins(seen)
    assert twins == chain.clean_twins(seen) and len({t.id for t in twins}) == 150
    for one, twin in zip(seen, twins, strict=True):
        assert (one.meta["operations"], one.meta["cue"]) == (twin.meta["operations"], twin.meta["cue"]) and one.meta["start"] != twin.meta["start"]
        assert in_split(twin.id, "clean") and int(twin.id, 16) % 100 >= 95


def test_the_strict_grader_takes_one_wrapper_and_the_flexible_one_all():
    problem = chain.problem((4, 7, 1), ["rot"])
    for wrapper, status in (("", "correct"), (": ", "unparsed"), ("= ", "unparsed")):
        text = f"go so a 7 1 4 , ans {wrapper}7 1 4"
        assert grade(text, problem).status == status and grade(text, problem, flexible=True).correct


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"operators": ("rot", "spin")}, "No operation is called 'spin'"),
        ({"operators": ("rot", "inc")}, "30% of the operations are to be hard, but the operators .* hold none of"),
        ({"operators": (*chain.EASY, *chain.HARD)}, "2% of the operations are to be rare"),
        ({"operators": ("rot", "mix"), "p_rare": 0.0}, "hold 'mix' but not its part 'inc', so it could not be split"),
        ({"p_hard": 0.8, "p_rare": 0.3}, r"must lie in \[0, 1\]"),
        ({"shortcut": 1.5}, r"must lie in \[0, 1\]"),
        ({"min_ops": 4, "max_ops": 7}, "the number of step letters"),
        ({"p_hard": 0.0, "misleading": True}, "Only hard operations mislead"),
    ],
)
def test_operators_that_cannot_express_the_task_are_refused(settings, message):
    with pytest.raises(InvalidInput, match=message):
        chain.Draw(**settings)


def test_more_problems_than_there_are_is_an_error_and_not_a_hang():
    with pytest.raises(InvalidInput, match="different problems of the split 'test'"):
        chain.load(split="test", limit=115, seed=0, how=chain.Draw(min_ops=1, max_ops=1, p_hard=0.0, p_rare=0.0, operators=("rot",)))
    with pytest.raises(InvalidInput, match="shortcut"):
        chain.load(split="test", limit=1, seed=0, how=chain.Draw(p_hard=0.0, p_rare=0.0, operators=("inc",), shortcut=1.0))
