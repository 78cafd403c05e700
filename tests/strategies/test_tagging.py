"""`tag` against the author's own log of a trace, against `grammar.parse`, and on what no author would write."""

import random
import time

import numpy as np
import pandas as pd
import pytest

from latentreason.errors import InvalidInput
from latentreason.organisms.corpus import write_trace
from latentreason.organisms.tokenizer import chain_tokenizer
from latentreason.organisms.zoo import ACTIVATION
from latentreason.strategies import rules
from latentreason.strategies.grammar import parse
from latentreason.strategies.tagging import tag
from latentreason.tables import Rollouts
from latentreason.tasks import chain
from latentreason.tasks.registry import load_task

IDS = {word: i for i, word in enumerate(chain.VOCABULARY)}
SPECIAL = {chain.PAD, chain.BOS, chain.EOS}


def as_rollouts(traces: list[list[str]], problems: list[str] | None = None) -> Rollouts:
    """As `sample` makes them: the text is without special tokens."""
    rows = {
        "arm": "base", "problem": problems or [f"p{i}" for i in range(len(traces))], "sample": list(range(len(traces))),
        "token_ids": pd.Series([np.array([IDS[w] for w in trace], dtype=np.int32) for trace in traces], dtype=object),
        "text": [" ".join(w for w in trace if w not in SPECIAL) for trace in traces],
    }  # fmt: skip
    return Rollouts(pd.DataFrame(rows))


def author_log(trace: list[str]) -> list[tuple[str, int, int]]:
    """What the author did, token by token: a span lasts until the next word that names a deed. No automaton."""
    opens = [i for i, w in enumerate(trace) if w in (*chain.FORMATS, *chain.STRATEGIES, chain.ANSWER)] + [len(trace) - 1]
    names = [f"format:{trace[i]}" if trace[i] in chain.FORMATS else trace[i] for i in opens[:-1]]
    return list(zip(names, opens, opens[1:], strict=False))


def logged(rollouts: Rollouts, **how) -> list[list[tuple]]:
    table = tag(rollouts, **how).table
    groups = dict(list(table.groupby("sample")))
    columns = ["strategy", "start", "end", *(["valid"] if "valid" in table else [])]
    return [list(groups[i][columns].itertuples(index=False, name=None)) if i in groups else [] for i in range(len(rollouts))]


@pytest.fixture(scope="module")
def problems():
    return load_task("chain", split="train", limit=150, seed=0)


@pytest.fixture(scope="module")
def traces(problems) -> list[list[str]]:
    return [write_trace(p, ACTIVATION.corpus, random.Random(i)) for i, p in enumerate(problems)]


def test_tags_of_corpus_traces_equal_the_log_of_their_author(traces) -> None:
    rollouts = as_rollouts(traces)
    expected = [author_log(t) for t in traces]
    assert logged(rollouts) == expected
    assert {name for log in expected for name, _, _ in log} >= {"format:direct", "format:code", "run", "leap", "split", "check", "ans"}
    assert logged(Rollouts(rollouts.table.drop(columns="token_ids"))) == expected


def test_columns_and_what_was_a_choice(traces) -> None:
    rollouts = as_rollouts(traces)
    table = tag(rollouts).table
    assert table.columns.tolist() == ["arm", "problem", "sample", "strategy", "start", "end", "choice"]
    direct = table["sample"].map(lambda i: traces[i][0] == "direct")
    assert (table["choice"] == ~(direct & (table["strategy"] == "ans"))).all() and direct.any()


def test_validity_is_that_of_the_checker(traces, problems) -> None:
    found = logged(as_rollouts(traces, [p.id for p in problems]), problems=problems)
    expected = [[(f"format:{t[0]}", 0, 1, True)] for t in traces]
    for row, trace, problem in zip(expected, traces, problems, strict=True):
        row += [(s.strategy, s.start, s.end, s.valid) for s in parse(" ".join(trace[:-1]), problem.meta).steps]
    assert found == expected
    assert {valid for row in expected for *_, valid in row} == {True, False}
    with pytest.raises(InvalidInput, match="150 problems of the rollouts are not among"):
        tag(as_rollouts(traces, [p.id for p in problems]), problems=[])


def test_random_and_broken_traces_are_tagged_as_the_checker_reads_them(traces, problems) -> None:
    rng = random.Random(0)
    broken = [t[: rng.randrange(len(t))] for t in traces[:60]]
    for t in traces[60:120]:
        broken.append([*t])
        broken[-1][rng.randrange(len(t))] = rng.choice(chain.VOCABULARY)
    broken += [rng.choices(chain.VOCABULARY, k=rng.randrange(1, 20)) for _ in range(60)]
    broken += [[], [chain.EOS], ["think"], ["think", chain.PAD, "so", "a"], ["direct", "ans"], ["think", "ans", chain.EOS]]
    ids = [problems[i % len(problems)].id for i in range(len(broken))]
    found = logged(as_rollouts(broken, ids), problems=problems)
    for spans, trace, problem in zip(found, broken, ids, strict=True):
        words = trace[:-1] if trace and trace[-1] == chain.EOS else trace
        meta = next(p.meta for p in problems if p.id == problem)
        steps = parse(" ".join(words), meta).steps
        first = [(f"format:{words[0]}", 0, 1, True)] if words and words[0] in chain.FORMATS else []
        assert spans == first + [(s.strategy, s.start, s.end, s.valid) for s in steps]


def test_positions_count_tokens_that_the_text_does_not_show() -> None:
    spans = logged(as_rollouts([["go", "so", "a", "1", "2", "3", ",", "ans", "1", "2", "3", chain.EOS], ["go", "so", chain.BOS, "a"]]))
    assert spans == [[("format:go", 0, 1), ("so", 1, 7), ("ans", 7, 11)], [("format:go", 0, 1), ("so", 1, 4)]]


def test_no_rollout_and_no_span_give_an_empty_table() -> None:
    for rollouts in (as_rollouts([]), as_rollouts([[chain.EOS], []])):
        assert len(tag(rollouts)) == 0 and "strategy" in tag(rollouts).table


def test_text_that_is_not_chain_asks_for_rules() -> None:
    table = pd.DataFrame({"arm": "a", "problem": ["p"], "sample": 0, "text": ["First, 6 + 7 = 13."], "token_ids": [np.arange(4)]})
    with pytest.raises(InvalidInput, match=r"no word '\+'.*strategies=rules.RULES"):
        tag(Rollouts(table))
    with pytest.raises(InvalidInput, match="pass tokenizer"):
        tag(Rollouts(table), rules.RULES)
    with pytest.raises(InvalidInput, match=r"before \.slim"):
        tag(Rollouts(table.drop(columns="text")))
    with pytest.raises(InvalidInput, match="organisms' tokenizer"):
        tag(Rollouts(table.assign(text="go so a")))


def test_twelve_thousand_rollouts_take_seconds(traces, problems) -> None:
    many = as_rollouts([traces[i % 150] for i in range(12_800)], [problems[i % 150].id for i in range(12_800)])
    start = time.process_time()
    assert len(tag(many, problems=problems)) > 50_000
    assert time.process_time() - start < 8


@pytest.mark.parametrize(
    ("sentence", "strategy"),
    [
        ("Let x be the number of apples.", "set up"),
        ("We need to find the sum.", "set up"),
        ("First, 6 + 7 = 13.", "compute"),
        ("Multiply both sides by two.", "compute"),
        ("Let me double-check that 6 + 7 = 13.", "check"),
        ("Plugging it back gives 12.", "check"),
        ("Wait, that is not 12.", "restart"),
        ("No, let me try again.", "restart"),
        ("So the answer is 15.", "answer"),
        (r"Hence \boxed{42}", "answer"),
        ("Answer: 12", "answer"),
        ("The weather was fine that day.", None),
        ("Nobody was waiting.", None),
    ],
)
def test_rules_name_a_sentence(sentence: str, strategy: str | None) -> None:
    assert rules.strategy_of(sentence) == strategy


@pytest.mark.parametrize(
    "text", ["1" * 200_000, "= " * 100_000, " \t" * 100_000, "so, " * 50_000, "." * 200_000, "\n" * 200_000, "a. " * 60_000]
)
def test_hostile_text_takes_linear_time(text: str) -> None:
    start = time.process_time()
    for _, sentence in rules.sentences(text):
        rules.strategy_of(sentence)
    assert time.process_time() - start < 5


TEXT = "First, 6 + 7 = 13. Then, 13 + 8 = 21.\nWait, check that. Fine weather. The answer is 21."


@pytest.fixture(scope="module")
def byte_tokenizer():
    """A byte-level BPE with a few merges, so that one text has many tokenisations."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        [TEXT] * 4, trainers.BpeTrainer(vocab_size=300, special_tokens=["<eos>"], initial_alphabet=alphabet, show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("canonical", [True, False])
def test_rules_give_spans_of_the_sampled_tokens(byte_tokenizer, canonical: bool) -> None:
    ids = byte_tokenizer(TEXT)["input_ids"] if canonical else [i for c in TEXT for i in byte_tokenizer(c)["input_ids"]]
    assert canonical == (len(ids) < len(TEXT))
    row = {
        "arm": "a",
        "problem": "p",
        "sample": 0,
        "text": TEXT,
        "token_ids": np.array([*ids, byte_tokenizer.eos_token_id], dtype=np.int32),
    }
    table = tag(Rollouts(pd.DataFrame([row])), rules.RULES, tokenizer=byte_tokenizer).table
    assert table.columns.tolist() == ["arm", "problem", "sample", "strategy", "start", "end", "think"]
    assert not table["think"].any()
    assert table["strategy"].tolist() == ["compute", "compute", "restart", "answer"]
    texts = [byte_tokenizer.decode(ids[s:e]).strip() for s, e in zip(table["start"], table["end"], strict=True)]
    assert texts == ["First, 6 + 7 = 13.", "Then, 13 + 8 = 21.", "Wait, check that.", "The answer is 21."]
    assert table["end"].iloc[-1] == len(ids)  # the end-of-text belongs to no sentence


THOUGHT = "<think>First, 6 + 7 = 13.\nWait, check that.</think>So the answer is 13. <think>Let me verify: 13 - 7 = 6"


@pytest.mark.parametrize(
    ("text", "prompt", "inside"),
    [
        (THOUGHT, "Q:", [True, True, False, True]),
        (THOUGHT.removeprefix("<think>"), "Q: <think>\n", [True, True, False, True]),
        (THOUGHT.removeprefix("<think>"), "Q:", [True, True, False, True]),  # what closes was open
        (TEXT, "Q: <think>", [True, True, True, True]),
        (TEXT, "Q: <think> </think>", [False, False, False, False]),
    ],
)
def test_spans_say_whether_they_lie_in_a_think_block(byte_tokenizer, text, prompt, inside) -> None:
    row = {"arm": "a", "problem": "p", "sample": 0, "text": text}
    row |= {"token_ids": np.array(byte_tokenizer(text)["input_ids"]), "prompt_ids": np.array(byte_tokenizer(prompt)["input_ids"])}
    table = tag(Rollouts(pd.DataFrame([row])), rules.RULES, tokenizer=byte_tokenizer).table
    assert table["think"].dtype == bool and table["think"].tolist() == inside
    spans = [byte_tokenizer.decode(row["token_ids"][s:e]) for s, e in zip(table["start"], table["end"], strict=True)]
    assert text == TEXT or (table["strategy"].tolist(), spans[2].strip()) == (["compute", "restart", "answer", "check"], "So the answer is 13.")


def test_tags_are_no_part_of_a_sentence() -> None:
    assert list(rules.sentences("<think>Wait.</think>No")) == [(7, "Wait."), (20, "No")]


def test_a_tokenizer_of_another_model_is_refused(byte_tokenizer) -> None:
    row = {"arm": "a", "problem": "p", "sample": 0, "text": "So the answer is 3.", "token_ids": np.array([3, 4, 5])}
    with pytest.raises(InvalidInput, match="does not decode the tokens to their text"):
        tag(Rollouts(pd.DataFrame([row])), rules.RULES, tokenizer=byte_tokenizer)


def test_the_tokenizer_of_the_organisms_agrees_with_the_words(traces) -> None:
    tokenizer = chain_tokenizer()
    for trace in traces[:20]:
        assert tokenizer.decode([IDS[w] for w in trace], skip_special_tokens=True) == " ".join(trace[:-1])
