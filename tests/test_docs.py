"""The pages for people: what they show must work."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from agentrl import build, cli, config, registry, stages
from agentrl.scenes import Scenes

ROOT = Path(__file__).parents[1]
PAGES = [path for path in sorted(ROOT.rglob("README.md")) if not {".venv", "node_modules"} & set(path.parts)]


def _blocks(page: Path) -> list[str]:
    """The indented blocks of a page, without their indent."""
    found = re.findall(r"(?:^ {4}.*\n(?:\n(?= {4}))?)+", page.read_text(encoding="utf-8"), re.MULTILINE)
    return [re.sub(r"^ {4}", "", block, flags=re.MULTILINE) for block in found]


RUN_FILES = [
    pytest.param(block, id=f"{page.parent.name}-{place}")
    for page in PAGES
    for place, block in enumerate(_blocks(page))
    if re.match(r"\[{1,2}\w", block)
]
PROGRAMS = [
    pytest.param(block, id=f"{page.parent.name}-{place}")
    for page in PAGES
    for place, block in enumerate(_blocks(page))
    if re.match(r"(from|import) \w", block)
]
COMMANDS = sorted(
    {line for page in PAGES for block in _blocks(page) for line in block.splitlines() if line.startswith("agentrl ")}
)


def _over(base: Any, part: Any) -> Any:
    if isinstance(base, dict) and isinstance(part, dict) and "name" not in part:
        return {**base, **{key: _over(base.get(key), value) for key, value in part.items()}}
    return part


def test_pages_show_run_files_and_commands() -> None:
    assert len(RUN_FILES) >= 3
    assert len(COMMANDS) >= 10


@pytest.mark.parametrize("block", RUN_FILES)
def test_run_files_on_the_pages_are_valid(block: str) -> None:
    whole = _over(config.read(ROOT / "configs" / "quickstart.toml"), tomllib.loads(block))
    parsed = config.parse(whole)
    build.methods(parsed.algorithm, state_keys=True, critic=parsed.critic is not None)


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_on_the_pages_exist(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = line.split("  ")[0].split()
    options = [word.partition("=")[0] for word in words if word.startswith("--")]
    command = words[1:3] if words[1] == "serve" else words[1:2]
    with pytest.raises(SystemExit):
        cli.main([*command, "--help"])
    shown = capsys.readouterr().out
    assert "usage: agentrl " + " ".join(command) in shown
    assert [option for option in options if option not in shown] == []


@pytest.mark.parametrize("block", PROGRAMS)
def test_programs_on_the_pages_run(block: str) -> None:
    program = compile(block, "page", "exec", dont_inherit=True)
    if not re.search(r"runs/|games=|train\(", block):  # what needs a run, real games or minutes is only compiled
        registry.load_plugins()  # else they would be forgotten below, and never loaded again
        known = {kind: dict(things) for kind, things in registry._table.items()}
        try:
            exec(program, {"__name__": "page"})
        finally:  # a method that a page registers is no method of the other tests
            for kind, things in registry._table.items():
                things.clear()
                things.update(known[kind])


def test_the_episode_that_the_page_replays_is_one_of_the_quick_start() -> None:
    (part,) = re.findall(r"agentrl replay runs/quickstart (\S+)", (ROOT / "README.md").read_text(encoding="utf-8"))
    settings = config.load(ROOT / "configs" / "quickstart.toml")
    methods, tasks = build.methods(settings.algorithm, state_keys=True), Scenes.of(settings).tasks
    requests = stages.Proposals(methods.sampler, tasks).begin(
        stages.initial_states(methods, settings.run.seed)["sampler"]
    )
    ids = [
        f"task={request.task.id}/place={place}/member={member}"
        for place, request in enumerate(requests)
        if request.task is not None
        for member in range(request.n)
    ]
    assert len([identity for identity in ids if part in identity]) == 1


def test_links_lead_somewhere() -> None:
    """Every link of a page to a file of the checkout, and to a heading in it."""
    broken = []
    pages = [path for path in sorted(ROOT.rglob("*.md")) if not {".venv", "node_modules", "runs"} & set(path.parts)]
    for page in pages:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            file, _, heading = target.partition("#")
            path = (page.parent / file).resolve() if file else page
            if "://" in target:
                continue
            if not path.exists() or (heading and heading not in _headings(path)):
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert len(pages) >= 10
    assert broken == []


def _headings(page: Path) -> set[str]:
    """The anchors of a page, as GitHub names them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
