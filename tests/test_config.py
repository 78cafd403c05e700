"""TOML and dataclass: equal there and back, and an error that names the key."""

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from latentreason.config import dump_config, from_dict, load_config
from latentreason.errors import InvalidInput, UnknownName
from latentreason.organisms.recipe import Recipe
from latentreason.organisms.zoo import ORGANISMS


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    word: str | None = None
    pair: tuple[int, str] = (1, "a")


@dataclass(frozen=True)
class Config:
    name: str
    note: str | None
    steps: int = 3
    on: bool = False
    limit: int | None = None
    method: Literal["js", "kl", 2] = "js"
    mixture: tuple[float, ...] = ()
    layers: tuple[int, ...] | Literal["all"] = "all"
    number: int | float = 1
    grid: list[list[int]] = field(default_factory=list)
    inner: Inner = field(default_factory=Inner)
    many: list[Inner] = field(default_factory=list)
    by_name: dict[str, Inner] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    nested: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    path: Path = Path("runs")
    extra: Any = 0


text = st.text(max_size=8)
number = st.floats(allow_nan=False)
inner = st.builds(Inner, number, st.none() | text, st.tuples(st.integers(), text))
configs = st.builds(
    Config,
    name=text,
    note=st.none() | text,
    steps=st.integers(),
    on=st.booleans(),
    limit=st.none() | st.integers(),
    method=st.sampled_from(["js", "kl", 2]),
    mixture=st.lists(number, max_size=3).map(tuple),
    layers=st.just("all") | st.lists(st.integers(), max_size=3).map(tuple),
    number=st.integers() | number,
    grid=st.lists(st.lists(st.integers(), max_size=2), max_size=2),
    inner=inner,
    many=st.lists(inner, max_size=2),
    by_name=st.dictionaries(text, inner, max_size=2),
    weights=st.dictionaries(text, number, max_size=2),
    nested=st.dictionaries(text, st.dictionaries(text, st.tuples(number, number), max_size=2), max_size=2),
    path=text.map(Path),
    extra=st.recursive(st.integers() | text, lambda x: st.lists(x, max_size=2) | st.dictionaries(text, x, max_size=2), max_leaves=4),
)


@settings(max_examples=60, deadline=None)
@given(configs)
def test_what_is_dumped_is_loaded_again(config):
    again = from_dict(Config, tomllib.loads(dump_config(config)))
    assert again == config
    assert type(again.number) is type(config.number)  # 1 and 1.0 are equal, but not the same
    assert dump_config(again) == dump_config(config)


@settings(max_examples=30, deadline=None)
@given(configs)
def test_a_dictionary_as_in_a_manifest_is_understood_too(config):
    assert from_dict(Config, asdict(config)) == config


@pytest.mark.parametrize("recipe", ORGANISMS.values(), ids=lambda r: r.name)
def test_recipes_of_organisms_survive(recipe):
    assert from_dict(Recipe, tomllib.loads(dump_config(recipe))) == recipe


def test_the_text_is_what_a_person_would_write():
    config = Config("a \"b\"\n", None, limit=2, inner=Inner(word="é\x7f"), by_name={"": Inner()}, many=[Inner()], path=Path("a/b"))
    assert dump_config(config) == (
        'name = "a \\"b\\"\\n"\nsteps = 3\non = false\nlimit = 2\nmethod = "js"\nmixture = []\nlayers = "all"\nnumber = 1\ngrid = []\n'
        'many = [{rate = 0.5, pair = [1, "a"]}]\npath = "a/b"\nextra = 0\n\n'
        '[inner]\nrate = 0.5\nword = "é\\u007f"\npair = [1, "a"]\n\n'
        '[by_name]\n\n[by_name.""]\nrate = 0.5\npair = [1, "a"]\n\n[weights]\n\n[nested]\n'
    )


def test_numpy_scalars_are_dumped_as_numbers():
    assert dump_config(Inner(rate=np.float32(0.5))) == 'rate = 0.5\npair = [1, "a"]\n'


def test_an_int_is_a_float_and_a_list_a_tuple_and_infinity_may_be_spelt_as_in_json():
    assert from_dict(Inner, {"rate": 2, "pair": [3, "b"]}) == Inner(2.0, None, (3, "b"))
    assert isinstance(from_dict(Inner, {"rate": 2}).rate, float)
    assert from_dict(Inner, {"rate": "-Infinity"}).rate == -float("inf")


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"stepz": 1}, "Unknown config key 'stepz'. Did you mean 'steps'? Known: by_name, "),
        ({"inner": {"rat": 1}}, "Unknown config key 'inner.rat'. Did you mean 'inner.rate'? Known: inner.pair, inner.rate, inner.word."),
        ({"by_name": {"x": {"wurd": 1}}}, "Unknown config key 'by_name.x.wurd'. Did you mean 'by_name.x.word'?"),
        ({"many": [{}, {"wurd": 1}]}, "Unknown config key 'many[1].wurd'. Did you mean 'many[1].word'?"),
    ],
)
def test_an_unknown_key_names_its_neighbour_and_its_path(mapping, message):
    with pytest.raises(UnknownName) as caught:
        from_dict(Config, {"name": "n"} | mapping)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"steps": "3"}, "Config key 'steps' must be int, found '3' (str)."),
        ({"steps": True}, "Config key 'steps' must be int, found True (bool)."),
        ({"steps": 3.0}, "Config key 'steps' must be int, found 3.0 (float)."),
        ({"on": 1}, "Config key 'on' must be bool, found 1 (int)."),
        ({"name": None}, "Config key 'name' must be str, found None (NoneType)."),
        ({"limit": "x"}, "Config key 'limit' must be int, found 'x' (str)."),
        ({"number": "x"}, "Config key 'number' must be int | float, found 'x' (str)."),
        ({"method": "kk"}, "Config key 'method' must be one of 'js', 'kl', 2, found 'kk' (str)."),
        ({"method": 2.0}, "Config key 'method' must be one of 'js', 'kl', 2, found 2.0 (float)."),
        ({"inner": 1}, "Config key 'inner' must be a table (Inner), found 1 (int)."),
        ({"inner": {"rate": False}}, "Config key 'inner.rate' must be float, found False (bool)."),
        ({"inner": {"pair": [1]}}, "Config key 'inner.pair' must be tuple[int, str], found [1] (list)."),
        ({"inner": {"pair": [1, 2]}}, "Config key 'inner.pair[1]' must be str, found 2 (int)."),
        ({"mixture": [1, "x"]}, "Config key 'mixture[1]' must be float, found 'x' (str)."),
        ({"mixture": "x"}, "Config key 'mixture' must be tuple[float, ...], found 'x' (str)."),
        ({"nested": {"a": {"b": [1, None]}}}, "Config key 'nested.a.b[1]' must be float, found None (NoneType)."),
        ({"path": 1}, "Config key 'path' must be Path, found 1 (int)."),
    ],
)
def test_a_wrong_type_names_key_type_and_value(mapping, message):
    with pytest.raises(InvalidInput) as caught:
        from_dict(Config, {"name": "n"} | mapping)
    assert str(caught.value) == message


def test_a_missing_key_is_named_and_an_optional_one_is_none():
    with pytest.raises(InvalidInput, match=r"^Config key 'name' is missing\. Fix: give it str\.$"):
        from_dict(Config, {})
    assert from_dict(Config, {"name": "n"}).note is None


def test_none_cannot_hide_another_default():
    @dataclass(frozen=True)
    class Hidden:
        inner: Inner | None = field(default_factory=Inner)

    with pytest.raises(InvalidInput, match=r"^Config key 'inner' is None, and TOML has no null\. Fix: make None its default\.$"):
        dump_config(Hidden(None))


@pytest.mark.parametrize("extra", [None, object(), [None], {"a": None}, {1: 2}, {1, 2}])
def test_what_toml_cannot_hold_is_refused(extra):
    with pytest.raises(InvalidInput, match=r"extra.* is None, and|'extra.*which TOML cannot hold"):
        dump_config(Config("n", None, extra=extra))


@pytest.mark.parametrize("wrong", [{"a": 1}, Inner, 3])
def test_only_a_dataclass_instance_is_dumped(wrong):
    with pytest.raises(InvalidInput, match=r"^dump_config writes a dataclass instance, found "):
        dump_config(wrong)


def test_load_config_reads_a_file_and_names_it_in_every_error(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('name = "ü"\n[inner]\nrate = 1e-3\n', encoding="utf-8")
    assert load_config(Config, path) == load_config(Config, str(path)) == Config("ü", None, inner=Inner(0.001))
    for content, error, message in [
        (b"nane = 1", UnknownName, "Unknown config key 'nane'. Did you mean 'name'?"),
        (b"name = 1", InvalidInput, "Config key 'name' must be str, found 1 (int)."),
        (b"name = ", InvalidInput, f"Config file {path} is not TOML: Invalid value (at end of document). Fix: correct that line."),
        (b'name = "\xff"', InvalidInput, f"Config file {path} is not TOML: "),
    ]:
        path.write_bytes(content)
        with pytest.raises(error) as caught:
            load_config(Config, path)
        assert str(caught.value).removeprefix(f"{path}: ").startswith(message)
        assert str(path) in str(caught.value)
    with pytest.raises(InvalidInput) as caught:
        load_config(Config, tmp_path / "none.toml")
    assert str(caught.value) == f"Cannot read config file {tmp_path / 'none.toml'}: No such file or directory. Fix: check the path."
