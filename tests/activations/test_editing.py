"""`editing` against forward passes edited by hand, and that it leaves nothing behind."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from latentreason.activations.editing import Edit, additions, editing
from latentreason.activations.hf import absolute_positions
from latentreason.activations.sites import Site
from latentreason.errors import InvalidInput, NonFinite, UnknownName
from latentreason.models.blocks import blocks, decoder
from latentreason.models.decoding import PrefixDecoder
from latentreason.models.language_model import LM

VECTOR = torch.linspace(-2, 3, 32)
IDS = torch.tensor([[1, 5, 9, 33, 12, 40, 7, 21, 60, 14]])


@contextmanager
def by_hand(lm: LM, layer: int, change) -> Iterator[None]:
    handle = blocks(lm)[layer].register_forward_hook(lambda module, args, output: change(output))
    try:
        yield
    finally:
        handle.remove()


def logits(lm: LM, ids: Tensor = IDS, **inputs: Tensor) -> Tensor:
    with torch.inference_mode():
        return lm.model(input_ids=ids, **inputs).logits


def hooks(lm: LM) -> list[int]:
    return [id(hook) for m in lm.model.modules() for hook in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]


@pytest.mark.parametrize("mode", ["add", "ablate", "replace"])
def test_each_mode_equals_the_change_made_by_hand(lm: LM, mode: str) -> None:
    unit = VECTOR / VECTOR.norm()
    changes = {
        "add": lambda h: h + VECTOR,
        "ablate": lambda h: h - torch.einsum("bpd,d,e->bpe", h, unit, unit),
        "replace": lambda h: torch.ones_like(h) * VECTOR,
    }
    with by_hand(lm, 1, changes[mode]):
        expected = logits(lm)
    with editing(lm, [Edit(Site(1), VECTOR, mode)]) as edited:
        found = logits(edited)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert (found - logits(lm)).abs().max() > 0.1


def test_leaving_restores_the_logits_to_the_bit(lm: LM) -> None:
    before, there = logits(lm), hooks(lm)
    with editing(lm, [Edit(Site(0), VECTOR), Edit(Site(2), VECTOR, "ablate")]):
        assert not torch.equal(logits(lm), before)
    assert torch.equal(logits(lm), before) and hooks(lm) == there


def test_an_exception_leaves_no_hook_and_keeps_those_of_others(lm: LM) -> None:
    seen: list[int] = []
    foreign = blocks(lm)[1].register_forward_hook(lambda module, args, output: seen.append(1))
    there = hooks(lm)
    try:
        edit = Edit(Site(1), VECTOR, positions=lambda p: p > 0)
        with pytest.raises(RuntimeError, match="size of tensor"), editing(lm, [edit]):
            logits(lm) + torch.ones(7)
        with pytest.raises(ZeroDivisionError), editing(lm, [Edit(Site(1), VECTOR, positions=lambda p: p > 1 / 0)]):
            logits(lm)
        assert hooks(lm) == there
        logits(lm)
        assert len(seen) == 2 + 1  # the foreign hook of the failed pass came first
    finally:
        foreign.remove()


@pytest.mark.parametrize("given", ["mask", "function", "wide mask"])
def test_absolute_positions_under_a_cache_equal_a_full_forward_edited_by_hand(lm: LM, given: str) -> None:
    chosen = torch.tensor([2, 5, 6, 9])
    mask = torch.zeros(1, 10 if given == "mask" else 50, dtype=torch.bool)
    mask[0, chosen] = True
    positions = (lambda p: torch.isin(p, chosen)) if given == "function" else mask

    def change(hidden: Tensor) -> Tensor:
        return torch.where(mask[:, :10, None], hidden + VECTOR, hidden)

    with by_hand(lm, 1, change):
        expected = logits(lm)
    with editing(lm, [Edit(Site(1), VECTOR, positions=positions)]), torch.inference_mode():
        torch.testing.assert_close(logits(lm), expected, atol=1e-5, rtol=0)
        step = lm.model(input_ids=IDS[:, :4], use_cache=True)
        parts = [step.logits]
        for t in range(4, 10):  # neither mask nor position_ids: the cache alone says where we are
            step = lm.model(input_ids=IDS[:, t : t + 1], past_key_values=step.past_key_values, use_cache=True)
            parts.append(step.logits)
    torch.testing.assert_close(torch.cat(parts, 1), expected, atol=1e-5, rtol=0)


def test_generation_of_a_left_padded_batch_is_edited_as_its_rows_alone(lm: LM) -> None:
    prompts = [[1, 5, 9], [1, 33, 12, 40, 7, 21]]
    edit = Edit(Site(1), 3 * VECTOR, positions=lambda p: p >= 5)
    how = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    with editing(lm, [edit]):
        singles = [lm.model.generate(torch.tensor([p]), **how) for p in prompts]
        ids = torch.tensor([[0, 0, 0, *prompts[0]], prompts[1]])
        both = lm.model.generate(ids, attention_mask=(torch.arange(6)[None] >= torch.tensor([[3], [0]])).long(), **how)
    plain = lm.model.generate(torch.tensor([prompts[0]]), **how)
    for row, single in enumerate(singles):
        torch.testing.assert_close(torch.stack(both.logits)[:, row], torch.stack(single.logits)[:, 0], atol=1e-4, rtol=0)
    # the first changed state is at position 5, which predicts token 6, the fourth that is generated
    first = torch.stack(plain.logits)[:3] - torch.stack(singles[0].logits)[:3]
    assert first.abs().max() < 1e-5
    assert (plain.logits[3] - singles[0].logits[3]).abs().max() > 0.1


def test_a_mask_has_a_row_for_each_sequence_and_counts_from_the_first_real_token(lm: LM) -> None:
    mask = torch.tensor([[False, True, False], [False, False, True]])
    ids = torch.tensor([[0, 0, 1, 5, 9], [1, 33, 12, 40, 7]])
    padding = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    seen = []
    with editing(lm, [Edit(Site(1), VECTOR, "replace", positions=mask)]), by_hand(lm, 1, lambda h: seen.append(h)):
        logits(lm, ids, attention_mask=padding, position_ids=(padding.cumsum(-1) - 1).clamp_min(0))
    replaced = (seen[0] == VECTOR).all(-1)
    assert replaced.tolist() == [[False, False, False, True, False], [False, False, True, False, False]]
    three = torch.zeros(3, 4, dtype=torch.bool)
    with pytest.raises(InvalidInput, match="3 rows, the batch 2"), editing(lm, [Edit(Site(1), VECTOR, positions=three)]):
        logits(lm, ids)


def test_positions_are_known_from_mask_position_ids_or_cache() -> None:
    ids = torch.zeros(2, 3, dtype=torch.long)
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    one = SimpleNamespace(get_seq_length=lambda: 1)
    assert absolute_positions({"input_ids": ids, "attention_mask": mask, "past_key_values": one}).tolist() == [[-1, 0, 1], [1, 2, 3]]
    assert (
        absolute_positions({"inputs_embeds": torch.zeros(2, 3, 8), "position_ids": torch.tensor([[4, 5, 6]])}).tolist() == [[4, 5, 6]] * 2
    )
    cache = SimpleNamespace(get_seq_length=lambda: 4)
    static = torch.tensor([[0, 1, 1, 1, 1, 1, 1, 1, 0, 0]] * 2)  # as wide as the cache will be
    assert absolute_positions({"input_ids": ids, "attention_mask": static, "past_key_values": cache}).tolist() == [[3, 4, 5]] * 2
    assert absolute_positions({"input_ids": ids, "past_key_values": cache}).tolist() == [[4, 5, 6]] * 2
    assert absolute_positions({"input_ids": ids}).tolist() == [[0, 1, 2]] * 2


def test_vectors_of_another_width_or_with_nan_are_refused_before_any_hook(lm: LM) -> None:
    there = hooks(lm)
    with pytest.raises(InvalidInput, match="width 16, 'tiny' has d_model 32"), editing(lm, [Edit(Site(1), torch.ones(16))]):
        pass
    with pytest.raises(InvalidInput, match="blocks 0 to 2"), editing(lm, [Edit(Site(3), VECTOR)]):
        pass
    with pytest.raises(UnknownName, match="backend"), editing(lm, [], backend="hg"):
        pass
    with pytest.raises(NonFinite, match=r"resid\.1"):
        Edit(Site(1), torch.full((32,), torch.nan))
    with pytest.raises(InvalidInput, match="no direction"):
        Edit(Site(1), torch.zeros(32), "ablate")
    with pytest.raises(UnknownName, match=r"'ad'\. Did you mean 'add'"):
        Edit(Site(1), VECTOR, "ad")
    assert hooks(lm) == there


def test_the_vector_follows_the_dtype_of_the_activations(make_tiny, tiny_tokenizer) -> None:
    from copy import deepcopy

    half = LM(deepcopy(make_tiny("llama")).to(torch.bfloat16), tiny_tokenizer, "bf16")
    for mode in ("add", "ablate", "replace"):
        with editing(half, [Edit(Site(1), VECTOR.double(), mode)]):
            assert logits(half).dtype == torch.bfloat16


def test_additions_steer_the_rerun_of_a_step_as_a_full_forward_by_hand(lm: LM) -> None:
    from latentreason.vectors.steering_vector import SteeringVector, VectorSet

    vectors = VectorSet((SteeringVector.of(Site(1), VECTOR, "a", 3), SteeringVector.of(Site(2), -VECTOR, "a", 3)))
    with torch.inference_mode():
        cache = PrefixDecoder([lm], [IDS[0].tolist(), [1, 5, 9]])
        before = [x.clone() for x in cache.logits]
        with editing(lm, additions(vectors, 0.5)):
            found, place = cache.again(0, torch.tensor([1, 0]))
        torch.testing.assert_close(cache.again(0, torch.tensor([0, 1]))[0], before[0], atol=1e-4, rtol=0)
    for row, ids in enumerate([IDS[:, :3] * 0 + torch.tensor([[1, 5, 9]]), IDS]):
        last = torch.arange(ids.shape[1])[None, :, None] == ids.shape[1] - 1
        with by_hand(lm, 1, lambda h, last=last: h + 0.5 * VECTOR * last), by_hand(lm, 2, lambda h, last=last: h - 0.5 * VECTOR * last):
            torch.testing.assert_close(found[place[row]], logits(lm, ids)[0, -1], atol=1e-4, rtol=0)
    with pytest.raises(InvalidInput, match="not finite"):
        additions(vectors, float("nan"))


def test_the_blocks_are_found_in_each_family(lm: LM) -> None:
    assert len(blocks(lm)) == lm.n_layers and decoder(lm) is lm.model.base_model
