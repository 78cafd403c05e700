"""Batched decoding of one or more models over one set of prefixes, each distinct prefix computed once.

Many samples of a problem share a prefix: all of them at first, and with shared noise also the same sample under two
routers. So the key-value caches hold one SLOT a distinct prefix, and rows (samples) point at slots. A step extends the
slots by the tokens that rows chose: the first child of a prefix inherits its slot, further children get a copy. Rows that
have finished drop out, and with them the slots that nobody points at.

The engine knows token ids only: no text, no problems, no routers. What is emitted is decided by a `Choose`.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from latentreason.errors import ContextTooLong, InvalidInput
from latentreason.models.cache import Reader
from latentreason.models.inference import inference
from latentreason.models.lazy import LazyReader
from latentreason.tasks.problem import content_hash

if TYPE_CHECKING:
    from latentreason.models.language_model import LM

Noise = Callable[[Int[Tensor, "row"], Int[Tensor, "row"], int], Float[Tensor, "row vocab"]]  # (keys, absolute positions, size of the vocabulary) -> Gumbel noise


@dataclass(frozen=True)
class Batch:
    """What is to be decoded.

    Attributes:
        prompts: token ids, one list a problem.
        problem: index into `prompts` of each row (sample).
        keys: 64-bit noise key of each row, a function of run seed, problem and sample.
        temperature: 0 is greedy.
        top_p: nucleus; 1 keeps all tokens.
        max_new_tokens: length limit of a completion.
        noise: Gumbel noise of (keys, absolute positions); positions count from the start of `prompts`.
        rl_prompts: what the RL model of a pair sees in place of `prompts`, such as its own chat prompt; None for the same prompt. A model
            alone takes `prompts`.
        stop: token ids that end a completion, besides each model's end-of-text.
    """

    prompts: list[list[int]]
    problem: Int[Tensor, "row"]
    keys: Int[Tensor, "row"]
    temperature: float
    top_p: float
    max_new_tokens: int
    noise: Noise
    rl_prompts: list[list[int]] | None = None
    stop: frozenset[int] = frozenset()

    def prompts_of(self, model: int) -> list[list[int]]:
        """What a model reads before the completions: number 0 is the model alone, or the base model of a pair."""
        return self.prompts if model == 0 or self.rl_prompts is None else self.rl_prompts


@dataclass(frozen=True)
class Moment:
    """One step of the decoding, for the rows still alive: what a `Choose` sees.

    `logits[m]` are model m's next-token logits by SLOT (of the models that are not lazy); `slot` maps a row to its slot, `row` to its index in the batch, `place` to its row of
    `noise` (None where decoding is greedy): arms share slots and noise.
    """

    t: int
    logits: list[Float[Tensor, "slot vocab"]]
    slot: Int[Tensor, "alive"]
    row: Int[Tensor, "alive"]
    prefix: Int[Tensor, "alive t"]
    noise: Float[Tensor, "places vocab"] | None
    place: Int[Tensor, "alive"]
    temperature: float
    top_p: float
    decoder: "PrefixDecoder"

    def rows(self, index: Int[Tensor, "some"]) -> "Moment":
        """The same moment for some of the rows."""
        return replace(self, slot=self.slot[index], row=self.row[index], prefix=self.prefix[index], place=self.place[index])

    def tempered(self, factor: float) -> "Moment":
        """The same moment at a multiple of its temperature, with the same noise; greedy stays greedy."""
        return self if factor == 1.0 else replace(self, temperature=self.temperature * factor)


Choose = Callable[[Moment], Mapping[str, Tensor]]  # must return "token_ids"; everything it returns is recorded by row and step


@dataclass(frozen=True)
class Decoded:
    """Completions of a batch: `records[name][row, t]` is meaningful for t < length[row]; `stopped` = ended by end-of-text."""

    records: dict[str, Tensor]
    length: Int[Tensor, "row"]
    stopped: Bool[Tensor, "row"]


def nucleus(logits: Float[Tensor, "*row vocab"], top_p: float) -> Float[Tensor, "*row vocab"]:
    """Logits with everything outside the smallest set of probability `top_p` at -inf."""
    if top_p >= 1.0:
        return logits
    ordered, index = logits.sort(dim=-1, descending=True)
    before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
    return torch.full_like(logits, -torch.inf).scatter(-1, index, ordered.masked_fill(before >= top_p, -torch.inf))


def sampled(logits: Float[Tensor, "slot vocab"], step: Moment) -> Int[Tensor, "alive"]:
    """The token of each row: argmax(logits / T + noise), the same noise for every model; argmax alone where T is 0."""
    if step.noise is None:
        return logits.argmax(-1)[step.slot]
    pair, row = torch.unique(step.slot * len(step.noise) + step.place, return_inverse=True)  # rows with one prefix and one noise draw one token
    return (nucleus(logits / step.temperature, step.top_p)[pair // len(step.noise)] + step.noise[pair % len(step.noise)]).argmax(-1)[row]


class PrefixDecoder:
    """What some models have read of the prefixes in the slots: the same slots for all of them, and the same completions."""

    def __init__(self, lms: "list[LM]", prompts: list[list[int]], sites: Collection[tuple[int, int]] = (), *, lazy: Collection[int] = (),
                 rl_prompts: list[list[int]] | None = None) -> None:  # fmt: skip
        """Reads the prompts (padded on the left, with explicit positions).

        Args:
            lms: the models.
            prompts: token ids.
            sites: (model, layer) whose residual stream at the last position is to be kept in `resid`.
            lazy: models that read when they are asked, not at each step. They have no `logits`; see `LazyReader.ask`.
            rl_prompts: of every model but the first; None for the same prompts. Each model counts positions from the start of its own.

        Raises:
            InvalidInput: no prompts, an empty one, or one model's prompts for fewer problems.
        """
        own = [prompts if m == 0 or rl_prompts is None else rl_prompts for m in range(len(lms))]
        if not prompts or not all(prompts) or not all(own[-1]):
            raise InvalidInput("Nothing to decode: give at least one problem, and prompts of at least one token.")
        if len(own[-1]) != len(prompts):
            raise InvalidInput(f"{len(prompts)} problems have {len(own[-1])} prompts for the RL model; give one a problem, or none for the same prompts.")
        self.lms, self.device, self.ahead, self.prompts = lms, lms[0].device, False, prompts
        self.origin = torch.arange(len(prompts), device=self.device)  # the prompt that each slot began with
        self.n_vocab = min(lm.n_vocab for lm in lms)
        self.eager = {m: Reader(lm, own[m], self.n_vocab, self.device, [layer for model, layer in sites if model == m]) for m, lm in enumerate(lms) if m not in lazy}
        self.lazy = {m: LazyReader(lms[m], own[m], self.n_vocab, self.device) for m in lazy}
        self.readers: list[Reader | LazyReader] = [self.lazy[m] if m in self.lazy else self.eager[m] for m in range(len(lms))]

    @property
    def logits(self) -> list[Float[Tensor, "slot vocab"]]:
        """Of each model that is not lazy."""
        return [reader.logits for reader in self.eager.values()]

    @property
    def resid(self) -> dict[tuple[int, int], Float[Tensor, "slot d_model"]]:
        """Residual stream at the last position, by (model, layer)."""
        return {(m, layer): hidden for m, reader in self.eager.items() for layer, hidden in reader.resid.items()}

    def extend(self, slot: Int[Tensor, "row"], token: Int[Tensor, "row"]) -> Int[Tensor, "row"]:
        """Append each row's token to its prefix; the new slot of each row. `logits` then speak of the new prefixes."""
        key, inverse = torch.unique(slot * self.n_vocab + token, return_inverse=True)
        parent, token = key // self.n_vocab, key % self.n_vocab
        first = torch.ones_like(parent, dtype=torch.bool)
        first[1:] = parent[1:] != parent[:-1]
        n, extra = len(self.readers[0].pad), int((~first).sum())
        used = torch.zeros(n, dtype=torch.bool, device=self.device)
        used[parent] = True
        free = (~used).nonzero()[:, 0]
        if len(key) < 0.75 * n:  # too many slots that nobody needs: lay the caches anew
            self._each_reader("select", parent)
            place = torch.arange(len(parent), device=self.device)
        else:
            place, further = parent.clone(), parent[~first]
            place[~first] = torch.cat([free[:extra], torch.arange(n, n + max(0, extra - len(free)), device=self.device)])
            if m := min(extra, len(free)):
                self._each_reader("copy", further[:m], free[:m])
            if extra > m:
                self._each_reader("grow", further[m:])
        ids = torch.zeros(len(self.readers[0].pad), dtype=torch.long, device=self.device)
        self.origin, origin = ids.clone(), self.origin[parent]
        self.origin[place] = origin
        ids[place] = token
        for lazy in self.lazy.values():
            lazy.append(ids)
        for eager in self.eager.values():
            eager.read(ids[:, None])
        return place[inverse]

    @cached_property
    def prompt_keys(self) -> Int[Tensor, "prompt"]:
        """A 64-bit number of each prompt's tokens, whatever prompts stand beside it."""
        return torch.tensor([int(content_hash(str(ids)), 16) - 2**63 for ids in self.prompts], device=self.device)

    def forget(self, n: int) -> None:
        """Take back the last n tokens of every slot. Slots stay as they are; `logits` speak of the old prefixes until the next `extend`."""
        for reader in self.readers:
            reader.forget(n)

    def again(self, model: int, slot: Int[Tensor, "row"], copies: int = 1, tokens: Int[Tensor, "row n"] | None = None, *, each: bool = False) -> tuple[Float[Tensor, "some vocab"], Int[Tensor, "row"]]:
        """Logits of the last position once more for some slots, for the caller to edit: see `Reader.again`.

        Raises:
            InvalidInput: the models have read ahead, so that the last position is another.
        """
        if self.ahead:
            raise InvalidInput("The models have read ahead of this token. An action that reads the last position again must say so, with reads={'again'}, and runs in mode='lockstep'.")
        return self.eager[model].again(slot, copies, tokens, each=each)

    def _each_reader(self, method: str, *slots: Tensor) -> None:
        for reader in self.readers:
            getattr(reader, method)(*slots)


class Ledger:
    """The rows of a batch while they are decoded: who is alive (`row`), what each emitted, and the noise of its next token."""

    def __init__(self, lms: "list[LM]", batch: Batch, decoder: PrefixDecoder) -> None:
        """All rows alive, nothing emitted."""
        device, n = decoder.device, len(batch.problem)
        self.batch, self.n_vocab, self.row = batch, decoder.n_vocab, torch.arange(n, device=device)
        self.eos = torch.tensor(sorted(batch.stop.union(*(lm.eos_ids for lm in lms))), device=device)
        self.records: dict[str, Tensor] = {"token_ids": torch.zeros(n, batch.max_new_tokens, dtype=torch.long, device=device)}
        self.length, self.stopped = torch.zeros(n, dtype=torch.long, device=device), torch.zeros(n, dtype=torch.bool, device=device)
        start = torch.tensor([len(p) for p in batch.prompts], device=device)[batch.problem.to(device)]
        self._places, self._place = torch.unique(torch.stack([start, batch.keys.to(device)]), dim=1, return_inverse=True)  # arms share their noise: it is drawn once for all of them

    def noise(self, t: int) -> tuple[Float[Tensor, "places vocab"] | None, Int[Tensor, "alive"]]:
        """Of token t, and which row of it each row alive has; None where decoding is greedy."""
        alive, of_row = torch.unique(self._place[self.row], return_inverse=True)
        return None if self.batch.temperature == 0 else self.batch.noise(self._places[1, alive], self._places[0, alive] + t, self.n_vocab), of_row

    def write(self, t: int, chosen: Mapping[str, Tensor]) -> Bool[Tensor, "alive"]:
        """Record token t of the rows alive; which of them go on. The others are alive no more."""
        for name, value in chosen.items():
            if name not in self.records:
                self.records[name] = torch.zeros(len(self.length), self.batch.max_new_tokens, dtype=value.dtype, device=value.device)
            self.records[name][self.row, t] = value
        self.length[self.row] = t + 1
        ended = torch.isin(self.records["token_ids"][self.row, t], self.eos)
        self.stopped[self.row[ended]] = True
        self.row = self.row[~ended]
        return ~ended

    def decoded(self) -> Decoded:
        """What was recorded."""
        return Decoded(self.records, self.length, self.stopped)


def check_context(lms: "list[LM]", batch: Batch) -> None:
    """Raises ContextTooLong where a prompt and its completion do not fit."""
    for model, lm in enumerate(lms):
        longest = max(map(len, batch.prompts_of(model)), default=0)
        if lm.context is not None and longest + batch.max_new_tokens - 1 > lm.context:  # the last token is never read
            raise ContextTooLong(f"Prompt of {longest} tokens and max_new_tokens={batch.max_new_tokens} exceed the {lm.context} positions of {lm.name!r}. Lower max_new_tokens or shorten the prompt.")


@inference()
def decode(lms: "list[LM]", batch: Batch, choose: Choose, sites: Collection[tuple[int, int]] = (), *, lazy: Collection[int] = ()) -> Decoded:
    """Decode every row of a batch; `choose` says what each row emits at each step.

    A completion ends with an end-of-text token of ANY of the models (it is part of the completion), or at the limit. `sites` are
    (model, layer) whose residual stream `choose` wants to see, in `moment.decoder.resid` by slot. Models of `lazy` run when `choose` asks
    `moment.decoder.lazy[model]`, and `moment.logits` are those of the others.

    Raises:
        ContextTooLong: a prompt and its completion do not fit.
    """
    check_context(lms, batch)
    decoder = PrefixDecoder(lms, batch.prompts, sites, lazy=lazy, rl_prompts=batch.rl_prompts)
    ledger, slot = Ledger(lms, batch, decoder), batch.problem.to(decoder.device)
    for t in range(batch.max_new_tokens):
        tokens = ledger.records["token_ids"]
        go_on = ledger.write(t, choose(Moment(t, decoder.logits, slot, ledger.row, tokens[ledger.row, :t], *ledger.noise(t), batch.temperature, batch.top_p, decoder)))
        if len(ledger.row) == 0 or t + 1 == batch.max_new_tokens:
            break
        slot = decoder.extend(slot[go_on], tokens[ledger.row, t])
    return ledger.decoded()
