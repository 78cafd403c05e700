"""Study `spurious`: do rewards that do not ask for the right answer work, and for which bases?

Claim (Shao et al. 2025, arXiv 2506.10947): random, wrong, majority and format rewards work nearly as well as the true one for bases in which a helpful
behaviour is latent, and not for others; clipping, which favours what is likely, is the mechanism. (The paper counts Python code in text; here the
behaviour is a strategy of the organism.)

Formula: gain = accuracy of RL minus base at temperature 1, paired by problem; share = gain / gain under the true reward from the same base. Latent: a
base whose corpus's authors write a valid trace for at least `latent_from` of the judged problems (of a pair whose corpus nobody knows: the base itself does). Behaviour: its frequency in training, step by
step; and what moved: how often each format and strategy occurs in a trace of the judged problems (of text: code), RL minus base, paired by problem. The clip term: RL with it minus RL without, in accuracy
and in each behaviour; if it favours what is likely, it raises the share of the base's commonest format.

Refuted where, on a latent base, the interval of the share lies below `nearly`; or where rewards without the truth bring a gain to a base
without latent strategies (only where they do bring one to a latent base is there a difference to explain); the mechanism where upper bounds say that the clip term does not
raise the share of the base's commonest format. How often it binds (the clip fraction) is shown beside it.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from latentreason.stats import Estimate, gap_recovered, undefined
from latentreason.studies.palette import OTHERS
from latentreason.studies.result import Result, whether
from latentreason.studies.stacked import (
    ALL,
    Run,
    bare,
    by_base,
    ends,
    finished,
    mean,
    measured,
    plain,
    required,
    rows_of,
    runs_of,
    seeded,
    without,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REWARDS = ("random", "wrong", "majority", "format")
TRAIN = ("activation-small", *(f"spurious-{r}{c}" for r in REWARDS for c in ("", "-noclip")), *(f"no-latent-{r}" for r in ("true", *REWARDS)))
LEFT_OUT = ("format/text", "format/none")
"""Shares that are the rest of others."""
CLIPPED = "clip_ratio/region_mean"
"""Column of the training curves: share of the tokens whose ratio the clip term cuts."""
COLOURS = {"true": OTHERS[3], "random": OTHERS[1], "wrong": OTHERS[0], "majority": OTHERS[4], "format": OTHERS[2], "shuffled": OTHERS[5]}


@dataclass(frozen=True)
class Config:
    """Settings.

    Attributes:
        spurious: rewards that count as such, together; "shuffled" is shown beside them.
        behaviour: column of the training curves; of text, "format/code".
        latent_from: share of valid traces among the authors of the corpus from which a base's strategies are latent.
        nearly: share of the true reward's gain that is "nearly as well".
    """

    spurious: tuple[str, ...] = REWARDS
    behaviour: str = "strategy/split"
    latent_from: float = 0.05
    nearly: float = 0.5
    n_boot: int = 2000
    seed: int = 0


def run(*, organisms: pd.DataFrame, counts: pd.DataFrame, curves: pd.DataFrame, config: Config = Config()) -> Result:
    """Gain by reward, base and clip term, what moved, and how often the behaviour occurs over the steps.

    Args:
        organisms, counts, curves: stacked tables of the zoo.
        config: settings.

    Raises:
        InvalidInput: tables without their columns, or of different organisms.
    """
    required(curves, "curves", ("organism", "seed"))
    groups = {key: [r for r in group if plain(r.facts)] for key, group in by_base(runs_of(counts, organisms).values()).items()}
    groups = {key: group for key, group in groups.items() if any(r.facts["reward"] in config.spurious for r in group)}
    if not groups:
        return without("spurious", config, "gain", "no organism was trained with a spurious reward", TRAIN)
    table: list[dict[str, Any]] = []
    steps: list[dict[str, Any]] = []
    shown: dict[str, dict[str, Any]] = {}
    for (base, _), group in groups.items():
        latent = float(np.mean([r.facts["latent"] for r in group]))
        name = "latent" if latent >= config.latent_from else "none"
        name = name if name not in shown else f"{name} {base[:4]}"
        names = behaviours(group)
        shown[name] = {"base": base, "latent": latent, "commonest": _commonest(group, names), **({"latent_from": "base"} if any(r.facts.get("latent_from") == "base" for r in group) else {})}
        arms: dict[tuple[str, str], dict[int, Run]] = {}
        for r in group:
            arms.setdefault((str(r.facts["reward"]), "clip" if np.isfinite(r.facts["clip"]) else "no clip"), {})[r.seed] = r
        true = arms.get(("true", "clip"), {})
        for (reward, clip), of in arms.items():
            where = {"base": name, "reward": reward, "clip": clip}
            table += seeded("gain", {s: mean(r.rates("rl") - r.rates("base"), config) for s, r in of.items()}, **where)
            if reward != "true":
                table += seeded("share", {s: _share([r], true.get(s), config) for s, r in of.items()}, **where)
            for s, r in of.items():
                found = measured(curves, r, config.behaviour)
                steps.append({**where, "seed": str(s), "step": found["step"].tolist(), "value": found["value"].tolist()})
            for each in names:
                table += seeded("moved", {s: mean(r.rates("rl", each) - r.rates("base", each), config) for s, r in of.items()}, **where, behaviour=each)
            behaviour = {s: dict(ends(measured(curves, r, config.behaviour))) for s, r in of.items()}
            if CLIPPED in curves and clip == "clip":
                table += seeded("clip_fraction", {s: bare(float(measured(curves, r, CLIPPED)["value"].mean()), 1) for s, r in of.items()}, **where)
            for end in ("first", "last", "change"):
                table += seeded(f"behaviour_{end}", {s: bare(values[end], 1) for s, values in behaviour.items()}, **where)
            if clip == "clip" and (reward, "no clip") in arms:
                other = arms[reward, "no clip"]
                for each in ("correct", *names):
                    differences = {s: mean(r.rates("rl", each) - other[s].rates("rl", each), config) for s, r in of.items() if s in other}
                    table += seeded("clip_effect" if each == "correct" else "clip_moved", differences, base=name, reward=reward, **({} if each == "correct" else {"behaviour": each}))
        together = {s: [of[s] for (reward, clip), of in arms.items() if reward in config.spurious and clip == "clip" and s in of] for s in sorted({r.seed for r in group})}
        together = {s: of for s, of in together.items() if of}
        table += seeded("spurious_gain", {s: mean(_together(of) - of[0].rates("base"), config) for s, of in together.items()}, base=name)
        table += seeded("spurious_share", {s: _share(of, true.get(s), config) for s, of in together.items()}, base=name)
    details = {"bases": shown, "behaviour": steps, "n_problems": len(next(iter(groups.values()))[0].base), "n_seeds": len({r.seed for g in groups.values() for r in g})}
    result = finished("spurious", config, table, details)
    return result.saying(_said(result, config))


def behaviours(runs: list[Run]) -> list[str]:
    """Columns of the counts that are a behaviour: formats (a share of the traces) and strategies (occurrences a trace)."""
    return [c for c in map(str, runs[0].base) if c.startswith(("format/", "strategy/")) and c not in LEFT_OUT and not any(t[c].isna().any() for r in runs for t in (r.base, r.rl))]


def _commonest(runs: list[Run], names: list[str]) -> str:
    """The format that the bases write most often."""
    shares = {name: float(np.mean([r.rates("base", name).mean() for r in runs])) for name in names if name.startswith("format/")}
    return max(shares, key=lambda name: shares[name], default="")


def _together(runs: list[Run]) -> np.ndarray:
    found: np.ndarray = np.mean([r.rates("rl") for r in runs], axis=0)
    return found


def _share(runs: list[Run], true: Run | None, config: Config) -> Estimate:
    if true is None:
        return undefined("no organism with the true reward on this base", len(runs[0].base))
    return gap_recovered(true.rates("base"), true.rates("rl"), _together(runs), n_boot=config.n_boot, seed=config.seed)


def _said(result: Result, config: Config) -> list[str]:
    said = list[str]()
    for name, facts in result.details["bases"].items():
        gain, share = (result.estimate(f"spurious_{q}", base=name, seed=ALL) for q in ("gain", "share"))
        if name.startswith("latent"):
            seen = "refutes" if share.hi < config.nearly else "supports" if share.lo >= config.nearly else "neither supports nor refutes"
            of_true = f", {share} of the true reward's" if share.defined else f" (share of the true reward's: {share})"
            judged = f", which {seen} that they work nearly as well (an upper bound below {config.nearly:g} refutes it)" if share.defined else ""
            whose = "its own samples right" if facts.get("latent_from") == "base" else "its authors' traces valid"
            said.append(f"On a base with latent strategies ({facts['latent']:.0%} of {whose}) spurious rewards together gain {gain}{of_true}{judged}.")
        else:
            true = [result.estimate("gain", base=name, reward="true", clip="clip", seed=ALL)] if rows_of(result, "gain", base=name, reward="true", clip="clip") else []
            beside = f", the true reward {true[0]}{'' if true[0].lo > 0 else ' (so no reward is shown to bring this base anything)'}" if true else ""
            judged = whether(gain, "which refutes that the behaviour must be latent", "as the claim says", "which leaves it open")
            said.append(f"On a base without latent strategies ({facts['latent']:.1%}) spurious rewards together gain {gain}{beside}, {judged} (an interval above 0 refutes that the behaviour must be latent){_contrast(result)}.")
        said += [_said_of_behaviour(result, name, config), _said_of_clip(result, name, facts["commonest"])]
    return said


def _contrast(result: Result) -> str:
    """A caveat where spurious rewards bring nothing to a latent base either."""
    latent = [result.estimate("spurious_gain", base=name, seed=ALL) for name in result.details["bases"] if name.startswith("latent")]
    return "; since they gain nothing on a latent base either, there is no difference to explain" if latent and not any(e.lo > 0 for e in latent) else ""


def _said_of_behaviour(result: Result, base: str, config: Config) -> str:
    """Under each spurious reward the behaviour that moved most, by its occurrences in a trace; one of several, so it is the largest by chance, too."""
    found = []
    for reward in config.spurious:
        moved = [r for r in rows_of(result, "moved", base=base, reward=reward, clip="clip", seed=ALL) if np.isfinite(r["value"])]
        if moved:
            most = max(moved, key=lambda r: abs(r["value"]))
            sure = sum(r["lo"] > 0 or r["hi"] < 0 for r in moved)
            found.append(f"{reward} {most['behaviour'].rpartition('/')[2]} {most['value']:+.2f} [{most['lo']:.2f}, {most['hi']:.2f}] ({sure} of {len(moved)} behaviours have an interval without 0)")
    return f"What moves most there, in occurrences a trace{_caveat(result, 'moved', base)}: {', '.join(found)}." if found else ""


def _caveat(result: Result, quantity: str, base: str) -> str:
    """What the many short intervals of a list leave out."""
    return " (one seed: intervals of problems)" if any(r["reason"].startswith("one seed") for r in rows_of(result, quantity, base=base, seed=ALL)) else ""


def _said_of_clip(result: Result, base: str, commonest: str) -> str:
    """What the clip term does to accuracy, and to what the base does most."""
    found, verdicts = [], list[str]()
    for row in rows_of(result, "clip_moved", base=base, behaviour=commonest, seed=ALL):
        effect, share = (result.estimate(q, base=base, reward=row["reward"], seed=ALL, **more) for q, more in (("clip_effect", {}), ("clip_moved", {"behaviour": commonest})))
        found.append(f"{row['reward']} {effect.value:+.2f} [{effect.lo:.2f}, {effect.hi:.2f}] and {share.value:+.2f} [{share.lo:.2f}, {share.hi:.2f}]")
        verdicts.append(whether(share, "raised", "not raised", "open"))
    if not found:
        return ""
    said = f"With the clip term minus without{_caveat(result, 'clip_moved', base)}, accuracy and the share of the base's commonest format ({commonest.rpartition('/')[2]}) differ by {', '.join(found)}"
    counted = f"it raises that share under {verdicts.count('raised')} of {len(verdicts)} rewards, does not under {verdicts.count('not raised')}"
    binds = [row["value"] for row in rows_of(result, "clip_fraction", base=base, seed=ALL) if row["reward"] != "true" and np.isfinite(row["value"])]
    fraction = f"; it cuts {min(binds):.2%} to {max(binds):.2%} of the tokens" if binds else ""
    seen = "which refutes that it favours what is likely" if verdicts.count("not raised") == len(verdicts) else "so that it favours what is likely is shown" if verdicts.count("raised") == len(verdicts) else "so whether it favours what is likely is open"
    return f"{said}: {counted}, {seen} (refuted where an upper bound of 0 or less says so of each){fraction}."


def drawn(result: Result) -> list[dict[str, Any]]:
    """What `plot` draws: the gain of each base, reward and clip setting, over seeds and of each."""
    return rows_of(result, "gain")


def plot(result: Result, ax: "Axes | None" = None) -> "Axes":
    """Gain by base and reward: dots with their interval over seeds, small dots the seeds, rings without the clip term."""
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(figsize=(7.2, 4.6), layout="constrained")
    found = drawn(result)
    if "reason" in result.details:
        ax.text(0.5, 0.5, result.finding, ha="center", va="center", wrap=True, transform=ax.transAxes)
        return ax
    order = {name: i for i, name in enumerate(COLOURS)}
    places = sorted({(r["base"], r["reward"]) for r in found}, key=lambda p: (p[0], order.get(p[1], len(order))))
    for row in found:
        y = places.index((row["base"], row["reward"])) + (0.22 if row["clip"] == "no clip" else -0.12)
        colour, whole = COLOURS.get(row["reward"], "black"), row["seed"] == ALL
        ax.plot([row["value"]], [y + (0 if whole else 0.13)], "o", color=colour, markerfacecolor="white" if row["clip"] == "no clip" else colour, markersize=6 if whole else 3, alpha=1 if whole else 0.6)
        if whole and np.isfinite(row["lo"]):
            ax.plot([row["lo"], row["hi"]], [y, y], color=colour)
    ax.axvline(0, color="0.7", linewidth=0.8, zorder=0)
    ax.set_yticks(range(len(places)), [f"{reward} ({base})" for base, reward in places])
    ax.set(xlabel="gain in accuracy at T=1 (RL minus base)", ylim=(len(places) - 0.4, -0.6))
    return ax
