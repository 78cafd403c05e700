"""One prompt for both models of a pair, whatever their tokenizers would make of it; another only as the factor `rl_prompt`."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from latentreason.errors import InvalidInput
from latentreason.hybrid.decode import Hybrid
from latentreason.models.language_model import LM
from latentreason.models.pair import ModelPair
from latentreason.models.prompts import Prompt, render
from latentreason.routing.controls import always
from latentreason.sampling.local import Sampling, sample
from latentreason.tasks.problem import Problem

PROBLEMS = [Problem(f"{i}" * 16, f"{i} + 2?", f"{i + 2}", "gsm8k", {"grader": "math"}) for i in range(2)]
TEMPLATE = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
NAMES = ["<s>", "</s>", "<r>", "</r>", "<mark>"]


def tokenizer(bos, eos, template, names=NAMES):
    """A token a byte, after five added tokens."""
    words = [*names, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    inner = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, []))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    inner.add_special_tokens(names)
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=bos, eos_token=eos, chat_template=template)


BASE = tokenizer("<s>", "</s>", TEMPLATE + "[assistant] ")
OTHERS = {  # template, BOS and end-of-text differ; then the names of added tokens, too, or there is no BOS and no template
    "other settings": tokenizer("<r>", "</r>", "<mark>" + TEMPLATE + "<mark>\n"),
    "no BOS, no template": tokenizer(None, "</r>", None),
    "renamed": tokenizer("<r>", "</r>", "<think>" + TEMPLATE, [*NAMES[:4], "<think>"]),
}


@pytest.fixture(scope="module")
def lms():
    config = LlamaConfig(vocab_size=len(BASE), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=512, eos_token_id=1, initializer_range=0.3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return lambda other: (LM(LlamaForCausalLM(config).eval(), BASE, "base"), LM(LlamaForCausalLM(config).eval(), OTHERS[other], "rl"))


def seen(model, prompt, **more):
    """What a model is asked, and all that it says."""
    rows = sample(model, PROBLEMS, Sampling(n=1, temperature=0.0, max_new_tokens=4, prompt=prompt, **more), progress=False)
    return [list(ids) for ids in rows.table["prompt_ids"]], [list(ids) for ids in rows.table["token_ids"]], rows.info[model.arms[0]]["prompt"]


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("prompt", [Prompt("plain"), Prompt("boxed", chat=True)], ids=["text", "chat"])
def test_base_rl_and_hybrid_are_asked_in_the_same_tokens_which_are_the_bases(lms, other, prompt):
    base, rl = lms(other)
    pair = ModelPair(base, rl, renamed_special=other == "renamed")
    asked, _, facts = seen(pair.base, prompt)
    assert asked == [render(p, BASE, prompt) for p in PROBLEMS] and all(ids[0] == NAMES.index("<s>") for ids in asked)
    for model in (pair.rl, Hybrid(pair, always()), pair.exchanged().base, pair.exchanged().rl, Hybrid(pair.exchanged(), always())):
        assert seen(model, prompt)[::2] == (asked, facts)
    assert seen(Hybrid(pair, always()), prompt)[1] == seen(pair.rl, prompt)[1]
    # outside the pair the model that was passed is as it was
    assert rl.shared is None and pair.rl.model is rl.model
    if OTHERS[other].chat_template:
        assert seen(rl, prompt)[0] == [render(p, OTHERS[other], prompt) for p in PROBLEMS] != asked


@pytest.mark.parametrize("other", OTHERS)
def test_in_a_pair_the_rl_model_keeps_its_name_its_weights_its_end_and_its_tokenizer(lms, other):
    base, rl = lms(other)
    rl = LM(rl.model, rl.tokenizer, "tuned", "a1b2")
    pair = ModelPair(base, rl, renamed_special=other == "renamed")
    assert (pair.rl.name, pair.rl.revision, pair.rl.fingerprint, pair.rl.n_vocab) == ("tuned", "a1b2", rl.fingerprint, rl.n_vocab)
    assert pair.rl.eos_ids == rl.eos_ids == {NAMES.index("</s>"), NAMES.index("</r>")} != pair.base.eos_ids
    assert pair.rl.tokenizer is rl.tokenizer and ModelPair(pair.base, pair.rl, renamed_special=pair.renamed_special).rl is pair.rl


def test_a_prompt_of_its_own_is_written_by_the_rl_models_own_tokenizer(lms):
    pair, plain, chat = ModelPair(*lms("other settings")), Prompt("plain"), Prompt("boxed", chat=True)
    own = [render(p, OTHERS["other settings"], chat) for p in PROBLEMS]
    asked, alone, facts = seen(pair.rl, plain, rl_prompt=chat)
    assert asked == own and facts["chat"]
    assert own != [render(p, BASE, chat) for p in PROBLEMS]
    hybrid = sample(Hybrid(pair, always()), PROBLEMS, Sampling(n=1, temperature=0.0, max_new_tokens=4, prompt=plain, rl_prompt=chat), progress=False)
    assert [list(ids) for ids in hybrid.table["prompt_ids"]] == [render(p, BASE, plain) for p in PROBLEMS]
    assert [list(ids) for ids in hybrid.table["token_ids"]] == alone and hybrid.info["always"]["rl_prompt"] == facts
    for model in (pair.base, lms("other settings")[1]):
        with pytest.raises(InvalidInput, match=r"rl_prompt is for the RL model of a pair.*sampling\.alone\('base'\)"):
            seen(model, plain, rl_prompt=chat)


def test_the_line_of_a_pair_says_whose_prompts_are_used_where_templates_differ(lms):
    assert repr(ModelPair(*lms("other settings"))).endswith("tokenizers agree but for chat_template, bos_token, eos_token; templates differ: prompts are the base's")
    base, _ = lms("other settings")
    assert repr(ModelPair(base, LM(base.model, BASE, "rl"))).endswith("tokenizers agree")
