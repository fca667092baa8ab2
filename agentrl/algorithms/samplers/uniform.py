"""Every task equally often, none twice within an epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from agentrl.algorithms.method import Method
from agentrl.errors import ConfigError
from agentrl.registry import register
from agentrl.seeding import stable_hash
from agentrl.types import RolloutRequest, Task

N_ROUNDS = 6


@register("sampler", "uniform")
@dataclass(frozen=True)
class UniformSampler(Method):
    """Each iteration takes the next ``tasks`` tasks of a shuffled order, ``group_size`` members for each.

    An epoch is a new shuffle and holds n // tasks iterations; the remainder of its order is left out, so that one
    iteration never holds a task twice. What is proposed depends on (seed, step) alone: a resumed run goes on with the
    same tasks. The shuffle is computed place by place, so a lazy sequence of any length is never walked or copied.
    """

    stage = "sampler"
    formula = "tasks of iteration s: places (s mod m)·tasks … of shuffle number s // m, m = n // tasks"
    source = "own"

    tasks: Annotated[int, Field(ge=1)] = 12
    group_size: Annotated[int, Field(ge=1)] = 8

    def init(self, seed: int) -> dict[str, Any]:
        """The state: the run's root seed. It never changes."""
        return {"seed": seed}

    def propose(self, state: Mapping[str, Any], step: int, tasks: Sequence[Task]) -> list[RolloutRequest]:
        """One request for each of ``self.tasks`` different tasks. Raises ConfigError where there are not that many."""
        n = len(tasks)
        if n < self.tasks:
            raise ConfigError(
                f"the uniform sampler wants {self.tasks} different tasks an iteration, the split has {n}: "
                f"set sampler.tasks to at most {n}, or choose a larger split"
            )
        epoch, place = divmod(step, n // self.tasks)
        places = range(place * self.tasks, (place + 1) * self.tasks)
        chosen = [shuffled(index, n, state["seed"], epoch) for index in places]
        return [RolloutRequest(tasks[index], self.group_size) for index in chosen]


def shuffled(place: int, n: int, seed: int, epoch: int) -> int:
    """What stands at ``place`` in the shuffle of 0 … n-1 of (seed, epoch), without writing the shuffle out.

    A Feistel network is a bijection on 2·half bits whatever its round function is; applying it until the number is
    below n restricts it to 0 … n-1 ("cycle walking", about two or three times on average).
    """
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    number = place
    while True:
        left, right = number >> half, number & mask
        for layer in range(N_ROUNDS):
            left, right = right, left ^ (stable_hash(seed, "sampler", epoch, layer, right) & mask)
        number = left << half | right
        if number < n:
            return number
