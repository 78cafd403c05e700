"""One family of errors, and a misspelt name is answered with the nearest one."""

import pytest

from latentreason import errors
from latentreason.errors import LatentReasonError, UnknownName, unknown_name

FAMILY = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception)]


def test_unknown_name_suggests_the_nearest_and_lists_all_in_order():
    error = unknown_name("router", "on_entropi", ["never", "on_entropy"])
    assert str(error) == "Unknown router 'on_entropi'. Did you mean 'on_entropy'? Known: never, on_entropy."


def test_unknown_name_suggests_nothing_when_nothing_is_near():
    assert str(unknown_name("task", "zzz", ["chain", "arc"])) == "Unknown task 'zzz'. Known: arc, chain."


def test_unknown_name_accepts_any_iterable_once():
    assert "Did you mean 'chain'?" in str(unknown_name("task", "chian", (name for name in ["chain"])))


def test_unknown_name_is_a_key_error_without_quotes_around_its_message():
    assert str(KeyError("it's")) == '"it\'s"'  # what UnknownName must not do
    assert str(UnknownName("it's")) == "it's"
    with pytest.raises(KeyError):
        raise unknown_name("task", "x", [])


@pytest.mark.parametrize("error", FAMILY, ids=lambda e: e.__name__)
def test_every_error_belongs_to_the_family_and_keeps_its_message(error):
    assert issubclass(error, LatentReasonError)
    assert str(error("Fix: do that.")) == "Fix: do that."


@pytest.mark.parametrize(
    ("name", "builtin"),
    [("InvalidInput", ValueError), ("CorruptArtifact", OSError), ("ArtifactConflict", OSError), ("ArtifactWriteError", OSError),
     ("MissingDependency", ImportError), ("NonFinite", ArithmeticError), ("UnknownName", KeyError)],
)
def test_errors_are_also_the_builtin_that_a_caller_would_expect(name, builtin):
    assert issubclass(getattr(errors, name), builtin)


def test_a_name_that_two_begin_with_suggests_both():
    assert str(unknown_name("task", "aime", ["gsm8k", "aime25", "aime24"])).startswith("Unknown task 'aime'. Did you mean 'aime24' or 'aime25'? Known:")
    assert "Did you mean" not in str(unknown_name("task", "", ["gsm8k"]))
