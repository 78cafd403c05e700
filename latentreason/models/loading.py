"""From a source (hub id, local directory, GGUF file, model that is loaded already) to a causal language model and its tokenizer.

Nothing that was passed is changed, nothing is downloaded when HF_HUB_OFFLINE=1, and no code of a repository runs unless the
caller says so. What cannot be used is refused with one message that says the fix. Knows nothing of pairs or adapters.
"""

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from latentreason.errors import CorruptArtifact, InvalidInput, LatentReasonError, MissingDependency, required, unknown_name


def load(source: str | Path, *, revision: str | None, dtype: torch.dtype | str, device_map: Any, gguf_file: str | None,
         trust_remote_code: bool, tokenizer: Any) -> tuple[Any, Any]:  # fmt: skip
    """Model (in eval mode) and tokenizer of a hub id, a local directory or a GGUF file; `tokenizer` spares loading one.

    Raises:
        InvalidInput: nothing usable there: a missing or gated id, an encoder, an incomplete checkpoint, code of its own.
        CorruptArtifact: a weight file that is cut short.
        MissingDependency: `device_map` or GGUF without the packages that they need.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path, options = Path(source), {"revision": revision, "trust_remote_code": trust_remote_code}
    if gguf_file is None and path.suffix == ".gguf":
        path, gguf_file = path.parent, path.name
        source = path
    if not path.exists() and "/" in str(source) and (len(path.parts) != 2 or path.parent.is_dir()):  # a hub id is one word, or OWNER/NAME
        raise InvalidInput(f"No model at {str(source)!r}: give a local directory with config.json, or a hub id. There is no such directory.")
    if isinstance(dtype, str) and dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise unknown_name("dtype", dtype, ("auto", "bfloat16", "float16", "float32"))
    if device_map is not None:
        required("accelerate", "train", "A device_map")
    weights: dict[str, Any] = {"dtype": dtype, "device_map": device_map}
    if gguf_file is not None:
        required("gguf", "gguf", "A GGUF file")
        required("accelerate", "gguf", "A GGUF file")
        from transformers import GgufConfig

        options["gguf_file"] = gguf_file
        weights["quantization_config"] = GgufConfig(dequantize=True)  # plain weights: they can be saved, merged and read
    try:
        tokenizer = tokenizer if tokenizer is not None else AutoTokenizer.from_pretrained(source, **options)
        with _no_bar():
            loaded: Any = AutoModelForCausalLM.from_pretrained(source, **options, **weights, output_loading_info=True)
    except Exception as error:  # of many kinds where a file is damaged
        damage = str(error) if isinstance(error, SafetensorError) else gguf_damage(path / gguf_file) if gguf_file is not None else None
        if damage is not None:
            raise CorruptArtifact(f"The weights at {str(path / (gguf_file or ''))!r} are cut short or damaged ({damage}): fetch or copy them again.") from error
        if not isinstance(error, OSError | ValueError | RuntimeError | ImportError | LookupError):
            raise
        raise _refusal(str(source), error) from error
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise InvalidInput(f"The checkpoint at {str(source)!r} lacks {len(missing)} weights of a {type(model).__name__} (first {missing[0]!r}), which would be random. Give a complete causal language model, saved with its head.")
    model.eval()
    check_generates(model, str(source))
    check_causal(model, str(source))
    return model, tokenizer


@contextmanager
def _no_bar() -> Iterator[None]:
    """Without the bar of transformers over the weights: loading says one line. Bars of downloads, which are of the hub, stay."""
    from transformers.utils import logging

    before = logging.set_tqdm_hook(lambda _, args, kwargs: logging.EmptyTqdm(*args, **kwargs))
    try:
        yield
    finally:
        logging.set_tqdm_hook(before)


def commit(source: str | Path, revision: str | None) -> str | None:
    """Which commit a hub id that was loaded stands for, by the cache; None of a local directory."""
    from huggingface_hub import try_to_load_from_cache

    if Path(source).exists():
        return None
    file = try_to_load_from_cache(str(source), "config.json", revision=revision)
    return Path(file).parent.name if isinstance(file, str) else None


def adopted(model: Any, tokenizer: Any, dtype: torch.dtype | str, device_map: Any, gguf_file: str | None) -> Any:
    """A model that the caller holds, as it is; in training mode, a copy in eval mode over the same weights.

    Raises:
        InvalidInput: no causal language model of transformers, no tokenizer, or an option that only loading can follow.
    """
    from transformers import PreTrainedModel

    kind = type(model).__name__
    if not isinstance(model, PreTrainedModel):
        fix = "give its merge_and_unload(), or the base with adapter=" if hasattr(model, "get_base_model") else "give a hub id, a local directory or a model of transformers"
        raise InvalidInput(f"Cannot use a {kind} as a model: {fix}.")
    if tokenizer is None:
        raise InvalidInput(f"A loaded model ({kind}) comes without its tokenizer: give tokenizer=.")
    if device_map is not None or gguf_file is not None or dtype not in ("auto", model.dtype):
        raise InvalidInput(f"dtype, device_map and gguf_file say how to load, and this {kind} is loaded ({model.dtype}, {model.device}) and never changed: load it as you want it, or give its directory or id.")
    check_generates(model, kind)
    if any(module.training for module in model.modules()):
        model = shared_copy(model).eval()
    check_causal(model, kind)
    return model


def shared_copy(model: Any) -> Any:
    """A second tree of modules over the SAME weights: it costs no memory, and new modules or modes in it do not reach the first."""
    # other Parameter objects over the same storage, so that requires_grad is their own; quantised ones hold more than a tensor
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach(), requires_grad=False) if type(p) is nn.Parameter else p for p in model.parameters()}
    memo |= {id(b): b.detach() for b in model.buffers()}
    return copy.deepcopy(model, memo)


def check_generates(model: Any, name: str) -> None:
    """Raises InvalidInput unless the model has a head over the vocabulary and a key-value cache, and is no encoder-decoder."""
    kind, config = type(model).__name__, model.config
    if getattr(config, "is_encoder_decoder", False):
        raise InvalidInput(f"{name!r} is a {kind}, an encoder-decoder. Give a decoder-only causal language model.")
    if not hasattr(model, "generate") or model.get_output_embeddings() is None:
        raise InvalidInput(f"{name!r} is a {kind}, which cannot generate: it has no language-model head. Load it with AutoModelForCausalLM.from_pretrained; an encoder-only model has none and cannot be used.")
    if "past_key_values" not in inspect.signature(model.forward).parameters:
        raise InvalidInput(f"{name!r} is a {kind}, whose forward takes no past_key_values: it keeps no key-value cache that rows could share. Give a transformer.")


@torch.inference_mode()
def check_causal(model: Any, name: str) -> None:
    """Raises InvalidInput for an encoder (such as BERT) that was loaded as if it were a causal model: there a token sees those after it."""
    if getattr(model.config, "is_decoder", True) or model.device.type == "meta":  # False in all encoders, but in GPT-NeoX too: so look
        return
    ids = torch.tensor([[0, 0], [0, 1]], device=model.device)
    first, second = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, 0].float()
    if (first - second).abs().max() > 1e-3 * first.abs().max():
        raise InvalidInput(f"{name!r} is an encoder-only {type(model).__name__}: its tokens see those after them, so it cannot continue a text. Give a decoder-only causal language model.")


def gguf_damage(file: Path) -> str | None:
    """Why a GGUF file cannot be read from end to end; None if it can, or is not there. Parses all of its header: slow."""
    from gguf import GGUFReader

    if not file.is_file():
        return None
    try:
        GGUFReader(file)
    except Exception as error:  # whatever a parser meets in damaged bytes
        return " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return None


def _refusal(source: str, error: Exception) -> LatentReasonError:
    """What went wrong while loading, as an error that says the fix."""
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    why, text, nothing = list(_causes(error)), " ".join(str(error).split()), f"No model at {source!r}: give a local directory with config.json, or a hub id"

    def of(*kinds: type[Exception]) -> bool:
        return any(isinstance(each, kinds) for each in why)

    if "trust_remote_code" in text:
        return InvalidInput(f"{source!r} brings Python code of its own, which is never run unasked. Read it; if you trust it, pass trust_remote_code=True.")
    if of(GatedRepoError):
        return InvalidInput(f"{source!r} is gated: ask for access at https://huggingface.co/{source}, run `hf auth login`, then `hf download {source}` to have it offline.")
    if of(RevisionNotFoundError):
        return InvalidInput(f"{source!r} has no such revision: give a branch, tag or commit of that repository. ({text})")
    if of(RepositoryNotFoundError):
        return InvalidInput(f"{nothing}. The hub has no such repository, or it is private: check the id, or run `hf auth login`.")
    if of(LocalEntryNotFoundError, OfflineModeIsEnabled):
        where = "HF_HUB_OFFLINE=1 forbids asking the hub" if HF_HUB_OFFLINE else "the hub cannot be reached"
        return InvalidInput(f"{nothing} that is cached. It is not in the cache of this machine and {where}: run `hf download {source}` where there is a network (a gated one wants `hf auth login` there first).")
    if "for this kind of AutoModel" in text:
        return InvalidInput(f"{source!r} is no causal language model ({text.split(' for this kind')[0]}). Give a decoder-only one; encoders and encoder-decoders cannot be used.")
    if isinstance(error, ImportError):
        return MissingDependency(f"Loading {source!r} needs a package that is not installed: {text}")
    return InvalidInput(f"{nothing} that is cached. ({text})")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
