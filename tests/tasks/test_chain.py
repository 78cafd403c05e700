"""The task `chain`: its arithmetic by hand, and problems that are reproducible, distinct and split by their hash."""

import hashlib
import random
from collections import Counter

import pytest
from scipy import stats

from latentreason.errors import InvalidInput, UnknownName
from latentreason.tasks import chain
from latentreason.tasks.problem import SPLITS, content_hash, split_of
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
