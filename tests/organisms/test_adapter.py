"""The pieces of adapter training against plain forward passes and peft's own merge."""

import copy

import pytest
import torch

from latentreason.organisms.trainers.adapter import completion_logps, merged_into


@pytest.fixture
def rows():
    """Five rows of prompts that begin alike, padded on the left, and completions padded on the right."""
    generator = torch.Generator().manual_seed(0)
    words = lambda n: torch.randint(3, 64, (n,), generator=generator).tolist()  # noqa: E731
    prefix = words(6)
    prompts = [prefix + words(n) for n in (1, 4, 2, 4)] + [prefix]
    completions = [words(n) for n in (5, 3, 5, 1, 2)]
    ids = torch.tensor([[0] * (10 - len(p)) + p + c + [0] * (5 - len(c)) for p, c in zip(prompts, completions, strict=True)])
    mask = torch.tensor([[0] * (10 - len(p)) + [1] * (len(p) + len(c)) + [0] * (5 - len(c)) for p, c in zip(prompts, completions, strict=True)])
    return prompts, completions, ids, mask


def test_log_probabilities_and_gradients_equal_those_of_each_row_read_whole(make_tiny, rows):
    prompts, completions, ids, mask = rows
    model = make_tiny("llama").requires_grad_(True)
    logps, entropy = completion_logps(model, ids, mask, 5)
    weight = torch.rand(logps.shape) * mask[:, -5:]
    (weight * logps).sum().backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        alone = logits.gather(-1, torch.tensor(completion)[:, None])[:, 0]
        torch.testing.assert_close(logps[i, : len(completion)], alone, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(entropy[i, : len(completion)], torch.distributions.Categorical(logits=logits).entropy(), atol=1e-5, rtol=1e-5)
        (weight[i, : len(completion)] * alone).sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, atol=1e-4, rtol=1e-4)
    assert len(ours) == len(list(model.parameters()))


def test_prompts_that_share_nothing_are_read_whole(make_tiny):
    model = make_tiny("llama")
    ids, mask = torch.tensor([[3, 4, 5, 6], [7, 8, 9, 10]]), torch.ones(2, 4, dtype=torch.long)
    logps, _ = completion_logps(model, ids, mask, 2)
    expected = model(ids).logits[:, 1:-1].log_softmax(-1).gather(-1, ids[:, 2:, None])[..., 0]
    torch.testing.assert_close(logps, expected, atol=1e-5, rtol=1e-5)


def test_the_merged_copy_gives_the_adapters_logits_and_leaves_the_model_alone(make_tiny):
    from peft import LoraConfig, get_peft_model

    base = copy.deepcopy(make_tiny("llama"))
    copied = copy.deepcopy(base)
    before = {name: p.clone() for name, p in base.named_parameters()}
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")).eval()
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    ids = torch.tensor([[3, 9, 27, 5]])
    for _ in range(2):  # a second time sets the weights, it does not add to them
        merged_into(copied, model)
    torch.testing.assert_close(copied(ids).logits, model(ids).logits, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(copied(ids).logits, make_tiny("llama")(ids).logits, atol=1e-3)
    for name, parameter in model.get_base_model().named_parameters():
        if "lora" not in name:
            assert torch.equal(parameter, before[name.replace("base_layer.", "")])
