"""The word-level tokenizer of the organism language, as an ordinary Hugging Face tokenizer."""

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from latentreason.tasks import chain


def chain_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word of `chain.VOCABULARY`; pads on the left; adds no <bos> by itself."""
    vocabulary = {token: i for i, token in enumerate(chain.VOCABULARY)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=chain.PAD))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=chain.BOS, eos_token=chain.EOS, pad_token=chain.PAD, unk_token=chain.PAD,
        padding_side="left", clean_up_tokenization_spaces=False,
    )  # fmt: skip
