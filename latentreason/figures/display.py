"""The trace reader: completions as HTML, each token in the colour of who said it, what was changed marked, arms side by side.

It needs no network and no script for its content; a few lines of script let a reader pick a problem. Whatever a model wrote is escaped.
Tokens are strings (column `tokens`) or ids (`token_ids`) with a `decode`::

    show(lr.tables.concat([base, hybrid, rl]), problem=base.table["problem"][0], sample=0, decode=pair.base.tokenizer.decode)
"""

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from latentreason.errors import InvalidInput
from latentreason.studies.palette import ARMS, NAMES, STEERED
from latentreason.tables import Rollouts

Decode = Callable[[int], str]

SOURCES = {0: ("base", ARMS["base"]), 1: ("RL", ARMS["rl"]), 2: ("steered base", STEERED)}
"""Column `source` -> who said the token, and their colour."""

ORDER = ("base", "hybrid", "rl")
OF_ARM = {"base": 0, "rl": 1}
"""Who speaks in a plain arm, which has no column `source`."""

_COLOURS = "\n".join(f".lr .s{i} {{ background: {colour}2b; box-shadow: inset 0 -2px {colour}; }}" for i, (_, colour) in SOURCES.items())
CSS = f"""
.lr {{ font: 14px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; }}
.lr .row {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(16rem, 1fr)); gap: .8rem; margin: .4rem 0 1.2rem; }}
.lr .arm {{ border: 1px solid #ddd; border-radius: 6px; padding: .5rem .7rem; background: #fff; min-width: 0; }}
.lr .arm b.who {{ font-size: 13px; }}
.lr .right {{ color: #00664a; }} .lr .wrong {{ color: #a33d00; }}
.lr .text {{ font: 13px/2 ui-monospace, Menlo, Consolas, monospace; white-space: pre-wrap; overflow-wrap: anywhere; margin: .3rem 0; }}
.lr .text span {{ unicode-bidi: isolate; border-radius: 3px; padding: 1px 2px; cursor: help; }}
.lr .c {{ font-weight: bold; text-decoration: underline; text-decoration-thickness: 2px; text-underline-offset: 3px; }}
.lr .note {{ color: #555; font-size: 12px; margin: 0; }}
.lr .question {{ font: 13px/1.6 ui-monospace, Menlo, Consolas, monospace; white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; }}
.lr select {{ max-width: 100%; }}
.lr .key span {{ padding: 1px 6px; margin-right: .6rem; border-radius: 3px; }}
{_COLOURS}
"""

SCRIPT = """
document.querySelectorAll(".lr.reader").forEach(function (reader) {
  var parts = reader.querySelectorAll("section"), pick = document.createElement("select"), label = document.createElement("label");
  if (parts.length < 2) return;
  parts.forEach(function (part, i) { pick.add(new Option(part.dataset.label, i)); });
  pick.onchange = function () { parts.forEach(function (part, i) { part.hidden = i != pick.value; }); };
  label.append("Problem: ", pick);
  reader.insertBefore(label, parts[0]);
  pick.onchange();
});
"""
"""Shows one problem at a time; without it all of them are there, one below the other."""


@dataclass(frozen=True)
class View:
    """A piece of HTML that a notebook shows."""

    html: str

    def _repr_html_(self) -> str:
        return self.html


def trace_html(
    rollouts_by_arm: Mapping[str, Rollouts], *, decode: Decode | None = None, problems: Sequence[str] | None = None,
    samples: Sequence[int] | None = None, script: bool = True,
) -> str:  # fmt: skip
    """A trace reader: for each problem and sample, the completions of the arms side by side.

    Args:
        rollouts_by_arm: arms by name; "base", "hybrid" and "rl" come first. Columns problem, sample, and `tokens` (strings) or `token_ids`;
            where they are there, source, changed, `base_tokens` or base_token_ids, base_entropy, divergence, correct, question, answer.
        decode: token id -> text, for tables without `tokens`.
        problems: which; None for all that every arm has.
        samples: which; None for all that every arm has.
        script: with the few lines that let a reader pick a problem.

    Raises:
        InvalidInput: no arm, a problem or sample that an arm does not have, or token ids without `decode`.
    """
    if not rollouts_by_arm:
        raise InvalidInput("There is nothing to show: pass at least one arm.")
    names = sorted(rollouts_by_arm, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
    tables = {name: rollouts_by_arm[name].table.set_index(["problem", "sample"], drop=False) for name in names}
    common = [key for key in tables[names[0]].index if all(key in table.index for table in tables.values())]
    wanted = list(dict.fromkeys(problem for problem, _ in common)) if problems is None else list(problems)
    parts = []
    for problem in wanted:
        of_problem = sorted({sample for p, sample in common if p == problem}) if samples is None else list(samples)
        if missing := [(problem, s) for s in of_problem if (problem, s) not in common] or ([] if of_problem else [(problem, "any")]):
            raise InvalidInput(f"Not every arm has problem {missing[0][0]!r}, sample {missing[0][1]}. Fix: sample the arms alike.")
        rows = [{name: tables[name].loc[[(problem, s)]].iloc[0] for name in names} for s in of_problem]
        parts.append(_section(str(problem), rows, decode))
    tail = f"<script>{SCRIPT}</script>" if script else ""
    return f'<style>{CSS}</style><div class="lr reader">{_key()}{"".join(parts)}</div>{tail}'


def show(rollouts: Rollouts, problem: str, sample: int = 0, *, decode: Decode | None = None) -> View:
    """One problem and sample of all arms in a table, side by side, for a notebook.

    Args:
        rollouts: one or several arms (`tables.concat`).
        problem: which problem.
        sample: which of its samples.
        decode: token id -> text, for instance `pair.base.tokenizer.decode`.

    Raises:
        InvalidInput: an arm does not have it, or token ids without `decode`.
    """
    arms = {name: rollouts.arm(name) for name in rollouts.arms}
    return View(trace_html(arms, decode=decode, problems=[problem], samples=[sample], script=False))


def _key() -> str:
    who = "".join(f'<span class="s{i}">{name}</span>' for i, (name, _) in SOURCES.items())
    return f'<p class="key">Said by: {who} <span class="c">changed</span>the base model would have said something else (hover)</p>'


def _section(problem: str, samples: Sequence[Mapping[str, pd.Series]], decode: Decode | None) -> str:
    """One problem: its question, and a row of arms a sample."""
    first = next(iter(samples[0].values()))
    question, answer = (str(first[c]) if c in first else "" for c in ("question", "answer"))
    outcome = ", ".join(f"{NAMES.get(arm, arm)} {sum(bool(s[arm].get('correct')) for s in samples)}/{len(samples)}" for arm in samples[0])
    head = f'<p class="question">{html.escape(question)}</p>' if question else ""
    head += f'<p class="note">right answer: {html.escape(answer)}</p>' if answer else ""
    rows = []
    for row in samples:
        cells = "".join(_cell(arm, completion, decode) for arm, completion in row.items())
        rows.append(f'<p class="note">sample {html.escape(str(next(iter(row.values()))["sample"]))}</p><div class="row">{cells}</div>')
    label = html.escape(f"{question or problem} (right: {outcome})")
    return f'<section data-label="{label}"><h4>{html.escape(problem)}</h4>{head}{"".join(rows)}</section>'


def _cell(arm: str, row: pd.Series, decode: Decode | None) -> str:
    """One completion."""
    tokens = _strings(row, "tokens", "token_ids", decode)
    n = len(tokens)
    said = _values(row, "base_tokens" if "base_tokens" in row else "base_token_ids", n)
    columns = {name: _values(row, name, n) for name in ("source", "changed", "base_entropy", "divergence")}
    spaced = not any(c.isspace() for token in tokens for c in token)  # a word is a token: the spaces are not in the tokens
    pieces, changes = [], 0
    for t, token in enumerate(tokens):
        source, changed, entropy, divergence = (columns[c][t] for c in columns)
        who = OF_ARM.get(arm, 0) if source is None else int(source)
        notes = [SOURCES.get(who, ("unknown", ""))[0]]
        measured = {"base entropy": entropy, "divergence": divergence}
        notes += [f"{name} {value:.3f} nats" for name, value in measured.items() if value is not None]
        if changed:
            changes += 1
            before = said[t] if said[t] is None or isinstance(said[t], str) else decode(int(said[t])) if decode else None
            notes.append("changed" if before is None else f"base would say: {before}")
        kind = f"s{who} c" if changed else f"s{who}"
        visible = token.replace("\n", "↵\n") if changed and token.isspace() else token or "∅"
        pieces.append(f'<span class="{kind}" title="{html.escape("; ".join(notes))}">{html.escape(visible)}</span>')
    text = (" " if spaced else "").join(pieces)
    count = f"{n} tokens" + (f", {changes} changed" if any(c is not None for c in columns["changed"]) else "")
    verdict = ""
    if "correct" in row and not pd.isna(row["correct"]):
        verdict = '<span class="right">✓ right</span>' if row["correct"] else '<span class="wrong">✗ wrong</span>'
    head = f'<b class="who">{html.escape(NAMES.get(arm, arm))}</b> {verdict}'
    return f'<div class="arm">{head}<div class="text">{text}</div><p class="note">{count}</p></div>'


def _strings(row: pd.Series, words: str, ids: str, decode: Decode | None) -> list[str]:
    if words in row and row[words] is not None:
        return [str(token) for token in row[words]]
    if ids not in row:
        raise InvalidInput("The rollouts have no tokens to show. Pass them as sampled (keep_tokens=True, before .slim()).")
    if decode is None:
        raise InvalidInput("The rollouts hold token ids. Fix: pass decode=tokenizer.decode, for instance that of pair.base.")
    return [decode(int(i)) for i in row[ids]]


def _values(row: pd.Series, column: str, n: int) -> list[Any]:
    """One value a token; None where it is not known."""
    values = row.get(column)
    if not isinstance(values, list | tuple | np.ndarray) or len(values) != n:
        return [None] * n
    return [None if v is None or v != v else v for v in values]
