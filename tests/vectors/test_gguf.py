"""Control vectors as llama.cpp and repeng read them: names, layers, units; and back."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from latentreason.activations.editing import additions, editing
from latentreason.activations.sites import Site
from latentreason.errors import ArtifactWriteError, CorruptArtifact, InvalidInput, MissingDependency, UnknownName
from latentreason.models.language_model import LM
from latentreason.vectors.steering_vector import SteeringVector, VectorSet


@pytest.fixture
def vectors() -> VectorSet:
    generator = torch.Generator().manual_seed(0)
    made = [SteeringVector.of(Site(i), 3 * torch.randn(32, generator=generator), label, 7) for label in ("joy", "calm") for i in range(3)]
    return VectorSet(tuple(made), {"model_type": "llama"})


def directions(path: Path) -> tuple[str, dict[int, np.ndarray]]:
    """What repeng's import takes from a file: the model hint, and the tensors direction.N by their number N."""
    reader = gguf.GGUFReader(path)
    assert bytes(reader.get_field("general.architecture").parts[-1]) == b"controlvector"
    hint = bytes(reader.get_field("controlvector.model_hint").parts[-1]).decode()
    assert all(
        t.name.startswith("direction.") and t.tensor_type == gguf.GGMLQuantizationType.F32 and t.data.ndim == 1 for t in reader.tensors
    )
    assert int(reader.get_field("controlvector.layer_count").parts[-1][0]) == len(reader.tensors)
    return hint, {int(t.name.split(".")[1]): np.array(t.data) for t in reader.tensors}


def test_a_file_holds_the_raw_vectors_of_one_label_by_block_without_block_0(vectors: VectorSet, tmp_path: Path) -> None:
    assert vectors.to_gguf(tmp_path / "joy.gguf", "joy") == [1, 2]
    hint, found = directions(tmp_path / "joy.gguf")
    assert hint == "llama" and sorted(found) == [1, 2]
    for number, values in found.items():
        np.testing.assert_array_equal(values, vectors["joy", Site(number)].vector.numpy())
    assert [p.name for p in tmp_path.iterdir()] == ["joy.gguf"]


def test_adding_direction_n_to_the_output_of_block_n_is_steering_at_strength_1(
    vectors: VectorSet, tiny_llama, tiny_tokenizer, tmp_path
) -> None:
    """The rule of llama.cpp (every block ends by adding direction il to its output, il from 0) and of repeng's wrapped blocks."""
    lm, ids = LM(tiny_llama, tiny_tokenizer, "tiny"), torch.arange(3, 15)[None]
    (vectors - 0.5 * vectors).to_gguf(tmp_path / "v.gguf", "joy", model_type="llama")
    hooks = [
        tiny_llama.model.layers[number].register_forward_hook(lambda _m, _a, out, add=torch.from_numpy(values): out + add)
        for number, values in directions(tmp_path / "v.gguf")[1].items()
    ]
    with torch.inference_mode():
        expected = tiny_llama(ids).logits
        for hook in hooks:
            hook.remove()
        for chosen in (
            VectorSet.from_gguf(tmp_path / "v.gguf"),
            VectorSet(tuple(v for v in vectors.values() if v.site.layer and v.label == "joy")) * 0.5,
        ):
            with editing(lm, additions(chosen)):
                torch.testing.assert_close(tiny_llama(ids).logits, expected, atol=1e-4, rtol=1e-4)


def test_repeng_itself_reads_the_file_and_steers_as_we_do(vectors: VectorSet, tiny_llama, tiny_tokenizer, tmp_path, monkeypatch) -> None:
    """Where repeng is importable; its pinned dependencies do not go with ours, so `pip install --no-deps repeng`."""
    monkeypatch.setattr(np, "float_", np.float64, raising=False)  # repeng 0.4 names it; NumPy 2 does not
    repeng = pytest.importorskip("repeng")
    vectors.to_gguf(tmp_path / "v.gguf", "joy")
    lm, ids = LM(tiny_llama, tiny_tokenizer, "tiny"), torch.arange(3, 15)[None]
    with torch.inference_mode(), editing(lm, additions(VectorSet(tuple(v for v in vectors.values() if v.site.layer and v.label == "joy")))):
        ours = tiny_llama(ids).logits
    control = repeng.ControlVector.import_gguf(tmp_path / "v.gguf")
    wrapped = repeng.ControlModel(tiny_llama, sorted(control.directions))
    try:
        wrapped.set_control(control, 1.0)
        with torch.inference_mode():
            torch.testing.assert_close(ours, wrapped(ids).logits)
    finally:
        wrapped.unwrap()


def test_a_file_comes_back_as_the_vectors_that_it_was_made_of(vectors: VectorSet, tmp_path: Path) -> None:
    vectors.to_gguf(tmp_path / "joy.gguf", "joy")
    found = VectorSet.from_gguf(tmp_path / "joy.gguf")
    assert list(found) == [("joy", Site(1)), ("joy", Site(2))] and dict(found.info) == {"model_type": "llama"}
    for key, v in found.items():
        torch.testing.assert_close(v.vector, vectors[key].vector)
        assert v.n == 7 and v.scale == pytest.approx(vectors[key].scale)
    assert VectorSet.from_gguf(tmp_path / "joy.gguf", "mood").labels == ["mood"]


def test_a_file_of_another_program_is_read(tmp_path: Path) -> None:
    """As repeng writes them: no label, layers in any order, here with one of block 0."""
    writer = gguf.GGUFWriter(tmp_path / "v.gguf", "controlvector")
    writer.add_string("controlvector.model_hint", "mistral")
    writer.add_uint32("controlvector.layer_count", 2)
    rows = {5: np.array([3, 0, 4], dtype=np.float32), 0: np.array([0, 1, 0], dtype=np.float16)}
    for number, values in rows.items():
        writer.add_tensor(f"direction.{number}", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = VectorSet.from_gguf(tmp_path / "v.gguf")
    assert found.labels == ["control"] and found.info["model_type"] == "mistral"
    assert found["control", Site(5)].scale == 5 and found["control", Site(5)].n == 0
    assert found["control", Site(0)].vector.tolist() == [0, 1, 0]


def test_several_labels_without_a_choice_are_exported_as_their_mean(vectors: VectorSet, tmp_path: Path) -> None:
    vectors.to_gguf(tmp_path / "mean.gguf")
    for number, values in directions(tmp_path / "mean.gguf")[1].items():
        both = [vectors[label, Site(number)].vector for label in ("joy", "calm")]
        np.testing.assert_allclose(values, (both[0] + both[1]) / 2, atol=1e-5)


def test_what_cannot_be_exported_says_the_fix(vectors: VectorSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput, match="no place for block 0"):
        vectors.at(0).to_gguf(tmp_path / "v.gguf")
    with pytest.raises(UnknownName, match="'jay'"):
        vectors.to_gguf(tmp_path / "v.gguf", "jay")
    with pytest.raises(InvalidInput, match="give model_type"):
        VectorSet(vectors.vectors).to_gguf(tmp_path / "v.gguf")
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactWriteError):
        vectors.to_gguf(tmp_path / "file" / "v.gguf")
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(MissingDependency, match=r"latentreason\[gguf\]"):
        vectors.to_gguf(tmp_path / "v.gguf")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_what_is_no_control_vector_is_refused(vectors: VectorSet, tmp_path: Path) -> None:
    path = tmp_path / "v.gguf"
    vectors.to_gguf(path)
    whole = path.read_bytes()
    for damaged in (b"", whole[:3], whole[:60], whole[:-5], b"x" * 200):
        path.write_bytes(damaged)
        with pytest.raises(CorruptArtifact, match=r"Cannot read GGUF .*v\.gguf"):
            VectorSet.from_gguf(path)
    with pytest.raises(CorruptArtifact, match="nothing"):
        VectorSet.from_gguf(tmp_path / "nothing.gguf")
    for architecture, name, said in (
        ("llama", "direction.1", "holds 'llama', not a control vector"),
        ("controlvector", "blk.1", "blk.1"),
        ("controlvector", None, "nothing"),
    ):
        writer = gguf.GGUFWriter(path, architecture)
        if name:
            writer.add_tensor(name, np.ones(4, dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        with pytest.raises(InvalidInput, match=said):
            VectorSet.from_gguf(path)
