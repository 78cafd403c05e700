"""A wheel built from the repository works away from it, built-in pair included."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAM = """
import latentreason as lr
pair = lr.ModelPair.from_organism("activation")
rollouts = lr.sample(pair.base, lr.load_task("chain", limit=3), lr.Sampling(n=2), progress=False)
assert len(rollouts) == 6
print(lr.__file__)
"""


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_folder(tmp_path: Path) -> None:
    def run(*command: str, **options: object) -> str:
        return subprocess.run([sys.executable, *command], check=True, capture_output=True, text=True, timeout=300, **options).stdout  # type: ignore[call-overload, no-any-return]

    run("-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(ROOT))
    wheel = next((tmp_path / "dist").glob("*.whl"))
    run("-m", "pip", "install", "--no-deps", "--target", str(tmp_path / "site"), str(wheel))
    (tmp_path / "empty").mkdir()
    # isolated from the checkout: the editable install is found after the folder given here
    out = run("-c", f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n{PROGRAM}", cwd=tmp_path / "empty")
    assert str(tmp_path / "site") in out
