"""Counter-based Gumbel noise: is it Gumbel, is it independent, and is it a function of its place alone?"""

import numpy as np
import pytest
import torch
from scipy import stats

from latentreason.sampling.noise import BLOCK, gumbel, row_key


def keys_of(n, seed=0, problem="p"):
    return torch.tensor([row_key(seed, problem, i) for i in range(n)])


@pytest.fixture(scope="module")
def noise():
    """2,000 rows at one place, 50 tokens."""
    return gumbel(keys_of(2000), torch.full((2000,), 17), 50)


def test_it_has_the_moments_and_the_shape_of_the_standard_gumbel(noise):
    values = noise.double().numpy().ravel()
    error = 5 / np.sqrt(len(values))
    assert abs(values.mean() - np.euler_gamma) < error * np.pi / np.sqrt(6)
    assert abs(values.var() - np.pi**2 / 6) < error * np.sqrt(stats.gumbel_r.stats(moments="k") + 2) * np.pi**2 / 6
    assert stats.kstest(values, stats.gumbel_r.cdf).pvalue > 1e-3
    assert noise.dtype == torch.float32


def test_it_is_finite_in_the_far_tails():
    values = gumbel(keys_of(200), torch.arange(200), 50_000)
    assert values.isfinite().all()
    assert -2.9 < float(values.min()) < -2.5 and 13 < float(values.max()) < 16.7


def test_neighbours_in_each_direction_are_uncorrelated():
    keys, positions = keys_of(60).repeat_interleave(60), torch.arange(60).repeat(60)
    cube = gumbel(keys, positions, 60).double().reshape(60, 60, 60)  # sample, position, token
    consecutive = gumbel(torch.arange(60 * 60), torch.zeros(60 * 60, dtype=torch.long), 60).double()  # even of keys that are no hashes
    for one, other in ((cube[1:], cube[:-1]), (cube[:, 1:], cube[:, :-1]), (cube[..., 1:], cube[..., :-1]), (consecutive[1:], consecutive[:-1])):
        assert abs(np.corrcoef(one.numpy().ravel(), other.numpy().ravel())[0, 1]) < 5 / np.sqrt(one.numel())


@pytest.mark.parametrize("logits", [[0.0, 0.0, 0.0, 0.0], [3.0, 2.0, 0.0, -1.0, 1.0, 2.5], [8.0, 0.0, 4.0]])
def test_argmax_frequencies_are_the_softmax(logits):
    n = 40_000
    logits = torch.tensor(logits)
    for keys, positions in ((keys_of(n), torch.full((n,), 5)), (keys_of(1).expand(n), torch.arange(n))):  # over samples, and along one row
        counts = torch.bincount((logits + gumbel(keys, positions, len(logits))).argmax(-1), minlength=len(logits))
        assert stats.chisquare(counts.numpy(), n * logits.double().softmax(-1).numpy()).pvalue > 1e-3


def test_draws_at_neighbouring_positions_are_independent():
    n = 20_000
    tokens = torch.stack([gumbel(keys_of(n), torch.full((n,), t), 4).argmax(-1) for t in (9, 10)])
    table = torch.bincount(tokens[0] * 4 + tokens[1], minlength=16).reshape(4, 4).numpy()
    assert stats.chi2_contingency(table).pvalue > 1e-3


def test_it_is_a_function_of_key_position_and_token_alone():
    keys, positions = keys_of(50), torch.arange(50) * 3
    whole = gumbel(keys, positions, 64)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(gumbel(keys[order], positions[order], 64), whole[order])
    assert torch.equal(gumbel(keys[7:8], positions[7:8], 64)[0], whole[7])
    assert torch.equal(gumbel(keys, positions, 40), whole[:, :40])  # so padded vocabulary rows change nothing
    assert gumbel(keys[:0], positions[:0], 64).shape == (0, 64)
    for n in (BLOCK // 3, BLOCK + 1):  # made in several blocks
        assert torch.equal(gumbel(keys[:8], positions[:8], n)[5], gumbel(keys[5:6], positions[5:6], n)[0])


def test_known_values_do_not_change_between_versions_or_machines():
    """A run from last year must be continued with the same noise."""
    mask = (1 << 64) - 1

    def mix(z):
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    key, position = row_key(3, "abc", 4), 11
    row = mix((key + position * 0x9E3779B97F4A7C15) & mask)
    bits = [mix((row + (token + 1) * 0x9E3779B97F4A7C15) & mask) >> 41 for token in range(8)]
    expected = -np.log(-np.log((np.array(bits) + 0.5) / 2**23))
    np.testing.assert_allclose(gumbel(torch.tensor([key]), torch.tensor([position]), 8)[0].numpy(), expected, rtol=2e-6, atol=2e-6)
    assert key == 5552136230769700470


def test_keys_differ_by_seed_problem_and_sample():
    keys = {row_key(seed, problem, sample) for seed in (0, 1, -1, 2**70) for problem in ("", "0", "1/2", "é") for sample in range(50)}
    assert len(keys) == 4 * 4 * 50
    assert all(-(2**63) <= key < 2**63 for key in keys)
    assert row_key(1, "1/2", 3) != row_key(1, "1", 23)
