"""What the tests of the viewer share: a browser, folders with episodes made by hand, and a page that is watched."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from toy_runs import tiny

from agentrl.browsers import find_chromium
from agentrl.console import Progress
from agentrl.errors import ConfigError
from agentrl.store import write_trajectories
from agentrl.trainer import train
from agentrl.types import Call, Outcome, Task, Trajectory, Turn
from agentrl.viewer import write_report


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser; the test skips where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the extra browser is not installed")
    try:
        program = find_chromium()
    except ConfigError as error:
        pytest.skip(str(error))
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=str(program), args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """A page of a report that was opened from disk, and everything that it asked for or complained about."""

    def __init__(self, browser: Any, run: Path, hash_: str = "", scheme: str = "light", **context: Any) -> None:
        self.context = browser.new_context(color_scheme=scheme, viewport={"width": 1300, "height": 850}, **context)
        self.page = self.context.new_page()
        self.page.set_default_timeout(15_000)
        self.run, self.asked, self.complaints = run, [], []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto((run / "report.html").as_uri() + hash_)
        self.page.wait_for_selector("html[data-ready]")
        self.settle()

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        self.context.close()
        if kind is None:
            assert self.complaints == []
            folder = self.run.resolve().as_uri()
            strangers = [url for url in self.asked if not url.startswith((folder, "data:"))]
            assert strangers == [], "a report asks for nothing but its own files"

    def go(self, hash_: str) -> None:
        self.page.evaluate("hash => { location.hash = hash; }", hash_)

    def settle(self) -> None:
        """Lets what is drawn once its size is known be drawn: in the frame after the next."""
        self.page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def until(self, condition: str) -> None:
        """Waits for an expression. (Playwright's own way evaluates text in the page, which the page's policy forbids.)"""
        end = time.monotonic() + 15
        while not self.page.evaluate(condition):
            assert time.monotonic() < end, f"it never came true that {condition}"
            self.page.evaluate("new Promise(requestAnimationFrame)")

    def texts(self, selector: str) -> list[str]:
        return self.page.locator(selector).all_inner_texts()


@contextmanager
def trained(folder: Path, *overrides: str) -> Iterator[Path]:
    """A real run of three iterations with evaluations, its report written."""
    settings = ("algorithm.old_logprobs=learner", "run.iterations=3", *overrides)
    train(tiny(folder, *settings), folder / "run", progress=Progress())
    yield folder / "run"
    shutil.rmtree(folder / "run")


def call(prompt: Sequence[int], completion: Sequence[int], **fields: Any) -> Call:
    return Call("agent", list(prompt), list(completion), [-0.5] * len(completion), **fields)


def member(
    number: int, actions: Sequence[str], *, group: str = "iteration=0/task=door/place=0", **fields: Any
) -> Trajectory:
    """A member of a group, its turns in rooms 0, 1, 2 …"""
    turns = [
        Turn(
            f"room {place}",
            state_key=f"room {place}",
            action=action,
            advantage=0.5 - number,
            calls=[call([1, 2, place], [7, 2])],
        )
        for place, action in enumerate(actions)
    ]
    task = Task("door", type="open", seed=3)
    return Trajectory(f"{group}/member={number}", "toy/Door-v0", task, group, turns=turns, **fields)


def made(folder: Path, members: Sequence[Trajectory], name: str = "iteration_000000", **report: Any) -> Path:
    """A folder with one file of trajectories, and its report."""
    (folder / "trajectories").mkdir(parents=True, exist_ok=True)
    write_trajectories(folder / "trajectories" / f"{name}.jsonl.zst", members)
    write_report(folder, **report)
    return folder


def many(n: int) -> list[Trajectory]:
    """``n`` small episodes in groups of eight."""
    found = []
    for number in range(n):
        group = f"iteration=0/task=door-{number // 8}/place={number // 8}"
        outcome = Outcome.TERMINATED if number % 3 == 0 else Outcome.MAX_TURNS
        one = member(number % 8, [f"look {number}", "open door"], group=group, success=number % 3 == 0, outcome=outcome)
        one.task = Task(f"door-{number // 8}", type=f"kind {number % 5}", seed=number // 8)
        found.append(one)
    return found


def index_of(page: str) -> dict[str, Any]:
    """The index that a page embeds."""
    start = page.index('id="index">') + len('id="index">')
    return json.loads(page[start : page.index("</script>", start)])
