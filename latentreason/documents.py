"""The parts of README and docs/ that committed results and recipes write: what stands between `<!-- NAME -->` and `<!-- end of NAME -->`.

write_docs(Path("artifacts"))      # brings README.md and docs/*.md beside the folder up to date
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from latentreason.errors import InvalidInput, unknown_name
from latentreason.figures.figures import load_results
from latentreason.figures.report import headline
from latentreason.files import read_json, write_bytes
from latentreason.organisms.about import markdown
from latentreason.plan import overview
from latentreason.reproduce import STAGES
from latentreason.studies.recompute import CLAIMS
from latentreason.studies.result import Result, sampled
from latentreason.studies.rivals import drawn

HEADLINE = (
    "base accuracy", "RL accuracy", "D (share", "best oracle router", "best oracle: area", "best oracle: recovery at", "best base-only router",
    "best base-only: area", "best base-only: recovery at", "timing share", "content share", "RL minus base, pass@",
)  # fmt: skip
"""How the quantities of the report begin that stand in a document, too."""

FORMER = ("strategies, sampled", "strategies, greedy")
"""Stages of the main job in earlier versions, which committed runs may have timed."""


def of_pair(results: Path) -> str:
    """The committed headline of a pair: a column a temperature, and a column each way of grading pass@k."""
    loaded = load_results(results)
    table, details = headline(loaded), loaded["recovery"].details
    table = table[table["quantity"].str.startswith(HEADLINE)]
    table[["quantity", "group"]] = table["quantity"].str.rsplit(", ", n=1, expand=True)
    sizes = f"{details['n_problems']} problems x {details['n_samples']} samples at {sampled(loaded['recovery'])}, {details['n_problems']} greedy"
    is_passk = table["quantity"].str.contains("pass@")
    return "\n\n".join(_side_by_side(part, head) for head, part in ((f"quantity ({sizes})", table[~is_passk]), ("quantity", table[is_passk])) if len(part))


def _side_by_side(table: pd.DataFrame, head: str) -> str:
    wide = table.pivot(index="quantity", columns="group", values="text").reindex(table["quantity"].unique())[[*table["group"].unique()]].fillna("-")
    lines = [f"| {quantity} | {' | '.join(row)} |" for quantity, row in zip(wide.index, wide.to_numpy(), strict=True)]
    return "\n".join([f"| {head} | {' | '.join(wide.columns)} |", "|---" * (len(wide.columns) + 1) + "|", *lines])


def of_findings(results: Path) -> str:
    """What each committed study of a pair says."""
    return "\n".join(_bullet(name.replace("_", ", "), result) for name, result in load_results(results).items() if name not in (*CLAIMS, "published"))


def _bullet(name: str, result: Result) -> str:
    """A finding as a line of a list, with its notes below it."""
    return "\n".join([f"- **{name}**: {result.finding}", *(f"  - {note}" for note in result.notes)])


def _by_seed(results: Path) -> dict[str, Path]:
    """The folder of each committed seed of sampling, named."""
    return {"seed 0": results, **{f"seed {folder.name.removeprefix('seed-')}": folder for folder in sorted(results.glob("seed-*"))}}


def of_seeds(results: Path) -> str:
    """The headline of each committed seed of sampling, a column each: the spread that one interval does not show."""
    folders = _by_seed(results)
    table = pd.concat([headline(load_results(folder)).set_index("quantity")["text"].rename(seed) for seed, folder in folders.items()], axis=1).fillna("-")
    table = table[table.index.str.startswith(HEADLINE)]
    seconds = [read_json(folder / "run.json")["seconds"] for folder in folders.values()]
    table.loc["minutes"] = [f"{sum(s.get(stage, 0.0) for stage in (*STAGES, *FORMER)) / 60:.0f}" for s in seconds]
    table.loc["peak memory, GB"] = [f"{s['peak_gigabytes']:.1f}" for s in seconds]
    lines = [f"| {quantity} | {' | '.join(row)} |" for quantity, row in zip(table.index, table.to_numpy(), strict=True)]
    return "\n".join([f"| quantity | {' | '.join(table.columns)} |", "|---" * (len(folders) + 1) + "|", *lines])


def of_study(results: Path, study: str) -> str:
    """What each folder of committed results says of a study."""
    return "\n".join(_bullet(file.parent.name, Result.load(file.parent, study)) for file in sorted(results.glob(f"*/{study}.json"))) or "No result is committed yet."


def of_alarms(results: Path, where: str) -> str:
    """How often memorisation is found where nobody saw anything: of the committed calibration."""
    return str(Result.load(results / where, "calibration").details["false_alarms"])


def of_arms(results: Path, where: str) -> str:
    """The arms of a result of the study `rivals`, such as "activation/trained"; those that repeat themselves and are unlikely to the base are marked."""
    pair, name = where.split("/")
    result = Result.load(results / pair, name)
    lines, every = [], drawn(result)
    flags, layered = result.details.get("fluency", {}), any(r.get("layer") for r in every)
    for r in every:
        share = "left out: " + r["reason"] if r["setting"] == "" else f"{r['value']:.3f} [{r['lo']:.3f}, {r['hi']:.3f}]"
        loops = " (repeats itself)" if all(flags.get(r["arm"], {"": False}).values()) else ""
        at = [r["layer"]] if layered else []
        measured = ["", "", "", ""] if r["setting"] == "" else [r["setting"], f"{100 * r['rl_logits']:.0f}%", f"{r['passes']:g}", str(result.estimate("accuracy", arm=r["arm"]))]
        lines.append(" | ".join(["", r["arm"] + loops, r["timing_source"], r["content_source"], r["category_source"], r["uses"], *at, *measured, share, ""]).strip())
    head = ("arm", "timing", "content", "category", "uses", *(["block"] if layered else []), "setting", "RL logits read at", "tokens read a token", "accuracy", "share of the gain")
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *lines])


def of_arms_by_seed(results: Path, where: str) -> str:
    """Share of the gain of each arm of such a result, a column a committed seed of sampling."""
    pair, name = where.split("/")
    found = {seed: {r["arm"]: r for r in drawn(Result.load(folder, name))} for seed, folder in _by_seed(results / pair).items() if (folder / f"{name}.json").is_file()}
    arms = list(dict.fromkeys(arm for of in found.values() for arm, r in of.items() if r["setting"] != ""))
    lines = [" | ".join([f"| {arm}", *(_share(of.get(arm)) for of in found.values())]) + " |" for arm in arms]
    return "\n".join([f"| share of the gain | {' | '.join(found)} |", "|---" * (len(found) + 1) + "|", *lines])


def of_routers_by_seed(results: Path, pair: str) -> str:
    """What each router of the study `routing` has above its controls, in area, a column a committed seed of sampling."""
    found: dict[str, dict[tuple[str, str], str]] = {}
    for seed, folder in _by_seed(results / pair).items():
        if (folder / "routing.json").is_file():
            result = Result.load(folder, "routing")
            pairs = [(row["router"], row["control"]) for row in result.table.to_dict("records") if row["quantity"] == "area_difference" and row["control"] != "matched_random"]
            found[seed] = {(re.sub(r" above [0-9.]+", "", name), control): _area_or_points(result, name, control) for name, control in pairs}  # a threshold is a seed's own
    rows = dict.fromkeys(key for of in found.values() for key in of)
    lines = [" | ".join([f"| {name}", control, *(of.get((name, control), "-") for of in found.values())]) + " |" for name, control in sorted(rows, key=lambda key: key[1])]
    return "\n".join([f"| router | area above | {' | '.join(found)} |", "|---" * (len(found) + 2) + "|", *lines])


def _area_or_points(result: Result, router: str, control: str) -> str:
    """The difference of areas, or, where there is no curve, what there is at single budgets."""
    over, at = result.estimate("area_difference", router=router, control=control), result.table
    at = at[(at["quantity"] == "difference_at") & (at["router"] == router) & (at["control"] == control) & at["value"].notna()]
    if over.defined or at.empty:
        return str(over)
    return "; ".join(f"at {b:g} D {result.estimate('difference_at', router=router, control=control, budget=b)}" for b in at["budget"])


def _share(row: dict[str, Any] | None) -> str:
    return "-" if row is None or row["setting"] == "" or row["value"] != row["value"] else f"{row['value']:.3f} [{row['lo']:.3f}, {row['hi']:.3f}] at {row['setting']}"


BLOCKS: dict[str, Callable[[Path, str], str]] = {
    "headline of": lambda results, pair: of_pair(results / pair),
    "findings of": lambda results, pair: of_findings(results / pair),
    "seeds of": lambda results, pair: of_seeds(results / pair),
    "finding of": of_study,
    "arms of": of_arms,
    "arms by seed of": of_arms_by_seed,
    "routers by seed of": of_routers_by_seed,
    "false alarms of": of_alarms,
    "benchmark": lambda results, name: (results / "benchmarks" / f"{name}.md").read_text(encoding="utf-8").rstrip("\n"),
    "table of": lambda results, what: {"organisms": markdown, "configurations": overview}[what](),
}
"""First words of a block's name -> what makes it of the committed results and the last word."""

_MARKED = re.compile(r"<!-- (?P<kind>[a-z ]+) (?P<what>\S+) -->\n(?P<old>.*?)<!-- end of (?P=kind) (?P=what) -->", re.DOTALL)


def with_blocks(text: str, results: Path) -> str:
    """A document with its blocks made anew.

    Raises:
        UnknownName: a block of a kind that nobody makes.
        InvalidInput: a mark without its other end.
    """

    def made(found: re.Match[str]) -> str:
        kind, what = found["kind"], found["what"]
        if kind not in BLOCKS:
            raise unknown_name("block of a document", kind, BLOCKS)
        return f"<!-- {kind} {what} -->\n{BLOCKS[kind](results, what)}\n<!-- end of {kind} {what} -->"

    if alone := re.findall(r"<!-- .*? -->", _MARKED.sub("", text)):
        raise InvalidInput(f"The mark {alone[0]} has no other end: a block stands between <!-- NAME --> and <!-- end of NAME -->, each on a line of its own.")
    return _MARKED.sub(made, text)


def write_docs(artifacts: Path) -> list[Path]:
    """Bring README.md and docs/*.md beside the artifacts up to date; the pages that changed."""
    root, changed = artifacts.resolve().parent, []
    for page in sorted([*root.glob("README.md"), *(root / "docs").glob("*.md")]):
        before = page.read_text(encoding="utf-8")
        if (after := with_blocks(before, artifacts / "results")) != before:
            write_bytes(page, after.encode())
            changed.append(page)
    return changed
