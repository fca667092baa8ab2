"""CRAFT-GUI: the staged curriculum, and the score in parts."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl import registry
from agentrl.algorithms import TurnTable
from agentrl.algorithms.credit import GRPO
from agentrl.algorithms.samplers.craft import CraftSampler
from agentrl.algorithms.scores.craft import CraftScore
from agentrl.env import make
from agentrl.errors import ConfigError
from agentrl.types import Task, Trajectory, Turn

# ── the curriculum ───────────────────────────────────────────────────────────────────────────────────────────────────


def lengths(*steps: int, **kinds: int) -> list[Task]:
    return [Task(f"task-{place}", options={"steps": n}) for place, n in enumerate(steps)]


TASKS = lengths(*[1, 2, 3] * 4, *[5, 8] * 6, *[9, 20] * 6)  # 12 of each of the paper's lengths


def proposed(sampler: CraftSampler, state: Any, step: int, tasks: Any = TASKS) -> list[int]:
    return [r.task.options["steps"] for r in sampler.propose(state, step, tasks) if r.task is not None]


def played(tasks: list[Task], successes: int, name: str = "") -> TurnTable:
    """One episode on each task, of which the first so many succeed."""
    return TurnTable.from_trajectories(
        [
            Trajectory(f"{name}{place}", "toy", task, success=place < successes, turns=[Turn("o"), Turn("o")])
            for place, task in enumerate(tasks)
        ]
    )


def test_a_stage_takes_its_own_lengths_and_a_share_of_earlier_ones() -> None:
    sampler = CraftSampler(tasks=8, group_size=2, bounds=(3, 8))
    state = sampler.init(0)
    assert all(n <= 3 for n in proposed(sampler, state, 0)) and len(proposed(sampler, state, 0)) == 8
    second = proposed(sampler, {**state, "stage": 1}, 3)
    assert sorted(n <= 3 for n in second) == [False] * 6 + [True] * 2 and max(second) <= 8
    third = proposed(sampler, {**state, "stage": 2}, 9)
    assert sum(n >= 9 for n in third) == 6 and len(third) == 8
    assert {r.n for r in sampler.propose(state, 0, TASKS)} == {2}


def test_a_pooled_stage_draws_from_all_so_far() -> None:
    sampler = CraftSampler(tasks=12, bounds=(3, 8), earlier="pooled")
    state = {**sampler.init(0), "stage": 1}
    drawn = [*proposed(sampler, state, 0), *proposed(sampler, state, 1)]
    assert sorted(drawn) == sorted(task.options["steps"] for task in TASKS[:24])  # an epoch


def test_the_success_of_the_check_ends_a_stage() -> None:
    sampler = CraftSampler(tasks=5, bounds=(3, 8), threshold=0.7, window=2)
    state = sampler.init(0)
    sampler.propose(state, 0, TASKS)
    own = TASKS[:12] + TASKS[:12] + TASKS[:1]
    once = sampler.observe(state, played(own, 18), None)
    assert once == {"seed": 0, "stage": 0, "lasted": 1, "window": [[18, 25]]}  # 0.72, and one more iteration to look at
    assert sampler.observe(once, played(own, 17), None)["stage"] == 0  # 0.70 is not more than 0.7
    after = sampler.observe(once, played(own, 18), None)
    assert after == {"seed": 0, "stage": 1, "lasted": 0, "window": []}


def test_episodes_of_other_stages_say_nothing() -> None:
    sampler = CraftSampler(tasks=5, bounds=(3, 8), window=1)
    state = {**sampler.init(0), "stage": 1}
    sampler.propose(state, 0, TASKS)
    mixed = [*TASKS[:10], *TASKS[12:16]]  # ten easy ones solved, none of this stage
    assert sampler.observe(state, played(mixed, 10), None) == {**state, "lasted": 1, "window": [[0, 4]]}
    assert sampler.observe(state, played(TASKS[:4], 4), None) == {**state, "lasted": 1, "window": [[0, 0]]}
    assert sampler.observe(state, played([], 0), None)["stage"] == 1


def test_a_stage_may_end_after_so_many_iterations_and_the_last_one_lasts() -> None:
    sampler = CraftSampler(tasks=5, bounds=(3, 8), threshold=1.0, window=2, iterations=3)
    state, stages = sampler.init(0), []
    sampler.propose(state, 0, TASKS)
    for _ in range(10):
        stages.append(state["stage"])
        state = sampler.observe(state, played(TASKS, len(TASKS)), None)
    assert stages == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]


def test_without_bounds_tasks_are_cut_into_equal_parts_by_length_then_type() -> None:
    tasks = [Task(f"t{place}", type="ab"[place % 2], max_turns=4) for place in range(6)]
    sampler = CraftSampler(tasks=3, by="max_turns", stages=2, earlier=0.0)
    found = [[r.task.type for r in sampler.propose({**sampler.init(1), "stage": s}, 0, tasks)] for s in (0, 1)]
    assert found == [["a"] * 3, ["b"] * 3]


def test_bands_of_words_and_types_that_come_last() -> None:
    tasks = [Task(f"{kind}-{n}", type=kind) for kind in ("click", "fill", "read") for n in range(4)]
    sampler = registry.build(
        "sampler", {"name": "craft", "tasks": 2, "by": "type", "bands": [["click"], ["fill"]], "last": ["read"]}
    )
    found = [{t.id for t in tasks if sampler._stages_of(tasks).stage_of[t.id] == s} for s in (0, 1)]
    assert found == [{f"click-{n}" for n in range(4)}, {f"{k}-{n}" for k in ("fill", "read") for n in range(4)}]


def test_an_environment_whose_types_differ_in_length_has_a_curriculum() -> None:
    env = make("agentrl/Household-v0", difficulty="tiny")
    tasks = env.get_wrapper_attr("tasks")("valid_seen")
    short, long = ("pick_and_place_simple", "look_at_obj_in_light"), ("pick_two_obj_and_place",)
    middle = tuple(f"pick_{verb}_then_place_in_recep" for verb in ("clean", "heat", "cool"))
    sampler = CraftSampler(tasks=8, by="type", bands=(short, middle, long))
    assert {r.task.type for r in sampler.propose(sampler.init(0), 0, tasks) if r.task} <= set(short)


@given(st.lists(st.integers(1, 30), min_size=4, max_size=60), st.integers(0, 2), st.integers(0, 50), st.integers(0, 3))
def test_proposals_are_different_tasks_of_the_stages_so_far(steps: list[int], stage: int, step: int, seed: int) -> None:
    tasks = lengths(*steps)
    sampler = CraftSampler(tasks=max(1, len(tasks) // 3), stages=3)
    state = {**sampler.init(seed), "stage": stage}
    found = [r.task for r in sampler.propose(state, step, tasks)]
    assert len({task.id for task in found}) == sampler.tasks == len(found)
    known = sampler._stages_of(tasks).stage_of
    assert all(known[task.id] <= stage for task in found)
    again = CraftSampler(tasks=sampler.tasks, stages=3).propose(state, step, tasks)  # after a resume
    assert [r.task for r in again] == found


@pytest.mark.parametrize(
    ("changes", "tasks", "words"),
    [
        (
            {},
            [Task("a", options={"level": "easy"})],
            r"steps of task 'a', got None: name another of its options \(level\)",
        ),
        ({"by": "type", "bands": (("a",), ("b",))}, [Task("x", type="c")], "no band .* has 'c', which is the type"),
        ({"bounds": (3.0, 8.0)}, TASKS[:12], "stage 2 .* has no tasks"),
        ({"bounds": (1.0,)}, TASKS, "wants 12 different tasks an iteration, its first stage has 4"),
        ({"bounds": (1.0,), "bands": (("a",),)}, [], "one of the two"),
        ({"bounds": (2.0, 1.0)}, [], "bounds that rise"),
        ({"bands": (("a",), ("a",))}, [], "each word in one band"),
    ],
)
def test_what_the_curriculum_cannot_do_is_told_at_the_start(changes: Any, tasks: list[Task], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        CraftSampler(**changes).propose(CraftSampler().init(0), 0, tasks)


def test_a_curriculum_observes_what_it_proposed() -> None:
    with pytest.raises(ConfigError, match="has proposed nothing"):
        CraftSampler().observe(CraftSampler().init(0), played(TASKS[:1], 1), None)


# ── the score ────────────────────────────────────────────────────────────────────────────────────────────────────────


def did(*actions: str, reference: Any, problem: str = "", kind: str = "operation") -> Trajectory:
    info = {"problem": problem} if problem else {}
    turns = [Turn("a page", action=action, valid=not problem, info=info) for action in actions]
    return Trajectory("t", "toy", Task("task-1", type=kind, reference=reference), turns=turns)


def scored(score: CraftScore, *trajectories: Trajectory) -> list[float | None]:
    return asyncio.run(score(trajectories))


CLICK = {"action": "mouse_click(50, 20)", "box": [40, 10, 60, 30]}


def test_the_vector_of_the_sheet() -> None:
    given = [
        did("mouse_click(60, 10.5)", reference=CLICK),  # its border is inside
        did("mouse_click(61, 20)", reference=CLICK),
        did("fill('a12', 'Oslo')", reference=CLICK),
        did("mouse_click(50, 20)", reference=CLICK, problem="no <action>…</action> found"),
    ]
    rewards = scored(CraftScore(), *given)
    assert rewards == pytest.approx([1.0, 0.5, 0.1, 0.0])
    table = TurnTable(group=["g"] * 4, trajectory=[*"abcd"], turn=[0] * 4, reward=rewards)
    expected = [1.319821, 0.219970, -0.659911, -0.879881]
    np.testing.assert_allclose(GRPO()(table), expected, atol=1e-6)


def test_the_check_of_the_other_reading() -> None:
    score = CraftScore(w_f=0.1, w_t=0.3, w_p=0.6)
    given = [did(action, reference=CLICK) for action in ("mouse_click(0, 0)", "scroll(0, 100)", "mouse_click(41, 11)")]
    assert scored(score, *given) == pytest.approx([0.4, 0.1, 1.0])


@pytest.mark.parametrize(
    ("action", "right", "worth"),
    [
        ("fill('a12', 'Oslo')", 'fill("a12", "oslo")', 1.0),
        ("fill('a12', 'Rome')", "fill('a12', 'Oslo')", 0.5),
        ("scroll(0, -100)", "scroll(0, 100)", 0.5),
        ("go to fridge 1", "go to fridge 1", 1.0),
        ("go to fridge 12", "go to fridge 1", 0.5),
        ("take mug 1", "go to fridge 1", 0.1),
        ("look", "look", 1.0),
        ("", "look", 0.0),
        ("noop()", "noop()", 1.0),
        ("click('a', 'b')", "click('ab')", 0.5),
    ],
)
def test_actions_are_compared_in_parts(action: str, right: str, worth: float) -> None:
    assert scored(CraftScore(), did(action, reference=right)) == pytest.approx([worth])


def test_what_another_module_got_wrong_is_not_the_form_of_the_action() -> None:
    played = did("look", reference="look", problem="critic: no score could be read")
    assert scored(CraftScore(), played) == [0.0]
    played.turns[0].valid = True
    assert scored(CraftScore(), played) == [1.0]


def test_a_point_may_be_near() -> None:
    near = did("mouse_click(53, 24)", reference="mouse_click(50, 20)")
    assert scored(CraftScore(radius=5), near) == [1.0] and scored(CraftScore(radius=4.9), near) == [0.5]
    assert scored(CraftScore(), did("mouse_click()", reference=CLICK)) == [0.5]


def test_an_episode_is_the_mean_over_what_was_wanted() -> None:
    wanted = ["click('a')", {"action": "fill('b', 'x')"}]
    rewards = scored(
        CraftScore(),
        did("click('a')", "fill('b', 'x')", "noop()", reference=wanted),
        did("click('a')", reference=wanted),
        did(reference=wanted),
    )
    assert rewards == [1.0, 0.5, 0.0]


def test_understanding_is_judged() -> None:
    score = registry.build("score", {"name": "craft", "judged": ["question"], "judge": {"match": "f1"}})
    answers = [did(text, reference="Paris", kind="question") for text in ("Paris", "Paris, France", "Rome")]
    nothing = did(reference="Paris", kind="question")
    unread = did("Paris", reference="Paris", kind="question", problem="no answer")
    rewards = scored(score, *answers, did("look", reference="look"), nothing, unread)
    assert rewards == pytest.approx([1.0, 0.1 + 0.9 * 2 / 3, 0.1, 1.0, 0.0, 0.0])


@pytest.mark.parametrize("reference", [None, "", [], {"box": [0, 0, 1, 1]}, {"action": "click(1, 2)", "box": [1]}, 3])
def test_a_task_without_a_right_action_is_refused(reference: Any) -> None:
    with pytest.raises(ConfigError, match=r"task 'x' has no right action .* name its type 'read' in judged"):
        CraftScore().check([Task("x", type="read", reference=reference)])
    with pytest.raises(ConfigError, match="has no reference"):
        CraftScore(judged=("read",)).check([Task("x", type="read")])


def test_the_judge_of_a_part_has_no_weight_of_its_own() -> None:
    with pytest.raises(ConfigError, match=r"craft.judge gives a verdict.* leave coef = 2 out"):
        CraftScore(judge={"coef": 2})
    with pytest.raises(ConfigError, match="Did you mean 'match'"):
        registry.build("score", {"name": "craft", "judge": {"metch": "f1"}})


@given(st.text(max_size=40), st.text(min_size=1, max_size=40).filter(lambda text: text.strip()))
def test_any_text_is_worth_something_between_0_and_1_and_the_right_one_is_worth_all(text: str, right: str) -> None:
    (worth,) = scored(CraftScore(), did(text, reference=right))
    assert worth is not None and 0 <= worth <= 1
    assert scored(CraftScore(), did(right, reference=right)) == [1.0]


# ── a run ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_a_run_goes_through_the_stages_and_on_from_a_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="training needs the extra 'train'")
    import json
    import shutil

    from toy_runs import assert_same_run, cut, tiny, trajectories

    from agentrl.console import Progress
    from agentrl.trainer import train

    bands = '[["pick_and_place_simple"], ["look_at_obj_in_light"], ["pick_two_obj_and_place"]]'
    types = "env.options.task_types=[" + bands.replace("[", "").replace("]", "") + "]"
    sampler = f'{{name="craft", by="type", bands={bands}, tasks=2, group_size=2, iterations=1, earlier=0.0}}'
    changes = (types, f"algorithm.sampler={sampler}", "evaluation.episodes=0", "checkpoint.keep=0")
    made = tmp_path / "run"
    train(tiny(tmp_path, *changes), made, progress=Progress())
    played = [{record["task"]["type"] for record in file} for file in trajectories(made).values()]
    assert played == [{"pick_and_place_simple"}, {"look_at_obj_in_light"}, {"pick_two_obj_and_place"}]
    state = json.loads((made / "checkpoints" / "latest" / "state.json").read_text())["states"]["sampler"]
    assert (state["stage"], state["lasted"], state["window"]) == (2, 1, [[0, 4]])

    torn = Path(shutil.copytree(made, tmp_path / "torn", symlinks=True))
    cut(torn, 1)
    train(tiny(tmp_path, *changes), torn, progress=Progress(), resume=True)
    assert_same_run(made, torn)
