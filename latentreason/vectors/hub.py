"""Artifact directories on the Hugging Face hub: up from a folder, down into the hub's own cache. Knows nothing of what they hold."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from latentreason.errors import InvalidInput

REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")


def is_repo_id(source: str | Path) -> bool:
    """Whether OWNER/NAME can only mean the hub: it reads like a repository, and nothing here has that path or that first folder."""
    return isinstance(source, str) and bool(REPO_ID.fullmatch(source)) and not Path(source).exists() and not Path(source).parent.is_dir()


def download(repo_id: str, revision: str | None = None) -> Path:
    """The folder in the hub's cache that holds a model repository, fetched if it is not there.

    Raises:
        InvalidInput: no such repository or revision, or the hub is out of reach and the cache does not hold it.
    """
    from huggingface_hub import snapshot_download

    with _explained(
        f"No vectors at {repo_id!r}: there is no such folder here, and as a hub id it cannot be fetched",
        "Check the spelling and the revision, log in with `hf auth login` if it is private; offline, load a folder, or fetch it once online: it stays cached.",
    ):
        return Path(snapshot_download(repo_id, revision=revision))


def upload(folder: Path, repo_id: str, *, private: bool, revision: str | None = None, message: str | None = None) -> str:
    """Put the files of a folder into a model repository, made if it is not there (so is the branch `revision`); the address of the commit.

    Raises:
        InvalidInput: the hub is out of reach or refuses.
    """
    from huggingface_hub import HfApi

    with _explained(
        f"Cannot write {repo_id!r} on the hub",
        "Log in with a token that may write (`hf auth login`), use OWNER/NAME with an owner that is yours, and unset HF_HUB_OFFLINE; offline, use save().",
    ):
        api = HfApi()
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        return str(api.upload_folder(repo_id=repo_id, folder_path=folder, revision=revision, commit_message=message))


@contextmanager
def _explained(what: str, fix: str) -> Iterator[None]:
    """Whatever the hub's client raises becomes an InvalidInput that says the fix."""
    try:
        yield
    except Exception as error:  # of several families: its own, the disk's, and those of an HTTP library that changes with its version
        raise InvalidInput(f"{what} ({' '.join(str(error).split())}). {fix}") from error
