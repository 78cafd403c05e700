"""Checkpoints of a training loop as safetensors: weights, optimizer moments and the step, written atomically; which of a trainer's own are whole; and
weights in float16.
"""

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file


def save_checkpoint(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write model and AdamW state after `step` finished steps; a kill in between leaves the previous file."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{k}": torch.as_tensor(v) for k, v in state.items()}
    partial = path.with_suffix(".partial")
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, partial, metadata={"step": str(step)})
    partial.replace(path)


def load_checkpoint(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Restore model and optimizer in place; the number of finished steps, 0 where there is no checkpoint."""
    if not path.exists():
        return 0
    with safe_open(path, "pt") as file:
        step = int(file.metadata()["step"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("adam."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return step


def newest_whole(checkpoints: Path) -> str | None:
    """The newest checkpoint of a transformers trainer that a run can go on from; None where there is none.

    The trainer writes a checkpoint in place, and deletes the one before file by file as soon as the new one is whole: a kill leaves parts of
    either. These are removed, since no run can go on from them.
    """
    steps = {int(p.name.removeprefix("checkpoint-")): p for p in checkpoints.glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdigit()}
    whole = {step for step, folder in steps.items() if _is_whole(folder, step)}
    for step in steps.keys() - whole:
        shutil.rmtree(steps[step])
    return str(steps[max(whole)]) if whole else None


def _is_whole(folder: Path, step: int) -> bool:
    """Weights, optimizer, scheduler and random state are there to their last byte, and so is `trainer_state.json`, which the trainer writes last."""
    weights, states = list(folder.glob("*model*.safetensors")), [folder / "optimizer.pt", folder / "scheduler.pt", *folder.glob("rng_state*.pth")]
    try:
        for file in weights:
            with safe_open(file, "pt"):  # compares the header with the length of the file
                pass
        state = json.loads((folder / "trainer_state.json").read_text())
    except (OSError, ValueError, SafetensorError):
        return False
    return len(weights) > 0 and len(states) > 2 and all(map(zipfile.is_zipfile, states)) and isinstance(state, dict) and state.get("global_step") == step


def round_to_half(model: torch.nn.Module) -> None:
    """Round the weights in place to what float16 can hold; they stay float32. Saved as float16, such a model is the same to the bit."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.half())


def save_half(model: Any, folder: Path) -> None:
    """Write a Hugging Face directory whose weights are float16 and whose config says float32, in which they are loaded; wholly or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial, state_dict={name: weight.half() for name, weight in model.state_dict().items()})
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def keeper(out: Path, every: int, updates: int = 1) -> list[Any]:
    """Trainer callbacks that keep the weights (float16) after each so many steps, in `out/kept/step-NNNN`; none for 0. A step is `updates` optimizer steps."""
    from transformers import TrainerCallback

    class Keeper(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step % (every * updates) == 0:
                save_half(kwargs["model"], out / "kept" / f"step-{state.global_step // updates:04d}")

    return [Keeper()] if every else []


def written(lm: Any, out: Path, *, half: bool) -> None:
    """Write a trained model and its tokenizer as a Hugging Face directory; with `half` its weights are rounded first."""
    if half:
        round_to_half(lm.model)
    lm.model.save_pretrained(out)
    lm.tokenizer.save_pretrained(out)
