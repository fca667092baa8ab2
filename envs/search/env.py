"""Questions that need searching, as an environment: Search-R1's protocol in Gymnasium's API.

    env = agentrl.env.make("agentrl/SearchQA-v0", difficulty="tiny")
    text, info = env.reset(seed=0)
    text, reward, terminated, truncated, info = env.step("<search> the author of Winter Mirror </search>")
    text, reward, terminated, truncated, info = env.step("<answer> Cold Bay </answer>")

An action is a model's whole reply. Its first ``<search>`` or ``<answer>`` counts; passages, questions and what stands elsewhere are
never read for tags. With ``tools`` a reply may be a call instead, of one of them or of ``search``:
``<tool_call>{"name": "search", "arguments": {"query": "the author of Winter Mirror"}}</tool_call>``.

Worlds are generated (``difficulty``), or the questions of a folder are asked over a corpus (``data``).
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from agentrl.answers import agreement, normal_form
from agentrl.env import SPLITS, AwaitedEnv, TextEnv
from agentrl.envs.search import data as files
from agentrl.envs.search import generate
from agentrl.envs.search.calls import Calls
from agentrl.errors import ConfigError, GameError, did_you_mean
from agentrl.retrieval import Hit, Passage, Retriever
from agentrl.tags import first_pair
from agentrl.tool import ToolSpec
from agentrl.types import Task

if TYPE_CHECKING:
    from agentrl.envs.search.expert import Expert

Score = Literal["exact", "f1", "format"]
SCORES: tuple[Score, ...] = ("exact", "f1", "format")
INSTRUCTIONS = (
    "Answer the question. Thoughts stand between <think> and </think>. To look something up, write <search> query </search>; "
    "passages that fit come back between <information> and </information>. You may search several times. When you know the answer, "
    "write it, and no explanation, between <answer> and </answer>, as in <answer> Beijing </answer>.\nQuestion: {question}\n"
)
# What Search-R1's environment says, to the letter: its users' prompts and models know it.
INVALID = (
    "\nMy previous action is invalid. If I want to search, I should put the query between <search> and </search>. If I want to "
    "give the final answer, I should put the answer between <answer> and </answer>. Let me try again.\n"
)
OVER = "The episode is over."
# Search-R1's format scores (v0.3): (right, well formed) -> reward. A wrong, well-formed answer gets FOUND more where a passage held
# the right one.
FORMAT = {(True, True): 1.0, (True, False): 0.8, (False, True): 0.2, (False, False): 0.1}
FOUND = 0.1

Snapshot = tuple[Task, tuple[Hit, ...], tuple[tuple[str, str], ...], bool, bool]


class SearchEnv(TextEnv, AwaitedEnv):
    """``difficulty`` names a level of ``generate`` and ``task_types`` keeps some of its types; ``data`` is a folder of real
    questions instead (see ``data``), with ``retriever`` the address of a server (Search-R1's API) or another corpus file, and
    ``index`` a folder that keeps the corpus's index, and ``encoder`` the folder of a transformers model that ranks it instead of
    BM25. ``k`` passages answer a query. ``searches`` bounds an episode: a task's
    ``max_turns`` is one more, the answer. ``score`` is the reward of the answer: "exact" (match of normal forms), "f1" (of words)
    or "format" (Search-R1 v0.3: also for replies that are one tag pair and nothing else). ``tools``: functions that may be called
    beside the search (registered names as "calculator", ``module:attribute``, or tools themselves; no toolsets).

    ``split`` is where ``reset`` without a task draws from; ``seed`` seeds the first ``reset`` that is given none.

    Keys of ``info``: success (bool: the answer matches exactly), valid (False: no action was found), n_tool_calls (searches of the
    turn, and with ``tools`` all calls), with ``tools`` n_tool_errors, goal (the question), task_type, task_id, n_passages
    (different ones seen), free_text, and at the end answer and f1.
    """

    levels: ClassVar[Mapping[str, Sequence[str]]] = {"difficulty": tuple(generate.LEVELS)}

    def __init__(
        self,
        difficulty: str = "tiny",
        split: str = "train",
        data: str | os.PathLike[str] | None = None,
        retriever: str | None = None,
        index: str | None = None,
        encoder: str | None = None,
        task_types: Sequence[str] | None = None,
        k: int = 3,
        searches: int = 4,
        score: Score = "exact",
        seed: int | None = 0,
        tools: Sequence[ToolSpec] = (),
    ) -> None:
        if split not in SPLITS:
            raise ConfigError(f"wanted a split among {', '.join(SPLITS)}; got '{split}'.{did_you_mean(split, SPLITS)}")
        if score not in SCORES:
            raise ConfigError(f"wanted a score among {', '.join(SCORES)}; got '{score}'.{did_you_mean(score, SCORES)}")
        for name, number in (("k", k), ("searches", searches)):
            if type(number) is not int or number < 1:
                raise ConfigError(f"wanted {name} as a number from 1; got {number!r}")
        if isinstance(task_types, str):
            raise ConfigError(f"wanted a list of task types; got the text '{task_types}'; write [\"{task_types}\"]")
        if data is None and (retriever or index or encoder):
            raise ConfigError(
                "a generated world has its own passages: retriever, index and encoder go with data = FOLDER"
            )
        self.difficulty, self.split, self.k, self.searches = difficulty, split, k, searches
        self.score: Score = score
        self.task_types = tuple(task_types) if task_types else None
        self.task: Task | None = None
        self._data = None if data is None else os.fspath(data)
        self._first_seed = seed
        self._shared = None if self._data is None else files.retriever(self._data, retriever, index, encoder)
        self._puzzle: generate.Puzzle | None = None
        self._splits: dict[str, Sequence[Task]] = {}
        self._seen: dict[str, Hit] = {}
        self._called: list[tuple[str, str]] = []  # of tools: call and result
        self._tools = Calls.of(tools, self._looked_up) if tools else None
        self._clean, self._over = True, False
        self.tasks(split)  # an unknown difficulty or type is an error here, not in the middle of a run
        if self._data is None:
            from agentrl.retrieval.bm25 import library

            library()  # so is a missing package

    # ── tasks ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def tasks(self, split: str) -> Sequence[Task]:
        """Generated tasks, or a folder's questions of that split."""
        if split not in SPLITS:
            raise GameError(f"no split '{split}'.{did_you_mean(split, SPLITS)}")
        if split not in self._splits:
            if self._data is None:
                found: Sequence[Task] = generate.tasks(self.difficulty, split, self.task_types)
            else:
                wanted = self.task_types
                all_ = files.read(self._data)
                found = [task for task in all_ if task.split == split and (wanted is None or task.type in wanted)]
            self._splits[split] = _Bounded(found, self.searches + 1)
        return self._splits[split]

    def find_task(self, task_id: str) -> Task:
        """The task of that id in any split."""
        if self._data is None:
            return replace(generate.task_by_id(task_id), max_turns=self.searches + 1)
        return super().find_task(task_id)

    # ── Gymnasium ────────────────────────────────────────────────────────────────────────────────────────────────────

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Asks ``options["task"]`` (a Task or its id), or a task drawn from the split. Raises GameError for an id that no split
        knows, and for a task without a question or without answers."""
        if seed is None:
            seed, self._first_seed = self._first_seed, None
        super().reset(seed=seed)
        for key in options or {}:
            if key != "task":
                raise GameError(f"reset has no option '{key}'.{did_you_mean(str(key), ('task',))}")
        if not (options or {}).get("task") and not len(self.tasks(self.split)):
            raise GameError(f"'{self._data}' has no question in the split '{self.split}'; give another split")
        self._start(self.choose_task(options))
        return INSTRUCTIONS.format_map({"question": self.question}), {**self._info(), "free_text": True}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """One turn: passages, or the end. Raises GameError before the first ``reset``, ToolFault where the retriever is down."""
        if self.task is None:
            raise GameError("no question is asked; call reset first")
        if self._over:
            return OVER, 0.0, True, False, self._info(valid=False)
        text = action if isinstance(action, str) else ""
        if self._tools is not None and "<tool_call>" in text:
            return self._call(text)
        found = first_pair(text, "search", "answer")
        self._clean = self._clean and found is not None and text.strip() == text[found.start : found.end]
        if found is None:
            return INVALID, 0.0, False, False, self._info(valid=False)
        words = found.inside.strip()
        if found.name == "answer":
            return self._answered(words)
        return self._looked_up(words), 0.0, False, False, self._info(n_tool_calls=1)

    async def ask(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """What the method gives. Where the retriever is another machine, other episodes go on while it is waited for."""
        waits = (self._shared is not None and self._shared.remote) or (self._tools is not None and self._tools.waits)
        if name in ("step", "oracle") and waits:
            return await asyncio.to_thread(getattr(self, name), *args, **kwargs)
        return getattr(self, name)(*args, **kwargs)

    # ── hooks ────────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def question(self) -> str:
        """What is asked. Raises GameError before the first ``reset``."""
        if self.task is None:
            raise GameError("no question is asked; call reset first")
        return self._puzzle.question.text if self._puzzle else str(self.task.options["question"])

    @property
    def tools(self) -> list[dict[str, Any]]:
        """With the option ``tools``: the search and those, in OpenAI's form; else none."""
        return [] if self._tools is None else self._tools.schemas

    @property
    def answers(self) -> list[str]:
        """The accepted answers."""
        given: Any = self.task.reference if self.task else None
        return [str(answer) for answer in (given if isinstance(given, list | tuple) else [given])]

    def state_key(self) -> str:
        """The question and the set of passages seen, whatever the order and the queries that found them; with score = "format" also
        whether all replies were well formed, on which the reward then depends; with ``tools`` also what they gave."""
        clean = [self._clean] if self.score == "format" else []
        called = [sorted(set(self._called))] if self._tools is not None else []
        return json.dumps([self.task.id if self.task else "", self._over, sorted(self._seen), *clean, *called])

    def snapshot(self) -> Snapshot:
        """The task and the state, for ``restore`` of this or another environment. Picklable."""
        if self.task is None:
            raise GameError("no question is asked; call reset first")
        return self.task, tuple(self._seen.values()), tuple(self._called), self._clean, self._over

    def restore(self, snapshot: Snapshot) -> None:
        """Goes back to a snapshot, also one of another task."""
        task, hits, called, clean, over = snapshot
        self._start(task)
        self._seen = {hit.id: hit for hit in hits}
        self._called = list(called)
        self._clean, self._over = clean, over

    def oracle(self) -> list[str]:
        """A search for each passage that the answer needs and that was not seen yet, then the answer, by one who knows both. On
        real questions a query is the title of a supporting passage, and a passage that its title does not find is left out."""
        titles = {hit.title for hit in self._seen.values()}
        if self._puzzle is not None:
            hops = [(hop.title, hop.query) for hop in self._puzzle.question.hops]
        else:
            assert self.task is not None, "reset comes first"
            hops = [(title, title) for title in files.titles(self.task)]
        queries = []
        for title, query in hops[: self.searches]:
            if title not in titles and title in (found := {hit.title for hit in self._search(query)}):
                titles |= found
                queries.append(f"<search> {query} </search>")
        return [*queries, f"<answer> {self.answers[0]} </answer>"]

    def failure(self) -> str | None:
        """Where a passage that the answer needs was not seen (of real questions that name none: none that holds an answer)
        "never_found"; where all were and the answer was wrong "wrong_action"."""
        assert self.task is not None, "reset comes first"
        hops = [hop.title for hop in self._puzzle.question.hops] if self._puzzle else files.titles(self.task)
        if set(hops) - {hit.title for hit in self._seen.values()} if hops else not self._was_found():
            return "never_found"
        return "wrong_action" if self._over else None

    def expert(self, noise: float = 0.0, seed: int = 0) -> Expert:
        """A player that reads only what an agent reads; ``act(observation, admissible, goal)``. Raises ConfigError for real
        questions, which it cannot read."""
        if self._data is not None:
            raise ConfigError("the expert reads generated questions only; on data = FOLDER let the oracle play")
        from agentrl.envs.search.expert import Expert

        return Expert(noise=noise, seed=seed)

    def vocabulary(self) -> Iterator[str]:
        """Texts that hold every word of this environment."""
        from agentrl.envs.search import vocabulary

        yield from (INSTRUCTIONS, INVALID, OVER)
        if self._tools is not None:
            yield from self._tools.texts()
        if self._data is None:
            yield from vocabulary.texts(generate.LEVELS[self.difficulty])
        else:
            yield from vocabulary.of_data(files.read(self._data), self._shared)

    # ── helpers ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _start(self, task: Task) -> None:
        own = "question" in task.options  # a folder's, or a user's
        puzzle = None if own else generate.puzzle(task)
        if own and self._shared is None:
            raise GameError(f"task '{task.id}' is a question of a folder; give it as data")
        if own and (not isinstance(task.options["question"], str) or task.reference in (None, [], "")):
            raise GameError(f"task '{task.id}' wants a text in options['question'] and answers as its reference")
        if puzzle is not None and task.reference is None:
            task = replace(task, reference=list(puzzle.question.answers))
        self.task, self._puzzle = task, puzzle
        self._seen, self._called, self._clean, self._over = {}, [], True, False

    def _looked_up(self, query: str) -> str:
        """What a search gives; the passages are noted as seen."""
        hits = self._search(query)
        self._seen.update((hit.id, hit) for hit in hits)
        return information(hits)

    def _call(self, text: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Runs the call that a reply is. What is no call, or names no tool, is told and counts as invalid."""
        assert self._tools is not None, "step has looked"
        self._clean = False
        told, call, error = self._tools.run(text)
        if call is not None and call.name != "search":
            self._called.append((json.dumps([call.name, dict(call.arguments)]), told))
        info = self._info(
            valid=error not in ("malformed", "unknown", "arguments", "limit"), n_tool_calls=int(call is not None)
        )
        return told, 0.0, False, False, {**info, "n_tool_errors": int(error is not None)}

    def _search(self, query: str) -> list[Hit]:
        if self._puzzle is None:
            assert self._shared is not None, "_start has looked"
            return self._shared.search([query], self.k)[0]
        return _finder(self._puzzle.passages).search([query], self.k)[0]

    def _answered(self, answer: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        right = agreement(answer, self.answers, "exact") == 1.0
        f1 = agreement(answer, self.answers, "f1")
        if self.score == "format":
            reward = FORMAT[right, self._clean]
            reward += FOUND if self._clean and not right and self._was_found() else 0.0
        else:
            reward = f1 if self.score == "f1" else float(right)
        self._over = True
        return "", reward, True, False, {**self._info(), "success": right, "answer": answer, "f1": f1}

    def _was_found(self) -> bool:
        """Whether a passage that was seen holds an accepted answer."""
        wanted = [form for form in map(normal_form, self.answers) if form]
        texts = [f" {normal_form(f'{hit.title} {hit.text}')} " for hit in self._seen.values()]
        return any(f" {form} " in text for form in wanted for text in texts)

    def _info(self, *, valid: bool = True, n_tool_calls: int = 0) -> dict[str, Any]:
        return {
            "success": False,
            "valid": valid,
            "n_tool_calls": n_tool_calls,
            "goal": self.question,
            "task_type": self.task.type if self.task else "",
            "task_id": self.task.id if self.task else "",
            "n_passages": len(self._seen),
        }


def information(hits: Sequence[Hit]) -> str:
    """What a search is answered with.

    >>> information([Hit("7", "Oslo", "A city.", 1.5)])
    '\\n\\n<information>Doc 1(Title: "Oslo") A city.</information>\\n\\n'
    """
    lines = [f'Doc {place}(Title: "{hit.title}") {hit.text}' for place, hit in enumerate(hits, 1)]
    return "\n\n<information>" + "\n".join(lines) + "</information>\n\n"


@lru_cache(maxsize=64)  # the members of a group play one task
def _finder(passages: tuple[Passage, ...]) -> Retriever:
    from agentrl.retrieval.bm25 import Bm25

    return Bm25(passages)


class _Bounded(Sequence[Task]):
    """Tasks with a bound on their turns."""

    def __init__(self, tasks: Sequence[Task], max_turns: int) -> None:
        self.tasks, self.max_turns = tasks, max_turns

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [replace(task, max_turns=self.max_turns) for task in self.tasks[index]]
        return replace(self.tasks[index], max_turns=self.max_turns)
