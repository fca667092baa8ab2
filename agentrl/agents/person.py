"""A person as an agent: reads what an agent reads, and types the action.

A line is an action. A line that begins with a slash is a word to the terminal (``/help``), never an action; an action that begins
with a slash itself is typed with two.
"""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from agentrl.agents.base import Decision, Episode, Session, View
from agentrl.agents.plain import ExpertAgent, OracleAgent
from agentrl.env import hook
from agentrl.errors import did_you_mean
from agentrl.terminal import Terminal

UNDO, LEFT, INTERRUPTED = "undo", "the person left", "interrupted"  # why a person's episode was cancelled
HELP = {
    "/help": "this list",
    "/actions": "the admissible actions",
    "/hint": "what the oracle would do now, or the expert where there is no oracle",
    "/info": "what the environment tells an agent besides the observation",
    "/state": "the state key: equal keys are the same decision point",
    "/undo": "take the last turn back",
    "/quit": "leave the game (so does the end of the input)",
}


@dataclass(frozen=True)
class PersonAgent:
    """Asks at a terminal. ``given`` are the actions of the first turns, taken without asking. A person who leaves ends the episode
    with the outcome ``cancelled`` and the reason as its error; ``/undo`` does so too, for a host that then plays ``given``
    again without the last action (``can_undo``)."""

    terminal: Terminal = field(default_factory=Terminal)
    given: tuple[str, ...] = ()
    can_undo: bool = False
    max_turns: int | None = None  # shown in the prompt

    def start(self, episode: Episode) -> Session:
        return _PersonSession(self, episode)


class _PersonSession:
    def __init__(self, agent: PersonAgent, episode: Episode) -> None:
        self.agent = agent
        self.say = agent.terminal.say
        self.state_key = hook(episode.env, "state_key")
        self.oracle = OracleAgent().start(episode) if hook(episode.env, "oracle") is not None else None
        asked = self.oracle is None and hook(episode.env, "expert") is not None
        self.expert = ExpertAgent().start(episode) if asked else None
        self.advice = ""
        self.words: dict[str, Callable[[View], Awaitable[Decision | None]]] = {
            "/help": self._help,
            "/actions": self._actions,
            "/hint": self._hint,
            "/info": self._info,
            "/state": self._state,
            "/undo": self._undo,
            "/quit": self._quit,
        }
        if not agent.can_undo:
            del self.words["/undo"]

    async def act(self, view: View) -> Decision:
        if self.expert is not None:  # it takes notes: it has to see every turn
            self.advice = await _advice("expert", self.expert, view)
        if view.turn < len(self.agent.given):
            return Decision(self.agent.given[view.turn])
        self._show(view)
        try:
            decision = None
            while decision is None:
                decision = await self._answer(view)
            return decision
        except KeyboardInterrupt:  # what was played so far is kept; the host raises it again
            return Decision("", leaves=True, problem=INTERRUPTED)

    def _show(self, view: View) -> None:
        goal = view.info.get("goal")
        if view.turn == 0 and isinstance(goal, str):
            self.say(f"Goal: {goal}", "bold green")
        self.say(view.observation.strip())

    async def _answer(self, view: View) -> Decision | None:
        """What one line decides; None where it decides nothing."""
        actions = _admissible(view) or []
        of = f"/{self.agent.max_turns}" if self.agent.max_turns else ""
        choices = [*(f"/{action}" if action.startswith("/") else action for action in actions), *self.words]
        line = self.agent.terminal.ask(f"[{view.turn + 1}{of}] ", choices)
        if line is None:
            return Decision("", leaves=True, problem=LEFT)
        line = line.strip()
        if line.startswith("/") and not line.startswith("//"):
            return await self._word(line, view)
        action = line[1:] if line.startswith("//") else line
        listed = view.info.get("admissible_actions") or ()  # its own ``in`` may know more than is listed
        if action and actions and action not in listed:
            word = f"/{action}"
            near = [word] if word in self.words else difflib.get_close_matches(action, actions, n=1)
            remedy = f"did you mean '{near[0]}'?" if near else "/actions lists those that are."
            self.say(f"'{action}' is not admissible here; {remedy}", "yellow")
        return Decision(action) if action else None

    async def _word(self, line: str, view: View) -> Decision | None:
        if line in self.words:
            return await self.words[line](view)
        known = did_you_mean(line, self.words)
        self.say(
            f"'{line}' is no word of this terminal.{known} An action that begins with / is typed with //.", "yellow"
        )
        return None

    # ── the words ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _help(self, view: View) -> None:
        self.say("A line is an action; TAB completes it. Words with a slash are for this terminal:", "bold")
        for word in self.words:
            self.say(f"  {word:9} {HELP[word]}")

    async def _actions(self, view: View) -> None:
        actions = _admissible(view)
        nothing = "There is none." if actions is not None else "This environment does not list its admissible actions."
        self.say("\n".join(f"  {action}" for action in actions or ()) or nothing)

    async def _hint(self, view: View) -> None:
        if self.oracle is not None:
            self.advice = await _advice("oracle", self.oracle, view)
        self.say(self.advice or "This environment has neither an oracle nor an expert.", "cyan")

    async def _info(self, view: View) -> None:
        shown = {
            key: text for key, text in view.fields().items() if key not in ("observation", "admissible_actions", "turn")
        }
        self.say("\n".join(f"  {key}: {text}" for key, text in shown.items()) or "Nothing.")

    async def _state(self, view: View) -> None:
        key = self.state_key() if self.state_key is not None else None
        self.say("This environment has no state keys." if key is None else key)

    async def _undo(self, view: View) -> Decision | None:
        if view.turn:
            return Decision("", leaves=True, problem=UNDO)
        self.say("There is no turn to take back.", "yellow")
        return None

    async def _quit(self, view: View) -> Decision:
        return Decision("", leaves=True, problem=LEFT)


def _admissible(view: View) -> list[str] | None:
    actions = view.info.get("admissible_actions")
    return None if actions is None else [str(action) for action in actions]


async def _advice(name: str, adviser: Session, view: View) -> str:
    """What the oracle or the expert would do, as a sentence. Its own errors are told, too: they are no fault of the game."""
    try:
        action = (await adviser.act(view)).action
    except Exception as error:
        return f"The {name} failed: {type(error).__name__}: {error}"
    return f"The {name} would: {action}" if action else f"The {name} knows no way from here."
