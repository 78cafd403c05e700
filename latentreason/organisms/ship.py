"""Organisms as they are shipped: weights in float16 where that changes no greedy token, and a base that several share only once; and back again, to train others on."""

import copy
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from latentreason.errors import InvalidInput
from latentreason.files import read_table, write_json, write_table
from latentreason.models.decoding import Batch
from latentreason.models.language_model import LM
from latentreason.organisms.problems import problems_of
from latentreason.organisms.recipe import Recipe, config_of
from latentreason.organisms.train import models_of, needed
from latentreason.organisms.trainers.checkpoint import round_to_half, save_half, written
from latentreason.sampling.noise import gumbel
from latentreason.store import Manifest, Parts, config_hash, open_artifact, writing
from latentreason.tasks import chain
from latentreason.tasks.problem import Problem

MODEL_BYTES, ALL_BYTES = 4_000_000, 60_000_000
"""Limits of the weights of one model, and of all together."""


def greedy_tokens(lm: LM, problems: list[Problem], max_new_tokens: int = 96) -> list[list[int]]:
    """What the model says greedily."""
    prompts = [lm.tokenizer(f"{chain.BOS} {p.question}", add_special_tokens=False)["input_ids"] for p in problems]
    rows = torch.arange(len(prompts))
    decoded = lm.decode(Batch(prompts, rows, rows, 0.0, 1.0, max_new_tokens, gumbel))
    return [row[:n].tolist() for row, n in zip(decoded.records["token_ids"], decoded.length, strict=True)]


def half_changes(lm: LM, problems: list[Problem], max_new_tokens: int = 96) -> int:
    """Number of problems on which the model with its weights rounded to float16 says another token, greedily. The model is left alone."""
    rounded: Any = copy.deepcopy(lm.model)
    round_to_half(rounded)
    if all(torch.equal(a, b) for a, b in zip(lm.model.parameters(), rounded.parameters(), strict=True)):
        return 0
    before, after = (greedy_tokens(each, problems, max_new_tokens) for each in (lm, LM(rounded, lm.tokenizer, lm.name)))
    return sum(a != b for a, b in zip(before, after, strict=True))


def ship(recipes: Iterable[Recipe], runs: dict[str, Path], out: Path, *, n_problems: int = 200) -> dict[str, int]:
    """Write trained organisms to `out/NAME`, as small as they go. What stands in `out` already stays, and its base is shared too.

    Args:
        recipes: in this order; the first organism with a base ships it.
        runs: name -> artifact of `train`.
        out: folder of the shipped organisms.
        n_problems: on how many of the organism's problems float16 must change no greedy token.

    Returns:
        Bytes of weights by organism.

    Raises:
        InvalidInput: a model or all of them are above the limits (nothing more is written).
        CorruptArtifact: an organism has not been trained, or a file of it differs.
    """
    owners = {m.runtime.get("base", m.files[f]["sha256"]): name for name, m in _there(out).items() if (f := "base/model.safetensors") in m.files}
    sizes = {name: sum(entry["bytes"] for file, entry in m.files.items() if file.endswith(".safetensors")) for name, m in _there(out).items()}
    for recipe in recipes:
        if recipe.name in sizes:
            continue
        run = runs[recipe.name]
        manifest = open_artifact(run)
        problems = problems_of(recipe, limit=n_problems)
        trained = manifest.files["base/model.safetensors"]["sha256"]  # before it is rounded
        owner, runtime = owners.setdefault(trained, recipe.name), {**manifest.runtime, "base": trained}
        with writing(out / recipe.name, kind="organism", name=recipe.name, config=manifest.config, seed=manifest.seed, runtime=runtime, inputs=[manifest.as_input()]) as folder:
            for part in ("base", "rl") if owner == recipe.name else ("rl",):
                shutil.copytree(run / part, folder / part)
                lm = LM.from_pretrained(run / part, name=part)
                if half_changes(lm, problems) == 0:
                    save_half(lm.model, folder / part)
                    lm.tokenizer.save_pretrained(folder / part)
                if (found := (folder / part / "model.safetensors").stat().st_size) > MODEL_BYTES:
                    raise InvalidInput(f"The {part} model of {recipe.name!r} has {found} bytes, above the limit of {MODEL_BYTES}. Make it smaller, or set size.half.")
            if owner != recipe.name:
                write_json(folder / "base.json", {"organism": owner})
            for file in [*sorted(run.glob("*.parquet")), run / "recipe.json"]:
                shutil.copyfile(file, folder / file.name)
            sizes[recipe.name] = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
            if sum(sizes.values()) > ALL_BYTES:
                raise InvalidInput(f"With {recipe.name!r} the weights have {sum(sizes.values())} bytes, above the limit of {ALL_BYTES}. Ship fewer organisms, or smaller ones.")
    return sizes


def adopt(recipe: Recipe, seed: int, work: Path, shipped: Mapping[str, Path], known: Mapping[str, Recipe] | None = None) -> list[str]:
    """Lay models that an organism needs, and that others ship to the bit, where its training looks for them; its own are not taken from where it is shipped itself.

    Args:
        recipe, seed: what is to be trained.
        work: where its models are made.
        shipped: name -> folder of organisms.
        known: recipes by name; those of the zoo by default.

    Returns:
        What was laid there, such as "activation/base".
    """
    if known is None:
        from latentreason.organisms.zoo import ORGANISMS

        known = ORGANISMS
    missing, found = {config_hash(m.config): m for m in needed(recipe, seed, known) if not m.finished(work).exists()}, []
    for name in sorted((shipped.keys() & known.keys()) - {recipe.name}):
        manifest = open_artifact(shipped[name], verify=False)
        if manifest.config_hash != config_hash({"recipe": config_of(known[name]), "seed": seed}):
            continue
        base, *stages = models_of(known[name], seed, known)
        for model, part, file in ((base, "base", "curve_pretrain"), (stages[-1], "rl", "curve_rl")):
            kept, key = model.stage.keep if model.stage is not None else 0, config_hash(model.config)  # weights kept on the way are not shipped
            if key not in missing or kept or not (shipped[name] / part).is_dir() or not _exact(known[name], shipped[name] / part):
                continue
            del missing[key]
            open_artifact(shipped[name])
            curve, out = read_table(shipped[name] / f"{file}.parquet"), model.folder(work)
            Parts(out, model.config)
            written(LM.from_pretrained(shipped[name] / part, name=part), out, half=False)
            write_table(model.finished(work), curve[curve["stage"] == len(stages) - 1].drop(columns="stage") if "stage" in curve else curve)
            found.append(f"{name}/{part}")
    return found


def _exact(recipe: Recipe, folder: Path) -> bool:
    """Whether the shipped weights are those that were trained: rounded in training already, or not rounded at all."""
    with safe_open(folder / "model.safetensors", "pt") as file:
        return recipe.size.half or all(file.get_slice(name).get_dtype() == "F32" for name in file.keys())  # noqa: SIM118 (not a dict)


def _there(out: Path) -> dict[str, Manifest]:
    """The organisms in a folder, but for those on a base that is not ours to ship."""
    found = {folder.name: open_artifact(folder, verify=False) for folder in sorted(out.iterdir()) if (folder / "rl").is_dir()} if out.is_dir() else {}
    return {name: manifest for name, manifest in found.items() if manifest.kind == "organism"}
