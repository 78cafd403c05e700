"""ModelPair: a base model and its RL model, with proof that they share their tokens."""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from latentreason.errors import InvalidInput, VocabMismatch, unknown_name
from latentreason.models.language_model import LM
from latentreason.store import open_artifact


@dataclass(frozen=True)
class ModelPair:
    """Two models that share token ids. Padded vocabulary rows may differ; real tokens may not.

    Raises:
        VocabMismatch: the first ten real tokens that differ.
    """

    base: LM
    rl: LM
    name: str = "pair"

    def __post_init__(self) -> None:
        base, rl = self.base.tokenizer.get_vocab(), self.rl.tokenizer.get_vocab()
        differ = sorted({t for t in base.keys() | rl.keys() if base.get(t) != rl.get(t)}, key=lambda t: (base.get(t, rl.get(t, 0)), t))
        if differ:
            shown = ", ".join(f"{t!r} ({base.get(t)} / {rl.get(t)})" for t in differ[:10])
            raise VocabMismatch(f"{self.base.name!r} and {self.rl.name!r} differ in {len(differ)} real tokens, so their ids cannot be exchanged. First (base id / RL id): {shown}. Use two models with one tokenizer.")

    def exchanged(self) -> "ModelPair":
        """The same two models with their roles exchanged: the RL model decodes, and the base model's tokens are put in."""
        return ModelPair(self.rl, self.base, f"{self.name}, exchanged")

    @classmethod
    def from_pretrained(cls, base: str | Path, rl: str | Path, *, dtype: torch.dtype | str = "auto", device_map: Any = None,
                        revisions: tuple[str | None, str | None] = (None, None)) -> "ModelPair":  # fmt: skip
        """Load both models from hub ids or local directories; see `LM.from_pretrained`."""
        return cls(
            LM.from_pretrained(base, revision=revisions[0], dtype=dtype, device_map=device_map, name="base"),
            LM.from_pretrained(rl, revision=revisions[1], dtype=dtype, device_map=device_map, name="rl"),
            f"{Path(base).name}-{Path(rl).name}",
        )

    @classmethod
    def named(cls, name: str) -> "ModelPair":
        """What a command line calls a pair: the name of an organism, or BASE,RL (two local directories or hub ids)."""
        base, comma, rl = name.partition(",")
        return cls.from_pretrained(base, rl) if comma else cls.from_organism(name)

    @classmethod
    def from_organism(cls, name: str = "activation") -> "ModelPair":
        """The built-in pair of an organism, from the checkout or from the installed wheel.

        Raises:
            UnknownName: no such organism.
            CorruptArtifact: a file of it is missing, cut short or edited.
        """
        folder = organism_dir(name)
        open_artifact(folder)
        pair = cls.from_pretrained(folder / "base", folder / "rl")
        return cls(pair.base, pair.rl, name)


def organism_dir(name: str) -> Path:
    """Where the weights of an organism are.

    Raises:
        UnknownName: no weights of that name are shipped.
    """
    package = Path(str(resources.files("latentreason")))
    roots = [package.parent / "artifacts" / "organisms", package / "_organisms"]
    found = {folder.name: folder for root in reversed(roots) if root.is_dir() for folder in root.iterdir() if (folder / "base").is_dir()}
    if name not in found:
        if not found:
            raise InvalidInput("No organism weights are installed; train some with `latentreason organisms train activation`.")
        raise unknown_name("organism", name, found)
    return found[name]
