"""The report of a run: one HTML page with everything in it. No network, no external file; whatever a model wrote is escaped.

Example::

    write_report("artifacts/runs/activation-1f2e3d4c")  # -> .../report.html, opens from file://
    headline(load_results("artifacts/results/activation"))  # the table that it begins with
"""

import base64
import hashlib
import html
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from latentreason.curves import BUDGETS
from latentreason.figures import display
from latentreason.figures.figure import Results, estimate
from latentreason.figures.figures import FIGURES, captioned, load_results
from latentreason.figures.recovery_charts import SOURCES, temperature_of
from latentreason.figures.style import look, rendered
from latentreason.files import read_json, read_table, write_bytes
from latentreason.stats import Estimate
from latentreason.studies.palette import NAMES
from latentreason.studies.recovery import CONTROLS
from latentreason.studies.result import listed
from latentreason.tables import Rollouts

ASKED = (
    "Does reinforcement learning with verifiable rewards teach a model new reasoning, or does it change when the model deploys strategies "
    "that pretraining already put there? Here the base model decodes and only some of its tokens are replaced by the RL model's; measured "
    "is how much of the RL gain that recovers, beyond what as many replacements at random disagreements recover."
)
MEANING = (
    "Recovery is (hybrid - base) / (RL - base), signed and never clamped. Area is its mean over budgets of 0 to D changed tokens: the "
    "diagonal has 0.5.",
    "D is the share of tokens that always-RL changes. It is small, so changing few tokens proves nothing by itself; the claim is the "
    "paired difference to matched disagreements. An interval above 0 says that it matters WHICH disagreements are swapped.",
    "Oracle routers run the RL model at each token: they bound what timing can give, and are no cheap method. Base-only routers decide by "
    "the base model alone, but still swap in the RL model's token.",
    "Timing and content shares are Shapley values of four arms; they say where the gain sits in the tokens, not how the weights store it.",
    "Swapped tokens are the RL model's own. That they suffice does not show that the base has the strategy; vectors that were fitted on "
    "the base speak of that.",
    "pass@k compares what many tries reach; at large k guesses count too (dotted floor), and an interval is over these problems only.",
    "Nothing here speaks of another pair, task or sampling temperature than those below. Undefined numbers are printed with their reason.",
)
CSS = """
body { font: 15px/1.55 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.4rem; border-bottom: 1px solid #ddd; padding-bottom: .2rem; }
table { border-collapse: collapse; width: 100%; font-size: 14px; margin-bottom: 1.4rem; }
td:first-child { width: 45%; } caption { text-align: left; color: #555; padding: .3rem 0; }
th, td { text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid #eee; vertical-align: top; }
td { font-variant-numeric: tabular-nums; } td.none { color: #777; }
figure { margin: 1.6rem 0; } figure img { max-width: 100%; height: auto; } figcaption { font-size: 13px; color: #444; max-width: 56rem; }
details { margin: .6rem 0; } summary { cursor: pointer; } code { overflow-wrap: anywhere; }
"""
MISSING = Estimate(float("nan"), float("nan"), float("nan"), 0, "none", "no router was chosen on calibration problems")


def headline(results: Results) -> pd.DataFrame:
    """The numbers to look at first, one row each: columns quantity, value, lo, hi, n, text. What is undefined has its reason as text."""
    rows = []
    for group, quantity, found in _headline(results):
        name = f"{quantity}, {group}"
        if isinstance(found, str):
            rows.append({"quantity": name, "value": float("nan"), "lo": float("nan"), "hi": float("nan"), "n": 0, "text": found})
        else:
            numbers = {"value": found.value, "lo": found.lo, "hi": found.hi, "n": found.n}
            rows.append({"quantity": name, **numbers, "text": str(found)})
    return pd.DataFrame(rows, columns=["quantity", "value", "lo", "hi", "n", "text"])


def _headline(results: Results) -> Iterable[tuple[str, str, Estimate | str]]:
    """(group, quantity, estimate or name of a router); the group is a temperature or a kind of pass@k."""
    for source in (s for s in SOURCES if s in results):
        result, temperature = results[source], temperature_of(results, source)
        for arm in ("base", "rl"):
            yield temperature, f"{NAMES.get(arm, arm)} accuracy", estimate(result, "accuracy", arm=arm, router="")
        yield temperature, "D (share of tokens that always-RL changes)", estimate(result, "D", arm="rl")
        for kind, key in (("best oracle", "best_oracle"), ("best base-only", "best_base_only")):
            router = result.config[key]
            yield temperature, f"{kind} router", router or "none chosen"
            asked: list[tuple[str, str, dict[str, Any]]] = [("area", "area", {"control": ""})]
            asked.append(("area minus matched disagreements", "area_difference", {"control": CONTROLS[0]}))
            asked += [(f"recovery at {b:g} D", "recovery_at", {"control": "", "budget": b}) for b in BUDGETS]
            for name, quantity, where in asked:
                yield temperature, f"{kind}: {name}", estimate(result, quantity, router=router, **where) if router else MISSING
        for part in ("timing", "content"):
            yield temperature, f"{part} share of the gain", estimate(result, f"{part}_share")
    if "passk" in results:
        result = results["passk"]
        for kind in result.details["kinds"]:
            largest = int(result.table[(result.table["quantity"] == "rl_minus_base") & (result.table["kind"] == kind)]["k"].max())
            for k in (1, largest):
                yield kind, f"RL minus base, pass@{k}", estimate(result, "rl_minus_base", kind=kind, k=k)
            yield kind, "crossover k", estimate(result, "crossover_k", kind=kind)
            for who, name in (("rl_only", "RL only"), ("base_only", "base only")):
                yield kind, f"flip rate, solved by {name}", estimate(result, f"flip_rate_{who}", kind=kind)


def write_report(run_dir: str | Path) -> Path:
    """Write `report.html` into a run's folder.

    Args:
        run_dir: with results (`NAME.parquet`, `NAME.json`); for the trace reader `tables/traces.parquet`; for the facts `run.json`
            and `tables/facts.json`. What is not there is left out.

    Returns:
        The page.

    Raises:
        CorruptArtifact: a file is damaged.
        InvalidInput: the folder holds no results.
        ArtifactWriteError: the disk is full or refuses the write.
    """
    root, results = Path(run_dir), load_results(run_dir)
    findings = "".join(f"<li><b>{_text(name)}</b>: {_text(r.finding)}{listed(r.notes)}</li>" for name, r in results.items())
    figures = "".join(_figure(name, results, root) for name, figure in FIGURES.items() if all(i in results for i in figure.inputs))
    traces = root / "tables" / "traces.parquet"
    reader = _reader(read_table(traces)) if traces.is_file() else "<p>This run kept no traces.</p>"
    facts = "".join(_facts(file) for file in (root / "run.json", root / "tables" / "facts.json") if file.is_file())
    body = "\n".join([
        f"<h1>latentreason: {_text(root.resolve().name)}</h1><p>{_text(ASKED)}</p>",
        f"<h2>Headline</h2>{_tables(results)}<h2>Findings</h2><ul>{findings}</ul><h2>Figures</h2>{figures}",
        f"<h2>What the numbers mean, and what they do not</h2><ul>{''.join(f'<li>{_text(m)}</li>' for m in MEANING)}</ul>",
        f"<h2>Traces</h2>{reader}<h2>The run</h2>{facts or '<p>No facts in this folder.</p>'}",
    ])  # fmt: skip
    page = root / "report.html"
    write_bytes(page, _page(f"latentreason: {root.resolve().name}", body).encode())
    return page


def _page(title: str, body: str) -> str:
    """A page that may load nothing and run no script but the trace reader's."""
    digest = base64.b64encode(hashlib.sha256(display.SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    head = f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
    head += f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{_text(title)}</title><style>{CSS}</style>'
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>{body}</body></html>\n'


def _text(value: object) -> str:
    return html.escape(str(value))

def _tables(results: Results) -> str:
    """The headline as two tables: a column a temperature, and a column a kind of pass@k."""
    cells, temperatures = list(_headline(results)), [temperature_of(results, s) for s in SOURCES if s in results]
    both = []
    for caption, groups in (
        ("95% intervals over problems, paired where two arms are compared.", temperatures),
        ("pass@k; the crossover is the smallest k at which the base is not below RL. Columns: what a sample needs to count.", None),
    ):
        part = [c for c in cells if (c[0] in temperatures) == (groups is not None)]
        columns = list(dict.fromkeys(c[0] for c in part))
        found: dict[str, dict[str, Estimate | str]] = {}
        for group, quantity, value in part:
            found.setdefault(quantity, {})[group] = value
        rows = ""
        for quantity, row in found.items():
            values = (row.get(column, "") for column in columns)
            rows += f"<tr><td>{_text(quantity)}</td>{''.join(_td(v) for v in values)}</tr>"
        head = "".join(f"<th>{_text(column)}</th>" for column in ("", *columns))
        both.append(f"<table><caption>{_text(caption)}</caption><tr>{head}</tr>{rows}</table>" if part else "")
    return "".join(both)


def _td(value: Estimate | str) -> str:
    mark = "" if isinstance(value, str) or value.defined else ' class="none"'
    return f"<td{mark}>{_text(value)}</td>"


def _figure(name: str, results: Results, root: Path) -> str:
    drawing = FIGURES[name].plot(results)
    with look():
        data = base64.b64encode(rendered(drawing, "png")).decode()
    width = round(drawing.get_figwidth() * 96)
    image = f'<img alt="Figure {_text(name)}" width="{width}" src="data:image/png;base64,{data}">'
    caption = f"<figcaption><b>{_text(name)}.</b> {_text(captioned(name, results, root))}</figcaption>"
    return f'<figure id="{_text(name)}">{image}{caption}</figure>'


def _reader(traces: pd.DataFrame) -> str:
    arms = {str(arm): Rollouts(table.reset_index(drop=True)) for arm, table in traces.groupby("arm", sort=False)}
    return display.trace_html(arms)


def _facts(file: Path) -> str:
    leaves = (f"<td><code>{_text(key)}</code></td><td><code>{_text(value)}</code></td>" for key, value in _leaves(read_json(file), ""))
    rows = "".join(f"<tr>{leaf}</tr>" for leaf in leaves)
    return f"<details><summary>{_text(file.name)}</summary><table>{rows}</table></details>"


def _leaves(value: Any, key: str) -> Iterable[tuple[str, Any]]:
    """Nested plain data as (dotted key, value); lists of plain values stay together."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield from _leaves(each, f"{key}.{name}".strip("."))
    elif isinstance(value, list) and any(isinstance(each, dict | list) for each in value):
        for i, each in enumerate(value):
            yield from _leaves(each, f"{key}[{i}]")
    else:
        yield key, value
