"""What an environment author subclasses: Gymnasium's own API with texts in and out, and tasks that can be listed.

    class Door(TextEnv):
        def tasks(self, split):
            first = 100 * SPLITS.index(split)
            return [Task(id=f"door-{i}", seed=i, split=split) for i in range(first, first + 10)]

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.task = self.choose_task(options)
            return f"You see a door with the number {self.task.seed}.", {}

        def step(self, action):
            won = action == f"open {self.task.seed}"
            return "It opens." if won else "Nothing happens.", float(won), won, False, {"success": won}

    gymnasium.register(id="my/Door-v0", entry_point="my_package:Door")

Optional hooks, found through wrappers by ``hook(env, name)``: ``state_key()``, ``admissible_actions``, ``snapshot()`` and
``restore()``, ``oracle()``, ``tools``, ``export(task)`` (the task as files of another engine: relative path -> text, which
``agentrl export`` writes), ``failure()`` (asked at the end of an episode without success: why, one of ``FAILURES``, or
None). Keys of ``info`` that agentrl reads: ``success`` (bool), ``admissible_actions`` (list of str), ``valid`` (False: the
action was none; it counts as invalid), ``free_text`` (True in the first: an action is the model's whole reply); every text
value is a field that a prompt template may name (``{inventory}``). ``agentrl check ENV`` verifies it all.
"""

from __future__ import annotations

import importlib
import inspect
import numbers
import os
import re
import string
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, SupportsFloat, Union, get_args, get_origin, get_type_hints, overload

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.wrappers import OrderEnforcing

from agentrl.errors import ConfigError, EnvError, GameError, did_you_mean
from agentrl.types import Task

SPLITS = ("train", "valid_seen", "valid_unseen")
# Why an episode failed, as far as only the environment knows it: what the task needs was never come upon; it was, and then the
# wrong thing was done.
FAILURES = ("never_found", "wrong_action")


class TextSpace(gymnasium.spaces.Space[str]):
    """Every Python string up to ``max_length`` characters (Gymnasium's own Text refuses spaces and punctuation)."""

    def __init__(self, max_length: int = 1_000_000, seed: int | np.random.Generator | None = None) -> None:
        self.max_length = max_length
        super().__init__((), np.str_, seed)

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """A short random word."""
        letters = self.np_random.choice(list(string.ascii_lowercase), size=8)
        return "".join(letters)

    def contains(self, x: Any) -> bool:
        return isinstance(x, str) and len(x) <= self.max_length

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TextSpace) and other.max_length == self.max_length

    def __repr__(self) -> str:
        return f"TextSpace({self.max_length})"


class LazyTasks(Sequence[Task]):
    """Tasks that are made when they are asked for: what ``TextEnv.tasks`` may return. Subclasses write ``__len__`` and
    ``make(place)``, the task at a place from 0; it is the same task each time."""

    def make(self, place: int) -> Task:
        raise NotImplementedError(f"{type(self).__name__} must write make(place)")

    @overload
    def __getitem__(self, index: int) -> Task: ...
    @overload
    def __getitem__(self, index: slice) -> list[Task]: ...
    def __getitem__(self, index: int | slice) -> Task | list[Task]:
        if isinstance(index, slice):
            return [self.make(place) for place in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"task {index} of {len(self)} in {self!r}")
        return self.make(int(index) % len(self))


class TextEnv(gymnasium.Env[str, str]):
    """Base class of text environments. Subclasses write ``tasks``, ``reset`` and ``step``. ``levels`` maps the option that says how
    hard it is to its values, the easiest first, where there is one; the reference page then counts the tasks of each."""

    observation_space: gymnasium.Space[str] = TextSpace()
    action_space: gymnasium.Space[str] = TextSpace()
    split: str = "train"
    levels: ClassVar[Mapping[str, Sequence[str]]] = {}

    def tasks(self, split: str) -> Sequence[Task]:
        """The tasks of a split, in a fixed order, with distinct ids. May be lazy; ``len`` must be cheap."""
        raise NotImplementedError(f"{type(self).__name__} must say which tasks it has: write tasks(split)")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Seeds ``np_random``; subclasses return the first observation and info."""
        super().reset(seed=seed)
        return "", {}

    def step(self, action: str) -> tuple[str, SupportsFloat, bool, bool, dict[str, Any]]:
        raise NotImplementedError(f"{type(self).__name__} must write step(action)")

    def choose_task(self, options: Mapping[str, Any] | None) -> Task:
        """The task that ``reset`` was asked for: a ``Task``, an id, or one drawn from this environment's split.

        Raises GameError for an id that no split knows, and where the split has no task to draw.
        """
        wanted = (options or {}).get("task")
        if isinstance(wanted, Task):
            return wanted
        if wanted is None:
            tasks = self.tasks(self.split)
            if not len(tasks):
                raise GameError(f"{type(self).__name__} has no task in the split '{self.split}'; give another split")
            return tasks[int(self.np_random.integers(len(tasks)))]
        return self.find_task(str(wanted))

    def find_task(self, task_id: str) -> Task:
        """The task of that id in any split. Linear; environments with large splits override it."""
        known: list[str] = []
        for split in SPLITS:
            for task in self.tasks(split):
                if task.id == task_id:
                    return task
                known.append(task.id)
        raise GameError(f"no task '{task_id}' in {type(self).__name__}.{did_you_mean(task_id, known[:2000])}")


class AwaitedEnv(gymnasium.Env[str, str]):
    """An environment that answers from elsewhere: what it takes long over can be awaited while other episodes go on."""

    async def ask(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """What the method ``name`` gives: ``reset``, ``step`` or a hook."""
        raise NotImplementedError(f"{type(self).__name__} must write ask(name, …)")


def awaited(env: gymnasium.Env[Any, Any]) -> AwaitedEnv | None:
    """The environment that can be asked in place of this one: itself, or what stands in wrappers that change nothing."""
    while isinstance(env, OrderEnforcing):  # what ``gymnasium.make`` puts around every environment
        env = env.env
    return env if isinstance(env, AwaitedEnv) else None


async def ask(env: gymnasium.Env[Any, Any], name: str, /, *args: Any, **kwargs: Any) -> Any:
    """What the method ``name`` of an environment gives: awaited where it answers from elsewhere, else called at once."""
    if (away := awaited(env)) is not None:
        return await away.ask(name, *args, **kwargs)
    return env.get_wrapper_attr(name)(*args, **kwargs)


def make(env_id: str, /, **options: Any) -> gymnasium.Env[str, str]:
    """``gymnasium.make`` after agentrl's plug-ins have registered their environments, with one clear error.

    ``MODULE:ID`` imports MODULE first, as Gymnasium does. Raises ConfigError for an unknown id or option, and for an option of
    another type than the environment annotates it with.
    """
    from agentrl.registry import load_plugins

    load_plugins()
    with _config_errors(env_id, options):
        _check_types(env_id, options)
        return gymnasium.make(env_id, disable_env_checker=True, **options)


def registration(env_id: str) -> EnvSpec:
    """How an environment was registered, with the names that ``make`` takes. Raises ConfigError for an unknown id."""
    from agentrl.registry import load_plugins

    load_plugins()
    module, _, name = env_id.rpartition(":")
    with _config_errors(env_id):
        if module:
            importlib.import_module(module)
        return gymnasium.spec(name)


@contextmanager
def _config_errors(env_id: str, options: Collection[str] = ()) -> Iterator[None]:
    """What Gymnasium raises in the block for an unknown id or option becomes a ConfigError of one line."""
    try:
        yield
    except (gymnasium.error.NameNotFound, gymnasium.error.NamespaceNotFound, gymnasium.error.VersionNotFound) as error:
        raise ConfigError(f"no environment '{env_id}'.{did_you_mean(env_id, registered())}") from error
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        raise ConfigError(f"environment '{env_id}' cannot be made: {error}") from error
    except TypeError as error:
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown and unknown[1] in options:
            near = did_you_mean(unknown[1], _options_of(env_id))
            raise ConfigError(f"environment '{env_id}' has no option '{unknown[1]}'.{near}") from error
        if not any(words in str(error) for words in ("unexpected keyword argument", "multiple values for")):
            raise
        raise ConfigError(f"environment '{env_id}': {str(error).split(chr(10))[0]}") from error


_PLAIN: Mapping[Any, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((numbers.Integral,), "a whole number"),
    float: ((numbers.Real,), "a number"),
    str: ((str,), "a text"),
    os.PathLike[str]: ((os.PathLike,), "a path"),
    NoneType: ((NoneType,), ""),
}


def _check_types(env_id: str, options: Mapping[str, Any]) -> None:
    """Raises ConfigError for a value of another type than its option is annotated with, where that is made of truth values,
    numbers and texts alone; what else an option may be, the environment knows."""
    maker = _maker_of(env_id)
    try:
        hints = get_type_hints(maker.__init__ if isinstance(maker, type) else maker)
    except (NameError, TypeError, AttributeError):  # annotations of a third party's that nobody can read
        return
    for name, value in options.items():
        kinds = set(_types_in(hints.get(name)))
        if not kinds or not kinds <= set(_PLAIN):
            continue
        is_bool, accepted = isinstance(value, bool), tuple(one for kind in kinds for one in _PLAIN[kind][0])
        if (is_bool and bool not in kinds) or not isinstance(value, accepted):
            wanted = " or ".join(sorted(_PLAIN[kind][1] for kind in kinds if kind is not NoneType))
            raise ConfigError(f"environment '{env_id}': wanted {name} as {wanted}; got {value!r:.60}")


def _types_in(hint: Any) -> Iterator[Any]:
    """The types that an annotation allows; of a Literal, those of its values."""
    if get_origin(hint) in (Union, UnionType):
        for one in get_args(hint):
            yield from _types_in(one)
    elif get_origin(hint) is Literal:
        yield from map(type, get_args(hint))
    elif hint is not None:
        yield hint


def _maker_of(env_id: str) -> Any:
    """What makes the environment: a class or a function. Raises what Gymnasium raises for an unknown id."""
    module, _, name = env_id.rpartition(":")
    if module:
        importlib.import_module(module)
    entry = gymnasium.spec(name).entry_point
    return load_env_creator(entry) if isinstance(entry, str) else entry


def _options_of(env_id: str) -> list[str]:
    """The options that an environment names: those of what makes it, and of the classes that it hands the others on to."""
    maker = _maker_of(env_id)
    bases = (
        [kind.__init__ for kind in maker.__mro__ if "__init__" in vars(kind)] if isinstance(maker, type) else [maker]
    )
    found: list[str] = []
    for function in bases:
        parameters = inspect.signature(function).parameters.values()
        found += [each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
        if not any(each.kind is each.VAR_KEYWORD for each in parameters):
            break
    return [name for name in found if name != "self"]


def registered() -> list[str]:
    """Ids of text environments: every id with a namespace (Gymnasium's own have none), sorted."""
    return sorted(
        name for name, spec in gymnasium.registry.items() if spec.namespace not in (None, "phys2d", "tabular")
    )


def hook(env: gymnasium.Env[Any, Any], name: str) -> Any | None:
    """An optional hook of an environment, found through its wrappers; None where it has none."""
    try:
        return env.get_wrapper_attr(name)
    except AttributeError:
        return None


def environment(env: gymnasium.Env[Any, Any]) -> str:
    """The id an environment was made with, else its class name."""
    return env.spec.id if env.spec is not None else type(env.unwrapped).__name__


def checked_reset(env: gymnasium.Env[Any, Any], task: Task, seed: int | None = None) -> tuple[str, dict[str, Any]]:
    """The first observation and info of a task (``seed``: another than the task's). Raises EnvError where ``reset`` gives
    anything else; what it raises itself comes out as it is."""
    return checked_start(env, env.reset(seed=task.seed if seed is None else seed, options={"task": task}))


def checked_start(env: gymnasium.Env[Any, Any], found: Any) -> tuple[str, dict[str, Any]]:
    """What ``reset`` gave. Raises EnvError where it is anything but an observation and info."""
    if isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], str) and isinstance(found[1], dict):
        return found
    raise EnvError(f"{environment(env)}: reset must return (text, info); got {_kinds(found)}; run `agentrl check`")


def checked_reply(env: gymnasium.Env[Any, Any], observation: Any, info: Any) -> None:
    """Raises EnvError where ``step`` gave an observation that is no text, or an info that is no dict."""
    if not (isinstance(observation, str) and isinstance(info, dict)):
        got = _kinds((observation, info))
        raise EnvError(f"{environment(env)}: step must give (text, …, info); got {got}; run `agentrl check`")


def checked_key(env: gymnasium.Env[Any, Any], key: Any) -> str | None:
    """What ``state_key`` gave. Raises EnvError where it is neither a text nor None."""
    if not isinstance(key, str | None):
        raise EnvError(
            f"{environment(env)}: state_key must return text or None; got {_kinds(key)}; run `agentrl check`"
        )
    return key


def checked_failure(env: gymnasium.Env[Any, Any], failure: Any) -> str:
    """What ``failure`` gave, "" for None. Raises EnvError where it is none of ``FAILURES``."""
    if failure is None or failure in FAILURES:
        return failure or ""
    raise EnvError(
        f"{environment(env)}: failure must return {', '.join(FAILURES)} or None; got {failure!r}; run `agentrl check`"
    )


def _kinds(value: Any) -> str:
    if isinstance(value, tuple):
        return "(" + ", ".join(type(part).__name__ for part in value) + ")"
    return type(value).__name__


def shared_folder() -> str:
    """The folder of real test data: ``$AGENTRL_SHARED``, else ``../shared`` beside the checkout. It may not exist."""
    checkout = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return os.environ.get("AGENTRL_SHARED") or os.path.join(os.path.dirname(checkout), "shared")
