"""What several test files share: a small world, tokenizers, and policies that count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from agentrl.chat import build_tokenizer
from agentrl.env import TextEnv
from agentrl.policies.base import Request
from agentrl.types import Completion, Task

TEXTS = (
    "Task: reach the end\nObservation: You stand at 0 of 9. Admissible actions: go left\ngo right\nright turn go\n",
    "You\nturn\nAction\n{ } <|>'! 0 1 2 3 4 5 6 7 8",
    "Answer with one action as <action>…</action>. Nothing happens. Action 1: \n0\n1\n2\n3\n4\n5\n6\n7\n8\nYour\n",
)
PROMPT = "Task: {goal}\n{history}Observation: {observation}\n{admissible_actions}\n"
ACTIONS = ["go left", "go right"]

# Three families of chat templates, on the markers that the word-level tokenizer has.
CHATML = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
STRIPPING = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] | trim }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
NO_SYSTEM = (
    "{% for m in messages if m['role'] != 'system' %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tokenizer(template: str | None = None) -> Any:
    made = build_tokenizer(TEXTS)
    if template is not None:
        made.chat_template = template
    return made


def tiny_model(made: Any, *, seed: int = 0, dtype: str = "float32") -> Any:
    """A random Qwen2 with 2 layers of width 16, with weights large enough that its distributions are far from uniform."""
    import torch

    from agentrl.learning.checkpoint import build_model

    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = {"model_type": "qwen2", "intermediate_size": 32, "max_position_embeddings": 512, **shape}
    model = build_model({**config, "initializer_range": 0.3, "tie_word_embeddings": True}, made, seed)
    return model.to(getattr(torch, dtype)).eval()


class Corridor(TextEnv):
    """``task.options["length"]`` steps to the right end it with reward 1. ``script`` holds what goes wrong: a list of the
    numbers of ``step`` calls (counted over all environments that share the list ``calls``) that raise."""

    def __init__(self, calls: list[str] | None = None, failing: tuple[int, ...] = (), truncate_at: int = 0) -> None:
        self.calls = [] if calls is None else calls
        self.failing = failing
        self.truncate_at = truncate_at
        self.closed = False

    def tasks(self, split: str) -> list[Task]:
        return [
            Task(id=f"{split}-{n}", seed=10 + n, split=split, options={"length": 2 + n % 3}) for n in range(6)
        ]  # 2 3 4 …

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.task = self.choose_task(options)
        self.start = int(self.np_random.integers(2))  # depends on the seed only
        self.place, self.n_steps = 0, 0
        return self._view()

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.calls.append(action)
        if len(self.calls) in self.failing:
            raise OSError("the server is gone")
        self.n_steps += 1
        self.place = max(0, self.place + {"go right": 1, "go left": -1}.get(action, 0))
        done = self.place >= self.task.options["length"]
        observation, info = self._view()
        info["success"] = done
        return observation, float(done), done, self.n_steps == self.truncate_at, info

    def _view(self) -> tuple[str, dict[str, Any]]:
        text = f"You stand at {self.place + self.start} of {self.task.options['length'] + self.start}."
        return text, {"goal": "reach the end", "admissible_actions": list(ACTIONS)}

    def state_key(self) -> str:
        return f"place={self.place}"

    def oracle(self) -> list[str]:
        return ["go right"] * (self.task.options["length"] - self.place)

    def expert(self, noise: float, seed: int) -> Any:
        return _Expert(noise, np.random.default_rng(seed))

    def close(self) -> None:
        self.closed = True


class _Expert:
    """Remembers how often it acted: a session that is skipped on a replay would fall behind."""

    def __init__(self, noise: float, rng: np.random.Generator) -> None:
        self.noise, self.rng, self.n_acts = noise, rng, 0

    def act(self, observation: str, actions: list[str], goal: str) -> str:
        self.n_acts += 1
        if self.rng.random() < self.noise:
            return str(self.rng.choice(actions))
        return "go right" if self.n_acts % 4 else "go left"


class Answering:
    """A batch policy that answers every request with ``answer(request)`` and keeps the ids of every batch."""

    capabilities: frozenset[str] = frozenset()

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.batches: list[list[str]] = []

    def generate_batch(self, requests: list[Request]) -> list[Completion]:
        self.batches.append([request.id for request in requests])
        return [Completion(list(ids), [-0.5] * len(ids)) for ids in map(self.answer, requests)]


# Families of chat templates (tests/templates/NAME.jinja): the special tokens that each writes, the one that ends a turn first.
FAMILIES = {
    "chatml": ["<|im_end|>", "<|im_start|>"],
    "default_system": ["<|im_end|>", "<|im_start|>"],
    "drops_thoughts": ["<|im_end|>", "<|im_start|>"],
    "headers": ["<|eot_id|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>"],
    "inst": ["</s>", "<s>", "[INST]", "[/INST]"],
    "inst_moving": ["</s>", "<s>", "[INST]", "[/INST]"],
    "no_system": ["<end_of_turn>", "<bos>", "<start_of_turn>"],
    "opens_thought": ["<|end_of_sentence|>", "<|begin|>", "<|User|>", "<|Assistant|>"],
}


def family(name: str) -> Any:
    """A word-level tokenizer with a family's template and special tokens, and without a pad token, as many have none."""
    made = build_tokenizer([*TEXTS, "system\nuser\nassistant\nmodel\nturn 9\nYou go right. hm so"])
    end = FAMILIES[name][0]
    made.add_special_tokens({"eos_token": end, "additional_special_tokens": FAMILIES[name][1:]})
    made.pad_token = None
    made.chat_template = (Path(__file__).parent / "templates" / f"{name}.jinja").read_text()
    return made
