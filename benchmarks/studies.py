"""Seconds to compute every committed study from its tables: no model, no figure.

    python -m benchmarks.studies [--repeats 3] [--out FILE.json]

Of a folder of committed results, all that lies there (an audit, what runs made, the studies of the zoo, the calibration), each in turn; further seeds of sampling are left out.
What is timed holds the reading of the tables. Medians over repeats. Weights of the bootstrap that several studies draw are drawn once a repeat, as in a process of its own.
"""

import argparse
import os
import statistics
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch

from benchmarks.report import machine, write
from latentreason.stats import replicate_weights
from latentreason.studies.recompute import AUDITS, JUDGED, RESULTS, ZOO, tables_dir


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("artifacts/results"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    known = RESULTS | ZOO | JUDGED | AUDITS
    jobs = [(folder, name) for folder in sorted(args.results.iterdir()) if folder.is_dir() for name in known if (folder / f"{name}.json").is_file()]
    seconds: dict[tuple[str, str], list[float]] = {}
    for _ in range(args.repeats):
        replicate_weights.cache_clear()
        for folder, name in jobs:
            tables = tables_dir(name, folder)
            started = time.perf_counter()
            known[name](tables)
            seconds.setdefault((folder.name, name), []).append(time.perf_counter() - started)
    median = {job: statistics.median(times) for job, times in seconds.items()}
    each = {folder: {name: s for (of, name), s in median.items() if of == folder} for folder in dict.fromkeys(folder for folder, _ in median)}
    totals = [sum(times[i] for times in seconds.values()) for i in range(args.repeats)]
    lines = ["| committed results | studies | seconds | of which the longest |", "|---|---|---|---|"]
    lines += [f"| {folder} | {len(of)} | {sum(of.values()):.1f} | {max(of, key=lambda name: of[name])} {max(of.values()):.1f} |" for folder, of in each.items()]
    lines += [f"| **in all** | {len(median)} | {statistics.median(totals):.1f} [{min(totals):.1f}, {max(totals):.1f}] | |"]
    write({"machine": machine(), "seconds": each, "total": {"median": statistics.median(totals), "min": min(totals), "max": max(totals)}}, "\n".join(lines), args.out)


if __name__ == "__main__":
    main()
