"""The errors of the package: one family, and every message says the fix.

This file knows nothing about models or tables. Example::

    try:
        lr.load_task("chian", split="test")
    except lr.LatentReasonError as error:
        print(error)  # Unknown task 'chian'. Did you mean 'chain'? Known: aime24, aime25, ...
"""

import difflib
from collections.abc import Iterable
from importlib.util import find_spec


class LatentReasonError(Exception):
    """Any failure that this package can name. Catch this to catch them all."""


class UnknownName(LatentReasonError, KeyError):
    """A task, router, study, figure or config key that does not exist."""

    def __str__(self) -> str:  # KeyError would print the repr, with quotes around it
        return str(self.args[0])


class InvalidInput(LatentReasonError, ValueError):
    """A value that no sensible result can be computed from."""


class VocabMismatch(LatentReasonError, ValueError):
    """Two models whose real tokens differ: their token ids cannot be exchanged."""


class NonFinite(LatentReasonError, ArithmeticError):
    """NaN or Inf in weights, logits or activations."""


class ContextTooLong(LatentReasonError, ValueError):
    """A prompt, or a prompt and its completion, that the model has no positions for."""


class UnsupportedSite(LatentReasonError, NotImplementedError):
    """A site that a model's architecture does not have, or that a backend cannot read and edit."""


class CorruptArtifact(LatentReasonError, OSError):
    """An artifact directory that is missing, incomplete, edited or from a newer version."""


class ArtifactConflict(LatentReasonError, OSError):
    """An output directory that belongs to a run with another configuration."""


class ArtifactWriteError(LatentReasonError, OSError):
    """The disk refused a write: full, read-only or not ours. What stood there before is untouched."""


class MissingData(LatentReasonError, FileNotFoundError):
    """A benchmark whose file is not at hand, and that cannot be fetched."""


class MissingDependency(LatentReasonError, ImportError):
    """An optional package that this call needs and that is not installed."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UnknownName:
    """The error for a misspelt name: suggests the nearest known one.

    >>> print(unknown_name("task", "chian", ["chain"]))
    Unknown task 'chian'. Did you mean 'chain'? Known: chain.
    """
    names = sorted(known)
    begun = [known for known in names if name and known.startswith(name)]  # of `aime` there are two
    near = begun if 0 < len(begun) < 4 else difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return UnknownName(f"Unknown {kind} {name!r}.{hint} Known: {', '.join(names)}.")


def required(package: str, extra: str, what: str) -> None:
    """Raises MissingDependency unless an optional package is installed; `extra` is the one of ours that brings it.

    >>> required("no_such_package", "train", "A LoRA adapter")
    Traceback (most recent call last):
    latentreason.errors.MissingDependency: A LoRA adapter needs the package no_such_package. Install it: pip install 'latentreason[train]'
    """
    if find_spec(package) is None:
        raise MissingDependency(f"{what} needs the package {package}. Install it: pip install 'latentreason[{extra}]'")
