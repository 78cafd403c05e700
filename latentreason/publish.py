"""The end of a run: results, figures, report and manifest from its tables, and the headline beside the committed one."""

import shutil
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from latentreason.figures.figures import make_figures
from latentreason.figures.report import headline, write_report
from latentreason.reproduce import RunConfig
from latentreason.store import read_json, write_json
from latentreason.studies.recompute import RESULTS, recompute
from latentreason.studies.result import Result


def finish(folder: Path, config: RunConfig, artifacts: Path | None = None) -> Path:
    """Results, figures and report of a run; with `artifacts`, also copied to the committed places. Returns the page."""
    for name, result in recompute(folder / "tables").items():
        result.save(folder, name)
    make_figures(folder, folder / "figures")
    write_json(folder / "run.json", {"config": asdict(config), "seconds": read_json(folder / "seconds.json")})
    page = write_report(folder)
    if artifacts is not None:
        target = artifacts / "results" / config.pair
        shutil.rmtree(target / "tables", ignore_errors=True)
        shutil.copytree(folder / "tables", target / "tables")
        for file in (*folder.glob("*.parquet"), *(folder / f"{n}.json" for n in RESULTS), folder / "run.json"):
            shutil.copyfile(file, target / file.name)
        make_figures(target, artifacts / "figures")
    return page


def headlines(folder: Path, committed: Path) -> pd.DataFrame:
    """The headline numbers of a run, each beside the committed one, as text with intervals."""
    here = headline({name: Result.load(folder, name) for name in RESULTS})
    table = here[["quantity", "text"]].rename(columns={"text": "this run"})
    if not (committed / "recovery.json").exists():
        return table.assign(committed="none yet")
    there = headline({name: Result.load(committed, name) for name in RESULTS})
    return table.merge(there[["quantity", "text"]].rename(columns={"text": "committed"}), on="quantity", how="left").fillna("-")
