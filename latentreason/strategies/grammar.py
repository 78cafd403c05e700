"""The grammar of organism traces as a finite automaton, and the exact checker of a trace.

The automaton reads tokens one at a time and knows, from the prefix alone, what the next token is for. So timing positions
(the next token chooses a format or a strategy) and content positions (all others) partition a completion without looking
at what is emitted there. A token that does not fit leads to the state `malformed`, which counts as content and ends at
the next separator; it is counted and never crashes.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from latentreason.tasks import chain

START, DECIDE, END, MALFORMED = "start", "decide", "end", "malformed"


@lru_cache(1)
def automaton() -> tuple[list[str], np.ndarray]:
    """State names and the table `next_state[state, token id]`."""
    moves: dict[str, dict[str, str]] = {START: {}, DECIDE: {}, END: {}, MALFORMED: {}}

    def digits(source: str, target: str) -> str:
        """A chain of states that reads three digits and ends in `target`; the first of them."""
        for i in range(3):
            moves[f"{source}{i}"] = dict.fromkeys(chain.DIGITS, f"{source}{i + 1}" if i < 2 else target)
        return f"{source}0"

    parts = tuple(chain.EASY)
    moves["eos"] = {chain.EOS: END}
    answer = {chain.ANSWER: digits("answer", "eos")}
    moves["answer0"] |= dict.fromkeys(chain.WRAPPERS[1:], digits("wrapped", "eos"))
    moves[START] = {"direct": "direct", **dict.fromkeys(chain.FORMATS[1:], DECIDE)}
    moves["direct"] = answer
    moves[DECIDE] = {**answer, **{s: s for s in chain.STRATEGIES}}
    moves["close"] = dict.fromkeys(chain.SEPARATORS, DECIDE)
    result, second = digits("result", "close"), digits("part", "part_name")
    for name in ("so", "run"):
        moves[name] = dict.fromkeys(chain.LETTERS, result)
    moves["leap"] = dict.fromkeys(chain.LETTERS, "leap_second")
    moves["leap_second"] = dict.fromkeys(chain.LETTERS, result)
    moves["split"] = dict.fromkeys(chain.LETTERS, "first_part")
    moves["first_part"] = dict.fromkeys(parts, second)
    moves["part_name"] = dict.fromkeys(parts, result)
    moves["check"] = dict.fromkeys(chain.LETTERS, "check_body")
    moves["check_body"] = {**dict.fromkeys(parts, second), **moves["result0"]}
    names = list(moves)
    ids = {token: i for i, token in enumerate(chain.VOCABULARY)}
    table = np.full((len(names), len(chain.VOCABULARY)), names.index(MALFORMED), dtype=np.int64)
    for source, row in moves.items():
        for token, target in row.items():
            table[names.index(source), ids[token]] = names.index(target)
    table[names.index(END)] = names.index(END)
    table[names.index(MALFORMED), [ids[s] for s in chain.SEPARATORS]] = names.index(DECIDE)
    return names, table


def scan(tokens: Int[np.ndarray, "row t"]) -> Int[np.ndarray, "row t1"]:
    """State BEFORE each token, and after the last one: `state[:, t]` says what token t is for."""
    names, table = automaton()
    states = np.full((tokens.shape[0], tokens.shape[1] + 1), names.index(START), dtype=np.int64)
    for t in range(tokens.shape[1]):
        states[:, t + 1] = table[states[:, t], tokens[:, t]]
    return states


def timing_positions(tokens: Int[Tensor, "row t"]) -> Bool[Tensor, "row"]:
    """Whether the token to come chooses a format or a strategy."""
    names, table = automaton()
    moves = torch.as_tensor(table, device=tokens.device)
    state = torch.full((tokens.shape[0],), names.index(START), device=tokens.device)
    for t in range(tokens.shape[1]):
        state = moves[state, tokens[:, t]]
    return (state == names.index(START)) | (state == names.index(DECIDE))


@dataclass(frozen=True)
class TraceStep:
    """One strategy in a trace: `start` is the position of its token, `end` is exclusive.

    `valid` = it does the operation whose turn it is and gets it right; `follows` = its result follows from the state before by the operation that
    it names, whether or not that is the one whose turn it is.
    """

    strategy: str
    start: int
    end: int
    valid: bool
    follows: bool


@dataclass(frozen=True)
class Trace:
    """A parsed trace. `valid` = well formed, every operation done in order, every step valid, and the answer is the last state.

    A wrong step that a `check` takes back does not make the trace invalid.
    """

    format: str | None
    steps: list[TraceStep]
    well_formed: bool
    valid: bool


def parse(text: str, meta: dict[str, Any]) -> Trace:
    """Parse a trace and check it against its problem (`Problem.meta`): exact, and for any text at all.

    >>> parse("go so a 7 1 4 , ans 7 1 4", {"start": [4, 7, 1], "operations": ["rot"]}).valid
    True
    """
    words = text.split()
    ids = {token: i for i, token in enumerate(chain.VOCABULARY)}
    names, _ = automaton()
    states = scan(np.array([[ids.get(w, 0) for w in words] + [ids[chain.EOS]]]))[0]
    well_formed = names[states[-2]] == "eos" and names.index(MALFORMED) not in states  # all that is missing is the end-of-text
    opens = [i for i in range(len(words)) if names[states[i]] == DECIDE and words[i] in (*chain.STRATEGIES, chain.ANSWER)]
    opens += [i for i in range(1, len(words)) if names[states[i]] == "direct" and words[i] == chain.ANSWER]
    opens.sort()
    ends = [*opens[1:], len(words)][: len(opens)]
    operations, state, done = meta["operations"], tuple(meta["start"]), 0
    index = {letter: i - meta.get("first", 0) for i, letter in enumerate(chain.LETTERS)}
    history: list[tuple[tuple[int, ...], int, bool]] = []  # (state before, operations done before, valid) of the steps that stand
    steps: list[TraceStep] = []
    answered = False
    for start, end in zip(opens, ends, strict=True):
        body = [w for w in words[start:end] if w not in chain.SEPARATORS]
        result = tuple(int(w) for w in body[-3:] if w in chain.DIGITS)
        letters = [w for w in body[1:3] if w in chain.LETTERS]
        if body[0] == chain.ANSWER:
            follows = result == state
            valid = follows and (done == len(operations) or words[0] == "direct")
            answered = True
        else:
            if body[0] == "check" and history:
                state, done, _ = history.pop()
            width = len(letters)
            expected = [index[w] for w in letters] == list(range(done, done + width)) and done + width <= len(operations)
            known = all(0 <= index[w] < len(operations) for w in letters)
            named = [operations[index[w]] for w in letters] if known else []
            follows = known and len(result) == 3 and chain.states(state, named)[-1] == result
            if len(body) > 6 and width == 1 and body[0] in ("split", "check") and known:
                parts = chain.HARD.get(named[0], ("", ""))
                middle = tuple(int(w) for w in body[3:6] if w in chain.DIGITS)
                follows = follows and (body[2], *body[6:7]) == parts and chain.EASY[parts[0]](state) == middle
            valid = expected and follows
            history.append((state, done, valid))
            done += width
            state = result if len(result) == 3 else state
        steps.append(TraceStep(body[0], start, end, valid, follows))
    right = answered and done == len(operations) and all(v for _, _, v in history) and bool(steps) and steps[-1].valid
    return Trace(words[0] if words and words[0] in chain.FORMATS else None, steps, well_formed, well_formed and right)


def slots(tokens: Int[np.ndarray, "t"]) -> np.ndarray:
    """What each token of a completion is: `format`, the strategy that it opens, `answer`, or the kind of content."""
    names, _ = automaton()
    kinds = []
    for token, state in zip(tokens, scan(np.asarray(tokens)[None])[0], strict=False):
        name, word = names[state], chain.VOCABULARY[token]
        if name == START:
            kinds.append("format")
        elif name == DECIDE:
            kinds.append(word if word in (*chain.STRATEGIES, chain.ANSWER) else "malformed")
        elif name == MALFORMED:
            kinds.append("malformed")
        else:
            kinds.append("digit" if word in chain.DIGITS else "separator" if word in chain.SEPARATORS else "step index" if word in chain.LETTERS else "part" if word in chain.EASY else "wrapper" if word in chain.WRAPPERS else "end")
    return np.array(kinds, dtype=object)


def malformed(completions: list[np.ndarray]) -> np.ndarray:
    """Whether each completion of the task `chain` leaves its grammar anywhere; one that is only cut short does not."""
    length = np.array([len(c) for c in completions])
    tokens = np.full((len(length), int(length.max(initial=0))), chain.VOCABULARY.index(chain.EOS))
    for line, completion in zip(tokens, completions, strict=True):
        line[: len(completion)] = completion
    names, _ = automaton()
    seen = np.arange(tokens.shape[1] + 1)[None] <= length[:, None]
    return np.asarray(((scan(tokens) == names.index(MALFORMED)) & seen).any(1))
