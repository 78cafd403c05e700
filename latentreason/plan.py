"""Which configuration a run has, and what it will take, before any weight is loaded.

Configurations of public pairs come with the package (`configs/NAME.toml`); `latentreason reproduce --pair NAME` takes that of its pair.
"""

from dataclasses import replace
from importlib import resources
from pathlib import Path

from latentreason.config import load_config
from latentreason.errors import InvalidInput, unknown_name
from latentreason.reproduce import TINY, RunConfig


def configs() -> dict[str, Path]:
    """Name -> file of the configurations that come with the package."""
    folder = Path(str(resources.files("latentreason"))) / "configs"
    return {file.stem: file for file in sorted(folder.glob("*.toml"))}


def chosen_config(pair: str | None = None, config: str | Path | None = None, seed: int | None = None, *, tiny: bool = False) -> RunConfig:
    """The configuration that a command line asks for: a file, a name, or that of the pair; with pair and seed as given.

    Raises:
        InvalidInput: a size given twice, or a file that is no configuration.
        UnknownName: no configuration of that name comes with the package.
    """
    if tiny and config is not None:
        raise InvalidInput("--tiny and --config both say how large the run is: give one of them.")
    known = configs()
    if config is not None:
        file = Path(config)
        if not file.is_file() and file.suffix != ".toml" and str(config) not in known:
            raise unknown_name("config", str(config), known)
        chosen = load_config(RunConfig, known.get(str(config), file))
    elif pair in known:
        chosen = load_config(RunConfig, known[pair])
        chosen = replace(TINY, task=chosen.task, max_new_tokens=chosen.max_new_tokens, max_rows=chosen.max_rows, style=chosen.style, chat=chosen.chat) if tiny else chosen
    else:
        chosen = TINY if tiny else RunConfig()
    return replace(chosen, pair=chosen.pair if pair is None else pair, seed=chosen.seed if seed is None else seed)
