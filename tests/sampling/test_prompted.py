"""`sample` with prompts: what the table says of them, what may resume, and grades of scripted completions."""

from dataclasses import dataclass

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from latentreason.config import dump_config, from_dict
from latentreason.errors import ArtifactConflict, InvalidInput, UnknownName
from latentreason.hybrid.decode import Hybrid
from latentreason.models.decoding import Batch, Decoded
from latentreason.models.language_model import LM
from latentreason.models.pair import ModelPair
from latentreason.models.prompts import Prompt
from latentreason.routing.controls import always, never
from latentreason.sampling.local import Sampling, sample
from latentreason.tasks.problem import Problem

CHAT = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}[assistant] "
THINKS = CHAT + "<think>\n"


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    inner = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, []))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    inner.add_special_tokens(["<s>", "</s>"])
    return lambda template=None: PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", chat_template=template, clean_up_tokenization_spaces=False)


@dataclass
class Scripted:
    """Says the same text whatever it is asked; `stops`: ends with end-of-text."""

    tokenizer: object
    text: str
    stops: bool = True
    arms: tuple[str, ...] = ("base",)

    def decode(self, batch: Batch) -> Decoded:
        ids = torch.tensor([*self.tokenizer(self.text)["input_ids"], *([1] if self.stops else [])])
        rows = len(batch.problem)
        self.prompts = batch.prompts
        return Decoded({"token_ids": ids.repeat(rows, 1)}, torch.full((rows,), len(ids)), torch.full((rows,), self.stops))


PROBLEMS = [Problem("0" * 16, "2 + 2?", "4", "gsm8k", {"grader": "math"})]
RAMBLES = " It is \\boxed{4}.\n\nProblem: 3 + 3?\nSolution: It is \\boxed{6}"


def graded(model, prompt):
    row = sample(model, PROBLEMS, Sampling(n=1, prompt=prompt), progress=False).table.iloc[0]
    assert row["text"] == model.text  # the text is kept as it was said
    return row["grade_strict"], row["grade_flexible"]


@pytest.mark.parametrize(
    ("text", "stops", "template", "prompt", "grades"),
    [
        (RAMBLES, False, None, Prompt("few_shot"), ("correct", "correct")),
        (RAMBLES, True, None, Prompt("boxed"), ("wrong", "wrong")),
        (" I do not know.\n\nProblem: 3 + 3?", False, None, Prompt("few_shot"), ("no_answer", "no_answer")),  # done, then went on
        (" I do not", False, None, Prompt("few_shot"), ("truncated", "truncated")),
        ("So \\boxed{4}", False, THINKS, Prompt(chat=True), ("truncated", "truncated")),
        ("So \\boxed{4}", True, THINKS, Prompt(chat=True), ("no_answer", "no_answer")),
        ("So \\boxed{5}</think>4: \\boxed{4}", True, THINKS, Prompt(chat=True), ("correct", "correct")),
        ("So \\boxed{4}", True, CHAT, Prompt(chat=True), ("correct", "correct")),
        ("<think>So \\boxed{4}", True, None, Prompt(), ("no_answer", "no_answer")),
    ],
)  # fmt: skip
def test_grades_know_the_prompt(tokenizer, text, stops, template, prompt, grades):
    assert graded(Scripted(tokenizer(template), text, stops), prompt) == grades


def test_the_prompt_reaches_the_model_and_its_facts_the_table_and_the_disk(tokenizer, tmp_path):
    model = Scripted(tokenizer(CHAT), "\\boxed{4}")
    rollouts = sample(model, PROBLEMS, Sampling(n=2, prompt=Prompt("plain", chat=True, system="Be brief.")), progress=False)
    assert model.tokenizer.decode(model.prompts[0]) == "<s>[system] Be brief.\n[user] 2 + 2?\n[assistant] "
    said = rollouts.info["base"]["prompt"]
    assert (said["style"], said["chat"], said["system"]) == ("plain", True, "Be brief.") and len(said["chat_template"]) == len(said["template"]) == 16
    rollouts.save(tmp_path / "r.parquet")
    assert type(rollouts).load(tmp_path / "r.parquet").info == rollouts.info


def test_a_folder_of_another_prompt_or_chat_template_is_refused(tokenizer, tmp_path):
    def draw(template, prompt):
        sample(Scripted(tokenizer(template), "\\boxed{4}"), PROBLEMS, Sampling(n=1, prompt=prompt), out=tmp_path, progress=False)

    draw(CHAT, Prompt(chat=True))
    draw(CHAT, Prompt(chat=True))
    with pytest.raises(ArtifactConflict, match="They differ in: prompts, sampling"):
        draw(CHAT, Prompt("plain", chat=True))
    with pytest.raises(ArtifactConflict, match=r"They differ in: prompts\."):
        draw(THINKS, Prompt(chat=True))


def test_a_style_that_the_task_does_not_have_is_named_before_anything_is_written(tokenizer, tmp_path):
    with pytest.raises(UnknownName, match="Did you mean 'few_shot'"):
        sample(Scripted(tokenizer(), "4"), PROBLEMS, Sampling(prompt=Prompt("fewshot")), out=tmp_path / "new", progress=False)
    assert not (tmp_path / "new").exists()


def test_a_prompt_survives_the_config_file():
    import tomllib

    sampling = Sampling(prompt=Prompt("boxed", chat=True, system="Be {brief}."))
    assert from_dict(Sampling, tomllib.loads(dump_config(sampling))) == sampling
    assert from_dict(Sampling, tomllib.loads(dump_config(Sampling()))) == Sampling()


def test_the_rl_model_of_a_hybrid_may_have_a_prompt_of_its_own(byte_tokenizer, tmp_path):
    config = LlamaConfig(vocab_size=257, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=512, eos_token_id=0, initializer_range=0.3)
    torch.manual_seed(0)
    pair = ModelPair(*(LM(LlamaForCausalLM(config).eval(), byte_tokenizer, name) for name in ("base", "rl")))
    own = Sampling(n=1, temperature=0.0, max_new_tokens=5, prompt=Prompt("plain"), rl_prompt=Prompt("boxed"))

    def said(model, sampling, **how):
        return [list(ids) for ids in sample(model, PROBLEMS, sampling, progress=False, **how).table["token_ids"]]

    assert said(Hybrid(pair, always()), own, out=tmp_path) == said(pair.rl, own.alone("rl")) != said(pair.rl, own.alone("base"))
    assert said(Hybrid(pair, never()), own) == said(pair.base, own.alone("base"))
    facts = sample(Hybrid(pair, always()), PROBLEMS, own, progress=False).info["always"]
    assert (facts["prompt"]["style"], facts["rl_prompt"]["style"]) == ("plain", "boxed")
    with pytest.raises(ArtifactConflict):
        said(Hybrid(pair, always()), own.alone("base"), out=tmp_path)
    with pytest.raises(InvalidInput, match=r"rl_prompt is for the RL model of a pair.*sampling\.alone\('base'\)"):
        sample(pair.base, PROBLEMS, own, progress=False)


def test_swaps_go_on_under_the_prompt_of_each_model_and_are_graded_as_samples_are(byte_tokenizer, monkeypatch):
    """Greedy always-RL goes on from its own token as it did: only under the RL model's own prompt does each swap lead back to what it said."""
    from latentreason.hybrid import value
    from latentreason.tasks.grading import Grade

    config = LlamaConfig(vocab_size=257, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=512, eos_token_id=0, initializer_range=0.3)
    torch.manual_seed(0)
    pair = ModelPair(*(LM(LlamaForCausalLM(config).eval(), byte_tokenizer, name) for name in ("base", "rl")))
    fit = [Problem(f"{i}" + "f" * 15, f"{i} + 2?", "4", "gsm8k", {"grader": "math"}) for i in range(3)]
    own = Sampling(n=1, temperature=0.0, max_new_tokens=8, prompt=Prompt("plain"), rl_prompt=Prompt("boxed"))
    said = set(sample(Hybrid(pair, always()), fit, own, progress=False).table["text"])
    monkeypatch.setattr(value, "split_of", lambda _: "fit")
    monkeypatch.setattr(value, "graded", lambda text, problem, sampling, **how: (Grade("correct" if text in said else "wrong", None),) * 2)

    def values(sampling):
        found = value.swap_values(pair, fit, sampling=sampling, continuations=1, progress=False)
        return found, found.table.loc[found.table["arm"] == "rl", "value"]

    found, worth = values(own)
    assert len(worth) > 5 and (worth == 1).mean() > 0.9  # not all: two broken bytes at the end are one text
    assert byte_tokenizer.decode(found.rl_rollouts.table["prompt_ids"].iloc[0]) != byte_tokenizer.decode(found.rollouts.table["prompt_ids"].iloc[0])
    assert (values(own.alone("base"))[1] == 1).mean() < 0.1  # under the shared prompt the RL model says something else
