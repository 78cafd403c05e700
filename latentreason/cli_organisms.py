"""The commands about organisms: grow, measure and publish them, and say why a pair's RL model is better."""

from collections.abc import Iterable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentreason.console import (
    ChatOption,
    LengthOption,
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

if TYPE_CHECKING:
    from latentreason.organisms.recipe import Recipe

organisms = typer.Typer(no_args_is_help=True, help="Model pairs grown from scratch, whose cause of gain is known by construction.")
app = typer.Typer()
Names = Annotated[list[str], typer.Argument(help="Organisms, all of them, or TOML files with recipes of your own.", metavar="NAME...")]
Jobs = Annotated[int, typer.Option(min=1, help="Processes of one core each, for several organisms; of those that share a model one at a time.")]


@app.command(epilog="Example: latentreason verdict --pair activation")
def verdict(pair: PairOption = "activation", task: TaskOption = "chain", temperature: float = 1.0, max_new_tokens: LengthOption = 96, style: StyleOption = None, chat: ChatOption = False,
            seed: int = 0, tiny: Tiny = False,
            out: Annotated[Path | None, typer.Option(help="Folder of its own; default artifacts/runs/verdict/PAIR-HASH.")] = None,
            publish: Annotated[bool, typer.Option("--publish", help="Copy tables, result and figure to the committed places.")] = False, quiet: Quiet = False) -> None:  # fmt: skip
    """Why is the RL model better? Collect the arms (resumable), split the gain, name its cause. An organism is judged on its own problems."""
    from latentreason.judge_zoo import collected
    from latentreason.organisms.problems import recipe_in
    from latentreason.publish import publish_verdict
    from latentreason.studies.recompute import RESULTS

    if publish and (tiny or seed or temperature != 1.0):
        raise InvalidInput("Only a whole verdict of seed 0 at temperature 1 is published: leave out --tiny, --seed and --temperature, or --publish.")
    models = load(pair, quiet)
    folder = collected(models, task, out, grown=recipe_in(pair), tiny=tiny, style=style, chat=chat, progress=not quiet, temperature=temperature, max_new_tokens=max_new_tokens, seed=seed)
    _conclude(RESULTS["verdict"](folder / "tables"), "verdict", folder, ["verdict"])
    if publish:
        publish_verdict(folder, models.name, Path("artifacts"))


@app.command(epilog="Example: latentreason measure mine.toml --out runs/mine. The file: docs/studies.md.")
def measure(file: Annotated[Path, typer.Argument(help="TOML file that lists pairs and what is known of each training.")],
            out: Annotated[Path, typer.Option(help="Folder of their own, for tables, results and figures.")] = Path("artifacts/runs/pairs"), quiet: Quiet = False) -> None:  # fmt: skip
    """The studies that compare trainings (boundary, curriculum, difficulty, formats, one_shot, spurious), on pairs of your own. A model that was counted is not counted again."""
    from latentreason.config import load_config
    from latentreason.measure.pairs import Pairs, measure_pairs
    from latentreason.publish import finish_pairs
    from latentreason.studies.recompute import zoo_configs

    config = load_config(Pairs, file)
    zoo_configs(config.settings())  # what is wrong there is said before anything is sampled
    measure_pairs(config, out, progress=not quiet)
    for name, result in finish_pairs(out).items():
        tell(result, name)
    console.print(f"Tables, results and figures: {out}")


@app.command(epilog="Example: latentreason calibrate --seed 1 --seed 2")
def calibrate(seed: Annotated[list[int] | None, typer.Option(help="Of the training; 0, 1 and 2 by default.")] = None,
              organisms: Annotated[list[str] | None, typer.Option(help="Which, by name or TOML file; by default all of the zoo whose truth is known.")] = None,
              results: Annotated[Path | None, typer.Option(help="Where tables and results are; default artifacts/results/zoo, and artifacts/runs/calibration where recipes of your own are asked for.")] = None,
              tiny: Annotated[bool, typer.Option("--tiny", help="Seconds an organism, and numbers that mean nothing.")] = False, quiet: Quiet = False) -> None:  # fmt: skip
    """Judge trained organisms, of the zoo or of your own, and print the confusion matrix of verdict and truth. What has been collected is not collected again."""
    from latentreason import judge, judge_zoo
    from latentreason.studies import calibration
    from latentreason.studies.recompute import JUDGED

    own = any(name.endswith(".toml") for name in organisms or ())
    results = results or Path("artifacts/runs/calibration" if own else "artifacts/results/zoo")
    missing = judge_zoo.collect_zoo(judge_zoo.chosen(organisms or ()), seed or (0, 1, 2), results / "tables", judge.TINY if tiny else judge.Judging(), progress=not quiet)
    for name, why in missing.items():
        errors.print(f"skipped {name}: {why}", markup=False, highlight=False, soft_wrap=True)
    if not (results / "tables" / "verdicts_truths.parquet").is_file():
        raise InvalidInput("There is nothing to judge: train organisms first, with `latentreason organisms train all`.")
    result = JUDGED["calibration"](results / "tables")
    show(calibration.summary(result), "Verdicts")
    show(calibration.confusion_table(result), "Confusion matrix: truth down, verdict across")
    console.print(result.details.get("false_alarms", ""), markup=False, highlight=False)
    _conclude(result, "calibration", results, ["calibration", "verdicts"])


def _conclude(result: Any, name: str, folder: Path, figures: list[str]) -> None:
    """Keep a result and its figures, and print its finding."""
    from latentreason.figures.figures import make_figures
    from latentreason.publish import figures_of

    result.save(folder, name)
    written = make_figures(folder, figures_of(folder), figures, progress=False)
    tell(result)
    console.print(f"{folder / name}.json; figures {', '.join(str(file.with_suffix('.png')) for file in written)}", markup=False, highlight=False, soft_wrap=True)


@organisms.command("train", epilog="Example: latentreason organisms train all --seed 1 --jobs 2")
def organisms_train(names: Names, seed: int = 0,
                    out: Annotated[Path | None, typer.Option(help="Artifact to write; default artifacts/runs/organisms/NAME-SEED.")] = None,
                    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan with its estimated times, and train nothing.")] = False,
                    jobs: Jobs = 1,
                    publish: Annotated[bool, typer.Option("--publish", help="Copy the tables of this seed (no weights) to artifacts/results/NAME/seeds/SEED.")] = False,
                    quiet: Quiet = False) -> None:  # fmt: skip
    """Train an organism's base and what its recipe makes of it, and draw its picture in numbers. Killed, it resumes; models that organisms share are trained once. Of several
    organisms those that are there, trained or shipped, are left as they are (with --publish only those that are trained); one by its name is trained also where it is shipped.
    """
    from latentreason import grow
    from latentreason.organisms.zoo import ADAPTERS
    from latentreason.publish import publish_seed

    name, *more = names
    if more and (adapters := [each for each in names if each in ADAPTERS]):
        raise InvalidInput(f"{adapters[0]} is an adapter on a model of its own, not one of the zoo: train it alone.")
    if name in ADAPTERS:
        how: dict[str, Any] = {"seed": seed, "work": grow.RUNS / f"{name}-{seed}-work", "progress": not quiet}
        table, folder = grow.adapter_picture(name, out or grow.run_dir(name, seed), **how)
        show(table[["temperature", "quantity", "arm", "text"]], f"{name}, seed {seed}")
        if publish:
            console.print(f"Tables: {publish_seed(folder, table, grow.seed_dir(name, seed))}")
        return
    recipes = grow.recipes_of(*names)
    alone = len(recipes) == 1
    if out is not None and not alone:
        raise InvalidInput("--out is where one organism goes. Train one by its name, or leave --out away.")
    if not alone and not publish and (there := [recipe.name for recipe in recipes if grow.trained(recipe, seed)]):
        console.print(f"There already, trained or shipped: {', '.join(there)}", markup=False, highlight=False)
        recipes = [recipe for recipe in recipes if recipe.name not in there]
    if not recipes:
        return
    show(grow.plan(recipes, seed), f"Plan for seed {seed}")
    console.print(grow.totals(recipes, seed, jobs))
    if dry_run:
        return
    failed: list[str] = []
    done: Iterable[tuple[Recipe, Path | BaseException]] = grow.grown_all(recipes, seed, jobs=jobs, progress=not quiet)
    if alone:
        done = [(recipes[0], grow.grown(recipes[0], seed, out, progress=not quiet))]
    for number, (recipe, result) in enumerate(done, 1):
        try:
            if isinstance(result, BaseException):
                raise result
            console.print(f"[{number}/{len(recipes)}] {grow.line(result)}", markup=False, highlight=False)
            if publish or alone:
                table = grow.picture_of(recipe, result, seed, progress=not quiet)
                show(table[["temperature", "quantity", "arm", "text"]], f"{recipe.name}, seed {seed}")
            if publish:
                console.print(f"Tables: {publish_seed(result, table, grow.seed_dir(recipe.name, seed))}")
        except (LatentReasonError, BrokenProcessPool) as error:
            if alone:
                raise
            failed.append(recipe.name)
            errors.print(f"{recipe.name}: {type(error).__name__}: {error}", markup=False, highlight=False, soft_wrap=True)
    if failed:
        raise InvalidInput(f"{len(failed)} of {len(recipes)} organisms failed ({', '.join(failed)}); the reasons stand above, and the others are finished.")


@organisms.command("measure", epilog="Example: latentreason organisms measure all --seed 1 --jobs 2; then: latentreason organisms publish")
def organisms_measure(names: Names, seed: Annotated[int, typer.Option(help="Of the training.")] = 0,
                      problems: Annotated[int, typer.Option(help="Test problems.")] = 100, samples: Annotated[int, typer.Option(help="Samples of each, of base and RL model.")] = 128,
                      jobs: Jobs = 1, quiet: Quiet = False) -> None:  # fmt: skip
    """Sample trained organisms, and count: the tables that the studies of the zoo read. What is there is not measured again; what has not been trained is skipped."""
    from transformers.utils.logging import disable_progress_bar

    from latentreason import grow
    from latentreason.measure.organism import Measuring

    disable_progress_bar()  # of the weights, beside which ours would not be seen
    how, files = Measuring(n_problems=problems, n_samples=samples), {grow.recipes_of(name)[0].name: name for name in names if name.endswith(".toml")}
    recipes = grow.recipes_of(*names)
    for number, (recipe, folder) in enumerate(grow.measured_all(recipes, seed, how, jobs=jobs, progress=not quiet), 1):
        said = f"{type(folder).__name__}: {folder}" if isinstance(folder, BaseException) else f"measured in {folder}" if folder else f"not trained yet, skipped; train it with: latentreason organisms train {files.get(recipe.name, recipe.name)} --seed {seed}"
        console.print(f"[{number}/{len(recipes)}] {recipe.name}, seed {seed}: {said}", markup=False, highlight=False, soft_wrap=True)


@organisms.command("publish", epilog="Example: latentreason organisms publish; then: latentreason figures --results artifacts/results/zoo --check")
def organisms_publish(out: Annotated[Path, typer.Option(help="Folder of results/ and figures/.")] = Path("artifacts")) -> None:
    """Stack all measurements into results/zoo/tables, compute the studies that read them, draw their figures, and bring the blocks of docs/ up to date."""
    from latentreason import grow
    from latentreason.documents import write_docs
    from latentreason.publish import publish_zoo

    for name, result in publish_zoo(grow.all_measured(), out).items():
        tell(result, name)
    console.print("Brought up to date:", *(page.name for page in write_docs(out)))


@organisms.command("ship", epilog="Example: latentreason organisms ship all --seed 0")
def organisms_ship(names: Names, seed: Annotated[int, typer.Option(help="Of the training.")] = 0,
                   out: Annotated[Path, typer.Option(help="Folder of the shipped organisms.")] = Path("artifacts/organisms")) -> None:  # fmt: skip
    """Copy the weights of trained organisms to where `from_organism` finds them, as small as they go. What is there stays, what is not trained is skipped."""
    from latentreason import grow
    from latentreason.organisms.ship import ship

    recipes = grow.recipes_of(*names)
    runs = {recipe.name: folder for recipe in recipes if (folder := grow.trained(recipe, seed)) == grow.run_dir(recipe.name, seed)}
    sizes = ship([recipe for recipe in recipes if recipe.name in runs], runs, out)
    for name, size in sizes.items():
        console.print(f"{name}: {size / 1e6:.2f} MB", markup=False, highlight=False)
    lacking = [recipe.name for recipe in recipes if recipe.name not in sizes]
    console.print(f"{sum(sizes.values()) / 1e6:.1f} MB of weights in {out}." + (f" Not trained with seed {seed} by the recipe of today: {', '.join(lacking)}." if lacking else ""), markup=False, highlight=False, soft_wrap=True)


@organisms.command("list")
def organisms_list() -> None:
    """The recipes, and the cause of the RL gain that each was built to have (what the instrument must find)."""
    from latentreason.organisms.estimate import described
    from latentreason.organisms.zoo import ADAPTERS, ORGANISMS

    for adapter in ADAPTERS.values():
        console.print(f"{adapter.name}: the RL gain is of unknown cause; {adapter.steps} steps of GRPO of a LoRA adapter on {adapter.base}")
    for recipe in ORGANISMS.values():
        console.print(f"{recipe.name}: truth {recipe.truth or 'not known beforehand'}; {recipe.pretrain.steps} steps of pretraining, then {described(recipe)}", markup=False, highlight=False, soft_wrap=True)
