"""From calls to samples: every sampled token is trained on exactly once, behind exactly what the model saw."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")

from agentrl.algorithms.table import TurnTable
from agentrl.learning.samples import Sample, make_samples, micro_batches, pad_right
from agentrl.types import Call, Task, Trajectory, Turn


def trajectory(*turns: list[Call], name: str = "t") -> Trajectory:
    return Trajectory(id=name, env="toy", task=Task("a"), turns=[Turn("o", calls=calls) for calls in turns])


def call(prompt: list[int], completion: list[int], **changes: Any) -> Call:
    logprobs = [-0.01 * token for token in completion]
    return Call(
        **{"role": "agent", "prompt_ids": prompt, "completion_ids": completion, "logprobs": logprobs, **changes}
    )


@st.composite
def histories(draw: st.DrawFn) -> list[Trajectory]:
    """Episodes whose turns extend the past, open anew, or leave out the last turn; one to three calls a turn, of two roles,
    some not trainable, forced or empty. Every sampled token has an id of its own."""
    token = itertools.count(100)
    found = []
    for index in range(draw(st.integers(1, 3))):
        past: dict[str, list[int]] = {}
        turns = []
        for _ in range(draw(st.integers(0, 5))):
            calls = []
            for _ in range(draw(st.integers(0, 3))):
                role = draw(st.sampled_from(["agent", "critic"]))
                context = draw(st.lists(st.integers(0, 3), min_size=1, max_size=3))
                memory = draw(st.sampled_from(["append", "window", "append"]))
                prompt = past.get(role, []) + context if memory == "append" else context
                completion = [next(token) for _ in range(draw(st.integers(0, 3)))]
                changes: dict[str, Any] = {
                    "trainable": draw(st.sampled_from([True, True, False])),
                    "source": draw(st.sampled_from(["policy", "policy", "demo", "forced"])),
                    "sampling": {"temperature": draw(st.sampled_from([0.0, 0.5, 1.0]))},
                }
                if draw(st.booleans()):
                    changes["logprobs"] = None
                calls.append(call(prompt, completion, role=role, **changes))
                if draw(st.booleans()):
                    past[role] = [*prompt, *completion]
            turns.append(calls)
        found.append(trajectory(*turns, name=str(index)))
    return found


@given(histories())
def test_every_trainable_sampled_token_stands_in_exactly_one_sample(trajectories: list[Trajectory]) -> None:
    samples = make_samples(trajectories)
    where = {}
    for sample in samples:
        for position in sample.positions():
            token = int(sample.token_ids[position])
            assert token not in where
            where[token] = sample, int(position)
    rows = itertools.count()
    wanted = set()
    for index, one in enumerate(trajectories):
        for turn, row in zip(one.turns, rows, strict=False):
            for each in turn.calls:
                if not each.trainable or each.source == "forced":
                    continue
                wanted |= set(each.completion_ids)
                for place, token in enumerate(each.completion_ids):
                    sample, position = where[token]
                    seen = [*each.prompt_ids, *each.completion_ids[:place]]
                    assert sample.token_ids[:position].tolist() == seen
                    assert (sample.row[position], sample.trajectory) == (row, index)
                    assert sample.temperature[position] == (each.sampling["temperature"] or 1.0)
                    expected = np.nan if each.logprobs is None else each.logprobs[place]
                    np.testing.assert_allclose(sample.logprobs[position], expected, rtol=1e-6)
    assert set(where) == wanted
    for sample in samples:
        outside = ~sample.loss_mask
        assert (sample.row[outside] == -1).all() and (sample.temperature[outside] == 1).all()
        assert np.isnan(sample.logprobs[outside]).all()
        assert sample.n_trained > 0 and not sample.loss_mask[0]


@given(histories())
def test_rows_are_the_tables(trajectories: list[Trajectory]) -> None:
    table = TurnTable.from_trajectories(trajectories)
    counts = Counter(int(row) for sample in make_samples(trajectories) for row in sample.row if row >= 0)
    assert [counts[row] for row in range(len(table))] == table["n_tokens"].tolist()


def test_append_is_one_sample_window_is_one_a_turn() -> None:
    first = call([5, 6], [7, 2])
    append = trajectory([first], [call([5, 6, 7, 2, 9], [8, 2])])
    (sample,) = make_samples([append])
    assert sample.token_ids.tolist() == [5, 6, 7, 2, 9, 8, 2]
    assert sample.loss_mask.tolist() == [False, False, True, True, False, True, True]
    assert sample.row.tolist() == [-1, -1, 0, 0, -1, 1, 1]
    window = trajectory([first], [call([5, 9], [8, 2])])
    assert [s.token_ids.tolist() for s in make_samples([window])] == [[5, 6, 7, 2], [5, 9, 8, 2]]


@pytest.mark.parametrize(
    "prompt",
    [
        [5, 6, 7],  # shorter than the history
        [5, 6, 7, 3, 9],  # the completion was changed
        [5, 4, 7, 2, 9],  # the prompt was changed
    ],
)
def test_a_history_that_was_changed_opens_a_new_sample(prompt: list[int]) -> None:
    samples = make_samples([trajectory([call([5, 6], [7, 2])], [call(prompt, [8])])])
    assert [s.n_trained for s in samples] == [2, 1]


def test_a_forced_completion_is_context_only() -> None:
    turns = [call([5], [7, 2], source="forced")], [call([5, 7, 2, 9], [8, 2])]
    (sample,) = make_samples([trajectory(*turns)])
    assert sample.loss_mask.tolist() == [False, False, False, False, True, True]


def test_trajectories_are_never_joined() -> None:
    one, other = trajectory([call([5], [7])]), trajectory([call([5, 7, 9], [8])], name="u")
    assert [s.trajectory for s in make_samples([one, other])] == [0, 1]


def test_a_sampled_token_needs_a_token_before_it() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        Sample.of([7, 2], first=0, row=0)


def test_positions_are_those_of_the_mask() -> None:
    sample = Sample.of([5, 6, 7, 2], first=2, row=4)
    assert (sample.positions().tolist(), sample.length, sample.n_trained) == ([2, 3], 4, 2)
    assert sample.row.tolist() == [-1, -1, 4, 4]


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 120))
def test_micro_batches_are_a_partition_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = list(micro_batches(lengths, budget))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert batch
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= budget
    flat = [lengths[index] for batch in batches for index in batch]
    assert flat == sorted(flat)


def test_padding_is_on_the_right() -> None:
    assert pad_right([np.array([1, 2, 3]), np.array([4])], fill=9).tolist() == [[1, 2, 3], [4, 9, 9]]
