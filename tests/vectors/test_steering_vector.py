"""SteeringVector and VectorSet: algebra on raw vectors, controls, selection, and files that give back every bit."""

import math

import pytest
import torch

from latentreason.activations.sites import Site
from latentreason.errors import ArtifactConflict, CorruptArtifact, InvalidInput, NonFinite, UnknownName
from latentreason.vectors.steering_vector import SteeringVector, VectorSet


def make(label: str, layer: int, seed: int = 0, width: int = 8) -> SteeringVector:
    noise = torch.randn(width, generator=torch.Generator().manual_seed(100 * layer + seed + len(label)))
    return SteeringVector.of(Site(layer), noise, label, 5, method="diff_means", split_half=0.25)


@pytest.fixture
def vectors() -> VectorSet:
    made = [make(label, layer) for label in ("split", "format:think") for layer in (10, 2)]
    return VectorSet(tuple(made), {"method": "diff_means", "model": "tiny"}, {"run": "1 spans"})


def test_a_vector_is_direction_times_scale() -> None:
    raw = torch.tensor([3.0, 0.0, 4.0])
    v = SteeringVector.of(Site(1), raw, "a", 2)
    assert v.scale == 5.0 and torch.equal(v.direction, raw / 5)
    torch.testing.assert_close(v.vector, raw)


def test_what_is_no_unit_vector_is_refused() -> None:
    with pytest.raises(InvalidInput, match="length 1"):
        SteeringVector(Site(1), torch.ones(4), 1.0, "a", 2)
    with pytest.raises(InvalidInput, match="one vector"):
        SteeringVector(Site(1), torch.eye(1, 4), 1.0, "a", 2)
    with pytest.raises(NonFinite, match="'a' at resid"):
        SteeringVector.of(Site(1), torch.tensor([torch.nan, 1.0]), "a", 2)


def test_algebra_is_that_of_the_raw_vectors() -> None:
    a, b = make("a", 1), make("b", 1, seed=7)
    for found, expected in [
        (a + b, a.vector + b.vector),
        (a - b, a.vector - b.vector),
        (2 * a, 2 * a.vector),
        (a * -0.5, -0.5 * a.vector),
        (-a, -a.vector),
        (a - a, torch.zeros(8)),
    ]:
        torch.testing.assert_close(found.vector, expected)
        assert found.scale >= 0 and math.isclose(float(found.direction.norm()), 1, rel_tol=1e-6)
    assert (a + b).label == "(a + b)" and (a - a).label == "a"
    with pytest.raises(InvalidInput, match=r"resid\.1 of width 8 and resid\.2 of width 8"):
        a + make("a", 2)
    with pytest.raises(InvalidInput, match="width 9"):
        a + make("a", 1, width=9)


def test_a_set_combines_vector_by_vector(vectors: VectorSet) -> None:
    twin = vectors.random_like(3)
    for key, v in vectors.items():
        torch.testing.assert_close((vectors + twin)[key].vector, v.vector + twin[key].vector)
        torch.testing.assert_close((2 * vectors - vectors)[key].vector, v.vector)
    with pytest.raises(InvalidInput, match=r"split at resid\.10"):
        vectors - vectors.at(2)


def test_the_random_twin_has_the_same_norm_and_depends_on_seed_label_and_site_alone(vectors: VectorSet) -> None:
    twin = vectors.random_like(0)
    assert twin.keys() == vectors.keys()
    for key, v in vectors.items():
        assert twin[key].scale == v.scale
        assert math.isclose(float(twin[key].vector.norm()), float(v.vector.norm()), rel_tol=1e-6)
        assert twin[key] == vectors.for_label(key[0]).at(key[1].layer).random_like(0)[key]
    assert twin == vectors.random_like(0) and twin != vectors.random_like(1)
    wide = VectorSet(tuple(make(label, layer, width=4096) for label in "ab" for layer in (1, 2)))
    assert (wide.random_like(0).cosine(wide)["cosine"].abs() < 0.1).all()
    directions = torch.stack([v.direction for v in wide.random_like(0).values()])
    assert (directions @ directions.T - torch.eye(4)).abs().max() < 0.1


def test_it_is_a_mapping_that_cannot_be_changed(vectors: VectorSet) -> None:
    assert vectors.labels == ["format:think", "split"] and vectors.sites == [Site(2), Site(10)]
    assert list(vectors) == [(label, site) for label in vectors.labels for site in vectors.sites] and len(vectors) == 4
    assert ("split", Site(3)) not in vectors and vectors.get(("split", Site(3))) is None
    with pytest.raises(UnknownName, match=r"splt at resid\.2'\. Did you mean 'split at resid\.2'"):
        vectors["splt", Site(2)]
    with pytest.raises(TypeError):
        vectors["split", Site(2)] = make("split", 2)  # type: ignore[index]
    with pytest.raises(InvalidInput, match="same label and site"):
        VectorSet((make("a", 1), make("a", 1)))


def test_for_label_and_at_choose(vectors: VectorSet) -> None:
    assert vectors.for_label("split").labels == ["split"]
    assert vectors.for_label("split").for_label(None) == vectors.for_label("split")
    mean = vectors.for_label(None)
    assert mean.labels == ["mean"] and mean.sites == vectors.sites
    at2 = [vectors[label, Site(2)].vector for label in vectors.labels]
    torch.testing.assert_close(mean["mean", Site(2)].vector, (at2[0] + at2[1]) / 2)
    assert mean["mean", Site(2)].info["mean_of"] == vectors.labels
    with pytest.raises(UnknownName, match=r"strategy 'splitt'\. Did you mean 'split'"):
        vectors.for_label("splitt")
    with pytest.raises(InvalidInput, match=r"layers \[2, 10\]"):
        vectors.at(3)


def test_cosine_is_on_shared_keys(vectors: VectorSet) -> None:
    other = VectorSet((make("split", 2, seed=9), make("run", 2)))
    table = vectors.cosine(other)
    assert table[["label", "layer"]].to_numpy().tolist() == [["split", 2]]
    a, b = vectors["split", Site(2)].vector, other["split", Site(2)].vector
    assert math.isclose(table["cosine"][0], float(torch.cosine_similarity(a, b, dim=0)), abs_tol=1e-6)
    assert (vectors.cosine(vectors)["cosine"] > 1 - 1e-6).all()
    with pytest.raises(InvalidInput, match="no label at the same site"):
        vectors.cosine(VectorSet((make("run", 2),)))
    with pytest.raises(InvalidInput, match="width 8 and 9"):
        vectors.cosine(VectorSet((make("split", 2, width=9),)))


def test_saving_and_loading_is_exact_to_the_bit(vectors: VectorSet, tmp_path) -> None:
    vectors.save(tmp_path / "v")
    found = VectorSet.load(tmp_path / "v")
    assert found == vectors and found.card() == vectors.card()
    assert (found.info, found.skipped) == (vectors.info, vectors.skipped)
    assert {p.name for p in (tmp_path / "v").iterdir()} == {"vectors.safetensors", "card.json", "manifest.json"}
    with pytest.raises(ArtifactConflict):
        vectors.at(2).save(tmp_path / "v")


@pytest.mark.parametrize("name", ["vectors.safetensors", "card.json"])
def test_a_file_cut_short_is_a_corrupt_artifact(vectors: VectorSet, tmp_path, name: str) -> None:
    vectors.save(tmp_path / "v")
    file = tmp_path / "v" / name
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(CorruptArtifact, match=name):
        VectorSet.load(tmp_path / "v")
    with pytest.raises(CorruptArtifact, match="no manifest"):
        VectorSet.load(tmp_path / "nothing")


def test_the_card_is_plain_data_and_its_hash_sees_every_change(vectors: VectorSet) -> None:
    card = vectors.card()
    assert {k: card[k] for k in ("labels", "layers", "method", "model")} == {
        "labels": ["format:think", "split"], "layers": [2, 10], "method": "diff_means", "model": "tiny",
    }  # fmt: skip
    assert card["n"] == {"format:think": 5, "split": 5}
    hashes = {s.card()["sha256"] for s in (vectors, vectors * 2, -1 * vectors, vectors.at(2), vectors.random_like(0))}
    assert len(hashes) == 5 and VectorSet(vectors.vectors[::-1]).card()["sha256"] == card["sha256"]
