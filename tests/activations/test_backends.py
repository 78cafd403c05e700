"""The contract of the backends: on tiny random models of thirteen architectures, three backends read and edit the same tensors.

The truth is not one of the backends: `output_hidden_states`, the sums that define the sites, and the model's own weights.
docs/backends.md holds the matrix of what is supported; a test fails where it says something else than happens here.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from latentreason.activations import hf, places
from latentreason.activations.capture import capture
from latentreason.activations.editing import BACKENDS, Edit, editing
from latentreason.activations.sites import KINDS, Activations, Site
from latentreason.errors import UnsupportedSite
from latentreason.models.blocks import blocks
from latentreason.models.language_model import LM
from latentreason.tables import Rollouts

N_LAYERS, D_MODEL = 2, 32
COMMON: dict[str, Any] = {
    "vocab_size": 64, "initializer_range": 0.2, "tie_word_embeddings": False, "attn_implementation": "eager",
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
ROTARY = {"hidden_size": D_MODEL, "intermediate_size": 48, "num_hidden_layers": N_LAYERS, "num_attention_heads": 4, "max_position_embeddings": 64, **COMMON}
GROUPED = {**ROTARY, "num_key_value_heads": 2}
SLIDING = {**GROUPED, "sliding_window": 6}
GEMMA = {**SLIDING, "head_dim": 16, "query_pre_attn_scalar": 16}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}

ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("LlamaConfig", GROUPED),
    "Mistral": ("MistralConfig", SLIDING),
    "Qwen2": ("Qwen2Config", GROUPED),
    "Qwen3": ("Qwen3Config", {**GROUPED, "head_dim": 16}),
    "Phi-3": ("Phi3Config", GROUPED),
    "Mixtral (experts)": ("MixtralConfig", {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "Qwen3 MoE (experts)": ("Qwen3MoeConfig", {**GROUPED, **EXPERTS, "head_dim": 16}),
    "Gemma 2": ("Gemma2Config", GEMMA),
    "Gemma 3 (text)": ("Gemma3TextConfig", GEMMA),
    "OLMo 2": ("Olmo2Config", GROUPED),
    "OLMo 3": ("Olmo3Config", SLIDING),
    "GPT-2": ("GPT2Config", {**COMMON, "n_embd": D_MODEL, "n_layer": N_LAYERS, "n_head": 4, "n_positions": 64}),
    "GPT-NeoX": ("GPTNeoXConfig", ROTARY),
    "GPT-NeoX, sequential": ("GPTNeoXConfig", {**ROTARY, "use_parallel_residual": False}),
    "Phi (not listed)": ("PhiConfig", GROUPED),  # parallel, under one norm
}
OTHERS = [name for name in BACKENDS if name != "hf"]
VECTOR = torch.linspace(-2, 3, D_MODEL)
IDS = torch.tensor([[1, 5, 9, 33, 12, 40, 7, 21, 60, 14]])


@pytest.fixture(scope="module", params=ARCHITECTURES)
def lm(request: pytest.FixtureRequest, tiny_tokenizer) -> LM:
    import transformers

    name, config = ARCHITECTURES[request.param]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, name)(**config), dtype=torch.float32)
        for key, weight in model.named_parameters():  # biases start at 0 and norms at 1, where one that is lost would not show
            if weight.ndim == 1:
                zero = key.endswith("bias") or "Gemma" in request.param  # Gemma's norms scale by 1 + weight
                torch.nn.init.normal_(weight, mean=0.0 if zero else 1.0, std=0.2)
    return LM(model.eval().requires_grad_(False), tiny_tokenizer, request.param)


@pytest.fixture(scope="module")
def sites(lm: LM) -> list[Site]:
    """All that this architecture has."""
    found = [Site(layer, kind) for layer in range(N_LAYERS) for kind in KINDS]
    return [site for site in found if has(lm, site)]


@pytest.fixture(scope="module")
def rollouts(make_rollouts: Callable[..., Rollouts]) -> Rollouts:
    return make_rollouts(5)


@pytest.fixture(scope="module")
def singly(lm: LM, rollouts: Rollouts, sites: list[Site]) -> dict[str, Activations]:
    """By backend: all sites, one sequence at a time, so without padding."""
    return {backend: capture(lm, rollouts, sites, backend=backend, batch_tokens=1) for backend in BACKENDS}


def test_every_listed_architecture_is_here() -> None:
    import transformers

    assert set(places.ANATOMIES) == {getattr(transformers, config).model_type for config, _ in ARCHITECTURES.values()} - {"phi"}


def has(lm: LM, site: Site) -> bool:
    try:
        return places.width(lm, site) > 0
    except UnsupportedSite:
        return False


def logits(lm: LM, ids: Tensor = IDS, **inputs: Tensor) -> Tensor:
    with torch.inference_mode():
        return lm.model(input_ids=ids, **inputs).logits


def projected(lm: LM, layer: int, z: Tensor) -> Tensor:
    """What the heads' outputs add to the residual stream: the output projection, and a norm behind it where there is one."""
    block, kind = blocks(lm)[layer], lm.model.config.model_type
    path = {"gpt2": "attn.c_proj", "gpt_neox": "attention.dense"}.get(kind, "self_attn.o_proj")
    out = block.get_submodule(path)(z)
    return block.post_attention_layernorm(out) if kind in ("gemma2", "gemma3_text", "olmo2", "olmo3") else out


def hooks(lm: LM) -> list[int]:
    return [id(hook) for m in lm.model.modules() for hook in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]


def close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


def test_the_sites_add_up_to_what_the_model_computes(lm: LM, rollouts: Rollouts, sites: list[Site], singly: dict[str, Activations]) -> None:
    values = singly["hf"].values
    states: list[list[Tensor]] = []
    with torch.inference_mode():
        for prompt, completion in zip(rollouts.table["prompt_ids"], rollouts.table["token_ids"], strict=True):
            ids = torch.from_numpy(np.concatenate([prompt, completion])).long()[None]
            states.append([s[0, len(prompt) - 1 : -1] for s in lm.model(input_ids=ids, output_hidden_states=True).hidden_states])
        hidden = [torch.cat(rows) for rows in zip(*states, strict=True)]
        for layer in range(N_LAYERS):
            at = {kind: values.get(Site(layer, kind)) for kind in KINDS}
            assert at["resid_pre"] is not None and at["resid"] is not None
            close(at["resid_pre"], hidden[layer], 1e-5)
            if layer + 1 < N_LAYERS:  # the last entry is after the final norm
                close(at["resid"], hidden[layer + 1], 1e-5)
            if at["z"] is None or at["attn_out"] is None or at["mlp_out"] is None:
                continue
            assert at["z"].shape[1] == places.width(lm, Site(layer, "z"))
            close(projected(lm, layer, at["z"]), at["attn_out"], 1e-5)
            close(at["resid_pre"] + at["attn_out"] + at["mlp_out"], at["resid"], 1e-5)
            if at["resid_mid"] is not None:
                close(at["resid_pre"] + at["attn_out"], at["resid_mid"], 1e-5)
            assert min(float(value.abs().max()) for value in at.values() if value is not None) > 0.05


@pytest.mark.parametrize("backend", OTHERS)
def test_backends_read_the_same_values(lm: LM, sites: list[Site], singly: dict[str, Activations], backend: str) -> None:
    assert singly[backend].sites == sites
    for site in sites:
        close(singly[backend].values[site], singly["hf"].values[site], 1e-5)
    pd.testing.assert_frame_equal(singly[backend].index, singly["hf"].index)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_padded_batch_reads_as_each_sequence_alone(
    lm: LM, rollouts: Rollouts, sites: list[Site], singly: dict[str, Activations], backend: str
) -> None:
    together = capture(lm, rollouts, sites, backend=backend)
    for site in sites:
        close(together.values[site], singly["hf"].values[site], 1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_generated_tokens_have_the_activations_of_decode_time(lm: LM, sites: list[Site], backend: str) -> None:
    seen: dict[Site, list[Tensor]] = {site: [] for site in sites}
    with ExitStack() as stack:  # plain hooks while the model decodes under its cache
        for site in sites:
            where = places.place(lm, site)
            module = blocks(lm)[site.layer].get_submodule(where.path)
            stack.callback(hf._hook(module, where, lambda hidden, site=site: seen[site].append(hidden[0, -1].clone())).remove)
        out = lm.model.generate(IDS[:, :5], max_new_tokens=6, min_new_tokens=6, do_sample=False, pad_token_id=0)
    table = {"arm": ["a"], "problem": ["p"], "sample": [0], "prompt_ids": [IDS[0, :5].numpy()], "token_ids": [out[0, 5:].numpy()]}
    found = capture(lm, Rollouts(pd.DataFrame(table)), sites, backend=backend)
    for site in sites:
        assert len(seen[site]) == 6
        close(found.values[site], torch.stack(seen[site]), 1e-5)


def edits_of_one_effect(lm: LM, sites: list[Site]) -> Iterator[tuple[Site, Site, Tensor, Tensor]]:
    """Pairs of a site and vector with another site and vector where adding must give the same logits, by the sums of a block."""
    for a, b in pairwise([kind for kind in ("attn_out", "resid_mid") if Site(1, kind) in sites]):
        yield Site(1, a), Site(1, b), VECTOR, VECTOR
    yield Site(1, "resid_pre"), Site(0), VECTOR, VECTOR
    if Site(1, "mlp_out") in sites:
        yield Site(1, "mlp_out"), Site(1), VECTOR, VECTOR
    if Site(1, "z") in sites and not hasattr(blocks(lm)[1], "post_feedforward_layernorm"):  # a projection is linear, a norm behind it is not
        vector = torch.linspace(-1, 1, places.width(lm, Site(1, "z")))
        yield Site(1, "z"), Site(1, "attn_out"), vector, projected(lm, 1, vector[None])[0] - projected(lm, 1, torch.zeros_like(vector)[None])[0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_edit_moves_what_is_downstream_and_nothing_else(lm: LM, sites: list[Site], backend: str) -> None:
    plain = logits(lm)

    def edited(site: Site, vector: Tensor, mode: str = "add") -> Tensor:
        with editing(lm, [Edit(site, vector, mode, lambda p: p >= 4)], backend=backend) as found:
            return logits(found)

    for site, other, vector, same in edits_of_one_effect(lm, sites):
        moved = edited(site, vector)
        close(moved, edited(other, same), 1e-4)
        close(moved[:, :4], plain[:, :4], 1e-5)
        assert (moved[:, 4:] - plain[:, 4:]).abs().max() > 0.05
    with editing(lm, [Edit(Site(1), VECTOR)], backend=backend) as found:
        moved = logits(found)
    close(moved, logits_by_hand(lm), 1e-5)
    if backend != "hf":
        for site in sites[len(sites) // 2 :]:  # of the last block
            vector = torch.linspace(-1, 2, places.width(lm, site))
            for mode in ("replace", "ablate"):
                with editing(lm, [Edit(site, vector, mode)]):
                    expected = logits(lm)
                with editing(lm, [Edit(site, vector, mode)], backend=backend) as found:
                    close(logits(found), expected, 1e-4)


def logits_by_hand(lm: LM) -> Tensor:
    handle = blocks(lm)[1].register_forward_hook(lambda module, args, output: output + VECTOR)
    try:
        return logits(lm)
    finally:
        handle.remove()


@pytest.mark.parametrize("backend", BACKENDS)
def test_leaving_or_failing_restores_the_logits_to_the_bit_and_leaves_no_hook(lm: LM, sites: list[Site], backend: str) -> None:
    edits = [Edit(site, torch.ones(places.width(lm, site))) for site in sites]
    before, there = logits(lm), hooks(lm)
    with editing(lm, [], backend=backend) as found:
        own = logits(found)
    own_hooks = hooks(found)
    with editing(lm, edits, backend=backend) as found:
        assert not torch.equal(logits(found), own)
        assert backend == "hf" or torch.equal(logits(lm), before)  # the caller's model is not the one that is edited
    with pytest.raises(ZeroDivisionError), editing(lm, [*edits, Edit(Site(1), VECTOR, positions=lambda p: p > 1 // 0)], backend=backend) as found:
        logits(found)
    assert torch.equal(logits(lm), before) and hooks(lm) == there
    with editing(lm, [], backend=backend) as found:
        assert torch.equal(logits(found), own)
    assert hooks(found) == own_hooks
    assert not any("forward" in module.__dict__ for module in lm.model.modules())


@pytest.mark.parametrize("backend", BACKENDS)
def test_capture_of_an_edited_model_reads_what_is_edited(lm: LM, rollouts: Rollouts, sites: list[Site], singly: dict[str, Activations], backend: str) -> None:
    one = Rollouts(rollouts.table.iloc[[0]])
    n = len(one.table["token_ids"][0])
    for site in sites:
        vector = torch.linspace(-1, 2, places.width(lm, site))
        with editing(lm, [Edit(site, vector, "add")], backend=backend) as edited:
            found = capture(edited, one, [site], backend=backend).values[site]
        close(found, singly["hf"].values[site][:n] + vector, 1e-5)
    vector = torch.ones(D_MODEL)
    with editing(lm, [Edit(Site(0), vector, "replace")], backend=backend) as outer, editing(outer, [Edit(Site(1), vector, "replace")], backend=backend) as inner:
        found = capture(inner, one, [0, 1], backend=backend)
    assert all((values == 1).all() for values in found.values.values())


@pytest.mark.parametrize("backend", OTHERS)
def test_generation_under_an_edit_is_the_same_in_a_left_padded_batch(lm: LM, sites: list[Site], backend: str) -> None:
    ids, mask = torch.tensor([[0, 0, 0, 1, 5, 9], [1, 33, 12, 40, 7, 21]]), torch.tensor([[0, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    how = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, "output_logits": True, "return_dict_in_generate": True, "pad_token_id": 0}
    chosen = [Edit(Site(layer, kind), VECTOR, positions=lambda p: p >= 4) for layer, kind in ((0, "resid"), (1, "resid_mid")) if Site(layer, kind) in sites]
    results = []
    for name in ("hf", backend):
        with editing(lm, chosen, backend=name) as found:
            results.append(torch.stack(found.model.generate(ids, attention_mask=mask, **how).logits))
    close(results[1], results[0], 1e-4)


def test_every_cell_of_the_matrix_works_or_is_a_typed_refusal(lm: LM, make_rollouts: Callable[..., Rollouts], request: pytest.FixtureRequest) -> None:
    lines = (Path(__file__).parents[2] / "docs" / "backends.md").read_text().splitlines()
    plain, cells = logits(lm), []
    for kind in KINDS:
        works = []
        for backend in BACKENDS:
            try:
                assert torch.isfinite(capture(lm, make_rollouts(1), Site(1, kind), backend=backend).values[Site(1, kind)]).all()
                with editing(lm, [Edit(Site(1, kind), torch.ones(places.width(lm, Site(1, kind))))], backend=backend) as found:
                    assert not torch.equal(logits(found), plain)
                works.append(backend)
            except UnsupportedSite:
                with pytest.raises(UnsupportedSite), editing(lm, [Edit(Site(1, kind), VECTOR)], backend=backend):
                    pass
        cells.append("all" if works == list(BACKENDS) else ", ".join(works) or "refused")
    row = f"| {lm.name} | {' | '.join(cells)} |"
    assert row in lines, f"docs/backends.md needs the line\n{row}"
