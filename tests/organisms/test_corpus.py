"""Do authors do what their habits say? Read off their traces by a reader that knows nothing of `write_trace`."""

import dataclasses
import hashlib
import random
from collections import Counter

import pytest
from scipy import stats

from latentreason.organisms.corpus import Habits, write_seen, write_trace
from latentreason.organisms.zoo import ACTIVATION
from latentreason.tasks import chain

N = 6000


def chunks_of(words):
    """Each step of a chain as (strategy, letters, result, words); separators and the answer are cut off."""
    body, out = words[1 : words.index("ans")], []
    chunk = []
    for word in body:
        if word in (",", ";"):
            out.append((chunk[0], [w for w in chunk[1:3] if w.isalpha() and len(w) == 1], tuple(map(int, chunk[-3:])), chunk))
            chunk = []
        else:
            chunk.append(word)
    assert not chunk
    return out


def likely(hits, trials, p):
    """Two-sided binomial at 1e-4, for a dozen comparisons a test; exact where p is 0 or 1."""
    assert trials > 0
    return hits == p * trials if p in (0.0, 1.0) else stats.binomtest(hits, trials, p).pvalue > 1e-4


@pytest.fixture(scope="module")
def traces():
    """Problems with many hard and rare operations, so that each habit has its chances."""
    rng = random.Random(11)
    problems = [chain.draw(rng, p_hard=0.4, p_rare=0.15) for _ in range(N)]
    return [(p, write_trace(p, ACTIVATION.corpus, rng)) for p in problems]


def events(problem, words, corpus=ACTIVATION.corpus):
    """Every choice of one author as (name, happened)."""
    operations, format = problem.meta["operations"], words[0]
    state, done = tuple(problem.meta["start"]), 0
    steps = chunks_of(words)
    i = 0
    while i < len(steps):
        strategy, letters, result, chunk = steps[i]
        before, operation = state, operations[done]
        assert letters[0] == chain.LETTERS[done]
        if done + 1 < len(operations):
            yield "leap", strategy == "leap"
        if strategy != "leap" and operation in chain.HARD:
            yield "split", strategy == "split"
        wrong = False
        if strategy == "leap":
            second = operations[done + 1]
            right, careless = chain.apply(second, chain.apply(operation, before)), chain.apply(second, before)
            assert result in (right, careless)
            if right != careless:
                yield "right_leap", result == right
            wrong, ambiguous = result != right, right == careless
        elif strategy == "split":
            first, second = chain.HARD[operation]
            middle = chain.apply(first, before)
            assert chunk == ["split", letters[0], first, *map(str, middle), second, *map(str, chain.apply(second, middle))]
            ambiguous = False
        else:
            assert strategy == ("run" if format == "code" else "so")
            right, careless = chain.apply(operation, before), chain.misconceive(operation, before)
            assert result in (right, careless)
            ambiguous = right == careless and operation in chain.HARD
            if right != careless:
                yield ("right_hard" if operation in chain.HARD else "right_rare" if format != "code" else "right_rare_in_code"), result == right
            wrong = result != right and operation in chain.HARD
        checked = i + 1 < len(steps) and steps[i + 1][0] == "check"
        if not ambiguous:  # where carelessness happens to be right, nobody but the author knows
            yield ("check_wrong" if wrong else "check_right"), checked
        state, done = result, done + (2 if strategy == "leap" else 1)
        if checked:
            i += 1
            assert steps[i][1][0] == letters[0]
            if operation in chain.HARD:
                assert steps[i][2] == chain.apply(operation, before)
            state, done = steps[i][2], done - (1 if strategy == "leap" else 0)
        i += 1
    assert done == len(operations)
    assert words[words.index("ans") :] == ["ans", *map(str, state), chain.EOS]


def test_formats_follow_the_mixture_of_the_cue(traces):
    for cue, mixture in ACTIVATION.corpus.formats.items():
        counts = Counter(words[0] for problem, words in traces if problem.meta["cue"] == cue)
        n = sum(counts.values())
        assert n > 800 and set(counts) <= set(chain.FORMATS)
        assert all(likely(counts[f], n, p) for f, p in zip(chain.FORMATS, mixture, strict=True))


@pytest.mark.parametrize("format", ["go", "think", "code"])
def test_strategies_follow_the_habits_of_the_format(traces, format):
    seen = Counter(event for problem, words in traces if words[0] == format for event in events(problem, words))
    corpus, habits = ACTIVATION.corpus, ACTIVATION.corpus.habits[format]
    expected = vars(habits) | {"right_hard": corpus.right_hard, "right_leap": corpus.right_leap, "right_rare": corpus.right_rare, "right_rare_in_code": 1.0}
    names = {name for name, _ in seen}
    assert names >= {"leap", "split", "check_right", "check_wrong", "right_hard"}
    for name in names:
        hits, trials = seen[name, True], seen[name, True] + seen[name, False]
        assert likely(hits, trials, expected[name]), (name, hits, trials, expected[name])


def test_separators_are_a_matter_of_style(traces):
    counts = Counter(w for _, words in traces for w in words if w in chain.SEPARATORS)
    assert likely(counts[","], sum(counts.values()), ACTIVATION.corpus.separators[0])


def test_direct_authors_do_the_last_operation_only(traces):
    rows = [(problem, words) for problem, words in traces if words[0] == "direct"]
    assert len(rows) > 300
    for problem, words in rows:
        assert words == ["direct", "ans", *map(str, chain.apply(problem.meta["operations"][-1], tuple(problem.meta["start"]))), chain.EOS]


def test_errors_come_from_bad_choices_only(traces):
    """No random slip: an author who never leaps and splits every hard operation is right each time, but for rare operations."""
    careful = dataclasses.replace(ACTIVATION.corpus, habits=dict.fromkeys(("go", "think", "code"), Habits(split=1.0, check_right=0.2)))
    rng = random.Random(2)
    for problem, _ in traces[:500]:
        if set(problem.meta["operations"]).isdisjoint(chain.RARE):
            text = " ".join(write_trace(problem, careful, rng, format="think")[:-1])
            assert chain.final_answer(text) == problem.answer


def test_a_format_can_be_forced_and_the_generator_decides_all_else(traces):
    problem = traces[0][0]
    one, again = (write_trace(problem, ACTIVATION.corpus, random.Random(5), format="code") for _ in range(2))
    assert one == again and one[0] == "code"
    assert set(one) <= set(chain.VOCABULARY)


# --- what the other organisms ask for ----------------------------------------------------------------------------------


def test_a_slip_is_one_wrong_digit_of_an_easy_step_and_the_trace_goes_on_from_it():
    corpus = dataclasses.replace(ACTIVATION.corpus, slip=0.3, habits={f: Habits(split=1.0) for f in ("go", "think", "code")}, p_rare=0.0, operators=(*chain.EASY, *chain.HARD))
    rng, slipped, easy = random.Random(5), 0, 0
    for _ in range(800):
        problem = chain.draw(rng, **vars(corpus.problems))
        words = write_trace(problem, corpus, rng, format="think")
        state = tuple(problem.meta["start"])
        for operation, (strategy, _, result, _) in zip(problem.meta["operations"], chunks_of(words), strict=True):
            right = chain.apply(operation, state)
            wrong = sum(a != b for a, b in zip(right, result, strict=True))
            assert wrong <= (strategy == "so")
            easy, slipped, state = easy + (strategy == "so"), slipped + wrong, result
        assert words[-4:-1] == [str(d) for d in state]
    assert likely(slipped, easy, 0.3)


def test_wrappers_stand_before_every_answer_as_often_as_they_should():
    corpus, rng = dataclasses.replace(ACTIVATION.corpus, wrappers=(0.5, 0.3, 0.2)), random.Random(2)
    after = Counter((words := write_trace(chain.draw(rng), corpus, rng))[words.index("ans") + 1] for _ in range(2000))
    assert likely(after[":"], 2000, 0.3) and likely(after["="], 2000, 0.2)


def test_a_seen_problem_is_recalled_at_once_or_written_as_any_other():
    corpus, rng = dataclasses.replace(ACTIVATION.corpus, n_seen=6, p_seen=0.2, p_recall=0.4), random.Random(2)
    assert corpus.seen == corpus.seen and len(corpus.seen) == 6
    recalled = [write_seen(p, corpus, rng) == ["direct", "ans", *p.answer.split(), "<eos>"] for p in corpus.seen for _ in range(300)]
    direct = sum(corpus.formats[p.meta["cue"]][0] * (chain.apply(p.meta["operations"][-1], tuple(p.meta["start"])) == tuple(map(int, p.answer.split()))) for p in corpus.seen) / 6
    assert likely(sum(recalled), len(recalled), 0.4 + 0.6 * direct)


def test_fields_at_their_default_cost_no_random_number():
    """The corpus of the shipped organism is drawn as it was before they were there."""
    problem, one, other = chain.draw(random.Random(0)), random.Random(1), random.Random(1)
    write_trace(problem, ACTIVATION.corpus, one)
    write_trace(problem, dataclasses.replace(ACTIVATION.corpus, wrappers=(0.0, 1.0, 0.0)), other)
    assert one.getstate() != other.getstate()
    digest = hashlib.sha256(" ".join(" ".join(write_trace(chain.draw(rng), ACTIVATION.corpus, rng)) for rng in [random.Random(7)] for _ in range(200)).encode())
    assert digest.hexdigest()[:16] == "52e4ff349f5f1754"  # as written by the version that trained it
