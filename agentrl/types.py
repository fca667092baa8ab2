"""The plain records that travel from a task to an update. No torch, no I/O.

    task ─► episode ─► Trajectory(turns=[Turn(calls=[Call, …]), …]) ─► Group ─► …

A newcomer needs four of them:

>>> call = Call(role="agent", prompt_ids=[5, 6], completion_ids=[7, 2], logprobs=[-0.1, -0.2])
>>> turn = Turn(observation="You see a door.", calls=[call], action="open door", reward=1.0)
>>> trajectory = Trajectory(id="demo", env="my/Door-v0", task=Task(id="door-0"), turns=[turn], success=True)
>>> trajectory.reward, trajectory.n_turns
(1.0, 1)

Shapes: P prompt tokens, C completion tokens, K turns, G members of a group. Everything here survives
``to_dict`` → JSON → ``from_dict`` unchanged.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral
from typing import Any, Literal, TypedDict

Json = Any  # whatever json.dumps accepts


class Message(TypedDict, total=False):
    """One chat message in OpenAI's form. Version 1 carries text; ``content`` stays open for image parts."""

    role: str
    content: str | list[dict[str, Any]]
    tool_calls: list[dict[str, Any]]
    tool_call_id: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool that a model wants: ``arguments`` by name, JSON."""

    name: str
    arguments: Mapping[str, Json] = field(default_factory=dict)


class Outcome(enum.StrEnum):
    """Why an episode ended.

    The first five are the policy's own doing and are trained on; the last four are faults of the machinery: such an
    episode is retried by replay and is never scored, trained on or part of a baseline.
    """

    TERMINATED = "terminated"
    TRUNCATED = "truncated"
    MAX_TURNS = "max_turns"
    MAX_TOKENS = "max_tokens"
    TIME_LIMIT = "time_limit"
    ENV_FAULT = "env_fault"
    ENV_TIMEOUT = "env_timeout"
    POLICY_FAULT = "policy_fault"
    CANCELLED = "cancelled"

    @property
    def is_fault(self) -> bool:
        """True where the machinery failed, not the policy."""
        return self in _FAULTS


_FAULTS = frozenset({Outcome.ENV_FAULT, Outcome.ENV_TIMEOUT, Outcome.POLICY_FAULT, Outcome.CANCELLED})


@dataclass(frozen=True, slots=True)
class Task:
    """What to solve. ``options`` is JSON and reaches the environment by ``reset(options={"task": task})``; ``env`` names the
    environment of a run that has several ("" otherwise)."""

    id: str
    seed: int = 0
    type: str = ""
    split: str = "train"
    options: Mapping[str, Json] = field(default_factory=dict)
    reference: Json = None
    hints: Sequence[str] = ()
    max_turns: int | None = None
    env: str = ""

    def __post_init__(self) -> None:
        if type(self.seed) is not int and isinstance(self.seed, Integral):
            object.__setattr__(self, "seed", int(self.seed))  # numpy's integers are none for JSON and for Gymnasium


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a completion is drawn. ``temperature = 0`` is greedy; ``key`` names the random stream (see seeding)."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 64
    stop_ids: tuple[int, ...] = ()
    key: tuple[int | str, ...] = ()

    def shown(self) -> dict[str, Json]:
        """What a call's record keeps of it."""
        return {"temperature": self.temperature, "top_p": self.top_p, "max_tokens": self.max_tokens}


Finish = Literal["stop", "length", "abort"]


@dataclass(slots=True)
class Completion:
    """What a policy returns: token ids, their log-probs at the sampling temperature, why it stopped, and the version
    of the weights that produced it. Where an update came in the middle, ``versions`` says it of each token, and ``version`` is the
    first token's, the oldest."""

    ids: list[int]
    logprobs: list[float] | None
    finish: Finish = "stop"
    version: int = 0
    versions: list[int] | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What a chat model returns: a text, and what endpoints give beside it. ``finish`` is "abort" where a filter of the
    endpoint cut the reply off; ``n_prompt`` and ``n_completion`` count tokens as the endpoint reports them (None: it does
    not), ``n_cached`` those of the prompt that it had in its cache."""

    text: str = ""
    reasoning: str = ""
    refusal: str = ""
    tool_calls: Sequence[Mapping[str, Json]] = ()
    finish: Finish = "stop"
    n_prompt: int | None = None
    n_completion: int | None = None
    n_cached: int = 0

    def to_dict(self) -> dict[str, Json]:
        """``text`` and every other field that says something, plain JSON types only."""
        found = {spec.name: getattr(self, spec.name) for spec in fields(self) if spec.name != "finish"}
        return {name: list(v) if name == "tool_calls" else v for name, v in found.items() if v or name == "text"}


@dataclass(slots=True)
class Call:
    """One request to a model. A chat model behind an API shows no token ids: its calls hold ``messages`` and ``reply``
    (``Reply.to_dict``) and are not trainable."""

    role: str
    prompt_ids: Sequence[int]  # [P] exactly what the model saw
    completion_ids: Sequence[int]  # [C] exactly what it sampled
    logprobs: Sequence[float] | None = None  # [C] under the sampling policy; None: recompute
    sampling: Mapping[str, Json] = field(default_factory=dict)
    finish: Finish = "stop"
    policy_version: int = 0
    versions: Sequence[int] | None = None  # [C] of each token, where an update came in the middle
    trainable: bool = True
    source: Literal["policy", "forced", "demo", "rule"] = "policy"  # a rule: a Python function in a model's place
    messages: Sequence[Message] | None = None  # exactly what was sent, where the ids are not known
    reply: Mapping[str, Json] | None = None  # exactly what came back
    learner_logprobs: Sequence[float] | None = (
        None  # [C] before the first update on it, where the learner computed them
    )


@dataclass(slots=True)
class Turn:
    """One decision of the agent and the environment's reply.

    ``observation`` and ``state_key`` are what the agent saw *before* acting; equal keys mean the same decision point.
    ``penalty`` is what reward methods charged for the turn (a bad action); credit subtracts it after discounting, so it never
    reaches earlier turns.
    """

    observation: str
    state_key: str | None = None
    calls: list[Call] = field(default_factory=list)
    action: str = ""
    valid: bool = True
    reward: float = 0.0
    penalty: float = 0.0
    advantage: float | None = None  # what credit gave this turn; None where it was filtered out or not trained on
    columns: dict[str, Json] = field(
        default_factory=dict
    )  # what the learner measured for credit: entropy …, where it is read
    info: dict[str, Json] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)  # "sampling", "environment"


@dataclass(slots=True)
class Trajectory:
    """The record of one episode. ``id`` is greppable: ``iteration=12/task=household-17/member=3``."""

    id: str
    env: str
    task: Task
    group: str = ""
    seed: int = 0
    turns: list[Turn] = field(default_factory=list)  # [K]
    last_observation: str = ""
    rewards: dict[str, float] = field(default_factory=dict)  # named parts added by score methods
    success: bool = False
    outcome: Outcome = Outcome.TERMINATED
    error: str = ""
    failure: str = ""  # why it failed, as the environment says (one of ``agentrl.env.FAILURES``; "": it does not)

    @property
    def n_turns(self) -> int:
        return len(self.turns)

    @property
    def reward(self) -> float:
        """The undiscounted sum of the environment's rewards and of the named score parts."""
        return sum(turn.reward for turn in self.turns) + sum(self.rewards.values())

    def calls(self) -> Iterator[Call]:
        """Every call of every turn, in order."""
        for turn in self.turns:
            yield from turn.calls

    def __str__(self) -> str:
        """A readable transcript."""
        head = f"{self.id}  [{self.task.type or self.env}]  outcome={self.outcome}  success={self.success}"
        lines = [f"{head}  reward={self.reward:g}"]
        for number, turn in enumerate(self.turns, start=1):
            lines.append(f"\n[{number}] {turn.observation.strip()}")
            flag = "" if turn.valid else "   (invalid)"
            gain = f"   reward {turn.reward:+g}" if turn.reward else ""
            credit = "" if turn.advantage is None else f"   advantage {turn.advantage:+.2f}"
            lines.append(f"  > {turn.action}{flag}{gain}{credit}")
        if self.last_observation:
            lines.append(f"\n[end] {self.last_observation.strip()}")
        if self.error:
            lines.append(f"\nerror: {self.error}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Json]:
        """Plain JSON types only. Lists are shared, not copied: it is for writing down."""
        record = _shallow(self)
        record["outcome"] = str(self.outcome)
        record["task"] = {**_shallow(self.task), "options": dict(self.task.options), "hints": list(self.task.hints)}
        record["turns"] = [{**_shallow(turn), "calls": [_shallow(call) for call in turn.calls]} for turn in self.turns]
        return record

    @classmethod
    def from_dict(cls, record: Mapping[str, Json]) -> Trajectory:
        """The inverse of ``to_dict``. Raises TypeError or KeyError for a record of another shape."""
        parts = dict(record)
        task = dict(parts["task"])
        task["hints"] = tuple(task.get("hints", ()))
        parts["task"] = Task(**task)
        parts["outcome"] = Outcome(parts["outcome"])
        parts["turns"] = [
            Turn(**{**turn, "calls": [Call(**call) for call in turn["calls"]]}) for turn in parts["turns"]
        ]
        return cls(**parts)


def _shallow(record: Any) -> dict[str, Json]:
    return {spec.name: getattr(record, spec.name) for spec in fields(record)}


@dataclass(slots=True)
class Group:
    """The trajectories of one task that are compared with each other, [G]."""

    id: str
    members: list[Trajectory]


@dataclass(frozen=True, slots=True)
class RolloutRequest:
    """What a sampler asks for, and what a filter asks for again: ``n`` members of one group on ``task``.

    A filter may leave the task open (None): then the sampler's next request stands in for it, with ``n`` members where n is
    not 0, else with as many as the sampler says (``agentrl.stages.Proposals``).
    """

    task: Task | None
    n: int
    hint: str | None = None
    branch_from: str | None = None
    temperature: float | None = None
    max_turns: int | None = None
    source: str = "sampler"
