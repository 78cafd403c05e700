"""Counter-based Gumbel noise: a function of (key, absolute position, token), with no state and no history.

So a resumed run, another batch size, a rolled-back draft and every other arm see the same noise for the same place, and
two models that share it differ only where their distributions do. The hash is splitmix64 (Steele et al. 2014).
"""

import hashlib

import torch
from jaxtyping import Float, Int
from torch import Tensor

_GAMMA = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def row_key(seed: int, problem_id: str, sample: int) -> int:
    """The 64-bit key of one sample of one problem."""
    digest = hashlib.blake2b(f"{seed}/{problem_id}/{sample}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _mix_(z: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """In place."""
    for shift, rest, factor in ((30, 0x3FFFFFFFF, _MIX_1), (27, 0x1FFFFFFFFF, _MIX_2), (31, 0x1FFFFFFFF, 1)):
        z ^= (z >> shift).bitwise_and_(rest)
        z *= factor
    return z


BLOCK = 1 << 16
"""Numbers made at once on a CPU: so few stay in its cache, where fresh memory for all of them would cost more than the arithmetic."""


def gumbel(keys: Int[Tensor, "row"], positions: Int[Tensor, "row"], n_vocab: int) -> Float[Tensor, "row vocab"]:
    """Standard Gumbel noise in fp32, from 23 random bits a token (values up to 16.6, so none is infinite)."""
    row = _mix_(keys + positions * _GAMMA)
    token = torch.arange(1, n_vocab + 1, device=keys.device) * _GAMMA
    noise = torch.empty(len(keys), n_vocab, device=keys.device)
    size = max(1, BLOCK // n_vocab if keys.device.type == "cpu" else len(keys))
    for i in range(0, len(keys), size):
        bits = _mix_(row[i : i + size, None] + token)
        bits >>= 41
        bits &= 0x7FFFFF
        noise[i : i + size].copy_(bits).add_(0.5).div_(8388608.0).log_().neg_().log_().neg_()
    return noise
