"""Tables, JSON and bytes on the disk, each file there wholly or not at all. Knows nothing of what is in them.

    write_table("runs/rollouts.parquet", table)      # parquet (zstd): no index, no pickle
    write_json("runs/facts.json", {"seed": 0})

A process that is killed (not one that fails) leaves `.NAME.partial-*` beside the file: nothing reads it, delete it at will.
"""

import errno
import json
import math
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path, PurePath
from typing import IO, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from latentreason.errors import ArtifactWriteError, CorruptArtifact, InvalidInput, LatentReasonError

FIX = "Fix: check the path; what is damaged must be restored, or deleted and made again."
# other OSErrors of the caller's own code, such as a missing input or a dead connection, are not failures to write
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


def write_table(path: str | Path, table: pd.DataFrame | pa.Table) -> None:
    """Write parquet (zstd), wholly or not at all. The index of a DataFrame is not kept.

    Raises:
        ArtifactWriteError: the disk is full or refuses the write.
    """
    arrow = table if isinstance(table, pa.Table) else pa.Table.from_pandas(table, preserve_index=False)
    with atomic(Path(path)) as file:
        pq.write_table(arrow, file, compression="zstd")


def read_table(path: str | Path) -> pd.DataFrame:
    """The table of a parquet file; a list becomes a numpy array.

    Raises:
        CorruptArtifact: the file is missing or damaged.
    """
    frame: pd.DataFrame = read_arrow(Path(path)).to_pandas()
    return frame


def read_arrow(path: Path) -> pa.Table:
    """As `read_table`, without pandas."""
    try:
        with pq.ParquetFile(path) as file:  # pq.read_table would make columns of directories called a=b
            return file.read()
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())  # pyarrow's run over several lines
        raise CorruptArtifact(f"Cannot read table {path}: {reason}. {FIX}") from error


def write_json(path: str | Path, obj: Any) -> None:
    """Write JSON, wholly or not at all. Dataclasses, paths and numpy values are fine; NaN becomes null, infinity "Infinity".

    Raises:
        InvalidInput: something that is not plain data; names the key.
        ArtifactWriteError: the disk is full or refuses the write.
    """
    text = json.dumps(plain(obj, Path(path).name, nan_is_null=True), indent=2, ensure_ascii=False)
    with atomic(Path(path)) as file:
        file.write(f"{text}\n".encode())


def read_json(path: str | Path) -> Any:
    """The value of a JSON file.

    Raises:
        CorruptArtifact: the file is missing or not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorruptArtifact(f"Cannot read JSON {path}: {error}. {FIX}") from error


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file, wholly or not at all.

    Raises:
        ArtifactWriteError: the disk is full or refuses the write.
    """
    with atomic(Path(path)) as file:
        file.write(data)


def plain(value: Any, key: str, nan_is_null: bool = False) -> Any:
    """`value` as dict, list, str, int, float, bool and None; `key` is its dotted path, for the error."""
    if is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in fields(value)}
    elif isinstance(value, np.generic | np.ndarray | PurePath):
        value = value.as_posix() if isinstance(value, PurePath) else value.tolist()
    if isinstance(value, Mapping):
        return {str(k): plain(each, f"{key}.{k}".strip("."), nan_is_null) for k, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each, f"{key}[{i}]", nan_is_null) for i, each in enumerate(value)]
    if isinstance(value, float) and math.isinf(value):  # strict JSON has no infinity; float("Infinity") reads it back
        return "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, float) and math.isnan(value) and not nan_is_null:
        raise InvalidInput(f"{key} is NaN, which is not equal to itself, so no two runs could match. Fix: use None.")
    if isinstance(value, float) and math.isnan(value):
        return None
    if value is None or isinstance(value, str | int | float):
        return value
    raise InvalidInput(f"{key} is a {type(value).__name__}, which JSON cannot hold. Fix: use str, int, float, bool, None, list or dict.")


@contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """A file to fill, which takes the place of `path` only when all of it is on the disk."""
    partial = hidden(path, "partial")
    with reported(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def reported(path: Path, only: Sequence[int] = ()) -> Iterator[None]:
    """OSErrors (with `only`: of these numbers) become an ArtifactWriteError about `path`."""
    try:
        yield
    except OSError as error:
        if isinstance(error, LatentReasonError) or (only and error.errno not in only):
            raise
        reason = f"{error.strerror or error}. What stood there is untouched"
        raise ArtifactWriteError(f"Cannot write {path}: {reason}. Fix: free the disk, or choose another path.") from error


def hidden(path: Path, word: str) -> Path:
    """A name beside `path` that nobody else has."""
    return path.with_name(f".{path.name}.{word}-{uuid.uuid4().hex[:8]}")


def replace(partial: Path, target: Path) -> None:
    """Put `partial` at `target`. A kill between the two renames loses nothing: both directories are whole under hidden names."""
    aside = hidden(target, "old")
    if target.exists():
        target.rename(aside)
    try:
        partial.rename(target)
    except BaseException:
        if aside.exists():
            aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def copy_tree(source: Path, target: Path) -> None:
    """Put a copy of the directory `source` at `target`, at once and whole; what stood there is replaced.

    Raises:
        ArtifactWriteError: the disk is full or refuses the write.
    """
    partial = hidden(target, "partial")
    with reported(target):
        try:
            shutil.copytree(source, partial)
            replace(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
