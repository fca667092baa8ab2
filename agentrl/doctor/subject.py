"""What the doctor looks at: a model's folder, the settings that it will be used with, and what is loaded of it, once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from agentrl import build
from agentrl import config as configs
from agentrl.agents import ChatAgent
from agentrl.agents.flow.roles import is_flow
from agentrl.chat import Renderer, Traits
from agentrl.chat.tokenizers import first_line, is_folder, load_tokenizer
from agentrl.config import AgentTable, RunConfig
from agentrl.errors import CheckpointError, ConfigError, MissingExtra
from agentrl.evaluator import saved_model
from agentrl.overrides import overridden
from agentrl.scenes import Scene
from agentrl.types import Message, Trajectory

NO_ENV = ""  # the id of the environment where none was given

# Conversations that the checks render: their words are no special tokens anywhere.
SYSTEM: Message = {"role": "system", "content": "You answer with one action."}
ASKS: Message = {"role": "user", "content": "You see a fridge 1, a table 2. What next?"}
SAYS: Message = {"role": "assistant", "content": "I open the fridge 1."}
REPLIES: Message = {"role": "user", "content": "The fridge 1 is open. In it is an apple 3."}


def said(message: Message) -> str:
    """A message's text."""
    return str(message.get("content", ""))


def shared(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How many signs or ids two sequences have in common at their beginning.

    >>> shared("table", "tablet"), shared([1, 2], [2])
    (5, 0)
    """
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


class Refused(Exception):
    """A chat template raised; the message is its own word."""


@dataclass
class Subject:
    """A model in ``folder`` as ``settings`` would use it. ``scene`` is the environment that it is examined in, if any."""

    model: str  # as it was named
    folder: Path
    settings: RunConfig
    scene: Scene | None = None
    played: list[Trajectory] = field(default_factory=list)  # by the check "prompts"
    engines: dict[str, Any] | None = None  # policy and learner, made by the first check that needs them

    @classmethod
    @contextmanager
    def opened(
        cls,
        model: str,
        env: str | None = None,
        *,
        config: str | None = None,
        options: Mapping[str, Any] | None = None,
        overrides: Sequence[str] = (),
    ) -> Iterator[Subject]:
        """Raises UserError where there is no such model, run file or environment; what is wrong with the model itself is for
        the checks to find. ``config`` is a run file that says how the model will be used; without one the run file beside the
        model does, else the defaults."""
        if any(find_spec(name) is None for name in ("torch", "transformers", "accelerate")):
            raise MissingExtra("train", "examining a model")
        folder = locate(model)
        settings = _settings(model, folder, env, config, options, overrides)
        table = settings.only_env if env else None
        scene = None if table is None else Scene.of(table, "")
        try:
            yield cls(model, folder, settings, scene)
        finally:
            if scene is not None:
                scene.pool.close()

    @property
    def table(self) -> AgentTable:
        """How the model will be prompted."""
        return self.settings.agent if self.scene is None else self.settings.agent_of(self.scene.table)

    @property
    def appends(self) -> bool:
        """Whether its prompts grow behind what it sampled."""
        return self.table.memory.get("name") == "append"

    # ── tokenizer and template ───────────────────────────────────────────────────────────────────────────────────────

    @cached_property
    def tokenizer(self) -> Any:
        return load_tokenizer(str(self.folder))

    @cached_property
    def renderer(self) -> Renderer:
        return Renderer(self.tokenizer, options=self.table.template_options, stop_ids=self.generation_ends)

    @cached_property
    def traits(self) -> Traits:
        """What the template does to earlier turns, with a system message where the settings have one."""
        return self.renderer.traits(system=bool(self.table.system))

    def write(self, messages: Sequence[Message], *, opens: bool = True, **more: Any) -> str:
        """What the chat template itself makes of a conversation. Raises Refused with its own word."""
        rows: Any = [dict(message) for message in messages]
        options = {**self.table.template_options, **more}
        try:
            text: Any = self.tokenizer.apply_chat_template(rows, tokenize=False, add_generation_prompt=opens, **options)
        except Exception as error:  # a template is a program
            raise Refused(first_line(error)) from error
        return text

    def ids(self, text: str) -> list[int]:
        """A template's text as the model is shown it, special tokens acting."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def token(self, index: int | None) -> str:
        """A token's own text, quoted."""
        if index is None:
            return "nothing"
        return repr(self.tokenizer.decode([index], skip_special_tokens=False))

    # ── the model's own files ────────────────────────────────────────────────────────────────────────────────────────

    @cached_property
    def generation(self) -> dict[str, Any]:
        """``generation_config.json``; empty where there is none."""
        return read_json(self.folder / "generation_config.json")

    @cached_property
    def config(self) -> dict[str, Any]:
        """``config.json`` of the model, of an adapter's the one below it; empty where that is of the hub."""
        return read_json(self.base / "config.json")

    @cached_property
    def base(self) -> Path:
        """Where the whole weights are: for an adapter's folder that of the model below it."""
        if not (self.folder / "adapter_config.json").is_file():
            return self.folder
        from agentrl.learning import lora

        return locate(lora.base_of(str(self.folder)))

    @property
    def generation_ends(self) -> list[int]:
        """Where generation ends by the model's own word, as ``build.models`` takes it."""
        ends = self.generation.get("eos_token_id", self.config.get("eos_token_id"))
        return [ends] if isinstance(ends, int) else [end for end in ends or () if isinstance(end, int)]

    @cached_property
    def shape(self) -> Any:
        """The ``estimate.Shape`` of the model, with the adapter that the settings put on it."""
        from agentrl.learning import estimate

        lora = self.settings.model.lora
        adapter = None if lora is None else lora.model_dump(exclude={"dropout"})
        return estimate.shape_of(str(self.folder), None, None, adapter)[0]

    @cached_property
    def weights(self) -> Any:
        """The model, loaded in the dtype and on the device of the settings."""
        return build.models(self.settings, []).model

    @cached_property
    def device(self) -> str:
        return build.device(self.settings)

    # ── in its environment ───────────────────────────────────────────────────────────────────────────────────────────

    @cached_property
    def agent(self) -> ChatAgent:
        """The agent that plays the scene. Raises ConfigError where the settings do not fit it."""
        assert self.scene is not None
        if is_flow(self.table):
            raise ConfigError(
                f"doctor plays with the chat agent, and agent.name = '{self.table.name}'; give a run file of a chat agent"
            )
        return build.chat_agent(self.table, self.renderer, self.scene.view, self.shape.positions)

    def prompts(self, n: int) -> list[list[int]]:
        """``n`` prompts of different lengths: the environment's real ones where it was played, else small talk."""
        calls = [call for trajectory in self.played for call in trajectory.calls()]
        if calls:
            return [list(calls[place % len(calls)].prompt_ids) for place in range(n)]
        talk = f"{said(ASKS)} {said(REPLIES)}"
        return [self.renderer.prompt([{"role": "user", "content": " ".join([talk] * (k % 8 + 1))}]) for k in range(n)]


def locate(model: str) -> Path:
    """The folder of a model that is a checkpoint, a run folder, or a name in Hugging Face's cache. Raises CheckpointError."""
    place = Path(model)
    if place.is_dir():
        known = (place, place / "checkpoints" / "latest")
        found = next((folder for folder in known if configs.holds_model(folder)), None)
        if found is None:
            raise CheckpointError(f"there is no model in {model}: no config.json in it, nor in its checkpoints/latest")
        return found
    if is_folder(model):
        raise CheckpointError(f"there is no folder {model}")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, local_files_only=True))
    except Exception as error:  # the hub's errors share no base class
        raise CheckpointError(
            f"'{model}' is neither a folder nor a model in Hugging Face's cache, and nothing is downloaded: give a folder, or "
            f"fetch it first (hf download {model})"
        ) from error


def _settings(
    model: str,
    folder: Path,
    env: str | None,
    config: str | None,
    options: Mapping[str, Any] | None,
    overrides: Sequence[str],
) -> RunConfig:
    """The run file that the model will be used with: the one given, else the one beside it, else the defaults."""
    beside = None if config is not None else _beside(model)
    if config is not None:
        data = configs.read(configs.find(config))
    elif beside is not None:
        data = beside.model_dump(mode="python", exclude_none=True, exclude_unset=True)
    else:
        data = {}
    tables = data.get("env", [])
    known = [tables] if isinstance(tables, Mapping) else list(tables)
    own: dict[str, Any] = next((dict(table) for table in known if table.get("id") == env), {"id": env or NO_ENV})
    if options:
        own["options"] = dict(options)
    data = {**data, "env": own, "model": {**data.get("model", {}), "path": str(folder)}}
    data["model"].pop("config", None)
    data = overridden(data, overrides)
    return configs.parse(data)


def _beside(model: str) -> RunConfig | None:
    """The run file of a checkpoint of agentrl's; None for a model from elsewhere."""
    if not Path(model).is_dir():
        return None
    try:
        return saved_model(model)[0]
    except CheckpointError:
        return None


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object of a model's folder; empty where there is no such file. Raises CheckpointError for a broken one."""
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} is no JSON: {first_line(error)}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{file} holds no JSON object")
    return found
