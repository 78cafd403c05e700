"""Site and Activations: what they refuse, and that files give back what was put in."""

import numpy as np
import pandas as pd
import pytest
import torch

from latentreason.activations.sites import Activations, Site
from latentreason.errors import CorruptArtifact, InvalidInput, UnknownName


@pytest.fixture
def activations() -> Activations:
    index = pd.DataFrame({"arm": "a", "problem": ["p", "p", "q"], "sample": 0, "position": [0, 1, 0], "token": [5, 6, 7]})
    return Activations({Site(2): torch.randn(3, 4), Site(2, "z"): torch.randn(3, 6), Site(10): torch.randn(3, 4).half()}, index)


def test_a_site_is_a_block_from_zero() -> None:
    assert sorted([Site(10), Site(2)]) == [Site(2), Site(10)]
    with pytest.raises(InvalidInput, match="counted from 0"):
        Site(-1)
    with pytest.raises(UnknownName, match=r"'residual'\. Did you mean 'resid'"):
        Site(0, "residual")


def test_sites_sort_by_depth_and_resid_post_is_resid() -> None:
    kinds = ["mlp_out", "resid_post", "z", "resid_pre", "resid_mid", "attn_out"]
    assert [s.kind for s in sorted(Site(1, k) for k in kinds)] == ["resid_pre", "z", "attn_out", "resid_mid", "mlp_out", "resid"]
    assert sorted([Site(2, "resid_pre"), Site(1)]) == [Site(1), Site(2, "resid_pre")]
    assert Site(1, "resid_post") == Site(1) == Site(1, "resid") and str(Site(1, "resid_post")) == "resid.1"
    with pytest.raises(UnknownName, match=r"'resid_pst'\. Did you mean 'resid_post'"):
        Site(0, "resid_pst")


def test_rows_of_values_and_index_must_agree(activations: Activations) -> None:
    with pytest.raises(InvalidInput, match="3 rows"):
        Activations({Site(0): torch.zeros(2, 4)}, activations.index)


def test_select_keeps_the_rows_of_a_mask(activations: Activations) -> None:
    found = activations.select(activations.index["position"] == 0)
    assert found.index["token"].tolist() == [5, 7] and found.index.index.tolist() == [0, 1]
    assert torch.equal(found.values[Site(2)], activations.values[Site(2)][[0, 2]])
    assert len(activations.select(torch.tensor([False, False, False]))) == 0
    with pytest.raises(InvalidInput, match="one boolean for each of 3 rows"):
        activations.select(np.array([0, 2]))


def test_saving_and_loading_is_exact(activations: Activations, tmp_path) -> None:
    activations.save(tmp_path / "a")
    found = Activations.load(tmp_path / "a")
    assert found.sites == [Site(2, "z"), Site(2), Site(10)]
    assert all(torch.equal(found.values[s], v) and found.values[s].dtype == v.dtype for s, v in activations.values.items())
    pd.testing.assert_frame_equal(found.index, activations.index)


@pytest.mark.parametrize("name", ["values.safetensors", "index.parquet", "manifest.json"])
def test_a_file_cut_short_is_a_corrupt_artifact(activations: Activations, tmp_path, name: str) -> None:
    activations.save(tmp_path / "a")
    file = tmp_path / "a" / name
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(CorruptArtifact, match=name):
        Activations.load(tmp_path / "a")
