"""Run files that extend others, and the shipped ones that do: one a paper's algorithm, on the quick start."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_runs import metrics

from agentrl import config as configs
from agentrl.config import config_difference, load
from agentrl.errors import ConfigError
from agentrl.run_files import find, merged, read

CONFIGS = Path(configs.__file__).parent / "configs"
RECIPES = sorted((CONFIGS / "recipes").glob("*.toml"))
NAMED = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
BASE = """
[env]
id = "agentrl/Household-v0"
options = { difficulty = "tiny", task_types = ["pick_and_place_simple", "look_at_obj_in_light"] }
[agent]
memory = { name = "window", turns = 4 }
[algorithm]
credit = { name = "gigpo", gamma = 0.5 }
filters = [{ name = "degenerate" }]
[run]
name = "base"
seed = 3
"""


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return written(tmp_path / "base.toml", BASE)


def extending(base: Path, text: str = "") -> dict[str, Any]:
    return read(written(base.parent / "deeper" / "own.toml", f'extends = "../{base.name}"\n{text}'))


# ── what stays and what is replaced ──────────────────────────────────────────────────────────────────────────────────


def test_what_says_nothing_is_what_it_extends(base: Path) -> None:
    assert extending(base) == tomllib.loads(BASE)


def test_tables_are_merged_key_by_key_at_any_depth(base: Path) -> None:
    data = extending(base, 'env.options.difficulty = "easy"\nrun.name = "own"\noptimizer.lr = 0.1\n')
    assert data["env"]["options"] == {**tomllib.loads(BASE)["env"]["options"], "difficulty": "easy"}
    assert data["run"] == {"name": "own", "seed": 3} and data["optimizer"] == {"lr": 0.1}
    assert data["env"]["id"] == "agentrl/Household-v0"


def test_a_method_replaces_a_method_and_parameters_alone_change_it(base: Path) -> None:
    assert extending(base, 'algorithm.credit = { name = "grpo" }')["algorithm"]["credit"] == {"name": "grpo"}
    assert extending(base, "algorithm.credit.gamma = 1.0")["algorithm"]["credit"] == {"name": "gigpo", "gamma": 1.0}
    assert extending(base, 'agent.memory = { name = "append" }')["agent"]["memory"] == {"name": "append"}
    both = extending(base, 'algorithm.credit = [{ name = "grpo" }, { name = "empg" }]')
    assert both["algorithm"]["credit"] == [{"name": "grpo"}, {"name": "empg"}]


def test_a_list_replaces_a_list(base: Path) -> None:
    data = extending(base, "algorithm.filters = []\nenv.options.task_types = ['pick_and_place_simple']\n")
    assert data["algorithm"]["filters"] == [] and data["env"]["options"]["task_types"] == ["pick_and_place_simple"]


def test_a_file_may_extend_one_that_extends(base: Path, tmp_path: Path) -> None:
    written(tmp_path / "a" / "middle.toml", 'extends = "../base.toml"\nrun.seed = 4\noptimizer.lr = 0.1\n')
    last = written(tmp_path / "a" / "b" / "last.toml", 'extends = "../middle.toml"\noptimizer.lr = 0.2\n')
    config = load(last, ["run.name=mine"])
    assert (config.run.seed, config.optimizer.lr, config.run.name) == (4, 0.2, "mine")
    assert config.algorithm.credit == {"name": "gigpo", "gamma": 0.5}


JSON = st.recursive(
    st.integers() | st.text(max_size=3), lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, max_size=3)
)
TABLES = st.dictionaries(st.sampled_from("abcd"), JSON, max_size=3)


@settings(max_examples=50)
@given(TABLES, TABLES)
def test_merging_keeps_every_value_of_the_second_and_changes_neither(a: Any, b: Any) -> None:
    before = repr((a, b))
    result = merged(a, b)
    assert repr((a, b)) == before
    assert merged(a, {}) == a == merged({}, a) == merged(a, a)
    assert merged(result, b) == result
    for key, value in configs.flat(b).items():
        if value != {}:
            assert configs.flat(result)[key] == value


# ── where files are ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_paths_are_relative_to_the_file_they_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "there" / "start" / "config.json", "{}")
    written(tmp_path / "there" / "base.toml", BASE + '[model]\npath = "start"\n')
    own = written(tmp_path / "here" / "own.toml", 'extends = "../there/base.toml"\n')
    written(tmp_path / "base.toml", "nonsense = 1\n")  # of the same name in the working folder
    monkeypatch.chdir(tmp_path)
    assert load(own).model.path == str(tmp_path / "there" / "start")
    assert load("here/own.toml").model.path == "there/start"
    (tmp_path / "start").mkdir()
    assert load(own).model.path == "start"  # what is in the working folder comes first, as without extends
    own.write_text(own.read_text() + '[model]\npath = "Qwen/Qwen3-0.6B"\n')
    assert load(own).model.path == "Qwen/Qwen3-0.6B"


def test_a_run_file_that_ships_is_extended_by_its_name(tmp_path: Path) -> None:
    own = written(tmp_path / "own.toml", 'extends = "quickstart"\nrun.name = "mine"\n')
    config = load(own)
    assert config.run.name == "mine" and Path(config.model.path or "").samefile(CONFIGS / "warmstart")
    assert not config_difference(load(find("quickstart")), config)
    assert load(written(tmp_path / "further.toml", 'extends = "recipes/grpo"\n')).run.name == "grpo"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('extends = "nothing.toml"', "extends 'nothing.toml', and there is no file"),
        ('extends = "."', "extends '.', and there is no file"),
        ("extends = 3", "got 3"),
        ('extends = ""', "got ''"),
        ('extends = ["base.toml"]', "wants another run file"),
        ('extends = "broken.toml"', "broken.toml is not TOML"),
        ('extends = "own.toml"', "own.toml -> "),
        ('extends = "circle.toml"', "circle.toml -> "),
        ('extends = "base.toml"\nrun.sead = 1', "unknown key 'run.sead'. Did you mean 'seed'"),
        ('extends = "base.toml"\nenv = 3', "env must be a table, got 3"),
        ('extends = "wrong.toml"', "unknown key 'run.naem'"),
        ('run.extends = "base.toml"', "unknown key 'run.extends'"),
    ],
)
def test_what_cannot_be_extended_is_one_error(base: Path, text: str, words: str) -> None:
    written(base.parent / "broken.toml", "[env")
    written(base.parent / "wrong.toml", BASE + "naem = 1\n")
    written(base.parent / "circle.toml", 'extends = "own.toml"\n')
    with pytest.raises(ConfigError) as caught:
        load(written(base.parent / "own.toml", text))
    assert words in str(caught.value) and "\n" not in str(caught.value)


# ── the shipped recipes ──────────────────────────────────────────────────────────────────────────────────────────────


def test_there_are_recipes_and_they_ship_under_their_names() -> None:
    assert {"grpo", "rloo", "dapo", "gigpo", "hgpo", "flow_grpo", "stratified_grpo", "empg", "spo"} <= {
        path.stem for path in RECIPES
    }
    assert all(find(f"recipes/{path.stem}").samefile(path) for path in RECIPES)


@NAMED
def test_a_recipe_is_the_quick_start_with_another_algorithm_and_names_its_paper(path: Path) -> None:
    config, quickstart = (configs.flat(load(file).model_dump()) for file in (path, CONFIGS / "quickstart.toml"))
    differing = {key for key in {*config, *quickstart} if config.get(key) != quickstart.get(key)}
    allowed = ("run.name", "algorithm.", "critic.")
    assert {key for key in differing if not key.startswith(allowed)} == set()
    assert config["run.name"] == path.stem
    header = path.read_text().split("\n\n")[0]
    assert (
        "arXiv " in header and f"agentrl train recipes/{path.stem}\n" in header and "different from the paper" in header
    )


@pytest.mark.slow
@NAMED
def test_a_recipe_trains(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="training needs the extra 'train'")
    from agentrl.trainer import train

    algorithm = load(path).algorithm
    sizes = {"tasks": 3, "group_size": 6} if algorithm.sampler["group_size"] > 1 else {"tasks": 18}
    overrides = [f"algorithm.sampler.{key}={value}" for key, value in sizes.items()]
    overrides += [f"algorithm.filters.{place}.groups=2" for place, t in enumerate(algorithm.filters) if "groups" in t]
    small = [
        *overrides, "algorithm.refill_rounds=1", "evaluation.episodes=4", "evaluation.max_turns=3", "run.iterations=1",
        "resources.device=cpu", "resources.threads=1",
    ]  # fmt: skip
    config = load(path, small)
    summary = train(config, tmp_path / "run")
    assert summary["status"] == "completed" and summary["iterations"] == 1 and summary["n_updates"] > 0
    (line,) = metrics(tmp_path / "run")
    assert line["n_trajectories"] >= 18 and line["grad_norm"] > 0
    stored = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert "extends" not in stored and load(tmp_path / "run" / "config.toml") == config
