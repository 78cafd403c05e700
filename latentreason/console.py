"""What the commands share: the terminal, options of one form everywhere, and tables."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that spin while they wait are many times slower on busy cores

console, errors = Console(), Console(stderr=True)

PairOption = Annotated[str, typer.Option(help="Name of an organism, folder of one that you trained, or BASE,RL (two local directories or hub ids).")]
OutOption = Annotated[Path, typer.Option(help="Where to write.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bars.")]
TaskOption = Annotated[str, typer.Option(help="See `latentreason tasks`.")]
StyleOption = Annotated[str | None, typer.Option(help="Prompt template of the task, such as plain, boxed or few_shot; by default its own.")]
ChatOption = Annotated[bool, typer.Option("--chat", help="Put the prompt into the model's chat template.")]
LengthOption = Annotated[int, typer.Option(help="Length limit of a completion, in tokens.")]
Tiny = Annotated[bool, typer.Option("--tiny", help="A run of seconds whose numbers mean nothing.")]


def load(name: str, quiet: bool = False) -> Any:
    """The pair of that name, in that folder, or BASE,RL: see `ModelPair.named`."""
    from transformers.utils.logging import disable_progress_bar

    from latentreason.models.pair import ModelPair

    if quiet:
        disable_progress_bar()
    return ModelPair.named(name, verbose=not quiet)


def tell(result: Any, name: str = "") -> None:
    """Print the finding of a study, and its notes below it."""
    console.print(f"{name}: {result}" if name else str(result), markup=False, highlight=False)


def show(table: Any, title: str) -> None:
    """Print a DataFrame."""
    shown = Table(title=title)
    for column in table.columns:
        shown.add_column(str(column))
    for row in table.itertuples(index=False):
        shown.add_row(*(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row))
    console.print(shown)
