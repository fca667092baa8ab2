"""An agent made of modules: an async function of what is seen and of ``call``, which speaks to named roles.

    @flow("careful", roles={"planner": "trained", "critic": "rule:my_module:criticise"})
    async def careful(view, call):
        plan = await call("planner", f"{view.observation} What next?", schema=Plan)
        if plan.problem:                                       # a failed parse is data, never an exception
            return call.invalid(plan.problem)
        verdict = await call("critic", f"Is {plan.value.action} wise?", facts={"action": plan.value.action})
        return plan.value.action if verdict.text == "yes" else "look"

It is called once a turn and returns the action. What it keeps between turns stands in ``call.state``, which is fresh for each
episode; the graph itself keeps nothing. A run file picks it by ``[agent] name`` and binds its roles in ``[agent.roles]``. Calls of
trained roles become samples; all calls are recorded.

A fault in the middle of an episode is repaired by playing again: the function runs again, and is answered from the record.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Generic, Protocol, TypeVar, overload

from pydantic import Field

from agentrl import seeding
from agentrl.agents.base import Decision, Episode, Session, View
from agentrl.agents.flow.speakers import (
    Asked,
    DemoSpeaker,
    Request,
    Speaker,
    Stopped,
    TokenSpeaker,
    count_words,
)
from agentrl.agents.flow.structured import read, without_thoughts
from agentrl.errors import ConfigError, EnvFault, PolicyFault, TurnFault, did_you_mean
from agentrl.registry import register
from agentrl.types import Call, Message, Outcome, Turn

T = TypeVar("T")
OUT_OF_TIME = "the seconds of the episode are used up"


@dataclass(frozen=True, slots=True)
class FlowLimits:
    """What bounds a graph of modules, also in the middle of a call. ``calls`` of one turn, to any role: one more makes the turn
    invalid. ``tokens`` that an episode may sample, over all roles: then it ends with ``max_tokens``; roles then speak one by one.
    ``seconds`` of an episode, by the clock, waiting included: then it ends with ``time_limit``. What holds the event loop is not
    interrupted, the clock is looked at behind it: a rule that is no coroutine function, a batch of a policy that answers in
    rounds, an environment of this process."""

    calls: Annotated[int, Field(ge=1)] = 16
    tokens: Annotated[int, Field(ge=1)] | None = None
    seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What a role said: ``text`` without thoughts, and with a schema ``value``, or the ``problem`` why there is none."""

    text: str
    value: T | None
    problem: str
    call: Call


class Graph(Protocol):
    """What a flow is made of. ``roles``: each role and who speaks for it unless the run file says otherwise."""

    roles: Mapping[str, Any]

    async def __call__(self, view: View, call: Caller) -> str | Decision:
        """The action of a turn."""
        ...


@dataclass(frozen=True)
class FunctionGraph:
    """A graph that is one function. ``texts``: what it writes into prompts besides what it sees (a tokenizer made of the
    environment's words must know them)."""

    function: Callable[[View, Caller], Awaitable[str | Decision]]
    roles: Mapping[str, Any]
    texts: Sequence[str] = ()

    async def __call__(self, view: View, call: Caller) -> str | Decision:
        return await self.function(view, call)


def flow(
    name: str, *, roles: Mapping[str, Any], texts: Iterable[str] = ()
) -> Callable[[Callable[[View, Caller], Awaitable[str | Decision]]], FunctionGraph]:
    """Decorator that makes an agent of an async function and files it under ``name`` for run files. A graph with settings of
    its own is a frozen dataclass with ``roles`` and ``__call__``, under ``@register("flow", name)``. Raises ConfigError for what is
    no async function, and for roles that are no table."""

    def decorate(function: Callable[[View, Caller], Awaitable[str | Decision]]) -> FunctionGraph:
        if not inspect.iscoroutinefunction(function):
            raise ConfigError(f"the flow '{name}' must be an async function of (view, call); write async def")
        if not isinstance(roles, Mapping):
            raise ConfigError(f"the flow '{name}' wants roles as a table, {{'planner': 'trained'}}; got {roles!r}")
        graph = FunctionGraph(function, dict(roles), (texts,) if isinstance(texts, str) else tuple(texts))
        return register("flow", name)(graph)

    return decorate


@dataclass(frozen=True)
class FlowAgent:
    """A graph with someone who speaks for each of its roles. ``tools``: those that the environment names, in OpenAI's form.
    ``context`` is that of the trained policy. Raises ConfigError for a role without a speaker."""

    graph: Any
    speakers: Mapping[str, Speaker]
    limits: FlowLimits = field(default_factory=FlowLimits)
    tools: Sequence[Mapping[str, Any]] = ()
    context: int | None = None

    def __post_init__(self) -> None:
        for role in self.graph.roles:
            if role not in self.speakers:
                raise ConfigError(f"nobody speaks for the role '{role}'; name who does in [agent.roles]")

    def start(self, episode: Episode) -> Session:
        return FlowSession(self, episode)


class FlowSession:
    """One flow in one episode."""

    def __init__(self, agent: FlowAgent, episode: Episode) -> None:
        self.agent = agent
        self.episode = episode
        self.state: dict[str, Any] = {}
        self.seed = int(episode.rng.integers(2**31))
        self.n_sampled = 0
        self.turnstile: AbstractAsyncContextManager[Any] = (
            nullcontext() if agent.limits.tokens is None else asyncio.Lock()
        )
        own = None if agent.limits.seconds is None else time.monotonic() + agent.limits.seconds
        self.deadline: float | None = min((end for end in (own, episode.deadline) if end is not None), default=None)

    async def act(self, view: View) -> Decision:
        return await self._play(view, None)

    async def replay(self, view: View, turn: Turn) -> Decision:
        """Takes in a turn that an earlier try has played: the graph runs, and its calls are answered from the record. One that a
        fault cut off goes on behind it."""
        unfinished = bool(turn.info.get("unfinished"))
        decision = await self._play(view, turn.calls, goes_on=unfinished)
        if unfinished:
            return decision
        if decision.action != turn.action:
            raise EnvFault(f"turn {view.turn} cannot be replayed: the agent now came to {decision.action!r}")
        deliberate = not turn.info.get("noise", False)
        return replace(decision, calls=turn.calls, problem=turn.info.get("problem", ""), deliberate=deliberate)

    async def _play(self, view: View, recorded: Sequence[Call] | None, *, goes_on: bool = False) -> Decision:
        caller = Caller(self, view, recorded, goes_on=goes_on)
        limit, found = asyncio.timeout(None), None
        try:
            async with limit:
                caller.check_time()
                if self.deadline is not None and caller.lives:
                    limit.reschedule(asyncio.get_running_loop().time() + self.deadline - time.monotonic())
                found = await self.agent.graph(view, caller)
        except (Exception, Stopped, BaseExceptionGroup):
            if caller.over is None and not limit.expired():
                raise
        finally:
            await caller.close()
        # Whatever the graph made of it, also nothing: a limit is a limit, and a fault a fault.
        if isinstance(caller.over, PolicyFault):
            raise TurnFault(str(caller.over), caller.unbroken()) from caller.over
        if isinstance(caller.over, EnvFault):
            raise caller.over
        if caller.over is not None:
            return caller.ended(caller.over.problem, caller.over.outcome)
        if limit.expired():
            return caller.ended(OUT_OF_TIME, Outcome.TIME_LIMIT)
        if not isinstance(found, str | Decision):
            raise ConfigError(f"a flow returns an action, a text; got {type(found).__name__}")
        return caller.decided(Decision(found) if isinstance(found, str) else found)


class Caller:
    """What a graph speaks through in one turn. ``state`` lives as long as the episode."""

    def __init__(
        self, session: FlowSession, view: View, recorded: Sequence[Call] | None, *, goes_on: bool = False
    ) -> None:
        self._session = session
        self._view = view
        self._recorded = list(recorded or ())
        self.lives = recorded is None or goes_on  # whether anybody is asked behind the record
        self.over: Stopped | PolicyFault | EnvFault | None = None  # what ended the turn in the middle of a call
        self.problems: list[str] = []
        self._made: dict[int, Call] = {}  # by the place of their asking: several may be under way at a time
        self._n_asked = 0
        self._tasks: set[asyncio.Task[Any] | None] = set()
        self._closed = False
        self._strayed = False

    @property
    def calls(self) -> list[Call]:
        """The calls that were answered, in the order in which they were asked."""
        return [self._made[number] for number in sorted(self._made)]

    def unbroken(self) -> list[Call]:
        """Those of them before the first that was not answered: as far as another try can go by the record."""
        first = next(number for number in range(len(self._made) + 1) if number not in self._made)
        return self.calls[:first]

    @property
    def state(self) -> dict[str, Any]:
        """What the graph keeps from turn to turn, empty when an episode begins."""
        return self._session.state

    @property
    def tools(self) -> Sequence[Mapping[str, Any]]:
        """The environment's tools, in OpenAI's form."""
        return self._session.agent.tools

    @property
    def turns_left(self) -> int | None:
        """How many turns the episode may still have, this one included; None where nobody said."""
        most = self._session.episode.max_turns
        return None if most is None else most - self._view.turn

    def n_tokens(self, text: str, role: str = "") -> int:
        """How long a text is: in tokens of ``role``, or where it has no tokenizer of the first role that has one, else in words
        and signs."""
        speakers = self._session.agent.speakers
        known = [speakers[role]] if role in speakers else []
        first = next(
            (each for each in (*known, *speakers.values()) if isinstance(each, TokenSpeaker | DemoSpeaker)), None
        )
        return count_words(text) if first is None else first.n_tokens(text)

    def invalid(self, problem: str) -> Decision:
        """A turn without an action: the environment is given "" and the turn counts as invalid."""
        return Decision("", valid=False, problem=problem)

    @overload
    async def __call__(
        self, role: str, messages: str | Sequence[Message], *, facts: Mapping[str, Any] | None = ...
    ) -> Answer[None]: ...

    @overload
    async def __call__(
        self,
        role: str,
        messages: str | Sequence[Message],
        schema: type[T],
        *,
        facts: Mapping[str, Any] | None = ...,
    ) -> Answer[T]: ...

    async def __call__(
        self,
        role: str,
        messages: str | Sequence[Message],
        schema: type[Any] | None = None,
        *,
        facts: Mapping[str, Any] | None = None,
    ) -> Answer[Any]:
        """Asks a role. ``messages``: a conversation, or the text of one message; with ``schema`` the answer must be one JSON object
        that it admits. ``facts`` are what a rule reads in place of the messages. Several calls may be under way at a time
        (``asyncio.gather``). Raises ConfigError for an unknown role, and what ends the turn or the episode at a limit or a fault:
        it does so whether or not the graph catches it."""
        speakers = self._session.agent.speakers
        if role not in speakers:
            raise ConfigError(f"the flow asks a role '{role}' that it does not name.{did_you_mean(role, speakers)}")
        talk: Sequence[Message] = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        speaker = speakers[role]
        call = await self._said(speaker, role, talk, facts or {})
        said = speaker.text_of(call)
        found = None if schema is None else read(said, schema)
        if found is not None and found.problem:
            self.problems.append(f"{role}: {found.problem}")
        value, problem = (None, "") if found is None else (found.value, found.problem)
        return Answer(without_thoughts(said), value, problem, call)

    async def _said(self, speaker: Speaker, role: str, talk: Sequence[Message], facts: Mapping[str, Any]) -> Call:
        if self._closed:
            raise ConfigError(f"the flow asks the role '{role}' behind the end of its turn; await whatever it starts")
        if self.over is not None:
            raise self.over
        self._tasks.add(asyncio.current_task())
        number = self._n_asked
        self._n_asked += 1
        try:
            async with self._session.turnstile:
                call = await self._answered(speaker, number, role, talk, facts)
            self._made[number] = call
            self._session.n_sampled += _n_sampled(call)
            self.check_time()
        except (Stopped, PolicyFault, EnvFault) as error:
            self.over = self.over or error
            raise
        return call

    async def _answered(
        self, speaker: Speaker, number: int, role: str, talk: Sequence[Message], facts: Mapping[str, Any]
    ) -> Call:
        session, turn = self._session, self._view.turn
        if number >= session.agent.limits.calls:
            raise Stopped(f"more than {session.agent.limits.calls} calls in one turn", None)
        if number < len(self._recorded) or not self.lives:
            return self._replayed(number, role)
        self.check_time()
        asked = Asked(role, talk, facts, seeding.stream(session.seed, "rule", role, turn, number))
        call = await speaker.say(Request(session.episode, turn, number, asked, self._left()))
        self._strayed = self._strayed or asked.strayed
        return call

    def check_time(self) -> None:
        """Raises Stopped where the seconds of the episode are used up."""
        deadline = self._session.deadline
        if deadline is not None and self.lives and time.monotonic() > deadline:
            self.over = self.over or Stopped(OUT_OF_TIME, Outcome.TIME_LIMIT)
            raise self.over

    async def close(self) -> None:
        """Ends what the graph has started and not waited for."""
        self._closed = True
        others = [task for task in self._tasks if task is not None and task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _left(self) -> int | None:
        """How many tokens may still be sampled. Raises Stopped where there are none."""
        bound = self._session.agent.limits.tokens
        if bound is None:
            return None
        if self._session.n_sampled >= bound:
            raise Stopped(f"the {bound} tokens of the episode are used up", Outcome.MAX_TOKENS)
        return bound - self._session.n_sampled

    def _replayed(self, number: int, role: str) -> Call:
        if number >= len(self._recorded) or self._recorded[number].role != role:
            known = self._recorded[number].role if number < len(self._recorded) else "nobody"
            raise EnvFault(
                f"turn {self._view.turn} cannot be replayed: the agent now asks '{role}', and asked '{known}' before"
            )
        return self._recorded[number]

    def decided(self, decision: Decision) -> Decision:
        """The decision that a graph came to, with what was called and what went wrong on the way."""
        decision.calls = self.calls
        told = [*self.problems, *([decision.problem] if decision.problem else [])]
        decision.problem = "; ".join(dict.fromkeys(told))
        decision.deliberate = decision.deliberate and not self._strayed
        return decision

    def ended(self, problem: str, outcome: Outcome | None) -> Decision:
        """What a limit makes of the turn: an invalid one, or with ``outcome`` the last, which the environment does not see."""
        return self.decided(Decision("", valid=False, problem=problem, ends=outcome))


def _n_sampled(call: Call) -> int:
    """Tokens; of an endpoint that does not count them, words and signs."""
    if call.reply is None:
        return len(call.completion_ids)
    if call.source == "rule":
        return 0
    counted: Any = call.reply.get("n_completion")
    return int(counted or count_words(str(call.reply["text"])))
