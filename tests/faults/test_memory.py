"""Long runs do not grow. The bound is what a run that leaks on purpose shows, so these tests can fail."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import run_file
from drivers import PATIENCE_S, Nursery
from memory import LEAK

SMALL = (
    "evaluation.episodes=0",
    "checkpoint.every=10",
    "env.max_turns=2",
    "rollout.max_tokens=4",
    "algorithm.updates_per_iteration=1",
    'algorithm.sampler={name="uniform", tasks=1, group_size=2}',
)
KINDS = {
    "inline": (),
    "process": ("env.isolation=process",),
    "staleness": ("rollout.staleness=1", 'algorithm.token_weights=[{name = "tis"}]'),
}
IN_CI, LONG = 100, 1000


def slope(values: list[int]) -> float:
    """The median of the slopes between all pairs (Theil and Sen), an iteration."""
    x, y = np.arange(len(values)), np.asarray(values, dtype=float)
    first, second = np.triu_indices(len(values), 1)
    return float(np.median((y[second] - y[first]) / (x[second] - x[first])))


def watched(nursery: Nursery, folder: Path, n: int, *changes: str) -> dict[str, list[int]]:
    """What was seen in the last 70 % of a run's iterations, when everything has been used once."""
    run_file(folder)
    driver = nursery.call(folder, "memory:main", [*SMALL, f"run.iterations={n}", *changes])
    assert driver.wait(PATIENCE_S * max(1, n / IN_CI)) == 0, driver.said()
    assert driver.nothing_left()
    rows = json.loads((folder / "watched.json").read_text())[-int(0.7 * n) :]
    return {name: [row[name] for row in rows] for name in rows[0]}


@pytest.fixture(scope="module")
def leaking(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> float:
    """Bytes an iteration that a run with a small leak is seen to grow by."""
    seen = watched(nursery, tmp_path_factory.mktemp("leaking"), IN_CI, 'algorithm.scores=[{name = "memory:Leak"}]')
    return slope(seen["bytes"])


def test_the_slope_is_that_of_most() -> None:
    assert slope([3, 5, 7, 1000, 11, 13, 15]) == 2.0 and slope([4, 4, 4]) == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_100_iterations_does_not_grow(kind: str, nursery: Nursery, leaking: float, tmp_path: Path) -> None:
    assert_flat(watched(nursery, tmp_path, IN_CI, *KINDS[kind]), leaking / 2, leaking)


@pytest.mark.sweep
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_1000_iterations_does_not_grow(kind: str, nursery: Nursery, leaking: float, tmp_path: Path) -> None:
    assert_flat(watched(nursery, tmp_path, LONG, *KINDS[kind]), leaking / 10, leaking)


def assert_flat(seen: dict[str, list[int]], bound: float, leaking: float) -> None:
    assert 0.75 * LEAK < leaking < 1.5 * LEAK, "the leak is seen for what it is"
    assert slope(seen["bytes"]) < bound
    assert slope(seen["bytes of workers"]) < bound
    for name in ("files", "threads", "processes"):
        assert slope(seen[name]) == 0 and max(seen[name]) - min(seen[name]) <= 2, name
