"""Policies without a model, for tests and for replaying a record: the test transport that ships with the library."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from agentrl.errors import PolicyFault
from agentrl.registry import register
from agentrl.types import Completion, Finish, Sampling, Trajectory


@register("policy", "scripted")
class ScriptedPolicy:
    """Answers from a function ``(prompt_ids, sampling, request_id) -> completion ids``.

    >>> policy = ScriptedPolicy(lambda prompt_ids, sampling, request_id: [7, 2])
    """

    capabilities: frozenset[str] = frozenset()

    def __init__(self, answer: Callable[[Sequence[int], Sampling, str], Sequence[int]]) -> None:
        self.answer = answer

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, request_id: str) -> Completion:
        ids = list(self.answer(prompt_ids, sampling, request_id))
        return Completion(ids=ids[: sampling.max_tokens], logprobs=None, finish=_finish(ids, sampling))


@register("policy", "replay")
class ReplayPolicy:
    """Gives the recorded completions of trajectories again, by request id, with their recorded log-probs.

    Raises PolicyFault where a prompt differs from the recorded one, or where nothing was recorded.
    """

    capabilities: frozenset[str] = frozenset()

    def __init__(self, trajectories: Iterable[Trajectory]) -> None:
        self._calls = {
            name: call
            for trajectory in trajectories
            for number, turn in enumerate(trajectory.turns)
            for place, call in enumerate(turn.calls)
            for name in (f"{trajectory.id}/turn={number}", f"{trajectory.id}/turn={number}/call={place}")
        }

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, request_id: str) -> Completion:
        call = self._calls.get(request_id)
        if call is None:
            raise PolicyFault(f"nothing was recorded for {request_id}")
        if list(call.prompt_ids) != list(prompt_ids):
            raise PolicyFault(
                f"{request_id}: the prompt differs from the recorded one; the environment or agent changed"
            )
        logprobs = None if call.logprobs is None else list(call.logprobs)
        return Completion(list(call.completion_ids), logprobs, call.finish, call.policy_version)


def _finish(ids: Sequence[int], sampling: Sampling) -> Finish:
    return "stop" if len(ids) <= sampling.max_tokens and ids and ids[-1] in sampling.stop_ids else "length"
