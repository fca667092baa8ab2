"""The reference pages: current, complete, and Markdown that says what the code says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import pytest

from agentrl import env, facts
from agentrl.config import RunConfig, flat, parse
from agentrl.envs.household import generate
from agentrl.envs.household.env import HouseholdEnv
from agentrl.errors import ConfigError
from agentrl.reference import FILES, page, pages, with_counts
from agentrl.reference.schema import toml, words

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("what", FILES)
def test_the_page_is_what_the_code_says_today(what: str) -> None:
    if what == "tools":
        pytest.importorskip("jsonschema", reason="tools of servers need the extra 'mcp'")
    assert page(what, own=True) == (ROOT / FILES[what]).read_text(encoding="utf-8"), "run `make docs`"


def test_another_word_is_no_page() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'methods'"):
        page("method")


def test_every_key_has_a_meaning() -> None:
    assert [f"{row['table']}.{row['key']}" for row in facts.run_keys() if not row["meaning"]] == []
    assert all(facts.run_tables().values())


def test_every_key_of_a_run_file_is_on_the_page_with_its_default() -> None:
    rows = {f"{row['table']}.{row['key']}": row for row in facts.run_keys()}
    written = parse({"env": {"id": "agentrl/Household-v0"}, "critic": {}, "model": {"lora": {}, "path": "x"}})
    defaults = written.model_dump(mode="json")
    assert set(defaults) == {name for name in facts.run_tables() if "." not in name} == set(RunConfig.model_fields)
    for key, value in flat(defaults).items():
        place = key if key in rows else key.rsplit(".", 1)[0]  # below a method's table stand its own keys
        if place == key and key not in ("env.id", "model.path"):
            assert rows[key]["default"] == value, key


def test_levels_are_those_of_the_generators() -> None:
    assert HouseholdEnv.levels == {"difficulty": tuple(generate.LEVELS)}
    assert env.TextEnv.levels == {}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "string"}, "text"),
        ({"enum": ["a", "b"]}, '"a", "b"'),
        ({"type": "array", "items": {"type": "string"}}, "list of texts"),
        ({"type": "array", "items": {"type": "object", "additionalProperties": True}}, "list of tables"),
        ({"type": "array", "prefixItems": [{"type": "number"}] * 2}, "list of 2: number"),
        ({"type": "array"}, "list"),
        ({"type": "object", "properties": {"rule": {"const": "up"}, "to": {"type": "number"}}}, '{ rule = "up"; to }'),
        ({"oneOf": [{"type": "number"}, {"type": "number"}, {"type": "boolean"}]}, "number or true or false"),
        ({"type": "integer", "exclusiveMaximum": 2**63, "minimum": 0}, "integer from 0, below 2^63"),
        ({}, "anything"),
    ],
)
def test_schemas_in_words(schema: dict[str, Any], expected: str) -> None:
    assert words(schema) == expected


def test_defaults_as_a_run_file_has_them() -> None:
    assert toml([{"name": "x", "on": True}, None, 1e-6, "ä"]) == '[{ name = "x", on = true }, absent, 1e-06, "ä"]'
    assert toml({}) == "{}"


def test_a_docstring_becomes_markdown() -> None:
    text = "See ``a<b>`` and <tag>, a < b.\n\n>>> f(``x``)\n1\n\n    code = <x>\n\n===  ===\na    b\n===  ==="
    code = "    >>> f(``x``)\n    1\n\n    code = <x>\n\n    ===  ===\n    a    b\n    ===  ==="
    shown = f"See `a<b>` and &lt;tag>, a < b.\n\n{code}"
    assert pages._prose(text) == shown


def test_an_environment_of_a_plug_in_is_told_of_as_far_as_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(size: int, kind: object = int, start: float = 0.5) -> Any:
        raise NotImplementedError

    gymnasium.register(id="toy/Function-v0", entry_point=make)
    gymnasium.register(id="toy/Broken-v0", entry_point="no_such_module_at_all:Env")
    try:
        rows = {row["id"]: row for row in facts.environments()}
        shown = page("envs")
    finally:
        gymnasium.registry.pop("toy/Function-v0")
        gymnasium.registry.pop("toy/Broken-v0")
    assert rows["toy/Function-v0"]["options"] == [
        {"name": "size", "required": True},
        {"name": "kind", "default": "<class 'int'>"},
        {"name": "start", "default": 0.5},
    ]
    assert "no_such_module_at_all" in rows["toy/Broken-v0"]["problem"]
    assert "## toy/Function-v0" in shown and "no_such_module_at_all" in shown
    assert "toy/" not in page("envs", own=True)


def test_the_readme_counts_the_methods_that_there_are() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert with_counts(text) == text, "run `make docs`"
    assert "gigpo" in text
    with pytest.raises(ConfigError, match="no block between"):
        with_counts("# a page")
