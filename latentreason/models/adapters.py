"""LoRA adapters on a base model: the only file besides the trainers that knows peft.

The base is never touched, and by default never copied either: the RL model is a second tree of modules over the SAME weights,
with the LoRA layers put into it. So a LoRA pair costs the memory of one model, and nothing is switched while both decode in step.
"""

import copy
import warnings
from pathlib import Path
from typing import Any

from latentreason.errors import CorruptArtifact, InvalidInput, required
from latentreason.models.language_model import LM
from latentreason.models.loading import shared_copy

_FRESH = (True, False, "gaussian", "orthogonal")  # initialisations that write into the LoRA matrices alone


def is_adapter(source: Any) -> bool:
    """Whether a source is a local directory that holds an adapter."""
    return isinstance(source, str | Path) and (Path(source) / "adapter_config.json").is_file()


def with_adapter(base: LM, adapter: str | Path, *, merge: bool = False, revision: str | None = None, name: str = "rl") -> LM:
    """The base model with a LoRA adapter, as a model of its own.

    Args:
        base: stays as it is, to the bit.
        adapter: local directory in peft's format, or hub id.
        merge: add the adapter to a copy of the weights: a second model in memory, a little faster, and rounded to the base's dtype.
            Without it the weights are shared, unless the adapter holds more than LoRA matrices (biases, embeddings, whole layers).
        revision: of a hub id.
        name: of the new model.

    Raises:
        InvalidInput: no adapter there, one of another kind, or one that was made for another base.
        CorruptArtifact: its weights are cut short.
        MissingDependency: peft is not installed.
    """
    required("peft", "train", "A LoRA adapter")
    from peft import PeftConfig, PeftModel, PeftType, load_peft_weights
    from safetensors import SafetensorError

    folder = _folder(adapter, revision)
    try:
        config = PeftConfig.from_pretrained(str(folder))
        weights = load_peft_weights(str(folder), device="cpu")
    except SafetensorError as error:
        raise CorruptArtifact(f"The adapter at {str(adapter)!r} is cut short or damaged ({error}): fetch or copy it again.") from error
    except (OSError, ValueError, TypeError) as error:
        raise InvalidInput(f"No adapter at {str(adapter)!r}: give a directory with adapter_config.json and adapter_model.safetensors, or a hub id. ({error})") from error
    if config.peft_type != PeftType.LORA:
        raise InvalidInput(f"The adapter at {str(adapter)!r} is of kind {config.peft_type}; LoRA alone is supported. Merge it with peft and give the merged model as rl.")
    named, here = config.base_model_name_or_path, base.model.name_or_path
    if named and here and Path(named).name != Path(here).name:
        warnings.warn(f"The adapter at {str(adapter)!r} names {named!r} as its base; it is put on {here!r}.", stacklevel=2)
    lora_alone = all(".lora_" in key for key in weights) and config.bias == "none" and config.init_lora_weights in _FRESH
    config.inference_mode = True
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # between peft and transformers; nobody else can mend it
            tuned = PeftModel(shared_copy(base.model) if lora_alone and not merge else copy.deepcopy(base.model), config)
            loaded = tuned.load_adapter(str(folder), "default", torch_device=str(base.device))
        problems = [f"no module for {key}" for key in loaded.unexpected_keys] + [f"no weights for {key}" for key in loaded.missing_keys]
    except (ValueError, RuntimeError) as error:  # target modules that the base lacks; other shapes
        problems = [line.strip(" .\t") for line in str(error).splitlines()][-1:]
    if problems:
        raise InvalidInput(f"The adapter at {str(adapter)!r} does not fit {here or base.name!r} ({problems[0]}): it was made for another base. It names {named!r}; give that one.")
    model: Any = tuned.merge_and_unload() if merge else tuned.get_base_model()
    lm = LM(model.eval().requires_grad_(False), base.tokenizer, name, revision, base.n_vocab)
    lm.check_finite()
    return lm


def _folder(adapter: str | Path, revision: str | None) -> Path:
    """A local directory as it is; a hub id as the directory of its files in the cache."""
    if Path(adapter).is_dir():
        return Path(adapter)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(adapter), revision=revision, allow_patterns=["adapter_*"]))
    except (OSError, ValueError) as error:
        raise InvalidInput(f"No adapter at {str(adapter)!r}: give a directory with adapter_config.json, or a hub id that is cached (`hf download {adapter}` fetches it; gated ones need `hf auth login`). ({' '.join(str(error).split())})") from error
