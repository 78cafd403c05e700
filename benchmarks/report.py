"""What every benchmark writes: its figures as JSON, and the table that docs/benchmarks.md shows beside them."""

import json
import platform
from pathlib import Path
from typing import Any

import torch


def machine() -> dict[str, Any]:
    """Where it was measured."""
    return {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}


def write(figures: dict[str, Any], table: str, out: Path | None) -> None:
    """Print the table; with `out` (FILE.json) write the figures there, and the table to FILE.md."""
    print(table)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(figures, indent=1) + "\n")
        out.with_suffix(".md").write_text(table.rstrip("\n") + "\n")
