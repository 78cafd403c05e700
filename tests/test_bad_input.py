"""Bad input, walked through as a user meets it: one message that says the fix, no traceback, and nothing lost.

The same refusals are tested in detail beside the code that makes them; here they go through the command line and the public API.
"""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import latentreason as lr
from latentreason import cli
from latentreason.errors import (
    ArtifactConflict,
    ArtifactWriteError,
    ContextTooLong,
    CorruptArtifact,
    InvalidInput,
    LatentReasonError,
    NonFinite,
)
from latentreason.models import pair as pair_module
from latentreason.models.pair import organism_dir

REPO = Path(__file__).parents[1]


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Run a command line in an empty folder; its exit code, and what it said on standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["latentreason", *arguments])
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code
        return int(code or 0), " ".join(capsys.readouterr().err.split())

    return run


@pytest.fixture
def copied(monkeypatch, tmp_path):
    """A copy of the built-in pair that `from_organism` finds in place of the real one."""
    folder = shutil.copytree(organism_dir("activation"), tmp_path / "organisms" / "activation")
    monkeypatch.setattr(pair_module, "organism_dir", lambda _: folder)
    return folder


@pytest.mark.parametrize(
    ("arguments", "kind", "said"),
    [
        ("sample --task chian", "UnknownName", "Unknown task 'chian'. Did you mean 'chain'?"),
        ("sample --split tset", "UnknownName", "Unknown split 'tset'. Did you mean 'test'?"),
        ("sample --pair activaton", "UnknownName", "Unknown organism 'activaton'. Did you mean 'activation'?"),
        ("sample --pair none/base,none/rl", "InvalidInput", "No model at 'none/base': give a local directory with config.json"),
        ("sample --arm bsae", "UnknownName", "Unknown arm 'bsae'. Did you mean 'base'?"),
        ("sample --limit 0", "InvalidInput", "limit=0 gives no problems; ask for at least 1"),
        ("sample --n 0", "InvalidInput", "must be at least 1"),
        ("sample --style boxed", "UnknownName", "Unknown style of task chain 'boxed'. Known: plain."),
        ("sample --chat", "InvalidInput", "This model's tokenizer has no chat template: use Prompt(chat=False)"),
        ("sample --task gsm8k", "MissingData", "run: hf download openai/gsm8k main/test-00000-of-00001.parquet --repo-type dataset"),
        ("sample --task countdown", "InvalidInput", "has words that this model's tokenizer does not know: is it the right task for the model?"),
        ("route --limit 4 --n 2 --quiet --style few_shot", "UnknownName", "Unknown style of task chain 'few_shot'"),
        ("extract --limit 4 --n 2 --quiet --chat", "InvalidInput", "has no chat template"),
        ("sample --n 4 --temperature 0", "InvalidInput", "use n=1, or a temperature above 0"),
        ("sample --temperature -1", "InvalidInput", "temperature must not be negative"),
        ("extract --arm rll", "UnknownName", "Unknown arm 'rll'. Did you mean 'rl'?"),
        ("extract --limit 4 --n 2 --quiet --method difmeans", "UnknownName", "Did you mean 'diff_means'?"),
        ("route --router on_divergnce(js)", "UnknownName", "Did you mean 'on_divergence'?"),
        ("route --router on_divergence(jss)", "UnknownName", "Did you mean 'js'?"),
        ("route --router on_entropy(js)", "InvalidInput", "Router on_entropy takes no measure; it takes threshold."),
        ("route --changed 1.5", "InvalidInput", "must be shares of D in (0, 1]"),
        ("study recovry tables", "UnknownName", "Did you mean 'recovery'?"),
        ("study recovery nowhere", "CorruptArtifact", "nowhere/facts.json: "),
        ("figures recovry --results RESULTS", "UnknownName", "Did you mean 'recovery'?"),
        ("figures --results nowhere", "InvalidInput", "holds no results. Fix: give the folder of a run"),
        ("report nowhere", "InvalidInput", "holds no results. Fix: give the folder of a run"),
        ("reproduce --pair activaton", "UnknownName", "Did you mean 'activation'?"),
        ("reproduce --config nowhere.toml", "InvalidInput", "Cannot read config file nowhere.toml"),
        ("organisms train activaton", "UnknownName", "Did you mean 'activation'?"),
    ],
)  # fmt: skip
def test_a_command_says_what_is_wrong_and_the_fix(command, arguments, kind, said):
    code, text = command(*(word if word != "RESULTS" else str(REPO / "artifacts" / "results" / "activation") for word in arguments.split()))
    assert code == 1 and f"{kind}: " in text and said in text and "Traceback" not in text


def test_a_config_key_that_does_not_exist_names_its_neighbour(command, tmp_path):
    (tmp_path / "run.toml").write_text("n_problms = 5")
    code, text = command("reproduce", "--config", "run.toml")
    assert code == 1 and text.startswith("UnknownName: ") and "Did you mean 'n_problems'?" in text


def test_the_tasks_are_listed_a_line_each(monkeypatch, capsys):
    from latentreason.tasks.registry import TASKS

    monkeypatch.setattr(sys, "argv", ["latentreason", "tasks"])
    with pytest.raises(SystemExit):
        cli.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == list(TASKS)
    assert "chain: operations on three digits, for the organisms (generated; plain)" in lines


def test_an_option_that_does_not_exist_is_refused_by_name(command):
    code, text = command("sample", "--tempreature", "1")
    assert code == 2 and "--temperature" in text


# --- artifacts ---------------------------------------------------------------------------------------------------------


def test_a_weight_file_cut_short_or_edited_is_named_with_both_hashes(command, copied, tmp_path):
    file = copied / "rl" / "model.safetensors"
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:-4] + b"abcd"):
        file.write_bytes(damaged)
        code, text = command("sample", "--limit", "2", "--out", str(tmp_path / "out.parquet"))
        assert code == 1 and text.startswith("CorruptArtifact: ") and "file rl/model.safetensors differs: expected sha256 " in text and ", found " in text
        assert not (tmp_path / "out.parquet").exists()
    file.write_bytes(whole)
    assert lr.ModelPair.from_organism("activation").name == "activation"


def test_weights_without_a_manifest_that_are_cut_short_are_named(copied):
    file = copied / "base" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CorruptArtifact, match="cut short or damaged"):
        lr.ModelPair.from_pretrained(copied / "base", copied / "rl")


def test_a_manifest_of_a_newer_schema_asks_for_an_upgrade(command, copied):
    facts = json.loads((copied / "manifest.json").read_text())
    (copied / "manifest.json").write_text(json.dumps(facts | {"schema": 99}))
    code, text = command("sample", "--limit", "2")
    assert code == 1 and "The manifest has schema 99, this version reads up to 1. Fix: upgrade latentreason." in text


def test_a_table_cut_short_is_named(command, tmp_path):
    tables = shutil.copytree(REPO / "artifacts" / "results" / "activation" / "tables", tmp_path / "tables")
    (tables / "passk.parquet").write_bytes((tables / "passk.parquet").read_bytes()[:5000])
    code, text = command("study", "passk", str(tables))
    assert code == 1 and text.startswith("CorruptArtifact: Cannot read table ") and "passk.parquet" in text


def test_a_run_folder_of_another_configuration_is_refused_and_kept(tmp_path):
    from latentreason.reproduce import TINY, RunConfig, reproduce
    from latentreason.store import Parts

    Parts(tmp_path / "run", {"seed": 3})
    before = (tmp_path / "run" / "config.json").read_bytes()
    for config in (TINY, RunConfig()):
        with pytest.raises(ArtifactConflict, match="Fix: choose another path, or delete that directory"):
            reproduce(config, tmp_path / "run", progress=False)
    assert (tmp_path / "run" / "config.json").read_bytes() == before


@pytest.mark.parametrize("arguments", ["sample --limit 2 --n 2", "route --limit 2 --n 2 --router first_token", "extract --limit 4 --n 2"])
def test_a_full_disk_is_said_and_leaves_nothing_half_written(command, monkeypatch, tmp_path, arguments):
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    code, text = command(*arguments.split(), "--quiet", "--out", str(tmp_path / "out"))
    assert code == 1 and "ArtifactWriteError: " in text and "No space left on device" in text and "Fix: free the disk" in text
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_while_publishing_keeps_the_committed_tables(monkeypatch, tmp_path):
    from latentreason.files import copy_tree

    for name, text in (("new", "new"), ("committed", "old")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "t").write_text(text)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copytree", full)
    with pytest.raises(ArtifactWriteError, match="Cannot write .*committed: No space left on device"):
        copy_tree(tmp_path / "new", tmp_path / "committed")
    monkeypatch.undo()
    assert (tmp_path / "committed" / "t").read_text() == "old"
    copy_tree(tmp_path / "new", tmp_path / "committed")
    assert (tmp_path / "committed" / "t").read_text() == "new" and sorted(p.name for p in tmp_path.iterdir()) == ["committed", "new"]


# --- models and numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(copied, bad):
    from safetensors.numpy import load_file, save_file

    file = copied / "rl" / "model.safetensors"
    tensors = load_file(file)
    name = sorted(tensors)[3]
    tensors[name].flat[0] = bad
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(NonFinite, match=rf"Weight '{name}' of 'rl' holds NaN or Inf"):
        lr.ModelPair.from_pretrained(copied / "base", copied / "rl")


def test_a_prompt_longer_than_the_context_is_refused_before_any_decoding():
    problem = lr.load_task("chain", limit=1)[0]
    long = type(problem)(problem.id, " ".join([problem.question] * 20), problem.answer, problem.task, problem.meta)
    with pytest.raises(ContextTooLong, match=r"exceed the 160 positions of 'base'\. Lower max_new_tokens or shorten the prompt"):
        lr.sample(lr.ModelPair.from_organism().base, [long], progress=False)


def test_no_problems_and_too_few_samples():
    with pytest.raises(InvalidInput, match="list of problems is empty"):
        lr.sample(lr.ModelPair.from_organism().base, [], progress=False)
    with pytest.raises(InvalidInput, match=r"pass@9 needs at least 9 samples a problem, got 4: sample at least 9 \(better 18\)"):
        lr.pass_at_k(4, 1, 9)


def test_calibration_must_not_see_the_test_split():
    with pytest.raises(InvalidInput, match="5 of 5 problems belong to the test split by their hash"):
        lr.calibrated(lr.on_entropy(), lr.ModelPair.from_organism(), lr.load_task("chain", split="test", limit=5), progress=False)


@pytest.mark.parametrize("rl", ["as good", "worse"])
def test_a_base_that_is_as_good_or_better_gives_undefined_with_a_reason(rl):
    rng = np.random.default_rng(0)

    def arm(name: str, rate: float, changed: int) -> lr.Rollouts:
        problems = np.repeat([f"p{i:02d}" for i in range(30)], 8)
        right = rng.random(len(problems)) < rate
        grade = np.where(right, "correct", "wrong")
        columns = {"problem": problems, "sample": np.tile(np.arange(8), 30), "arm": name, "n_tokens": 20, "n_changed": changed, "correct": right, "grade_strict": grade}
        return lr.Rollouts(pd.DataFrame(columns), {name: {}})

    result = lr.studies.recovery.run(base=arm("base", 0.6, 0), rl=arm("rl", 0.6 if rl == "as good" else 0.3, 2), hybrid=arm("hybrid", 0.6, 1))
    for quantity in ("area", "recovery"):
        estimate = result.estimate(quantity)
        assert not estimate.defined and "RL gain not above 0" in estimate.reason
    assert "undefined (RL gain not above 0" in result.said
    result.plot()


def test_every_error_is_also_the_builtin_one_would_expect():
    for name, kind in vars(lr.errors).items():
        if isinstance(kind, type) and issubclass(kind, LatentReasonError) and kind is not LatentReasonError:
            assert len(kind.__mro__) > 4, name


# --- natural mistakes of a newcomer ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small():
    pair = lr.ModelPair.from_organism()
    problems = lr.load_task("chain", limit=3)
    return pair, problems, lr.sample(pair.base, problems, lr.Sampling(n=2), progress=False)


@pytest.mark.usefixtures("unchecked_shapes")
def test_what_cannot_be_sampled_says_what_can(small):
    pair, problems, _ = small
    with pytest.raises(InvalidInput, match=r"Cannot sample from a ModelPair\. A pair has two models: give pair\.base, pair\.rl or a Hybrid"):
        lr.sample(pair, problems)
    with pytest.raises(InvalidInput, match=r"sampling must be a Sampling, found 4; for n samples a problem give Sampling\(n=\.\.\.\)"):
        lr.sample(pair.base, problems, 4)
    with pytest.raises(InvalidInput, match=r"A Hybrid needs a Router, .* Call the function that makes it, as in on_entropy\(\)"):
        lr.Hybrid(pair, lr.on_entropy)


@pytest.mark.usefixtures("unchecked_shapes")
def test_one_budget_is_asked_of_calibrated_and_a_missed_one_is_said(small):
    pair, *_ = small
    problems = lr.load_task("chain", split="calibration", limit=10)
    with pytest.raises(InvalidInput, match=r"changed=\[0\.25, 0\.5\] is not one budget"):
        lr.calibrated(lr.on_entropy(), pair, problems, changed=[0.25, 0.5])
    with pytest.warns(UserWarning, match=r"Router always changes 1\.00 of D, not 0\.5: it has no threshold"):
        lr.calibrated(lr.always(), pair, problems, changed=0.5, progress=False)


@pytest.mark.usefixtures("unchecked_shapes")
def test_two_arms_under_one_name_are_never_pooled(small):
    pair, _, base = small
    with pytest.raises(InvalidInput, match="Two tables hold an arm 'base', which would be pooled into one"):
        lr.concat([base, base])
    twice = lr.Rollouts(pd.concat([base.table, base.table]), base.info)
    with pytest.raises(InvalidInput, match="hybrid holds a sample twice"):
        lr.studies.recovery.run(base=base, rl=base, hybrid=twice)
    with pytest.raises(InvalidInput, match=r"hybrid must be Rollouts, found list; several arms become one table with concat"):
        lr.studies.recovery.run(base=base, rl=base, hybrid=[base])
    calibration = {"calibration": {"budget": 0.25}}
    assert lr.Hybrid(pair, lr.Router("on_entropy", calibration)).arms == ("on_entropy@0.25",)


def test_layers_may_be_plain_numbers(small):
    pair, _, base = small
    one, several = lr.capture(pair.base, base, 2), lr.capture(pair.base, base, [lr.Site(2), 3])
    assert one.sites == [lr.Site(2)] and several.sites == [lr.Site(2), lr.Site(3)]
    assert one.values[lr.Site(2)].equal(several.values[lr.Site(2)])
    assert lr.fit_vectors(pair.base, base, lr.tag(base), layers=2).sites == [lr.Site(2)]


def test_a_task_that_nobody_can_grade_is_refused():
    problem = lr.load_task("chain", limit=1)[0]
    with pytest.raises(LatentReasonError, match="Unknown task 'mine'"):
        lr.grade("ans 1 2 3", type(problem)(problem.id, problem.question, problem.answer, "mine"))


def test_tiny_and_a_config_file_are_not_both_taken(command, tmp_path):
    (tmp_path / "run.toml").write_text("n_problems = 5")
    code, text = command("reproduce", "--tiny", "--config", "run.toml")
    assert code == 1 and "--tiny and --config both say how large the run is" in text


def test_what_things_print_fits_on_a_line(small):
    pair, _, base = small
    vectors = lr.fit_vectors(pair.base, base, lr.tag(base), layers=2)
    result = lr.studies.recovery.run(base=base, rl=lr.sample(lr.Hybrid(pair, lr.always(), name="rl"), lr.load_task("chain", limit=3), lr.Sampling(n=2), progress=False), hybrid=base)
    for thing in (base, vectors, vectors.vectors[0]):
        assert len(repr(thing)) < 250 and "tensor(" not in repr(thing)
    assert repr(result).startswith("Result of study 'recovery': ") and result.said in repr(result)
