"""Study `geometry`: do the strategy vectors exist before RL?

Claim (Venhoff et al. 2025, arXiv 2510.07364): the base model already represents the strategies, so a vector fitted on it alone has
the direction of the RL model's, tells where the strategy is opened, and opens it.

Formula: a vector is the mean activation that predicts a strategy's token minus the mean that predicts the other strategies', each
model on its own traces of fit problems. A strategy's vector counts as there before RL when all four hold at one layer (the layer
where it moves the log-odds of its token most, chosen on half of the problems, the last one left out, without the RL model):

- reliability: the cosine between vectors of random halves of the problems is at least `Config.reliability`;
- cosine: that with the RL vector is above the 95th percentile of |cosine| of label shuffles within format and position, in both models.
  Shuffles keep what goes with a format or a position, and both models share it (their plain cosine reaches 0.9), so the mean of each
  format and position is first taken out of the activations;
- auroc: a probe on base activations beats the untrained twin, a probe on token and position, and one fitted on shuffled labels
  (paired 95% intervals above 0, on held-out problems; control labels: Hewitt & Liang 2019, arXiv 1909.03368);
- causal: steering with it raises the log-probability of its token above norm-matched random directions (interval above 0, rank
  p <= 0.05).

Three more are reported and not asked for. `cosine_plain`: the same of plain vectors against plain shuffles; it can fail for a vector
that is there, because shuffled vectors hold nothing but what is shared. `cosine_traces`: the cosine is above the interval of that
between the untrained twin's vectors on the same two sets of traces, which is what the words around a strategy have in common.
`auroc_logprob`: the probe beats the base model's own
log-probability of the token. Labels are draws from that probability, so nothing can beat it but by chance: it is the ceiling, and a
probe far below it has missed something.

Refuted, for a strategy, by any of the four that fails with enough spans on both sides. An undefined one (RL gave the strategy up,
say) neither shows nor refutes.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from latentreason.errors import InvalidInput
from latentreason.files import read_json, write_json, write_table
from latentreason.stats import Estimate, undefined
from latentreason.studies.palette import ARMS, ROUTERS
from latentreason.studies.result import Result, rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TABLES = ("cosine", "auroc", "dose")
"""What `collect` writes (as `geometry_NAME.parquet`) and `run` reads."""

CRITERIA = ("reliability", "cosine", "auroc", "causal")
BESIDE = ("cosine_plain", "cosine_traces", "auroc_logprob")
"""Judged and reported, but not among those that must hold: the docstring of this file says why."""
CONTROLS = ("untrained", "token_position", "shuffled")
"""Baselines that an AUROC must beat."""

P_RANDOM = 0.05
Rows = dict[tuple[str, str, str, float], dict[str, Any]]  # by quantity, label, kind, layer
COLUMNS = ("quantity", "label", "family", "layer", "kind", "strength", "value", "lo", "hi", "n", "method", "reason")


@dataclass(frozen=True)
class Config:
    """Settings: how much is measured, and the one bar that is a choice.

    Attributes:
        n_samples: traces a problem, from each model.
        min_spans: fewest spans with a strategy, and without, in each model.
        n_halves, n_shuffles, probe_shuffles, n_random, n_boot: random halves of the problems, label shuffles of cosines and of probes,
            random directions, draws of a bootstrap.
        dose_problems, dose_samples: of the free decoding under doses.
        reliability: bar for the split-half cosine.
        seed: of everything; the untrained twin has the weights that this seed gives.
    """

    n_samples: int = 8
    min_spans: int = 20
    n_halves: int = 20
    n_shuffles: int = 200
    probe_shuffles: int = 3
    n_random: int = 20
    n_boot: int = 1000
    dose_problems: int = 40
    dose_samples: int = 4
    reliability: float = 0.8
    seed: int = 0


def usual(run_config: Any) -> Config:
    """The settings of a run: its seed, doses on a fifth of its problems (40 at most), its number of samples where it says one."""
    config = Config(seed=run_config.seed, dose_problems=max(1, min(40, run_config.geometry_problems // 5)))
    if run_config.geometry_samples is None:
        return config
    return replace(config, n_samples=run_config.geometry_samples, dose_samples=min(config.dose_samples, run_config.geometry_samples))


def collect(pair: Any, run_config: Any, out: str | Path, config: Config | None = None, sampling: Any = None, problems: Any = None) -> None:
    """Measure a pair on the fit split and write `geometry_NAME.parquet` for each of `TABLES`, and the key "geometry" of `facts.json`.

    Args:
        pair: a ModelPair.
        run_config: with `task`, `geometry_problems` and `seed`; `geometry_samples` where it is not None.
        out: the folder of a run's tables.
        config: by default the `usual` settings.
        sampling: how traces are drawn, but for their number.
        problems: of the split fit; None for those of the task.
    """
    from latentreason.geometry.measure import measure
    from latentreason.sampling.local import Sampling
    from latentreason.strategies.language import language
    from latentreason.tasks.registry import load_task

    config = config or usual(run_config)
    settings = {name: value for name, value in asdict(config).items() if name != "reliability"}
    problems = problems or load_task(run_config.task, split="fit", limit=run_config.geometry_problems, seed=run_config.seed)
    tables = measure(pair, problems, language(run_config.task, pair.base.tokenizer), sampling or Sampling(), **settings)
    for name in TABLES:
        write_table(Path(out) / f"geometry_{name}.parquet", tables[name])
    facts = Path(out) / "facts.json"
    write_json(facts, {**(read_json(facts) if facts.exists() else {}), "geometry": asdict(config)})


def run(*, cosine: pd.DataFrame, auroc: pd.DataFrame, dose: pd.DataFrame, config: Config = Config()) -> Result:
    """Judge every label by the criteria, strategies and formats each among themselves.

    Args:
        cosine, auroc, dose: the tables of `collect`.
        config: settings; only `reliability` matters here.

    Returns:
        The rows of all three tables, "criterion" (1 met, 0 not, NaN undecided with a reason) of each label by kind, and "strategies" and
        "formats": how many meet it. `details` has each label's layer and why it fails.

    Raises:
        InvalidInput: a table lacks a column.
    """
    for name, given in (("cosine", cosine), ("auroc", auroc), ("dose", dose)):
        if lacking := set(COLUMNS) - ({"strength"} if name != "dose" else set()) - set(given):
            raise InvalidInput(f"The table {name!r} lacks the columns {sorted(lacking)}; make it with studies.geometry.collect.")
    measured = pd.concat([t.reindex(columns=list(COLUMNS)) for t in (cosine, auroc, dose)], ignore_index=True)
    at_one = cast("list[dict[str, Any]]", measured[measured["strength"].isna() | (measured["strength"] == 1)].to_dict("records"))
    keyed: Rows = {(r["quantity"], r["label"], r["kind"], r["layer"]): r for r in at_one}
    layers = {str(label): float(layer) for label, layer in dose[dose["quantity"] == "logprob"].groupby("label")["layer"].first().items()}
    families: dict[str, str] = dict(zip(measured["label"], measured["family"], strict=True))
    table: list[dict[str, Any]] = []
    details: dict[str, Any] = {"layers": {k: None if np.isnan(v) else int(v) for k, v in layers.items()}, "judged": []}
    for label, family in sorted(families.items()):
        verdicts = _verdicts(keyed, label, layers.get(label, np.nan), config)
        for kind, (met, why) in verdicts.items():
            estimate = Estimate(met, np.nan, np.nan, 1, "criterion", why)
            table.append(rows("criterion", estimate, label=label, family=family, layer=layers.get(label, np.nan), kind=kind))
        details["judged"].append({"label": label, "family": family, **{k: {"met": None if np.isnan(m) else bool(m), "why": w} for k, (m, w) in verdicts.items()}})
    judged = pd.DataFrame(table, columns=["quantity", "label", "family", "layer", "kind", "value"])
    for family, name in (("strategy", "strategies"), ("format", "formats")):
        for kind in (*CRITERIA, "all", *BESIDE):
            values = judged[(judged["family"] == family) & (judged["kind"] == kind)]["value"]
            count, reason = (float((values == 1).sum()), "a count of labels: no interval") if len(values) else (np.nan, "no labels")
            table.append(rows(name, Estimate(count, np.nan, np.nan, len(values), "count", reason), label="", family=family, kind=kind))
    both = pd.concat([measured, pd.DataFrame(table).reindex(columns=list(COLUMNS))], ignore_index=True)
    cosines = {j["label"]: _cosine(keyed, j["label"], layers.get(j["label"], np.nan)) for j in details["judged"]}
    return Result("geometry", asdict(config), both, details).saying(_said(details["judged"], cosines, config))


def _verdicts(keyed: Rows, label: str, layer: float, config: Config) -> dict[str, tuple[float, str]]:
    """Criterion -> (1 met, 0 not, NaN undecided; the numbers or the reason)."""

    def get(quantity: str, kind: str) -> dict[str, Any]:
        absent = {"value": np.nan, "lo": np.nan, "hi": np.nan, "reason": "not measured"}
        return absent if np.isnan(layer) else keyed.get((quantity, label, kind, layer), absent)

    def judge(met: bool, why: str, *parts: dict[str, Any]) -> tuple[float, str]:
        undefined = next((p["reason"] or "no interval" for p in parts if np.isnan(p["value"])), "")
        return (np.nan, undefined) if undefined else (float(met), why)

    out: dict[str, tuple[float, str]] = {}
    if np.isnan(layer):
        reasons = [r["reason"] for (quantity, x, _, _), r in keyed.items() if (quantity, x) == ("logodds_change", label) and r["reason"]]
        reason = reasons[0] if reasons else "no vector of the base was fitted"
        return dict.fromkeys((*CRITERIA, "all", *BESIDE), (np.nan, reason))
    reliable = get("reliability", "base")
    out["reliability"] = judge(reliable["value"] >= config.reliability, f"{reliable['value']:.2f} against {config.reliability:g}", reliable)
    for name, quantity in (("cosine", "cosine_within"), ("cosine_plain", "cosine")):
        found, null = get(quantity, "base_rl"), get(quantity, "shuffled")
        out[name] = judge(found["value"] > null["hi"], f"{found['value']:.2f} against {null['hi']:.2f}", found, null)
    found, traces = get("cosine_within", "base_rl"), get("cosine_within", "untrained_both")
    out["cosine_traces"] = judge(found["value"] > traces["hi"], f"{found['value']:.2f} against {traces['hi']:.2f}", found, traces)
    gaps = {kind: get("auroc_difference", kind) for kind in (*CONTROLS, "logprob")}
    low = min(CONTROLS, key=lambda kind: np.nan_to_num(gaps[kind]["lo"], nan=-np.inf))
    out["auroc"] = judge(gaps[low]["lo"] > 0, f"above {low} by {gaps[low]['value']:.3f} [{gaps[low]['lo']:.3f}, {gaps[low]['hi']:.3f}]", *(gaps[kind] for kind in CONTROLS))
    own = gaps["logprob"]
    out["auroc_logprob"] = judge(own["lo"] > 0, f"{own['value']:.3f} [{own['lo']:.3f}, {own['hi']:.3f}]", own)
    effect, rank = get("logprob_above_random", "vector"), get("p_random", "vector")
    said = f"{effect['value']:.2f} [{effect['lo']:.2f}, {effect['hi']:.2f}] nats above random, p = {rank['value']:.3f}"
    out["causal"] = judge(effect["lo"] > 0 and rank["value"] <= P_RANDOM, said, effect, rank)
    failed = [c for c in CRITERIA if out[c][0] == 0]
    open_ = [c for c in CRITERIA if np.isnan(out[c][0])]
    out["all"] = (0.0, "fails " + ", ".join(failed)) if failed else (np.nan, "undecided: " + ", ".join(open_)) if open_ else (1.0, "")
    return out


def _cosine(keyed: Rows, label: str, layer: float) -> Estimate:
    row = keyed.get(("cosine_within", label, "base_rl", layer))
    return undefined("not measured", 0) if row is None else Estimate(row["value"], row["lo"], row["hi"], row["n"], row["method"], row["reason"])


def _said(judged: list[dict[str, Any]], cosines: dict[str, Estimate], config: Config) -> list[str]:
    strategies = [j for j in judged if j["family"] == "strategy"]
    if not strategies:
        return ["No strategy was opened, so there is no vector to judge."]

    def those(kind: str, met: bool | None) -> list[str]:
        return [j["label"] for j in strategies if j[kind]["met"] is met]

    def named(labels: Sequence[str]) -> str:
        return f" ({', '.join(labels)})" if labels else ""

    each = [f"{cosines[j['label']]} ({j['label']})" for j in strategies]
    good, refuted, undecided = (those("all", met) for met in (True, False, None))
    others = []
    for j in strategies:
        parts = [f"{c} {'fails' if j[c]['met'] is False else 'is undecided'}: {j[c]['why']}" for c in CRITERIA if j[c]["met"] is not True]
        others += [f"{j['label']} ({'; '.join(parts)})"] if parts else []
    plain, traces, ceiling = (those(kind, True) for kind in BESIDE)
    return [
        f"Of {len(strategies)} strategies, {len(good)}{named(good)} have a base vector that meets all four criteria, {len(refuted)} refute the claim by one that fails with enough spans, {len(undecided)} are undecided; "
        f"cosines with the RL vector: {', '.join(each)}.",
        f"The criteria: reliability at least {config.reliability:g}, cosine with the RL vector above 95% of label shuffles, AUROC above its controls, a causal effect above random directions.",
        f"Not: {', '.join(others)}." if others else "",
        f"Plain vectors, which hold format and position as their shuffles do, pass the cosine for {len(plain)}{named(plain)}.",
        f"The cosine of the criterion is above that of an untrained twin's vectors on the same traces for {len(traces)}{named(traces)}.",
        f"The base model's own log-probability, from which the labels were drawn, is beaten for {len(ceiling)}.",
    ]


def plot(result: Result, ax: "Axes | None" = None, *, within: bool = True) -> "Axes":
    """Cosine of base and RL vector by layer, label by label, with the shuffles (grey), the untrained twin and the reliability.

    Args:
        result: of `run`.
        ax: where to draw.
        within: vectors of activations without the mean of their format and position, as the criterion has them; else plain vectors.
    """
    import matplotlib.pyplot as plt

    suffix = "_within" if within else ""
    part = result.table[result.table["quantity"].isin([f"cosine{suffix}", f"reliability{suffix}"])]
    order = sorted(part["label"].unique(), key=lambda x: (":" in x, x))
    layers = sorted(part["layer"].unique())
    if ax is None:
        _, ax = plt.subplots(figsize=(max(6.4, 1.0 * len(order)), 4.4), layout="constrained")
    looks: dict[tuple[str, str], dict[str, Any]] = {
        ("reliability", "base"): {"marker": "_", "color": ARMS["base"], "markersize": 7, "label": "halves of the problems, base"},
        ("reliability", "rl"): {"marker": "_", "color": ARMS["rl"], "markersize": 7, "label": "halves of the problems, RL"},
        ("cosine", "untrained"): {"marker": "x", "color": ROUTERS[2], "markersize": 4, "label": "base and untrained twin, base's traces"},
        ("cosine", "untrained_both"): {"marker": "+", "color": ROUTERS[3], "markersize": 5, "label": "untrained twin, base's and RL's traces"},
        ("cosine", "base_rl"): {"marker": "o", "color": ARMS["hybrid"], "markersize": 4, "label": "base and RL (large: the layer that is judged)"},
    }
    width = len(layers) + 1.5
    for i, label in enumerate(order):
        at = {layer: i * width + k for k, layer in enumerate(layers)}
        mine = part[part["label"] == label].dropna(subset=["value"]).sort_values("layer")
        null = mine[mine["kind"] == "shuffled"]
        ax.bar([at[x] for x in null["layer"]], null["hi"], width=0.9, color="0.86", zorder=0, label="95% of label shuffles, |cosine|" if i == 0 else None)
        for (quantity, kind), look in looks.items():
            line = mine[(mine["quantity"] == quantity + suffix) & (mine["kind"] == kind)]
            x = [at[layer] for layer in line["layer"]]
            joined = kind == "base_rl"
            if joined:
                ax.vlines(x, line["lo"], line["hi"], color=look["color"], linewidth=1)
                judged = line[line["layer"] == result.details["layers"].get(label)]
                ax.plot([at[layer] for layer in judged["layer"]], judged["value"], "o", color=look["color"], markersize=8)
            ax.plot(x, line["value"], linestyle="-" if joined else "", linewidth=1, **{**look, "label": look["label"] if i == 0 else None})
        if null.empty and layers:
            ax.text(i * width + (len(layers) - 1) / 2, 0.5, "too few\nspans", ha="center", va="center", fontsize=7, color="0.4")
    ax.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    ax.set_xticks([i * width + (len(layers) - 1) / 2 for i in range(len(order))], [x.replace("format:", "format\n") for x in order])
    listed = ", ".join(f"{x:g}" for x in layers) if len(layers) <= 8 else f"{min(layers):g} to {max(layers):g}"
    ax.set(xlabel=f"strategy or format; in each, layers {listed} from left to right", ylabel="cosine")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, fontsize=7, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return ax


KINDS = {
    "vector": ("base-fitted vector", ARMS["base"]), "rl_vector": ("RL-fitted vector", ARMS["rl"]), "random": ("random vector", ARMS["control"]),
    "logit_bias": ("logit bias", ROUTERS[3]),
}  # fmt: skip
PANELS = {
    "logprob": "log-probability of its\ntoken at choice points (nats)", "frequency": "spans a trace", "accuracy": "accuracy", "malformed": "malformed traces",
    "repetition": "repeated 8-grams",
}  # fmt: skip


def plot_dose(result: Result, axes: "np.ndarray | None" = None) -> "np.ndarray":
    """Dose and response: a column a strategy, a row a quantity, a line a kind of dose, with 95% bands.

    Args:
        result: of `run`.
        axes: an array of len(PANELS) x number of decoded strategies; new ones by default.
    """
    import matplotlib.pyplot as plt

    part = result.table[result.table["quantity"].isin(PANELS)]
    labels = list(part[part["quantity"] == "frequency"]["label"].unique())
    if axes is None:
        columns = max(1, len(labels))
        _, axes = plt.subplots(len(PANELS), columns, figsize=(2.6 * columns + 1, 8.6), sharex=True, sharey="row", squeeze=False, layout="constrained")
    for k, label in enumerate(labels):
        for i, (quantity, title) in enumerate(PANELS.items()):
            ax = axes[i, k]
            for kind, (name, colour) in KINDS.items():
                line = part[(part["label"] == label) & (part["quantity"] == quantity) & (part["kind"] == kind)]
                line = line.dropna(subset=["value"]).sort_values("strength")
                ax.plot(line["strength"], line["value"], "-o", markersize=3, linewidth=1.2, color=colour, label=name)
                ax.fill_between(line["strength"], line["lo"], line["hi"], color=colour, alpha=0.15, linewidth=0)
            ax.axvline(0, color="0.85", linewidth=0.8, zorder=0)
            if k == 0:
                ax.set_ylabel(title, fontsize=8)
        layer = result.details["layers"].get(label)
        axes[0, k].set_title(f"{label}, layer {layer}" if layer is not None else f"{label}: no vector", fontsize=9)
        axes[-1, k].set_xlabel("strength (1 = scale)")
    if labels:
        axes[0, 0].legend(frameon=False, fontsize=7)
    return axes
