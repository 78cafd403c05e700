"""The layers of the package, read off its imports.

Imports point down only; the wing that reads tables (studies, figures) and the wing that runs models never touch; a third
party is touched in one place, inside a function; no file has more than 400 lines. `violations` finds what breaks these
rules, and the tests below feed it a bad tree for each of them before they ask it about the package itself.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = "latentreason"
MAX_LINES = 400
FLOORS = {
    "__main__": 12,
    "cli": 11, "cli_organisms": 10, "compare": 10,
    "console": 9, "judge_zoo": 9, "documents": 9,
    "publish": 8, "steered": 8, "claims": 8, "plan": 8, "grow": 8, "judge": 8,
    "reproduce": 7, "picture": 7, "geometry": 7, "measure": 7,
    "hybrid": 6,
    "routing": 5, "organisms": 5,
    "figures": 4, "vectors": 4,
    "studies": 3, "activations": 3, "sampling": 3,
    "models": 2, "strategies": 2,
    "tasks": 1,
    "errors": 0, "config": 0, "files": 0, "store": 0, "stats": 0, "curves": 0, "tables": 0, "sources": 0,
}  # fmt: skip
GROUND = {name for name, floor in FLOORS.items() if floor == 0}
READERS = {"studies", "figures"}
RUNNERS = set(FLOORS) - READERS - GROUND - {"cli", "cli_organisms", "console", "documents", "publish", "reproduce", "claims"}
NO_TORCH = READERS | {"errors", "config", "stats", "curves", "tables", "sources"}
HOMES = {  # third party -> the files, or folders, that may import it
    "transformer_lens": ("activations/lens.py",),
    "nnsight": ("activations/nnsight.py",),
    "trl": ("organisms/trainers/",),
    "peft": ("organisms/trainers/", "models/adapters.py"),
    "math_verify": ("tasks/math_worker.py",),
    "reasoning_gym": ("tasks/reasoning_gym.py",),
    "datasets": ("tasks/benchmarks.py", "organisms/trainers/"),
    "huggingface_hub": ("vectors/hub.py", "models/adapters.py", "models/loading.py", "models/size.py"),
    "gguf": ("vectors/gguf.py", "models/loading.py"),
}


class Import(NamedTuple):
    """One imported module, and where the import stands."""

    line: int
    module: str  # dotted, absolute
    functions: tuple[str, ...]  # enclosing functions, outermost first
    typing_only: bool  # under `if TYPE_CHECKING:`


def imports_of(tree: ast.Module, package: str) -> Iterator[Import]:
    """Every import of a file whose package (for relative imports) is `package`, at any depth."""

    def walk(node: ast.AST, functions: tuple[str, ...], typing_only: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            modules = [f"{source}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in {"import_module", "importlib.import_module", "__import__"}:
            modules = [argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant)]
        else:
            modules = []
        yield from (Import(node.lineno, module, functions, typing_only) for module in modules)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            functions = (*functions, node.name)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for child in node.body:
                yield from walk(child, functions, True)
            rest: list[ast.AST] = list(node.orelse)
        else:
            rest = list(ast.iter_child_nodes(node))
        for child in rest:
            yield from walk(child, functions, typing_only)

    yield from walk(tree, (), False)


def layer_fault(here: str, found: Import) -> str | None:
    """What is wrong with an import within the package, from a file of the folder or top-level module `here`."""
    there = [*found.module.split("."), ""][1]
    if there == "__version__" or here == there:
        return None
    if there not in FLOORS:
        return f"imports {found.module}, which is on no floor: import from the module that defines the name"
    in_collect = here == "studies" and "collect" in found.functions
    if (here in READERS and there in RUNNERS) or (here in RUNNERS and there in READERS):
        return None if in_collect else f"imports {found.module} across the wings"
    if here in GROUND and there in GROUND:
        return None
    if FLOORS[there] >= FLOORS[here]:
        return f"imports {found.module} {'on its own floor' if FLOORS[there] == FLOORS[here] else 'from above'}"
    return None


def third_party_fault(path: str, here: str, found: Import) -> str | None:
    """What is wrong with an import of somebody else's package, from the file `path` (below the package)."""
    party = found.module.split(".")[0]
    if party in HOMES:
        if not any(path == home or (home.endswith("/") and path.startswith(home)) for home in HOMES[party]):
            return f"imports {party}, which belongs in {' or '.join(HOMES[party])}"
        if not found.functions and not found.typing_only:
            return f"imports {party} at module level: move it into the function that needs it"
    if party in {"torch", "transformers"} and here in NO_TORCH and "collect" not in found.functions:
        return f"imports {party}, but this half reads tables only"
    return None


def violations(root: Path) -> list[str]:
    """Each broken rule below the package directory `root` as `path:line: what`."""
    faults = []
    for file in sorted(root.rglob("*.py")):
        path, source = file.relative_to(root).as_posix(), file.read_text(encoding="utf-8")
        here = path.split("/")[0].removesuffix(".py")
        lines = len(source.splitlines())
        if lines > MAX_LINES:
            faults.append(f"{path}:{lines}: has more than {MAX_LINES} lines")
        if here not in FLOORS and here != "__init__":
            faults.append(f"{path}:1: is on no floor: add {here!r} to FLOORS and to the design")
            continue
        package = ".".join([root.name, *path.split("/")[:-1]])
        for found in imports_of(ast.parse(source, str(file)), package):
            if found.module.split(".")[0] != root.name:
                fault = third_party_fault(path, here, found)
            else:
                fault = layer_fault(here, found) if here not in {"__init__", "cli"} else None
            if fault:
                faults.append(f"{path}:{found.line}: {fault}")
    return faults


@pytest.fixture
def tree(tmp_path: Path):
    """tree({path: source}) writes a package that breaks no rule, then these files over it; its violations."""
    good = {
        "__init__.py": "if TYPE_CHECKING:\n    from latentreason.hybrid.decode import Hybrid\n",
        "cli.py": "from latentreason.hybrid.decode import Hybrid\nfrom latentreason.studies import recovery\n",
        "errors.py": "",
        "store.py": "import torch\nfrom latentreason import __version__, errors\n",
        "stats.py": "import numpy\nfrom latentreason.errors import LatentReasonError\n",
        "tasks/math_worker.py": "def verify():\n    import math_verify\n",
        "models/pair.py": "import torch\nfrom latentreason.tasks import problem\nfrom latentreason.models.prompts import render\n",
        "models/adapters.py": "if TYPE_CHECKING:\n    import peft\ndef load():\n    from peft import PeftModel\n",
        "activations/lens.py": "def read():\n    import transformer_lens.utils\n",
        "organisms/trainers/grpo.py": "def train():\n    from trl import GRPOTrainer\n    from peft import LoraConfig\n",
        "hybrid/decode.py": "from latentreason.models.pair import ModelPair\nfrom latentreason.routing.router import Router\n",
        "studies/recovery.py": (
            "from latentreason.stats import Estimate\nfrom latentreason.studies.result import Result\n"
            "def collect(pair, config, out):\n    import torch\n    from latentreason.hybrid.decode import Hybrid\n"
        ),
        "figures/figures.py": "from latentreason.studies import STUDIES\n",
    }  # fmt: skip

    def write(files: dict[str, str]) -> list[str]:
        root = tmp_path / PACKAGE
        for path, source in {**good, **files}.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(source)
        return violations(root)

    return write


def test_a_good_tree_has_no_violation(tree) -> None:
    assert tree({}) == []


@pytest.mark.parametrize(
    ("path", "source", "line", "fault"),
    [
        ("tasks/chain.py", "from latentreason.models.pair import ModelPair", 1, "from above"),
        ("stats.py", "def f():\n    import latentreason.tasks.chain", 2, "from above"),
        ("sampling/local.py", "from ..vectors import contrast", 1, "from above"),
        ("hybrid/decode.py", "from latentreason import cli", 1, "from above"),
        ("tables.py", "from importlib import import_module\nimport_module('latentreason.hybrid')", 2, "from above"),
        ("models/pair.py", "if TYPE_CHECKING:\n    from latentreason.strategies.tagging import tag", 2, "on its own floor"),
        ("routing/oracle.py", "import latentreason.organisms.zoo", 1, "on its own floor"),
        ("studies/passk.py", "from latentreason.tasks.grading import Grade", 1, "across the wings"),
        ("studies/passk.py", "def run():\n    from latentreason import sampling", 2, "across the wings"),
        ("figures/report.py", "def collect():\n    from latentreason.models import pair", 2, "across the wings"),
        ("hybrid/decode.py", "from latentreason.studies.result import Result", 1, "across the wings"),
        ("studies/passk.py", "from latentreason.figures import display", 1, "from above"),
        ("studies/passk.py", "def collect():\n    from latentreason.cli import app", 2, "from above"),
        ("vectors/contrast.py", "from latentreason import sample", 1, "is on no floor"),
        ("vectors/contrast.py", "import latentreason", 1, "is on no floor"),
        ("helpers/misc.py", "", 1, "is on no floor"),
        ("utils.py", "", 1, "is on no floor"),
        ("activations/hf.py", "def f():\n    import transformer_lens", 2, "imports transformer_lens, which belongs in activations/lens.py"),
        ("activations/lens.py", "def f():\n    from nnsight import NNsight", 2, "imports nnsight, which belongs in activations/nnsight.py"),
        ("organisms/zoo.py", "def f():\n    import trl", 2, "imports trl, which belongs in organisms/trainers/"),
        ("models/pair.py", "def f():\n    import peft", 2, "imports peft, which belongs in organisms/trainers/ or models/adapters.py"),
        ("cli.py", "def f():\n    import math_verify", 2, "imports math_verify, which belongs in tasks/math_worker.py"),
        ("activations/nnsight.py", "import nnsight", 1, "imports nnsight at module level"),
        ("studies/passk.py", "import torch.nn", 1, "imports torch, but this half reads tables only"),
        ("tables.py", "def f():\n    import transformers", 2, "imports transformers, but this half reads tables only"),
        ("tasks/chain.py", "x = 1\n" * 401, 401, "has more than 400 lines"),
    ],
)  # fmt: skip
def test_each_rule_fails_on_a_tree_that_breaks_it(tree, path: str, source: str, line: int, fault: str) -> None:
    found = tree({path: source})
    assert len(found) == 1
    assert found[0].startswith(f"{path}:{line}: ")
    assert fault in found[0]


def test_a_file_of_exactly_400_lines_is_fine(tree) -> None:
    assert tree({"tasks/chain.py": "x = 1\n" * 400}) == []


def test_the_package_keeps_its_layers() -> None:
    assert violations(Path(__file__).parents[1] / PACKAGE) == []
