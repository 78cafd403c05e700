"""ModelPair: a base model and its RL model, with proof that they share their tokens."""

import sys
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from latentreason.errors import CorruptArtifact, InvalidInput, VocabMismatch, unknown_name
from latentreason.files import read_json
from latentreason.models.adapters import is_adapter, with_adapter
from latentreason.models.language_model import LM, shown
from latentreason.models.smollm2 import fetched
from latentreason.store import Manifest, open_artifact


@dataclass(frozen=True)
class ModelPair:
    """Two models that share token ids. Padded vocabulary rows may differ; real tokens may not.

    Attributes:
        base, rl: the models. Prompts of both are written by the base's tokenizer (`LM.shared`), text is read and ended by each one's own.
        name: of the pair.
        renamed_special: added tokens (`<|im_start|>` and the like) may have other names in the two tokenizers; their ids are then
            exchanged as they are, and text is read with the base's names. Distilled models need it.

    Raises:
        VocabMismatch: the first ten real tokens that differ.
    """

    base: LM
    rl: LM
    name: str = "pair"
    renamed_special: bool = False

    def __post_init__(self) -> None:
        base, rl = self.base.tokenizer.get_vocab(), self.rl.tokenizer.get_vocab()
        differ = sorted({t for t in base.keys() | rl.keys() if base.get(t) != rl.get(t)}, key=lambda t: (base.get(t, rl.get(t, 0)), t))
        added = {i for lm in (self.base, self.rl) for i in lm.tokenizer.added_tokens_decoder}
        special = all({base.get(t), rl.get(t)} - {None} <= added for t in differ)
        if differ and not (special and self.renamed_special):
            first = ", ".join(f"{t!r} ({base.get(t)} / {rl.get(t)})" for t in differ[:10])
            raise VocabMismatch(f"{self.base.name!r} and {self.rl.name!r} differ in {len(differ)} real tokens, so their ids cannot be exchanged. First (base id / RL id): {first}. Use two models with one tokenizer{'; or, since all of these are added tokens, renamed_special=True' if special else ''}.")
        if self.base.device != self.rl.device:
            raise InvalidInput(f"{self.base.name!r} is on {self.base.device}, {self.rl.name!r} on {self.rl.device}, but the two decode in step. Load both on one device, as in device_map={{'': 'cuda:0'}}, or spread each over all with device_map='auto'.")
        if self.rl.shared is not self.base.writer:  # the LM that was passed stays as it is
            object.__setattr__(self, "rl", replace(self.rl, shared=self.base.writer))

    def __repr__(self) -> str:
        """One line: parameters, dtype and device of both, real and padded vocabulary, agreement of the tokenizers."""
        base, rl = self.base, self.rl
        held = {w.data_ptr() for w in base.model.parameters()}
        weights = list(rl.model.parameters())
        own = sum(w.numel() for w in weights if w.data_ptr() not in held)
        shared = f" ({shown(own)} of its own)" if own < sum(w.numel() for w in weights) else ""
        rows = f"{base.n_rows}" if base.n_rows == rl.n_rows else f"{base.n_rows} and {rl.n_rows}"
        unlike = [what for what in ("chat_template", "bos_token", "eos_token") if getattr(base.tokenizer, what) != getattr(rl.tokenizer, what)]
        agree = "tokenizers agree" + (f" but for {', '.join(unlike)}" if unlike else "") + ("; templates differ: prompts are the base's" if "chat_template" in unlike else "")
        return f"{self.name}: {base.summary}; {rl.summary}{shared}; {min(base.n_vocab, rl.n_vocab)} real tokens, padded to {rows}; {agree}"

    def exchanged(self) -> "ModelPair":
        """The same two models with their roles exchanged: the RL model decodes, and the base model's tokens are put in. Prompts stay the same."""
        return ModelPair(self.rl, self.base, f"{self.name}, exchanged", self.renamed_special)

    @classmethod
    def from_pretrained(cls, base: Any, rl: Any = None, *, adapter: str | Path | None = None, merge: bool = False, revisions: tuple[str | None, str | None] = (None, None),
                        dtype: torch.dtype | str = "auto", device_map: Any = None, gguf_file: str | tuple[str | None, str | None] | None = None,
                        trust_remote_code: bool = False, tokenizer: Any = None, renamed_special: bool = False, verbose: bool = True) -> "ModelPair":  # fmt: skip
        """Any two models: hub ids, local directories, GGUF files, loaded models; or a base and a LoRA adapter on it.

        Args:
            base, rl: sources as in `LM.from_pretrained`. A local adapter directory as `rl` is an `adapter`.
            adapter: LoRA directory or hub id, in place of `rl`.
            merge: of an adapter: True adds it to a copy of the base (two models in memory), False shares the base's weights (one).
            revisions: of base and RL model (or adapter).
            dtype, device_map, trust_remote_code: for both.
            gguf_file: name of the GGUF file in both sources, or one name (or None) each.
            tokenizer: of those models that are given loaded.
            renamed_special: see the attribute.
            verbose: print the pair's `repr` to standard error.

        Raises:
            VocabMismatch: the models' real tokens differ.
            InvalidInput, CorruptArtifact, NonFinite, MissingDependency: see `LM.from_pretrained` and `with_adapter`; or two devices.
        """
        if adapter is None and is_adapter(rl):
            rl, adapter = None, rl
        if (rl is None) == (adapter is None):
            raise InvalidInput("A pair is base and rl, or base and adapter=: give one of the two.")
        files = gguf_file if isinstance(gguf_file, tuple) else (gguf_file, gguf_file)

        def loaded(source: Any, index: int, name: str) -> LM:
            path = isinstance(source, str | Path)
            return LM.from_pretrained(source, revision=revisions[index] if path else None, dtype=dtype, device_map=device_map, gguf_file=files[index],
                                      trust_remote_code=trust_remote_code, tokenizer=None if path else tokenizer, name=name)  # fmt: skip

        first = loaded(base, 0, "base")
        second = loaded(rl, 1, "rl") if adapter is None else with_adapter(first, adapter, merge=merge, revision=revisions[1])
        pair = cls(first, second, f"{_called(base)}-{_called(rl if adapter is None else adapter)}", renamed_special)
        if verbose:
            print(pair, file=sys.stderr)
        return pair

    @classmethod
    def named(cls, name: str, *, verbose: bool = False, **how: Any) -> "ModelPair":
        """What a command line calls a pair: the name of an organism, the folder of one (as `organisms train` wrote it), or BASE,RL (two local directories or hub
        ids, or base and adapter).

        Args:
            name: of the pair.
            verbose: as in `from_pretrained`.
            **how: further arguments of `from_pretrained`, for BASE,RL.

        Raises:
            InvalidInput: arguments for an organism, which is loaded as it was made.
        """
        base, comma, rl = name.partition(",")
        if how and not comma:
            raise InvalidInput(f"{', '.join(how)}: only for a pair BASE,RL; {name!r} is loaded as it was made.")
        if comma:
            return cls.from_pretrained(base, rl, verbose=verbose, **how)
        folder = found_dir(name)
        if folder != Path(name):
            return cls.from_organism(name, verbose=verbose)
        pair = cls.from_folder(folder, folder.resolve().name)
        if verbose:
            print(pair, file=sys.stderr)
        return pair

    @classmethod
    def from_organism(cls, name: str = "activation", *, verbose: bool = False) -> "ModelPair":
        """A pair that comes with the package (from the checkout or the installed wheel); prints nothing unless asked.

        Its folder holds `base/` and `rl/`; or `rl/` and a `base.json` that names the organism whose base it shares: {"organism": "activation"}; or an
        `adapter/` and a `base.json` that names a model to fetch: {"base": "smollm2"}.

        Raises:
            UnknownName: no such organism.
            CorruptArtifact: a file of it, or of the model that it stands on, is missing, cut short or edited.
            InvalidInput: the model that it stands on has not been fetched, or is not the one that its adapter was trained on.
        """
        pair = cls.from_folder(organism_dir(name), name)
        if verbose:
            print(pair, file=sys.stderr)
        return pair

    @classmethod
    def from_folder(cls, folder: str | Path, name: str) -> "ModelPair":
        """The pair in the folder of an organism; raises as `from_organism`."""
        folder = Path(folder)
        manifest = open_artifact(folder)
        if (folder / "adapter").is_dir():
            base = _named(folder, "base", '{"base": "smollm2"}, or the name of another model that can be fetched')
            path = fetched(base)
            _refuse_other_base(manifest, base, path)
            pair = cls.from_pretrained(path, adapter=folder / "adapter", merge=True, verbose=False)  # faster, and the rivals mix weights
        elif (folder / "base").is_dir():
            pair = cls.from_pretrained(folder / "base", folder / "rl", verbose=False)
        else:
            shared = organism_dir(_named(folder, "organism", '{"organism": "activation"}, or another organism with a base of its own'))
            open_artifact(shared)
            pair = cls.from_pretrained(shared / "base", folder / "rl", verbose=False)
        return cls(pair.base, pair.rl, name)


def _named(folder: Path, key: str, fix: str) -> str:
    """What `base.json` says under a key."""
    facts = read_json(folder / "base.json")
    if not (isinstance(facts, dict) and isinstance(facts.get(key), str)):
        raise CorruptArtifact(f"{folder / 'base.json'} names no base. Fix: {fix}.")
    return str(facts[key])


def _refuse_other_base(adapter: Manifest, base: str, path: Path) -> None:
    """Raises InvalidInput where the adapter's manifest says that it was trained on other weights than those in `path`, whose hashes are verified."""
    found = open_artifact(path, verify=False).files["model.safetensors"]["sha256"]
    for model in adapter.models:
        if model.get("id") == base and model.get("weights_sha256", found) != found:
            raise InvalidInput(f"The adapter of {adapter.name!r} was trained on {base!r} with weights of sha256 {model['weights_sha256']}; those in {path} have {found}. Put that base there, or train the adapter again on this one: `latentreason organisms train {adapter.name}`.")


def _called(source: Any) -> str:
    return Path(source if isinstance(source, str | Path) else source.name_or_path or type(source).__name__).name


def organism_dirs() -> dict[str, Path]:
    """Name -> folder of every pair at hand; those of the checkout hide those of the wheel."""
    package = Path(str(resources.files("latentreason")))
    roots = [package.parent / "artifacts" / "organisms", package / "_organisms"]
    return {folder.name: folder for root in reversed(roots) if root.is_dir() for folder in root.iterdir() if any((folder / part).is_dir() for part in ("base", "rl", "adapter"))}


def found_dir(pair: str) -> Path | None:
    """The folder of an organism by what a command line calls it: its folder, or its name; None where there is neither."""
    return Path(pair) if (Path(pair) / "manifest.json").is_file() else organism_dirs().get(pair)


def organism_dir(name: str) -> Path:
    """Where the weights of an organism are.

    Raises:
        UnknownName: no weights of that name are shipped.
    """
    found = organism_dirs()
    if name not in found:
        if not found:
            raise InvalidInput("No organism weights are installed; train some with `latentreason organisms train activation`.")
        raise unknown_name("organism", name, found)
    return found[name]
