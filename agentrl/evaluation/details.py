"""What an evaluation says beyond rates by type: each episode in a row, pass@k and pass^k, difficulty, tokens, time, failures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agentrl.evaluation.evaluate import Evaluation, rates_by
from agentrl.evaluation.failures import counts, failure
from agentrl.evaluation.statistics import clustered_mean, clustered_wilson, pass_at_k, pass_hat_k
from agentrl.types import Call, Task, Trajectory

Row = Mapping[str, Any]


def details(evaluation: Evaluation) -> dict[str, Any]:
    """What ``Evaluation.to_dict`` does not say.

    ``n_tasks``; ``pass_at_k`` and ``pass_hat_k``: by k (1, 2, 4 … and the number of samples) the value, its ``ci95`` and
    ``n_tasks``; ``score_ci95`` (by ``clustered_mean``; None for one task); ``by_difficulty``, where tasks have one;
    ``tokens_per_episode``, where models were called; ``time``: seconds an episode; ``failures``: how many episodes failed in which
    way (``failures``); and ``episodes``: one row each (``episode_rows``).
    """
    rows = episode_rows(evaluation.trajectories, evaluation.samples)
    scored = [row for row in rows if not row["fault"]]
    difficulties = [difficulty_of(trajectory.task) for trajectory in evaluation.scored]
    by_task = grouped(scored)
    sums = [sum(row["score"] for row in group) for group in by_task.values()]
    score_ci95 = clustered_mean(sums, [len(group) for group in by_task.values()])[1] if by_task else None
    tokens = _mean_tokens(scored)
    return {
        "n_tasks": len(by_task),
        "score_ci95": None if score_ci95 is None else list(score_ci95),
        **passes(by_task.values(), evaluation.samples),
        **(
            {"by_difficulty": rates_by(difficulties, evaluation.scored, clustered=evaluation.samples > 1)}
            if any(difficulties)
            else {}
        ),
        **({"tokens_per_episode": tokens} if tokens else {}),
        "time": _mean_seconds(evaluation.scored),
        "failures": counts(row["failure"] for row in rows),
        "episodes": rows,
    }


def episode_rows(trajectories: Sequence[Trajectory], samples: int = 1) -> list[dict[str, Any]]:
    """One row an episode: ``id``, ``task``, ``sample`` (its number among those of the task), ``type``, ``difficulty``, ``outcome``,
    ``fault``, ``success``, ``score`` (total reward), ``turns``, ``invalid`` (turns with an invalid action), ``tokens`` (prompt and
    completion, summed over its calls; None where an endpoint did not say; absent without calls), ``failure``.
    ``trajectories`` come task by task, ``samples`` of each."""
    return [_row(trajectory, number % samples) for number, trajectory in enumerate(trajectories)]


def _row(trajectory: Trajectory, sample: int) -> dict[str, Any]:
    calls = [call for call in trajectory.calls() if call.source != "rule"]
    return {
        "id": trajectory.id,
        "task": trajectory.task.id,
        "sample": sample,
        "type": trajectory.task.type,
        "difficulty": difficulty_of(trajectory.task),
        "outcome": str(trajectory.outcome),
        "fault": trajectory.outcome.is_fault,
        "success": trajectory.success,
        "score": trajectory.reward,
        "turns": trajectory.n_turns,
        "invalid": sum(not turn.valid for turn in trajectory.turns),
        **({"tokens": _tokens(calls)} if calls else {}),
        "failure": failure(trajectory),
    }


def _tokens(calls: Sequence[Call]) -> dict[str, int | None]:
    known = {
        "prompt": [_n_tokens(call, call.prompt_ids, "n_prompt") for call in calls],
        "completion": [_n_tokens(call, call.completion_ids, "n_completion") for call in calls],
    }
    return {name: None if None in found else sum(n for n in found if n) for name, found in known.items()}


def _n_tokens(call: Call, ids: Sequence[int], key: str) -> int | None:
    return len(ids) if call.reply is None else call.reply.get(key)


def difficulty_of(task: Task) -> str:
    """What the task's options call ``difficulty``, else ``level``; "" where they say neither."""
    found = task.options.get("difficulty", task.options.get("level"))
    return str(found) if isinstance(found, (str, int, float)) else ""


def grouped(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows of each task."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["task"], []).append(row)
    return found


def ks(samples: int) -> list[int]:
    """1, 2, 4 … and ``samples``.

    >>> ks(6)
    [1, 2, 4, 6]
    """
    return [*(2**power for power in range((samples - 1).bit_length())), samples]


def passes(groups: Iterable[Sequence[Row]], samples: int) -> dict[str, Any]:
    """``pass_at_k`` and ``pass_hat_k``: means over tasks with at least k scored episodes, with ``clustered_wilson``'s intervals;
    a k that no task reaches is left out."""
    totals = [(len(group), sum(row["success"] for row in group)) for group in groups]
    result: dict[str, Any] = {}
    for name, estimate in (("pass_at_k", pass_at_k), ("pass_hat_k", pass_hat_k)):
        result[name] = {}
        for k in ks(samples):
            values = [estimate(n, c, k) for n, c in totals if n >= k]
            n_episodes = sum(n for n, _ in totals if n >= k)
            if values:
                result[name][str(k)] = {
                    "value": sum(values) / len(values),
                    "ci95": list(clustered_wilson(values, [1] * len(values), n_episodes)),
                    "n_tasks": len(values),
                }
    return result


def _mean_tokens(rows: Sequence[Row]) -> dict[str, float | None]:
    """Mean tokens of the episodes; None where one is not known; empty where no model was called."""
    called = [row["tokens"] for row in rows if "tokens" in row]
    if not called:
        return {}
    found: dict[str, float | None] = {}
    for name in ("prompt", "completion"):
        values = [tokens[name] for tokens in called]
        found[name] = None if None in values else sum(values) / len(rows)
    return found


def _mean_seconds(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Mean seconds of an episode that its turns waited for actions and for the environment. Episodes wait side by side, so
    these do not add up to the evaluation's ``seconds``."""
    n = max(1, len(trajectories))
    return {
        f"{what}_per_episode_s": round(
            sum(turn.seconds.get(what, 0.0) for trajectory in trajectories for turn in trajectory.turns) / n, 4
        )
        for what in ("sampling", "environment")
    }
