"""Checkpoints of a training loop as safetensors: weights, optimizer moments and the step, written atomically; and weights in float16."""

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
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
