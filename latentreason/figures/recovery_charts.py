"""The figures of the study `recovery`: curves, routers, shares of the gain, strategies, arms at one budget."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from latentreason.figures.figure import Figure, Results, caption_end, entry, estimate
from latentreason.figures.style import canvas, dots, floats, say
from latentreason.studies import recovery
from latentreason.studies.palette import ARMS, NAMES, SHARES
from latentreason.studies.result import Result, sampled

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

SOURCES = ("recovery", "recovery_greedy")


def temperature_of(results: Results, source: str) -> str:
    """How the arms of a result were drawn: such as "T=1", or "greedy"."""
    return "greedy" if source == "recovery_greedy" else sampled(results[source])


def _draw_recovery(result: Result) -> "Drawing":
    """A panel a chosen router, or one panel with all routers."""
    keys = [key for key in ("best_oracle", "best_base_only") if result.config[key]] or [""]
    figure, axes = canvas(4.9 * len(keys) + 0.6, 4.4, [1] * len(keys))
    for ax, key in zip(axes, keys, strict=True):
        only = {k: v if k == key or not k.startswith("best") else "" for k, v in result.config.items()}
        recovery.plot(replace(result, config=only), ax)
    low, high = min(ax.get_ylim()[0] for ax in axes), max(ax.get_ylim()[1] for ax in axes)
    for ax in axes:
        ax.set_ylim(low, high)
        ax.label_outer()
    return figure


def _routers(results: Results) -> dict[str, Any]:
    result, rows = results["recovery"], []
    for router in [c["router"] for c in result.details["curves"] if not c["control"] and len(c["points"]) > 1]:
        row: dict[str, Any] = {"router": router}
        for kind in ("", *recovery.CONTROLS):
            where = {"router": router, "control": kind}
            row[kind or "router_itself"] = {"quarter": entry(estimate(result, "recovery_at", budget=0.25, **where)), "area": entry(estimate(result, "area", **where))}
        rows.append({**row, "difference": entry(estimate(result, "area_difference", router=router, control=recovery.CONTROLS[0]))})
    return {"routers": rows}


def _draw_routers(results: Results, numbers: dict[str, Any]) -> "Drawing":
    rows, config = numbers["routers"], results["recovery"].config
    figure, axes = canvas(11.0, 1.6 + 0.6 * len(rows), (1, 1, 1))
    chosen = {config["best_oracle"]: "\n(best oracle)", config["best_base_only"]: "\n(best base-only)"}
    labels = [row["router"] + chosen.get(row["router"], "") for row in rows]
    kinds = [("router_itself", "router", ARMS["hybrid"], "o"), (recovery.CONTROLS[0], "matched disagreements", ARMS["control"], "o"), (recovery.CONTROLS[1], "matched random", ARMS["control"], "o-open")]
    for ax, quantity in zip(axes, ("quarter", "area"), strict=False):
        for i, (key, name, colour, fmt) in enumerate(kinds):
            series = [{**row[key][quantity], "label": label, "colour": colour} for row, label in zip(rows, labels, strict=True)]
            dots(ax, series, fmt=fmt, shift=0.22 * i, label=name if quantity == "quarter" else "")
    axes[0].set(xlabel="share of the gain recovered at 0.25 D", title="Recovery at a quarter of D")
    axes[1].set(xlabel="area under recovery, 0 to D", title="Area", yticks=[])
    dots(axes[2], [{**row["difference"], "label": label, "colour": ARMS["hybrid"]} for row, label in zip(rows, labels, strict=True)])
    axes[2].axvline(0, color="0.7", linewidth=0.8, zorder=0)
    axes[2].set(xlabel="area minus that of matched disagreements", title="Paired difference of areas", yticks=[])
    if rows:
        figure.legend(loc="outside lower center", ncols=3)
    return figure


def _shares(results: Results) -> dict[str, Any]:
    shares, accuracies = [], []
    for source in SOURCES:
        temperature = temperature_of(results, source)
        for part in SHARES:
            shares.append(entry(estimate(results[source], f"{part}_share"), label=f"{part}, {temperature}", part=part))
        for arm in ("base", "content", "timing", "rl"):
            found = estimate(results[source], "accuracy", arm=arm, router="")
            accuracies.append(entry(found, label=f"{NAMES.get(arm, arm)}, {temperature}", part=arm))
    return {"shares": shares, "accuracy": accuracies}


def _draw_shares(results: Results, numbers: dict[str, Any]) -> "Drawing":
    figure, axes = canvas(9.0, 3.4, (1, 1))
    colours = {**ARMS, **SHARES}
    for ax, key in zip(axes, ("shares", "accuracy"), strict=True):
        dots(ax, [{**row, "colour": colours[row["part"]]} for row in numbers[key]])
    axes[0].axvline(0, color="0.7", linewidth=0.8, zorder=0)
    axes[0].set(xlabel="share of the RL gain (Shapley; the two sum to 1)", title="Shares of the gain")
    axes[1].set(xlabel="accuracy", title="The four arms", xlim=(0, 1))
    return figure


def _strategies(results: Results) -> dict[str, Any]:
    records = results["recovery"].details.get("changed_by_strategy", [])
    totals: dict[str, float] = {}
    for r in records:
        totals[r["strategy"]] = totals.get(r["strategy"], 0) + r["changed"]
    strategies = sorted((s for s, total in totals.items() if total), key=lambda s: -totals[s])
    arms = []
    for arm in dict.fromkeys(r["arm"] for r in records):
        own = {r["strategy"]: r for r in records if r["arm"] == arm}
        changed = sum(r["changed"] for r in own.values())
        share = [own[s]["changed"] / changed if s in own and changed else float("nan") for s in strategies]
        arms.append({"arm": arm, "changed": changed, "tokens": sum(r["tokens"] for r in own.values()), "share": share})
    return {"strategies": strategies, "arms": arms}


def _draw_strategies(results: Results, numbers: dict[str, Any]) -> "Drawing":
    arms, strategies = numbers["arms"], numbers["strategies"]
    figure, (ax,) = canvas(3.4 + 0.75 * max(4, len(strategies)), 1.5 + 0.42 * max(2, len(arms)))
    if not strategies:
        say(ax, "no table of changed tokens by strategy in this run")
        return figure
    shares = floats([arm["share"] for arm in arms])
    ax.imshow(shares, cmap="Greens", vmin=0, vmax=1, aspect="auto")
    for i, row in enumerate(shares):
        for j, share in enumerate(row):
            ax.text(j, i, f"{share:.0%}", ha="center", va="center", fontsize=8, color="white" if share > 0.6 else "black")
    ax.set_xticks(range(len(strategies)), strategies, rotation=30, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(arms)), [f"{NAMES.get(arm['arm'], arm['arm'])}\n({arm['changed']:,} changed)" for arm in arms])
    ax.set(title="Changed tokens by strategy")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return figure


def _arms(results: Results) -> dict[str, Any]:
    result, rows = results["recovery"], []
    for curve in result.details["curves"]:
        where = {"router": curve["router"], "control": curve["control"]}
        if len(curve["points"]) == 1:
            x, y = (entry(estimate(result, quantity, **where)) for quantity in ("changed_of_D", "accuracy"))
            rows.append({**where, "x": x, "accuracy": y})
    ends = [entry(estimate(result, "accuracy", arm=arm, router=""), arm=arm) for arm in ("base", "rl")]
    return {"arms": rows, "ends": ends}


def _draw_arms(results: Results, numbers: dict[str, Any]) -> "Drawing":
    figure, (ax,) = canvas(8.0, 4.4)
    routers = list(dict.fromkeys(row["router"] for row in numbers["arms"]))
    for x, end, who in zip((0, 1), numbers["ends"], ("base", "always-RL"), strict=True):
        ax.axhline(end["value"], color=ARMS[end["arm"]], linewidth=0.8, alpha=0.5, zorder=0)
        ax.plot([x, x], [end["lo"], end["hi"]], color=ARMS[end["arm"]], linewidth=1.2)
        ax.plot([x], [end["value"]], "*", color=ARMS[end["arm"]], markersize=11, label=who)
    looks = {"": (6, ARMS["hybrid"], ARMS["hybrid"], 4), recovery.CONTROLS[0]: (10, "0.8", ARMS["control"], 3), recovery.CONTROLS[1]: (14, "white", ARMS["control"], 2)}
    for row in numbers["arms"]:
        x, y = row["x"], row["accuracy"]
        size, face, colour, above = looks[row["control"]]
        ax.plot(floats([x["lo"], x["hi"]]), floats([y["value"]] * 2), color=colour, linewidth=1)
        ax.plot(floats([x["value"]] * 2), floats([y["lo"], y["hi"]]), color=colour, linewidth=1)
        marker = "osD^vPXhp"[routers.index(row["router"]) % 9]
        name = None if row["control"] else row["router"]
        ax.plot(floats([x["value"]]), floats([y["value"]]), marker, color=colour, markerfacecolor=face, markersize=size, zorder=above, label=name)
    for kind, label in ((recovery.CONTROLS[0], "matched disagreements,\nshaped as their router"), (recovery.CONTROLS[1], "matched random, likewise")):
        size, face, colour, _ = looks[kind]
        ax.plot([], [], "o", color=colour, markerfacecolor=face, markersize=size, label=label)
    ax.set(xlabel="changed tokens / D", ylabel="accuracy", ylim=(0, 1.02))
    figure.legend(loc="outside right upper")
    return figure


def recovery_at(source: str) -> Figure:
    """The recovery curve of one result: the chosen routers and their matched disagreements."""

    def caption(results: Results) -> str:
        full = estimate(results[source], "D", arm="rl")
        return (
            f"Share of the RL gain recovered against changed tokens over D, {temperature_of(results, source)}. D, the share of generated tokens that "
            f"always-RL changes, is {full} (absolute scale: top axis). Solid: routers chosen on calibration problems; grey: as many "
            "changes at random disagreements. The end at 1 is the RL model by identity, not a result. Bands are pointwise. "
            f"{caption_end(results[source], 'area')}"
        )

    def numbers(results: Results) -> dict[str, Any]:
        return {"curves": recovery.drawn(results[source]), "D": entry(estimate(results[source], "D", arm="rl"))}

    return Figure((source,), numbers, lambda results, _: _draw_recovery(results[source]), caption)


ROUTERS = Figure(
    ("recovery",), _routers, _draw_routers,
    lambda results: (
        f"Each router that was swept at {sampled(results['recovery'])}, beside its matched controls: recovery at 0.25 D (left), area under the recovery curve over 0 to D "
        "(middle), and the paired difference of areas to matched disagreements, which change as many tokens at random places where the models "
        "differ (right): an interval that includes 0 is no evidence that it matters which disagreements are swapped. Matched random routes as "
        "often as its router and so changes fewer tokens: its area is undefined where it does not come near 0.75 D. "
        f"{caption_end(results['recovery'], 'area_difference')}"
    ),
)  # fmt: skip
SHARES_OF_GAIN = Figure(
    SOURCES, _shares, _draw_shares,
    lambda results: (
        "How much of the RL gain timing positions (the next token chooses a format or strategy) and content positions (all others) carry: "
        f"Shapley shares (left) of the accuracies of the four arms (right), at {' and '.join(temperature_of(results, source) for source in SOURCES)}. "
        + " ".join(f"{temperature_of(results, source)}: {caption_end(results[source], 'timing_share')}" for source in SOURCES)
    ),
)  # fmt: skip
STRATEGIES = Figure(
    ("recovery",), _strategies, _draw_strategies,
    lambda results: (
        f"Which strategy the changed tokens belong to, {sampled(results['recovery'])}: share of each arm's changed tokens. Counts pooled over "
        f"{results['recovery'].details['n_problems']} problems; n, the changed tokens, stands beside each arm. No interval: the tokens of "
        "a trace depend on each other."
    ),
)  # fmt: skip
ARMS_AT_ONE_BUDGET = Figure(
    ("recovery",), _arms, _draw_arms,
    lambda results: (
        f"Accuracy at {sampled(results['recovery'])} against changed tokens over D of every router that was measured at one budget, and of its controls (grey and larger; "
        "open: matched random). Controls of a router at one fixed place are the same arm as the router, so their marks lie around it. Stars: "
        "base and always-RL, which `on_disagreement` equals by identity. `first_token` and `at_strategy` know the task's vocabulary. None of "
        "these is a headline. "
        f"{caption_end(results['recovery'], 'accuracy')}"
    ),
)  # fmt: skip
