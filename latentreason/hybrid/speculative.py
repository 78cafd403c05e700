"""Speculative decoding for routers that read both models: the base model drafts a block, the RL model reads it in one forward pass.

The router then judges the block position by position with both models' logits, as it would have token by token, and everything up to and
including the first replaced token is kept; both caches take back the rest. The noise of a token depends on its place alone, so a draft that
was taken back leaves no trace and the tokens are those of lockstep. Rows of a batch keep the shortest block that any of them keeps.
"""

from math import sqrt

import torch

from latentreason.models.decoding import Batch, Choose, Decoded, Ledger, Moment, PrefixDecoder, check_context, sampled
from latentreason.models.inference import inference
from latentreason.models.language_model import LM

LONGEST = 16
"""Tokens in a block at most."""


@inference()
def speculate(lms: list[LM], batch: Batch, choose: Choose, block: int | None = None) -> Decoded:
    """Decode as `models.decoding.decode` would, block by block.

    Args:
        lms: base and RL model.
        batch: what to decode; few rows, since one that is changed ends the block of all.
        choose: sees both models' logits by row; must not look at the decoder, which has read ahead.
        block: tokens in a block; None adapts it to how often tokens are replaced.
    """
    check_context(lms, batch)
    decoder = PrefixDecoder(lms, batch.prompts, lazy=(1,), rl_prompts=batch.rl_prompts)
    decoder.ahead = True
    ledger, slot = Ledger(lms, batch, decoder), batch.problem.to(decoder.device)
    tokens, t, blocks_cut = ledger.records["token_ids"], 0, 0
    while True:
        n = min(block or _length(blocks_cut, t), batch.max_new_tokens - t)
        base, drafts, noises = [], [], []
        for j in range(n):
            noises.append(ledger.noise(t + j))
            base.append(decoder.logits[0][slot])
            live = torch.arange(len(slot), device=decoder.device)
            drafts.append(sampled(base[j], Moment(t + j, [base[j]], live, ledger.row, tokens[ledger.row, :t], *noises[j], batch.temperature, batch.top_p, decoder)))
            if j + 1 < n:
                slot = decoder.extend(slot, drafts[j])
        rl, _, place = decoder.lazy[1].ask(slot, n)
        for j in range(n):
            both, (noise, drawn) = [base[j][live], rl[place[live], j]], noises[j]
            own = torch.arange(len(live), device=decoder.device)
            go_on = ledger.write(t + j, choose(Moment(t + j, both, own, ledger.row, tokens[ledger.row, : t + j], noise, drawn[live],
                                                      batch.temperature, batch.top_p, decoder)))  # fmt: skip
            live = live[go_on]
            cut = bool((tokens[ledger.row, t + j] != drafts[j][live]).any())
            if cut or len(live) == 0:
                break
        t, blocks_cut = t + j + 1, blocks_cut + cut
        if len(live) == 0 or t == batch.max_new_tokens:
            return ledger.decoded()
        decoder.forget(n - j - 1)
        slot = decoder.extend(slot[live], tokens[ledger.row, t - 1])


def _length(blocks_cut: int, n_tokens: int) -> int:
    """The block that costs least a kept token, if blocks go on to be cut as often: sqrt(2 c / p) where reading it costs c = 1.3 steps of the base."""
    return max(1, min(LONGEST, round(sqrt(2.6 * (n_tokens + 20) / (blocks_cut + 1)))))
