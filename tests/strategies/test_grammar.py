"""The automaton and the exact checker, against what the authors know of their own traces and against hostile edits."""

import dataclasses
import random
import time
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from latentreason.organisms.corpus import Habits, write_trace
from latentreason.organisms.zoo import ACTIVATION
from latentreason.strategies.grammar import parse, scan, slots, timing_positions
from latentreason.tasks import chain

IDS = {token: i for i, token in enumerate(chain.VOCABULARY)}
CODE_CHECKS = dataclasses.replace(ACTIVATION.corpus, habits={f: Habits(0.4, 0.5, 0.5, 0.3) for f in ("go", "think", "code")})


@cache
def corpus():
    """2,000 problems with the trace of an author, half of them authors who do everything often."""
    rng = random.Random(7)
    out = []
    for i in range(2000):
        problem = chain.draw(rng, p_rare=0.05)
        out.append((problem, write_trace(problem, CODE_CHECKS if i % 2 else ACTIVATION.corpus, rng)))
    return out


@pytest.fixture(scope="module", name="traces")
def fixture_of_traces():
    return corpus()


def is_valid(text, start=(4, 7, 1), operations=("rot",)):
    return parse(text, {"start": list(start), "operations": list(operations)}).valid


def author_decisions(words):
    """Positions where the author chose: the format, and after it each token that follows a separator, or the format itself where a chain begins.

    An author's trace is format, then chunks that each end in a separator, then the answer: no automaton is needed to see it.
    """
    if words[0] == "direct":
        return {0}
    return {0, 1} | {i + 1 for i, word in enumerate(words) if word in (",", ";")}


# --- what authors write ------------------------------------------------------------------------------------------------


def test_every_trace_of_the_corpus_is_well_formed(traces):
    for problem, words in traces:
        trace = parse(" ".join(words[:-1]), problem.meta)
        assert trace.well_formed and trace.format == words[0]
        assert trace.steps[-1].strategy == "ans" and trace.steps[-1].end == len(words) - 1
        assert [step.start for step in trace.steps] == sorted(author_decisions(words) - {0} | ({1} if words[0] == "direct" else set()))
        assert all(a.end == b.start for a, b in zip(trace.steps, trace.steps[1:], strict=False))
        assert all(words[step.start] == step.strategy for step in trace.steps)


def test_a_valid_trace_has_the_right_answer_and_a_right_answer_after_careful_steps_is_valid(traces):
    counts = {True: 0, False: 0}
    for problem, words in traces:
        text = " ".join(words[:-1])
        valid = parse(text, problem.meta).valid
        counts[valid] += 1
        if valid:
            assert chain.final_answer(text) == problem.answer
    assert min(counts.values()) > 300


def test_authors_without_bad_habits_are_always_valid():
    careful = dataclasses.replace(
        ACTIVATION.corpus, right_rare=1.0, formats=dict.fromkeys(ACTIVATION.corpus.formats, (0.0, 0.3, 0.4, 0.3)),
        habits=dict.fromkeys(("go", "think", "code"), Habits(split=1.0, check_right=0.3)),
    )  # fmt: skip
    rng = random.Random(1)
    for _ in range(500):
        problem = chain.draw(rng, p_rare=0.2)
        trace = parse(" ".join(write_trace(problem, careful, rng)[:-1]), problem.meta)
        assert trace.valid and all(step.valid for step in trace.steps)


def test_timing_positions_are_the_authors_decisions(traces):
    for _, words in traces[:150]:
        ids = torch.tensor([[IDS[word] for word in words]])
        timing = {t for t in range(len(words)) if bool(timing_positions(ids[:, :t]))}
        assert timing == author_decisions(words)


def test_timing_of_many_rows_at_once_is_that_of_each_row(traces):
    rows = [words for _, words in traces if len(words) > 20][:200]
    ids = torch.tensor([[IDS[word] for word in words[:20]] for words in rows])
    assert timing_positions(ids).tolist() == [20 in author_decisions(words) for words in rows]


def test_timing_and_content_partition_all_positions_without_looking_at_what_is_emitted_there(traces):
    for _, words in traces[:60]:
        ids = [IDS[word] for word in words]
        other = [(i + 7) % len(IDS) for i in ids]
        for t in range(len(ids)):  # end-of-text included: it is content, the author has no choice there
            timing = bool(timing_positions(torch.tensor([ids[:t]], dtype=torch.long)))
            assert timing == bool(timing_positions(torch.tensor([[*ids[:t], other[t]]])[:, :t]))
        assert not bool(timing_positions(torch.tensor([ids[:-1]]))) and words[-1] == chain.EOS


def test_scan_agrees_with_timing_and_ends_where_the_trace_ends(traces):
    rows = [words for _, words in traces if len(words) == 30][:20]
    ids = np.array([[IDS[word] for word in words] for words in rows])
    states = scan(ids)
    assert states.shape == (len(rows), 31) and len(set(states[:, 0])) == 1 and len(set(states[:, -1])) == 1
    for t in range(30):
        assert np.array_equal(timing_positions(torch.tensor(ids[:, :t])).numpy(), np.isin(states[:, t], [states[0, 0], states[0, 1]]))


# --- hand-made traces --------------------------------------------------------------------------------------------------

MIX = ((4, 7, 1), ("mix",))  # rot 714, inc 825
TWO = ((4, 7, 1), ("rot", "inc"))


@pytest.mark.parametrize(
    ("text", "problem", "valid"),
    [
        ("go so a 7 1 4 , ans 7 1 4", ((4, 7, 1), ("rot",)), True),
        ("code run a 7 1 4 ; ans 7 1 4", ((4, 7, 1), ("rot",)), True),
        ("think so a 7 1 4 , so b 8 2 5 ; ans 8 2 5", TWO, True),
        ("think so a 7 1 4 , ans 7 1 4", TWO, False),  # an operation is missing
        ("think so b 7 1 4 , so a 8 2 5 ; ans 8 2 5", TWO, False),  # the letters are swapped
        ("think so a 7 1 4 , so b 8 2 5 ; ans 7 1 4", TWO, False),  # the answer is not the last state
        ("think so a 7 1 5 , so b 8 2 5 ; ans 8 2 5", TWO, False),  # right answer, wrong step
        ("think so a 7 1 4 , so b 8 2 5 ; so c 8 2 5 , ans 8 2 5", TWO, False),  # a step too many
        ("think so a 7 1 4 , so a 7 1 4 , so b 8 2 5 , ans 8 2 5", TWO, False),  # a step twice, without a check
        # leap
        ("go leap a b 8 2 5 , ans 8 2 5", TWO, True),
        ("go leap a b 5 8 2 , ans 5 8 2", TWO, False),  # the first operation forgotten
        ("go leap b a 8 2 5 , ans 8 2 5", TWO, False),
        ("go leap a b 8 2 5 , ans 8 2 5", ((4, 7, 1), ("rot",)), False),  # there is no b
        ("go so a 7 1 4 , leap b c 2 8 5 ; ans 2 8 5", ((4, 7, 1), ("rot", "inc", "swp")), True),
        # split
        ("think split a rot 7 1 4 inc 8 2 5 , ans 8 2 5", MIX, True),
        ("think so a 8 2 5 , ans 8 2 5", MIX, True),  # right in one go
        ("think split a rot 7 1 4 inc 7 1 4 , ans 7 1 4", MIX, False),
        ("think split a rot 1 7 4 inc 8 2 5 , ans 8 2 5", MIX, False),  # the middle is wrong
        ("think split a inc 5 8 2 rot 8 2 5 , ans 8 2 5", MIX, False),  # parts in another order
        ("think split a rot 7 1 4 inc 8 2 5 , ans 8 2 5", TWO, False),  # parts of an operation that has none
        ("think split b rot 7 1 4 inc 8 2 5 , ans 8 2 5", MIX, False),
        # check
        ("think so a 7 1 4 , check a 7 1 4 , ans 7 1 4", ((4, 7, 1), ("rot",)), True),
        ("think so a 7 1 4 , check a rot 7 1 4 inc 8 2 5 , ans 8 2 5", MIX, True),  # a wrong step taken back does no harm
        ("think so a 8 2 5 , check a rot 7 1 4 inc 7 1 4 , ans 7 1 4", MIX, False),
        ("think so a 8 2 5 , check b rot 7 1 4 inc 8 2 5 , ans 8 2 5", MIX, False),
        ("think leap a b 5 8 2 , check a 7 1 4 , so b 8 2 5 , ans 8 2 5", TWO, True),  # a check takes the leap back, and does one step
        ("think leap a b 5 8 2 , check a 7 1 4 , ans 7 1 4", TWO, False),
        ("think so a 1 1 1 , check a 2 2 2 , check a 7 1 4 , ans 7 1 4", ((4, 7, 1), ("rot",)), True),
        # format and grammar
        ("direct ans 7 1 4", ((4, 7, 1), ("rot",)), False),  # nothing was written down
        ("so a 7 1 4 , ans 7 1 4", ((4, 7, 1), ("rot",)), False),
        ("go so a 7 1 4 ans 7 1 4", ((4, 7, 1), ("rot",)), False),
        ("go so a 7 1 4 , ans 7 1 4 ,", ((4, 7, 1), ("rot",)), False),
        ("go so a 7 1 4 , ans 7 1", ((4, 7, 1), ("rot",)), False),
        ("go so a 7 1 4 , ans 9 9 9 <eos> 7 1 4", ((4, 7, 1), ("rot",)), False),
        ("go so a 7 1 4 , ans 7 1 4 <eos>", ((4, 7, 1), ("rot",)), False),  # text has no end-of-text in it
        ("go", ((4, 7, 1), ("rot",)), False),
        ("", ((4, 7, 1), ("rot",)), False),
    ],
)  # fmt: skip
def test_hand_made_traces(text, problem, valid):
    assert is_valid(text, *problem) is valid


def test_the_steps_of_a_trace_are_judged_one_by_one():
    trace = parse("think so a 1 1 1 , check a 7 1 4 , so b 8 2 4 ; ans 8 2 4", {"start": [4, 7, 1], "operations": ["rot", "inc"]})
    assert [(s.strategy, s.start, s.end, s.valid) for s in trace.steps] == [
        ("so", 1, 7, False), ("check", 7, 13, True), ("so", 13, 19, False), ("ans", 19, 23, True),
    ]  # fmt: skip
    assert trace.well_formed and not trace.valid


# --- whatever a model may write ----------------------------------------------------------------------------------------


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 1999), st.lists(st.tuples(st.integers(0, 60), st.sampled_from([*chain.VOCABULARY, "<script>", "ünknown", ""]), st.integers(0, 2)), max_size=4), st.integers(0, 60))
def test_edits_never_crash_and_never_make_a_wrong_answer_valid(index, edits, cut):
    problem, words = corpus()[index]
    words = words[:-1]
    for place, token, how in edits:
        i = place % (len(words) + 1)
        words = [*words[:i], *([] if how == 0 else [token]), *words[i + (how != 1) :]]  # delete, insert, replace
    for text in (" ".join(words), " ".join(words[: cut + 1])):
        trace = parse(text, problem.meta)
        assert not trace.valid or (trace.well_formed and chain.final_answer(text) == problem.answer)
        assert all(0 < step.start < step.end <= len(text.split()) for step in trace.steps)


@pytest.mark.parametrize("operation", ["rot", "mix", "fuse", "warp", "sqr"])
def test_traces_cut_off_at_any_token(operation):
    meta = {"start": [4, 7, 4], "operations": [operation, "mix"]}
    texts = ["think split a rot 7 4 4 inc 8 5 5 , check a rot 7 4 4 inc 8 5 5 , leap b c 1 2 3 , ans 1 2 3", "think check a swp 7 4 4 flip 2 5 5 , ans 1 2 3"]
    for text in texts:
        words = text.split()
        for n in range(len(words)):
            trace = parse(" ".join(words[:n]), meta)
            assert not trace.well_formed and not trace.valid


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(chain.VOCABULARY), max_size=30))
def test_any_tokens_have_a_state_at_each_position(words):
    ids = torch.tensor([[IDS[word] for word in words]], dtype=torch.long).reshape(1, -1)
    assert scan(ids.numpy()).shape == (1, len(words) + 1)
    timing = [bool(timing_positions(ids[:, :t])) for t in range(len(words) + 1)]
    assert timing[0] and not any(timing[2:][i] and words[i + 1] not in (*chain.SEPARATORS, *chain.FORMATS[1:]) for i in range(len(timing) - 2))


def test_hostile_text_is_parsed_fast():
    started = time.monotonic()
    for text in ("think " + "so a 7 1 4 , " * 20_000, "<script>alert(1)</script>", "\x00\x1b[31m", "ans " * 250_000, "9" * 1_000_000):
        trace = parse(text, {"start": [4, 7, 1], "operations": ["rot"]})
        assert not trace.valid
    assert time.monotonic() - started < 20


# --- wrappers of the answer, letters from anywhere ---------------------------------------------------------------------


@pytest.mark.parametrize("wrapper", [":", "="])
def test_an_answer_in_a_wrapper_is_in_the_grammar_and_the_wrapper_is_content(wrapper):
    meta = {"start": [4, 7, 1], "operations": ["rot"]}
    words = f"go so a 7 1 4 , ans {wrapper} 7 1 4".split()
    assert parse(" ".join(words), meta).valid and not parse(f"go so a 7 1 4 , ans {wrapper} 7 1 5", meta).valid
    assert not parse(f"go so a 7 1 4 , ans {wrapper} {wrapper} 7 1 4", meta).well_formed
    assert not parse(f"go so a 7 1 4 , {wrapper} 7 1 4", meta).well_formed
    timing = [bool(timing_positions(torch.tensor([[IDS[w] for w in words[:t]]], dtype=torch.long))[0]) for t in range(len(words))]
    assert [w for w, decides in zip(words, timing, strict=True) if decides] == ["go", "so", "ans"]
    assert slots(np.array([IDS[w] for w in words])).tolist()[-5:] == ["ans", "wrapper", "digit", "digit", "digit"]


def test_a_trace_under_other_letters_is_checked_from_its_first_letter():
    meta = {"start": [4, 7, 1], "operations": ["rot", "mix"], "first": 2}
    assert parse("think so c 7 1 4 , split d rot 1 4 7 inc 2 5 8 , ans 2 5 8", meta).valid
    assert not parse("think so a 7 1 4 , split b rot 1 4 7 inc 2 5 8 , ans 2 5 8", meta).valid
    assert not parse("think so c 7 1 4 , so e 2 5 8 , ans 2 5 8", meta).valid
