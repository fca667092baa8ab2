"""Critiques of proposed actions as an environment: one turn, in which a critic says whether an action is right and what is.

    env = agentrl.env.make("agentrl/Critique-v0", env="agentrl/Household-v0", options={"difficulty": "tiny"})
    text, info = env.reset(seed=0)
    text, reward, terminated, truncated, info = env.step(env.get_wrapper_attr("oracle")()[0])

What a critic of actions is trained on (GUI-Critic-R1, arXiv 2506.04614), made from any environment with an oracle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from random import Random
from typing import Any

from agentrl import critique
from agentrl import env as environments
from agentrl.answers import agreement
from agentrl.env import SPLITS, LazyTasks, TextEnv, hook
from agentrl.envs.critique.states import Proposal, propose
from agentrl.errors import ConfigError, GameError, did_you_mean
from agentrl.seeding import stream
from agentrl.types import Task

_PLACE = "/critique="


class CritiqueEnv(TextEnv):
    """States of another environment (``env``, made with ``options``) in which an action is proposed; what is right there says its
    oracle. An action is the critic's whole output: its thought, its score ("Correct" or "Incorrect") and its suggestion, each in
    tags of that name. Success, and a reward of ``reward_scale``, is the right score; set that to 0 where the score method
    ``s_grpo`` rewards.

    ``states`` of each task of the other environment are asked about; ``wrong`` is the share of proposals that are wrong, ``stray``
    the share of random turns on the way to a state. ``question`` is what the critic is shown, a template of ``{taken}`` (the
    actions before), ``{proposed}``, ``{observation}`` and the other environment's own fields, as the agent "critic" shows it.

    The oracle may know what the critic cannot see: of two unopened boxes only the one that holds the thing is right.

    Keys of ``info``: goal, proposed; at the end label ("Correct" or "Incorrect"), reference (the right actions, one a line),
    success, valid (the output has all parts), suggested (the suggestion is one of the right actions, by their words).
    """

    def __init__(
        self,
        env: str = "agentrl/Household-v0",
        options: Mapping[str, Any] | None = None,
        split: str = "train",
        states: int = 1,
        wrong: float = 0.5,
        stray: float = 0.3,
        question: str = critique.QUESTION,
        reward_scale: float = 1.0,
    ) -> None:
        if split not in SPLITS:
            raise ConfigError(f"wanted a split among {', '.join(SPLITS)}; got '{split}'.{did_you_mean(split, SPLITS)}")
        if type(states) is not int or states < 1:
            raise ConfigError(f"wanted states as a whole number from 1; got {states!r}")
        for name, share in (("wrong", wrong), ("stray", stray)):
            if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
                raise ConfigError(f"wanted {name} as a share from 0 to 1; got {share!r}")
        self.split = split
        self.states, self.wrong, self.stray = states, wrong, stray
        self.question, self.reward_scale = question, reward_scale
        self.inner = environments.make(env, **dict(options or {}))
        if hook(self.inner, "oracle") is None:
            raise ConfigError(f"{env} has no oracle() to say which action is right; name another environment")
        self.task: Task | None = None
        self._asked: Proposal | None = None
        self._over = False

    # ── tasks ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def tasks(self, split: str) -> Sequence[Task]:
        """``states`` tasks for each task of the other environment's split."""
        return Critiques(self.inner.get_wrapper_attr("tasks")(split), self.states)

    def find_task(self, task_id: str) -> Task:
        """The task of that id. Raises GameError for any other."""
        inner, mark, place = task_id.rpartition(_PLACE)
        if not mark or not place.isdecimal() or int(place) >= self.states:
            raise GameError(
                f"no task '{task_id}': wanted ID{_PLACE}N with N below {self.states}, ID being a task of {self.inner}"
            )
        return _critique(self.inner.get_wrapper_attr("find_task")(inner), int(place))

    # ── Gymnasium ────────────────────────────────────────────────────────────────────────────────────────────────────

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Plays the other environment to a state of the task and shows what is proposed there. Raises GameError for a task that is
        none of its."""
        super().reset(seed=seed)
        self.task = task = self.choose_task(options)
        if "inner" not in task.options:
            raise GameError(
                f"task '{task.id}' is none of a critic's: its options have no 'inner', a task of {self.inner}"
            )
        rng = stream(task.seed, "critique", task.id)
        self._asked = propose(self.inner, Task(**task.options["inner"]), rng, wrong=self.wrong, stray=self.stray)
        self._over = False
        return self._shown(), self._info()

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Reads the critique and says what is right. Raises GameError before the first ``reset`` and after the end."""
        asked = self.asked
        if self._over:
            raise GameError("the critique was given; call reset for another")
        self._over = True
        said = critique.read(action if isinstance(action, str) else "")
        label = critique.CORRECT if asked.correct else critique.INCORRECT
        right = said.correct is asked.correct
        info = {
            **self._info(),
            "label": label,
            "reference": "\n".join(asked.right),
            "success": right,
            "valid": said.formed,
            "suggested": bool(agreement(said.suggestion, asked.right, "exact")),
        }
        text = f"{asked.proposed} is {label.lower()}. Right is: {' or '.join(asked.right)}"
        return text, self.reward_scale * right, True, False, info

    def close(self) -> None:
        self.inner.close()

    # ── hooks ────────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def asked(self) -> Proposal:
        """What the critic is asked about, with what is right. Raises GameError before the first ``reset``."""
        if self._asked is None:
            raise GameError("no critique is asked for; call reset first")
        return self._asked

    def state_key(self) -> str:
        """The exact state: the task, and whether it is over."""
        return f"{self.task.id if self.task else ''}{' over' if self._over else ''}"

    def oracle(self) -> list[str]:
        """The right critique; [] once one was given."""
        asked = self.asked
        return [] if self._over else [_critique_text(asked, asked.correct, asked.right[0])]

    def expert(self, noise: float = 0.0, seed: int = 0) -> Careless:
        """The oracle with slips; ``act(observation, admissible, goal)``."""
        return Careless(self, noise, seed)

    def vocabulary(self) -> Iterator[str]:
        """Texts that hold every word of this environment. Raises GameError where the other one does not say its own."""
        inner = hook(self.inner, "vocabulary")
        if inner is None:
            raise GameError(f"{self.inner} has no vocabulary() to make a tokenizer of; give model.path")
        yield from inner()
        yield from (
            self.question,
            critique.QUESTION,
            "none; ",
            " none",
            "<",
            "</",
            " is correct. is incorrect. Right is: or",
        )
        yield from (critique.written(_thought("x"), correct, "x") for correct in (True, False))
        for words in inner():  # each also at the beginning of a part, without the blank before it
            yield from words.split()

    def _shown(self) -> str:
        shown = critique.fields(self.asked.shown, list(self.asked.taken), self.asked.proposed)
        try:
            return self.question.format_map(shown)
        except (KeyError, ValueError, IndexError) as error:
            raise ConfigError(
                f"the option question names a field that nobody gives, or is no template ({error!r}); it may name "
                f"{', '.join(sorted(shown))}"
            ) from error

    def _info(self) -> dict[str, Any]:
        goal = self.asked.shown.get("goal", "")
        return {"free_text": True, "success": False, "goal": goal, "proposed": self.asked.proposed}


class Critiques(LazyTasks):
    """The tasks of a critic, made of another environment's."""

    def __init__(self, inner: Sequence[Task], states: int) -> None:
        self.inner, self.states = inner, states

    def __len__(self) -> int:
        return len(self.inner) * self.states

    def make(self, place: int) -> Task:
        return _critique(self.inner[place // self.states], place % self.states)

    def __repr__(self) -> str:
        return f"critiques of {len(self.inner)} tasks"


def _critique(inner: Task, place: int) -> Task:
    options = {"inner": {**asdict(inner), "options": dict(inner.options), "hints": list(inner.hints)}}
    return Task(f"{inner.id}{_PLACE}{place}", inner.seed, inner.type, inner.split, options, max_turns=1)


def _critique_text(asked: Proposal, correct: bool, suggestion: str) -> str:
    return critique.written(_thought(asked.right[0]), correct, suggestion)


def _thought(right: str) -> str:
    return f"Here one should {right}"


class Careless:
    """Knows what is right, and on the share ``noise`` of its critiques gives the other score, and what was proposed as its
    suggestion; ``strayed`` says whether it did on the last."""

    def __init__(self, env: CritiqueEnv, noise: float, seed: int) -> None:
        self.env, self.noise, self.random = env, noise, Random(seed)
        self.strayed = False

    def act(self, observation: str, admissible: list[str], goal: str) -> str:
        """The critique."""
        asked = self.env.asked
        self.strayed = self.random.random() < self.noise
        if self.strayed:
            return _critique_text(asked, not asked.correct, asked.proposed)
        return _critique_text(asked, asked.correct, asked.right[0])
