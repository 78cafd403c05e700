"""Vectors to the hub and back, with a hub that is a folder: nothing here touches the network."""

from pathlib import Path

import pytest
import torch

from latentreason.activations.sites import Site
from latentreason.errors import CorruptArtifact, InvalidInput
from latentreason.vectors.hub import is_repo_id
from latentreason.vectors.steering_vector import SteeringVector, VectorSet


@pytest.fixture
def vectors() -> VectorSet:
    return VectorSet(
        tuple(SteeringVector.of(Site(i), torch.arange(1.0, 5.0) * (i + 1), "joy", 3) for i in range(2)), {"method": "diff_means"}
    )


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder that stands for the hub: OWNER/NAME/REVISION; what was asked of it is in its file `log`."""
    import shutil

    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    root = tmp_path / "hub"
    root.mkdir()

    class Api:
        def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
            (root / repo_id).mkdir(parents=True, exist_ok=exist_ok)
            (root / "log").write_text(f"private={private}")

        def create_branch(self, repo_id: str, *, branch: str, exist_ok: bool) -> None:
            (root / repo_id / branch).mkdir(exist_ok=exist_ok)

        def upload_folder(self, *, repo_id: str, folder_path: Path, revision: str | None, commit_message: str | None) -> str:
            shutil.copytree(folder_path, root / repo_id / (revision or "main"), dirs_exist_ok=True)
            return f"https://hub/{repo_id}/commit/{commit_message}"

    def snapshot_download(repo_id: str, *, revision: str | None) -> str:
        folder = root / repo_id / (revision or "main")
        if not folder.is_dir():
            raise LocalEntryNotFoundError("Cannot find an appropriate cached snapshot folder")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return root


def test_what_is_pushed_is_what_is_loaded(vectors: VectorSet, hub: Path) -> None:
    assert vectors.push_to_hub("me/vectors", message="first") == "https://hub/me/vectors/commit/first"
    assert VectorSet.load("me/vectors") == vectors
    assert {p.name for p in (hub / "me" / "vectors" / "main").iterdir()} == {"vectors.safetensors", "card.json", "manifest.json"}
    assert (hub / "log").read_text() == "private=False"
    (vectors * 2).push_to_hub("me/vectors", private=True, revision="double")
    assert VectorSet.load("me/vectors", revision="double") == vectors * 2 and (hub / "log").read_text() == "private=True"


def test_a_damaged_download_is_named(vectors: VectorSet, hub: Path) -> None:
    vectors.push_to_hub("me/vectors")
    file = hub / "me" / "vectors" / "main" / "vectors.safetensors"
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(CorruptArtifact, match=r"file vectors\.safetensors differs"):
        VectorSet.load("me/vectors")


def test_a_folder_that_is_there_comes_before_the_hub(
    vectors: VectorSet, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (vectors * 3).push_to_hub("me/vectors")
    assert is_repo_id("me/vectors")
    vectors.save("me/vectors")
    assert not is_repo_id("me/vectors") and VectorSet.load("me/vectors") == vectors
    with pytest.raises(CorruptArtifact, match="me/other has no manifest"):  # its parent is here: a path, misspelt
        VectorSet.load("me/other")
    for path in ("vectors", "/runs/v", "a/b/c", "a b/c", Path("you/vectors")):
        assert not is_repo_id(path)


def test_what_the_hub_does_not_have_says_the_fix(hub: Path) -> None:
    with pytest.raises(
        InvalidInput,
        match=r"No vectors at 'you/vectors': there is no such folder here.*cached snapshot.*hf auth login.*offline, load a folder",
    ):
        VectorSet.load("you/vectors")


def test_offline_the_real_client_gives_the_same_error(vectors: VectorSet) -> None:
    """The suite runs with HF_HUB_OFFLINE=1."""
    with pytest.raises(InvalidInput, match=r"'nobody-at-all/vectors'.*offline, load a folder"):
        VectorSet.load("nobody-at-all/vectors")
    with pytest.raises(InvalidInput, match=r"Cannot write 'nobody-at-all/vectors' on the hub .*offline, use save\(\)"):
        vectors.push_to_hub("nobody-at-all/vectors")
    with pytest.raises(InvalidInput, match="Cannot write 'two words'"):
        vectors.push_to_hub("two words")
