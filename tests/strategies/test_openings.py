"""Timing positions of text against a plain reading of the whole text."""

import pytest
import torch
from hypothesis import given, settings, strategies as st

from latentreason.strategies.language import language, opening_tokens
from latentreason.strategies.openings import opens_sentence
from latentreason.strategies.rules import sentences
from latentreason.tables import Rollouts

PIECES = ["<eos>", " First", ",", " 6", " + ", "7", " =", " 13", ".", " Then", "\n", "\n\n", "!", " The", " answer is", " 1", "5", "3.5", ". And", " ", "Q:"]


@pytest.fixture(scope="module")
def tokenizer():
    """A tokenizer of fixed pieces that come back from ids exactly as they are."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    plain = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(PIECES)}, unk_token="<eos>"))
    plain.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<eos>")


def ids(*pieces):
    return torch.tensor([[PIECES.index(p) for p in pieces]], dtype=torch.long)


def test_a_token_opens_a_sentence_at_the_start_after_a_line_and_after_a_full_stop(tokenizer):
    opens = opens_sentence(tokenizer)

    def first(prefix, token):
        return bool(opens(ids(*prefix), ids(token)[0]))

    assert first([], " First") and first(["\n"], "Q:") and first([" 13", "."], " Then") and first([" 13", ".", " "], "Q:")
    assert not first([" First"], ",") and not first([" 1"], "5") and not first([" 13", "."], "5")
    assert not first([" 13", "."], " ") and not first([" 13", "."], "<eos>") and not first([], "\n")
    assert first([" 13"], ". And")  # the new sentence begins inside the token


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PIECES[1:]), min_size=1, max_size=7))
def test_the_opening_tokens_of_a_text_are_those_that_hold_the_start_of_a_sentence(tokenizer, pieces):
    opens, said, found = opens_sentence(tokenizer), "", []
    for i, piece in enumerate(pieces):
        if bool(opens(ids(*pieces[:i]) if i else torch.zeros(1, 0, dtype=torch.long), ids(piece)[0])):
            found.append(i)
        said += piece
    starts, ends = [s for s, _ in sentences(said)], []
    length = 0
    for piece in pieces:
        length += len(piece)
        ends.append(length)
    holding = {next(i for i, end in enumerate(ends) if s < end) for s in starts}
    assert holding <= set(found)  # a later token may join what was an opening to the sentence before, never the other way


def test_a_language_of_text_names_openings_and_the_rest_content(tokenizer):
    import pandas as pd

    tokens = [PIECES.index(p) for p in (" First", ",", " 6", " + ", "7", " =", " 13", ".", " The", " answer is", " 13", ".")]
    table = pd.DataFrame({"arm": "base", "problem": "p", "sample": [0], "text": ["".join(PIECES[i] for i in tokens)], "token_ids": [torch.tensor(tokens).numpy()]})
    text = language("arith", tokenizer)
    kinds = text.kinds(Rollouts(table))[0].tolist()
    assert kinds == ["compute", *["content"] * 7, "answer", *["content"] * 3]
    assert opening_tokens(Rollouts(table), text.spans(Rollouts(table))) == {"compute": tokens[0], "answer": tokens[8]}
    assert not text.malformed([torch.tensor(tokens).numpy()]).any() and not text.exact
    both = text.timing(torch.zeros(1, 0, dtype=torch.long), ids("<eos>")[0], ids(" The")[0])
    assert bool(both)  # the RL model's token is enough
