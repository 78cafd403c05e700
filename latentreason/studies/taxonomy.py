"""Study `taxonomy`: are a model's strategies categories of its activations that can be found without labels?

Claim (Venhoff et al. 2025, arXiv 2510.07364): clustering the mean activations of spans (there: sentences, by a top-k sparse autoencoder with as many latents as
categories) yields a taxonomy of reasoning strategies, by itself.

Formula: adjusted mutual information (Vinh et al. 2010) between the categories of held-out spans and their strategies,
AMI = (MI - E[MI]) / (mean of both entropies - E[MI]): 1 is the same partition, 0 is chance. The strategies are exact on organisms, by the grammar, and rules on natural text. Two targets: `tags`, all spans that
`tag` names (formats, steps, the answer: what strategy vectors are fitted for), and `steps`, the kinds of step alone, which differ in less. The number of categories is that of the strategies there
(`asked` "true") or chosen without labels by completeness, consistency and independence ("chosen"). Layers are all shown; the judged layer is the one where these three are best
on average, so no label chooses it. Controls, by the same methods: an untrained twin reading the same traces, the words of the span, the token and position just before it,
and the found categories against shuffled labels. The words are a strong control: a span holds the very token that opens its strategy.

Refuted where, at the judged layer, some seed has no more than the untrained twin or than the words. At least 0.8 is the aim; less is a partial taxonomy.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from latentreason.errors import InvalidInput
from latentreason.stats import Estimate, undefined
from latentreason.studies.palette import ROUTERS
from latentreason.studies.result import Result, of_one_pair, rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = ("arm", "kind", "target", "layer", "by", "split", "asked", "n", "n_true", "n_problems", "strategy", "category", "title", "count", "reason")
ABOUT = ["arm", "kind", "target", "layer", "by", "asked"]
CONTROLS = ("untrained", "words", "token_position", "shuffled")
THREE = ("completeness", "consistency", "independence", "score")
AIM = 0.8


@dataclass(frozen=True)
class Config:
    """Settings: traces a problem from each model, seeds of the split of the problems and of starts, numbers of categories that are tried, methods of `discover`."""

    n_samples: int = 2
    seeds: tuple[int, ...] = (0, 1, 2)
    among: tuple[int, ...] = (4, 5, 6, 8, 10, 12)
    methods: tuple[str, ...] = ("kmeans", "gmm", "topk_sae")
    seed: int = 0


def run(*, table: pd.DataFrame, scores: pd.DataFrame, config: Config = Config()) -> Result:
    """How well categories found without labels agree with the strategies.

    Args:
        table: the counts that `collect` wrote, of one pair: columns `COLUMNS`.
        scores: the scores that it wrote.
        config: settings.

    Raises:
        InvalidInput: not such tables, several pairs, or a missing arm.
    """
    frame = of_one_pair(table, "taxonomy", COLUMNS)
    of_one_pair(scores, "taxonomy", (*ABOUT, "split", "chosen", *THREE), ())
    if "model" not in set(frame["kind"]):
        raise InvalidInput("The table has no rows of the kind 'model': controls alone say nothing. Give what taxonomy.collect wrote.")
    by_seed: dict[Key, dict[int, float]] = {}
    n, reasons = dict[Key, int](), dict[Key, str]()
    for (*about, split), part in frame.groupby([*ABOUT, "split"], sort=True):
        key: Key = tuple(about)
        seed = int(str(split))
        n[key], reasons[key] = int(part["n_problems"].iloc[0]), str(part["reason"].iloc[0])
        counts = _matrix(part).to_numpy()
        by_seed.setdefault(key, {})[seed] = np.nan if reasons[key] else adjusted_mutual_information(counts)
        if key[1] == "model":
            twin = (key[0], "shuffled", *key[2:])
            n[twin], reasons[twin] = n[key], reasons[key]
            by_seed.setdefault(twin, {})[seed] = np.nan if reasons[key] else adjusted_mutual_information(_shuffled(counts, config.seed + seed))
    found = [rows("ami", _over_seeds(list(values.values()), n[key], reasons[key]), **dict(zip(ABOUT, key, strict=True))) for key, values in by_seed.items()]
    chosen = scores[scores["chosen"].astype(bool) & (scores["kind"] == "model")]
    for where, part in chosen.groupby(ABOUT, sort=True):
        found += [rows(name, _over_seeds(part[name].tolist(), n[tuple(where)]), **dict(zip(ABOUT, where, strict=True))) for name in ("n", *THREE)]
    judged: list[dict[str, Any]] = []
    for (arm, target, by), part in chosen[chosen["asked"] == "true"].groupby(["arm", "target", "by"], sort=True):
        means = part.groupby("layer")["score"].mean()
        own = {int(layer): by_seed[arm, "model", target, layer, by, "true"] for layer in means.index}
        layer, best = int(str(means.idxmax())), max(own, key=lambda of: float(np.mean(list(own[of].values()))))
        judged.append({"arm": arm, "target": target, "by": by, "layer": layer, "best_layer": best})
        for kind in CONTROLS:
            control = by_seed.get((arm, kind, target, layer if kind in ("untrained", "shuffled") else -1, by, "true"), {})
            one = next(iter(control.values()), np.nan)  # but for shuffled labels a control has the first seed alone
            gaps, reason = [value - control.get(seed, one) for seed, value in own[layer].items()], "" if control else "this control was not measured"
            found.append(rows("above", _over_seeds(gaps, n[arm, "model", target, layer, by, "true"], reason), arm=arm, kind=kind, target=target, layer=layer, by=by, asked="true"))
    asked = chosen[chosen["asked"] == "true"].groupby(["arm", "target"])["n"].max().reset_index()
    details = {
        "judged": judged, "n_asked": {f"{row['arm']}, {row['target']}": int(row["n"]) for row in asked.to_dict("records")}, "n_true": {f"{arm}, {target}": int(part["n_true"].iloc[0]) for (arm, target), part in frame.groupby(["arm", "target"])},
        "confusion": _confusions(frame[frame["kind"] == "model"], judged),
        "seeds": sorted(int(seed) for seed in frame["split"].unique()),
    }  # fmt: skip
    result = Result("taxonomy", asdict(config), pd.DataFrame(found), details)
    return result.saying(_said(result))


Key = tuple[Any, ...]  # values of ABOUT


def adjusted_mutual_information(counts: np.ndarray) -> float:
    """AMI of the two partitions whose contingency table this is; NaN where the first has one part only, so that there is nothing to find."""
    from sklearn.metrics import adjusted_mutual_info_score

    counts = np.asarray(counts, dtype=int)
    if (counts.sum(1) > 0).sum() < 2:
        return float("nan")
    first, second = np.indices(counts.shape)
    return float(adjusted_mutual_info_score(*(np.repeat(side.ravel(), counts.ravel()) for side in (first, second))))


def _matrix(part: pd.DataFrame) -> pd.DataFrame:
    """Strategy by category."""
    return part.pivot_table(index="strategy", columns="category", values="count", aggfunc="sum", fill_value=0)


def _shuffled(counts: np.ndarray, seed: int) -> np.ndarray:
    """The contingency table after the labels were shuffled over spans."""
    labels, categories = (np.repeat(np.arange(len(sums)), sums) for sums in (counts.sum(1).astype(int), counts.sum(0).astype(int)))
    out = np.zeros(counts.shape, dtype=int)
    np.add.at(out, (np.random.default_rng(seed).permutation(labels), categories), 1)
    return out


def _over_seeds(values: Sequence[float], n: int, reason: str = "") -> Estimate:
    """Mean of the seeds, between the lowest and the highest of them."""
    if reason or np.isnan(values).any():
        return undefined(reason or "only one strategy among the held-out spans", n)
    if len(values) == 1:
        return Estimate(float(values[0]), np.nan, np.nan, n, "one seed of split and starts", "one seed: no interval")
    return Estimate(float(np.mean(values)), float(np.min(values)), float(np.max(values)), n, f"mean of {len(values)} seeds of split and starts, lowest and highest")


def _confusions(frame: pd.DataFrame, judged: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Strategy by category at the judged layer, for the first seed, with the categories' titles (model output)."""
    out = []
    for each in judged:
        part = frame[(frame["asked"] == "true") & (frame["split"] == frame["split"].min())]
        for column in ("arm", "target", "by", "layer"):
            part = part[part[column] == each[column]]
        if part.empty or (part["reason"] != "").any():
            continue
        counts = _matrix(part)
        titles = part.drop_duplicates("category").set_index("category")["title"].reindex(counts.columns)
        out.append({**each, "strategies": [*map(str, counts.index)], "categories": [*map(str, counts.columns)], "titles": [*map(str, titles)], "counts": counts.to_numpy(int).tolist()})
    return out


def _at(result: Result, quantity: str, each: dict[str, Any], *, layer: int | None = None, kind: str = "model", asked: str = "true") -> Estimate:
    where = {"arm": each["arm"], "target": each["target"], "by": each["by"], "kind": kind, "asked": asked, "layer": each["layer"] if layer is None else layer}
    rows_ = result.table[result.table["quantity"] == quantity]
    fits = np.logical_and.reduce([(rows_[column] == value).to_numpy() for column, value in where.items()])
    return result.estimate(quantity, **where) if fits.any() else undefined("not measured", 0)


def _said(result: Result) -> list[str]:
    judged, reached, parts = result.details["judged"], list[str](), list[str]()
    above = {True: 0, False: 0}
    if not judged:
        return ["Nothing could be found without labels: there are too few spans.", "No more than an untrained twin or the words would refute the claim."]
    values = {f"{each['arm']}, {each['target']} by {each['by']}": _at(result, "ami", each) for each in judged}
    for arm, target in sorted({(each["arm"], each["target"]) for each in judged}):
        said = []
        for each in (each for each in judged if (each["arm"], each["target"]) == (arm, target)):
            value, best, alone = (_at(result, "ami", each, **more) for more in ({}, {"layer": each["best_layer"]}, {"asked": "chosen"}))
            gaps = {kind: _at(result, "above", each, kind=kind) for kind in ("untrained", "words")}
            beaten = [kind for kind, gap in gaps.items() if gap.defined and gap.lo > 0]
            lost = [kind for kind, gap in gaps.items() if gap.defined and gap.lo <= 0]
            if lost or len(beaten) == len(gaps):
                above[not lost] += 1
            notes = [f"above {' and '.join(beaten)}" * bool(beaten) + " but " * bool(beaten and lost) + f"not above {' and '.join(lost)}" * bool(lost) or "controls without interval"]
            notes += [f"{alone.value:.2f} with {_at(result, 'n', each, asked='chosen').value:g} categories, chosen without labels"] if alone.defined else []
            notes += [f"{best} at layer {each['best_layer']}, were it chosen by the labels"] if each["best_layer"] != each["layer"] else []
            if value.defined and value.lo >= AIM:
                reached.append(f"{arm} {target} {each['by']}")
            said.append(f"{each['by']} {value} at layer {each['layer']} ({'; '.join(notes)})")
        parts.append(f"{arm}, {target} ({result.details['n_asked'][f'{arm}, {target}']} categories): {', '.join(said)}.")
    named = {name: value for name, value in values.items() if value.defined}
    least, most = (pick(named, key=lambda name: named[name].value) for pick in (min, max)) if named else ("", "")
    seeds = len(result.details["seeds"])
    between = f"is {named[least]} ({least}) to {named[most]} ({most}), lowest and highest of {seeds} seed{'s' * (seeds != 1)} in brackets" if named else "is undefined"
    unknown = len(values) - sum(above.values())
    cannot = f", {unknown} cannot be judged" if unknown else ""
    return [
        f"Adjusted mutual information of categories found without labels with the strategies {between}; of {len(values)} ways {above[True]} are above untrained twin and words of the span in every seed, {above[False]} are not, which refutes the claim for these{cannot}.",
        f"At least {AIM:g} in every seed: {', '.join(reached) or 'none'}.",
        "On held-out problems; the layer is chosen without labels.",
        *parts,
    ]


LOOKS = {"kmeans": ("k-means", ROUTERS[0], "o"), "gmm": ("Gaussian mixture", ROUTERS[1], "s"), "topk_sae": ("top-k sparse autoencoder", ROUTERS[3], "^")}
GREYS = {"untrained": ("untrained twin", ":", "0.35"), "words": ("words of the span", "--", "0.35"), "token_position": ("token and position before it", "-.", "0.6"), "shuffled": ("shuffled labels", "-", "0.8")}
"""Methods and controls: name, colour and marker; name, line and grey. Of a control the best of the three methods is drawn."""


def drawn(result: Result, arm: str, target: str) -> dict[str, list[dict[str, Any]]]:
    """The lines of `plot`: AMI by layer for each method, and for each control the best method."""
    part = result.table[(result.table["quantity"] == "ami") & (result.table["arm"] == arm) & (result.table["target"] == target) & (result.table["asked"] == "true")]
    layers = sorted(part.loc[part["kind"] == "model", "layer"].unique())
    out: dict[str, list[dict[str, Any]]] = {"methods": [], "controls": []}
    for by in LOOKS:
        line = part[(part["kind"] == "model") & (part["by"] == by)].sort_values("layer")
        if len(line):
            out["methods"].append({"by": by, "layer": line["layer"].astype(int).tolist(), **{c: line[c].tolist() for c in ("value", "lo", "hi")}})
    for kind in GREYS:
        line = part[part["kind"] == kind]
        if len(line):
            best = line.groupby("layer")["value"].max()
            values = [float(best.get(layer, best.get(-1, np.nan))) for layer in layers]
            out["controls"].append({"kind": kind, "layer": [int(layer) for layer in layers], "value": values})
    return out


def plot(result: Result, ax: "Axes | None" = None, *, arm: str = "base", target: str = "tags") -> "Axes":
    """AMI by layer: methods in colour, with the lowest and highest seed; controls in grey, of each the best method; the aim as a thin line."""
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(figsize=(5.6, 4.2), layout="constrained")
    lines = drawn(result, arm, target)
    for shift, line in enumerate(lines["methods"]):
        name, colour, marker = LOOKS[line["by"]]
        x = np.array(line["layer"]) + 0.06 * (shift - 1)
        ax.plot(x, line["value"], marker=marker, markersize=5, color=colour, label=name)
        ax.vlines(x, line["lo"], line["hi"], color=colour, linewidth=1.2)
    for line in lines["controls"]:
        name, style, grey = GREYS[line["kind"]]
        ax.plot(line["layer"], line["value"], style, color=grey, linewidth=1.2, label=name)
    ax.axhline(AIM, color="0.85", linewidth=0.8, zorder=0)
    ax.set(xlabel="layer", ylabel="adjusted mutual information", ylim=(-0.05, 1.02), xticks=sorted({x for line in lines["methods"] for x in line["layer"]}))
    return ax


def collect(pair: Any, config: Config, out: str | Path, *, problems: Any, sampling: Any = None) -> pd.DataFrame:
    """Sample both models, find categories, and write `taxonomy_scores.parquet` and, last, `taxonomy.parquet`, which is returned.

    Args:
        pair: a ModelPair.
        config: settings.
        out: the folder of a run's tables.
        problems: of one task.
        sampling: how traces are drawn, but for their number.

    Raises:
        InvalidInput: no problems, or several tasks.
    """
    from latentreason.files import write_table
    from latentreason.geometry.categories import measure_categories
    from latentreason.sampling.local import Sampling
    from latentreason.strategies.language import language

    if len({p.task for p in problems}) != 1:
        raise InvalidInput("Give problems of one task: the strategies of several cannot be compared.")
    drawing = replace(sampling or Sampling(), n=config.n_samples)
    tables = measure_categories(pair, problems, language(problems[0].task, pair.base.tokenizer), drawing, seeds=config.seeds, among=config.among, methods=config.methods)
    counts, scores = (table.assign(pair=pair.name, task=problems[0].task) for table in tables)
    write_table(Path(out) / "taxonomy_scores.parquet", scores)
    write_table(Path(out) / "taxonomy.parquet", counts)
    return counts
