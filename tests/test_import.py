"""`import latentreason` is light, and what it promises exists."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import latentreason as lr
from latentreason import errors

ROOT = Path(__file__).parents[1]
HEAVY = {
    *("torch", "transformers", "tokenizers", "safetensors", "transformer_lens", "nnsight", "trl", "peft", "datasets", "accelerate"),
    *("numpy", "pandas", "pyarrow", "scipy", "sklearn", "sympy", "math_verify", "einops", "jaxtyping", "beartype"),
    *("matplotlib", "IPython", "jupyterlab", "jupytext", "nbclient", "nbformat", "ipywidgets", "typer", "rich", "tqdm", "wandb"),
}
PROBE = """
import time
start = time.perf_counter()
import latentreason
seconds = time.perf_counter() - start
import json, sys
print(json.dumps({"seconds": seconds, "modules": sorted({name.partition(".")[0] for name in sys.modules})}))
"""


def _fresh_import() -> dict[str, object]:
    """What `import latentreason` takes and loads in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", PROBE], env=environment, capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


def test_import_loads_no_heavy_package_and_takes_under_1_5_seconds() -> None:
    runs = [_fresh_import() for _ in range(3)]
    assert HEAVY.isdisjoint(runs[0]["modules"])
    assert min(run["seconds"] for run in runs) < 1.5


@pytest.mark.parametrize("name", lr.__all__)
def test_public_name_resolves(name: str) -> None:
    value = getattr(lr, name)
    assert name in dir(lr)
    assert getattr(lr, name) is value
    assert getattr(value, "__name__", name).rpartition(".")[2] == name


def test_unknown_attribute_raises_and_points_at_the_public_names() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'smaple'; public names: latentreason\.__all__") as info:
        _ = lr.smaple
    assert (info.value.name, info.value.obj) == ("smaple", lr)  # what Python's "Did you mean" works from
    assert not hasattr(lr, "__wrapped__")


def test_names_for_mypy_are_the_names_at_run_time() -> None:
    tree = ast.parse(Path(lr.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {
        alias.name: (node.module.removeprefix("latentreason").lstrip(".") or alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    assert typed == lr._HOME
    assert lr.__all__ == ["__version__", *lr._HOME]


def test_every_error_has_its_row_in_the_docs() -> None:
    rows = [line.split("`")[1] for line in (ROOT / "docs" / "errors.md").read_text().splitlines() if line.startswith("| `")]
    classes = [name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, errors.LatentReasonError)]
    assert sorted(rows) == sorted(classes)
