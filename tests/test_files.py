"""Tables, JSON and bytes reach the disk wholly or not at all, and come back as they were."""

import errno
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from latentreason.errors import CorruptArtifact, InvalidInput, LatentReasonError
from latentreason.files import read_json, read_table, write_bytes, write_json, write_table

FRAME = pd.DataFrame({"problem": ["a", "b"], "tokens": [np.array([1, 2], dtype=np.int32), np.array([], dtype=np.int32)], "p": [0.5, np.nan]})


@dataclass(frozen=True)
class Config:
    layers: tuple[int, ...] = (1, 2)
    path: Path = Path("a/b")
    rate: float = 1.0


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_tables_survive_compressed_with_zstd_and_without_index(tmp_path):
    path = tmp_path / "a=b" / "t.parquet"  # not a partition
    write_table(path, FRAME.set_index(pd.Index([5, 9])))
    assert [p.name for p in path.parent.iterdir()] == ["t.parquet"]
    pd.testing.assert_frame_equal(read_table(path), FRAME)
    assert read_table(path)["tokens"][0].dtype == np.int32
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"
    with pytest.raises(CorruptArtifact, match=r"^Cannot read table .*none\.parquet: "):
        read_table(tmp_path / "none.parquet")


def test_json_survives_with_numpy_scalars_and_nan_as_null(tmp_path):
    path = tmp_path / "deep" / "f.json"
    nan = [np.float64("nan"), np.array([1.0, np.nan])]
    write_json(path, {"ü": np.float32(0.5), "n": np.int64(2), "nan": nan, "inf": -np.inf, "c": Config()})
    config = {"layers": [1, 2], "path": "a/b", "rate": 1.0}
    expected = {"ü": 0.5, "n": 2, "nan": [None, [1.0, None]], "inf": "-Infinity", "c": config}
    assert read_json(path) == expected
    assert "NaN" not in path.read_text() and path.read_text().endswith("}\n")
    with pytest.raises(InvalidInput, match=r"^f\.json\.x is a object, which"):
        write_json(path, {"x": object()})
    assert read_json(path) == expected
    for content in (b"{", b'"\xff"'):
        path.write_bytes(content)
        with pytest.raises(CorruptArtifact, match=r"^Cannot read JSON .*f\.json: .* Fix: "):
            read_json(path)


@pytest.mark.parametrize("write", [lambda path: write_table(path, FRAME), lambda path: write_json(path, {"a": 1}), lambda path: write_bytes(path, b"new")])
def test_a_write_that_fails_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch, write):
    (tmp_path / "f").write_text("old")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(LatentReasonError, match=r"^Cannot write .*/f: No space left on device\. What stood there is untouched\."):
        write(tmp_path / "f")
    assert [p.name for p in tmp_path.iterdir()] == ["f"] and (tmp_path / "f").read_text() == "old"
