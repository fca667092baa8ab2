"""Run files: what is refused and in which words, overrides, and the way back from a run folder's config.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from agentrl import config as configs
from agentrl.config import RunConfig, Table, find, load, parse
from agentrl.errors import ConfigError
from agentrl.overrides import overridden, parse_value
from agentrl.store import RunFolder, without_none

ENV = {"env": {"id": "agentrl/Household-v0"}}
SHIPPED = sorted((Path(configs.__file__).parent / "configs").glob("*.toml"))


def with_value(dotted: str, value: Any) -> dict[str, Any]:
    data: dict[str, Any] = {"env": dict(ENV["env"])}
    place = data
    *tables, key = dotted.split(".")
    for table in tables:
        place = place.setdefault(table, {})
    place[key] = value
    return data


def refusal(data: Any) -> str:
    """The message of the refusal, which is one line."""
    with pytest.raises(ConfigError) as caught:
        parse(data)
    message = str(caught.value)
    assert "\n" not in message
    return message


def written(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text)
    return path


MINIMAL = '[env]\nid = "agentrl/Household-v0"\n'


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("modle", "model"),
        ("env.splitt", "split"),
        ("model.pth", "path"),
        ("agent.memry", "memory"),
        ("rollout.temprature", "temperature"),
        ("algorithm.credits", "credit"),
        ("algorithm.updates_per_iter", "updates_per_iteration"),
        ("optimizer.learning_rate", "lr"),
        ("optimizer.warm_up", "warmup"),
        ("evaluation.episode", "episodes"),
        ("checkpoint.evry", "every"),
        ("resources.thread", "threads"),
        ("run.sead", "seed"),
        ("demos.episods", "episodes"),
        ("sft.update", "updates"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(key: str, near: str) -> None:
    message = refusal(with_value(key, 1))
    assert f"unknown key '{key}'" in message
    assert f"'{near}'" in message or f" {near}" in message  # the nearest, or the list of all where none is near


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("env", 3),
        ("model", "warmstart"),
        ("env.id", 3),
        ("env.max_turns", "20"),
        ("env.max_turns", 20.0),
        ("env.options", ["tiny"]),
        ("agent.action_tags", 1),
        ("agent.action_tags", "true"),
        ("agent.memory", "window"),
        ("rollout.temperature", "1.0"),
        ("rollout.temperature", True),
        ("rollout.kv_cache", "yes"),
        ("model.gradient_checkpointing", 1),
        ("model.dtype", "bf16"),
        ("algorithm.filters", {"name": "degenerate"}),
        ("algorithm.filters", ["degenerate"]),
        ("algorithm.credit", "gigpo"),
        ("optimizer.lr", "1e-6"),  # what YAML makes of it
        ("optimizer.betas", [0.9]),
        ("optimizer.betas", [0.9, 0.99, 0.999]),
        ("optimizer.betas", 0.9),
        ("optimizer.warmup", True),
        ("optimizer.schedule", "linaer"),
        ("evaluation.greedy", "no"),
        ("resources.device", "tpu"),
        ("resources.backend", "slurm"),
        ("run.name", 3),
        ("run.seed", 1.5),
    ],
)
def test_a_wrong_type_is_refused_by_its_dotted_key(key: str, value: Any) -> None:
    assert key in refusal(with_value(key, value))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("env.max_turns", 0),
        ("agent.context", 0),
        ("rollout.temperature", 0.0),
        ("rollout.temperature", float("inf")),
        ("rollout.top_p", 0.0),
        ("rollout.top_p", 1.1),
        ("rollout.max_tokens", 0),
        ("rollout.attempts", 0),
        ("rollout.kv_cache_gib", 0.0),
        ("algorithm.refill_rounds", -1),
        ("algorithm.updates_per_iteration", 0),
        ("algorithm.epochs", 0),
        ("optimizer.lr", 0.0),
        ("optimizer.lr", -1e-3),
        ("optimizer.lr", float("nan")),
        ("optimizer.lr", float("inf")),
        ("optimizer.betas", [0.9, 1.0]),
        ("optimizer.betas", [-0.1, 0.9]),
        ("optimizer.weight_decay", -0.1),
        ("optimizer.max_grad_norm", 0.0),
        ("optimizer.floor", 1.5),
        ("optimizer.token_budget", 0),
        ("optimizer.logit_chunk", 0),
        ("evaluation.episodes", -1),
        ("evaluation.temperature", -0.5),
        ("checkpoint.every", 0),
        ("checkpoint.keep", -1),
        ("resources.threads", 0),
        ("run.seed", -1),
        ("run.iterations", -1),
        ("run.name", ""),
        ("run.name", "../elsewhere"),
        ("run.name", "/tmp/elsewhere"),
        ("run.name", ".hidden"),
        ("demos.episodes", 0),
        ("sft.updates", 0),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_dotted_key(key: str, value: Any) -> None:
    assert refusal(with_value(key, value)).startswith(key)


def test_the_environment_has_no_default() -> None:
    assert refusal({}) == "env is missing: it has no default"
    assert refusal({"env": {}}) == "env.id is missing: it has no default"


def test_top_p_below_one_is_refused_in_training_and_says_why() -> None:
    message = refusal(with_value("rollout.top_p", 0.95))
    assert "rollout.top_p = 0.95" in message and "use 1.0" in message


def test_a_checkpoint_and_a_model_to_build_exclude_each_other() -> None:
    data = {**ENV, "model": {"path": "somewhere", "config": {"model_type": "qwen2"}}}
    assert "model.path and model.config" in refusal(data)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_subnormal=False) | st.text(), st.lists, max_leaves=5
    )
)
def test_whatever_stands_in_place_of_a_table_is_one_error(value: Any) -> None:
    for name in RunConfig.model_fields:
        assert refusal({**ENV, name: value}).startswith(name)


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_file_that_is_missing_a_folder_or_no_toml_is_one_error(tmp_path: Path) -> None:
    broken = written(tmp_path, "[env\n")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    for path, words in [
        (tmp_path / "none.toml", "cannot be read"),
        (tmp_path, "cannot be read"),
        (broken, "is not TOML"),
        (tmp_path / "binary.toml", "is not TOML"),
    ]:
        with pytest.raises(ConfigError, match=words) as caught:
            load(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_run_file_parses(path: Path) -> None:
    config = load(path)
    assert config.run.name == path.stem
    assert find(path.stem).samefile(path) and find(path.name).samefile(path) and find(f"configs/{path.name}").exists()


def test_the_shipped_run_files_are_there_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert SHIPPED
    monkeypatch.chdir(tmp_path)
    for name in ("quickstart", "quickstart.toml", "configs/quickstart.toml"):
        assert load(find(name)).run.name == "quickstart"
    (tmp_path / "quickstart.toml").write_text(MINIMAL + '[run]\nname = "mine"\n')
    assert load(find("quickstart.toml")).run.name == "mine"  # what is at hand comes first
    with pytest.raises(ConfigError, match="cannot be read"):
        load(find("no-such-run-file"))


def test_a_model_path_is_relative_to_the_working_folder_else_to_the_run_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs" / "start").mkdir(parents=True)
    (tmp_path / "runs" / "start" / "config.json").write_text("{}")
    path = written(tmp_path / "runs", MINIMAL + '[model]\npath = "start"\n')
    monkeypatch.chdir(tmp_path)
    assert load(path).model.path == str(tmp_path / "runs" / "start")
    (tmp_path / "start").mkdir()
    assert load(path).model.path == "start"
    assert load(path, ["model.path=Qwen/Qwen3-0.6B"]).model.path == "Qwen/Qwen3-0.6B"


def test_a_run_file_inside_a_checkpoint_without_a_model_path_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert load(written(tmp_path, MINIMAL)).model.path is None


@pytest.mark.parametrize("text", ["model = 3\n", "model = []\n", "[model]\npath = 3\n", "[[model]]\npath = 'x'\n"])
def test_a_model_that_is_no_table_is_one_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="model"):
        load(written(tmp_path, text + MINIMAL))


# ── overrides ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_overrides_have_the_types_of_toml_and_bare_words_are_strings(tmp_path: Path) -> None:
    path = written(tmp_path, MINIMAL + '[algorithm]\ncredit = { name = "gigpo", gamma = 0.95 }\n')
    overrides = [
        "run.seed=7",
        "run.name=bare-word",
        "optimizer.lr=3e-4",
        "optimizer.betas=[0.9, 0.95]",
        "evaluation.greedy=false",
        "env.options.difficulty=easy",
        'env.split="valid_seen"',
        "algorithm.credit.gamma=0.5",
        'algorithm.loss={name="ppo_clip", low=0.1}',
        " run.iterations = 3 ",
        "agent.prompt={observation} = {goal}",
    ]
    config = load(path, overrides)
    assert (config.run.seed, config.run.name, config.run.iterations) == (7, "bare-word", 3)
    assert (config.optimizer.lr, config.optimizer.betas) == (3e-4, (0.9, 0.95))
    assert config.evaluation.greedy is False and config.env[0].split == "valid_seen"
    assert config.env[0].options == {"difficulty": "easy"}
    assert config.algorithm.credit == {"name": "gigpo", "gamma": 0.5}
    assert config.algorithm.loss == {"name": "ppo_clip", "low": 0.1}
    assert config.agent.prompt == "{observation} = {goal}"


def test_the_last_of_two_overrides_counts(tmp_path: Path) -> None:
    assert load(written(tmp_path, MINIMAL), ["run.seed=1", "run.seed=2"]).run.seed == 2


@pytest.mark.parametrize("override", ["run.seed", "", "=3", " =3", "run..seed=1", ".run.seed=1", "run.seed.=1"])
def test_what_is_no_override_is_refused_with_the_way_to_write_one(tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError, match=r"is not an override: write dotted\.key=value"):
        load(written(tmp_path, MINIMAL), [override])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("env.id.deep=1", "id is a value, not a table"),
        ("run.sed=1", "Did you mean 'seed'"),
        ("run.seed=one", "run.seed"),
        ("run.seed=", "run.seed"),
        ("run=1", "run must be a table"),
        ("nonsense.key=1", "unknown key 'nonsense'"),
    ],
)
def test_an_override_is_checked_like_the_file(tmp_path: Path, override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load(written(tmp_path, MINIMAL), [override])


def test_an_override_cannot_bring_further_lines() -> None:
    assert parse_value("1\nother = 2") == "1\nother = 2"


@given(st.text())
def test_any_text_is_a_value(text: str) -> None:
    value = parse_value(text)
    assert isinstance(value, str) or repr(value) == repr(tomllib.loads(f"value = {text}")["value"])


# ── config.toml of a run folder ──────────────────────────────────────────────────────────────────────────────────────

FULL = {
    "env": {"id": "my/Env-v0", "options": {"a": [1, 2], "b": {"c": "d"}}, "split": "train"},  # max_turns: None
    "model": {"config": {"model_type": "qwen2", "hidden_size": 16}, "dtype": "bfloat16"},
    "agent": {"prompt": 'quotes " \\ and\nlines é {goal}', "memory": {"name": "append"}, "context": 99},
    "algorithm": {
        "credit": [{"name": "grpo"}, {"name": "gigpo", "gamma": 0.5}],
        "scores": [{"name": "x"}],
        "filters": [],
        "regularizers": [{"name": "kl", "coef": 1e-7}],
    },
    "optimizer": {"betas": [0.9, 0.95], "lr": 1},
    "evaluation": {"games": None, "max_turns": None},
    "run": {"name": "round-trip", "seed": 2**40},
}


def test_what_a_run_folder_holds_parses_back_to_an_equal_configuration(tmp_path: Path) -> None:
    config = parse(FULL)
    folder = RunFolder.create(tmp_path / "run", config.model_dump(mode="python"))
    assert load(folder.path / "config.toml") == config
    again = load(folder.path / "config.toml")
    assert again.optimizer.betas == (0.9, 0.95) and again.env[0].max_turns is None and again.optimizer.lr == 1


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_run_files_survive_the_way_through_a_run_folder(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = load(path)
    assert parse(tomllib.loads(tomli_w.dumps(without_none(config.model_dump(mode="python"))))) == config


def test_no_default_would_be_lost_by_leaving_none_out() -> None:
    """A field that may be None has None as default: else leaving it out of the TOML would change it."""

    def check(model: type[BaseModel]) -> None:
        for name, field in model.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, Table):
                check(field.annotation)
            elif type(None) in get_args(field.annotation):
                assert field.default is None, f"{model.__name__}.{name}"

    check(RunConfig)


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(Exception, match="frozen"):
        parse(ENV).run.seed = 3


def test_an_empty_path_makes_room_for_a_model_to_build() -> None:
    data = {**ENV, "model": {"path": "somewhere"}}
    found = parse(overridden(data, ["model.path=", "model.config.model_type=qwen2"])).model
    assert (found.path, found.config) == (None, {"model_type": "qwen2"})


def test_verl_agents_projection_wants_both_tags() -> None:
    assert "set action_tags and think_tags to true" in refusal(with_value("agent.projection", "verl_agent"))
    assert parse({**ENV, "agent": {"projection": "verl_agent", "think_tags": True}}).agent.think_tags


def test_updates_are_counted_in_one_way() -> None:
    both = {"algorithm": {"samples_per_update": 8, "updates_per_iteration": 2}}
    assert "give one" in refusal({**ENV, **both})
    falling = {"algorithm": {"samples_per_update": 8}, "optimizer": {"schedule": "cosine"}}
    assert "a cosine schedule needs the number of updates" in refusal({**ENV, **falling})
