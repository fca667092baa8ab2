"""The doctor: healthy models, models that are broken on purpose, engines that disagree, machines, and what is printed."""

from __future__ import annotations

import importlib.util
import json
import tomllib
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("peft")

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from toys import Answering, Corridor, family, tiny_model
from transformers import PreTrainedTokenizerFast

from agentrl import registry
from agentrl.cli import main
from agentrl.doctor import examine, examine_machine, extras, failed, machine, render, report
from agentrl.doctor.checks import Check, Finding, Line, collector, run
from agentrl.errors import CheckpointError, ConfigError, MissingExtra
from agentrl.policies.transformers import TransformersPolicy

TEMPLATES = Path(__file__).parent / "templates"
SPECIAL = ["<|im_end|>", "<|im_start|>"]
WITH_TOOLS = (TEMPLATES / "tools.jinja").read_text()
RENUMBERS = (
    "{% for m in messages %}<|im_start|>{{ m.role }} ({{ loop.revindex }} from the end)\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant (0 from the end)\n{% endif %}"
)


def bytes_tokenizer(template: str = "chatml", special: list[str] = SPECIAL) -> Any:
    """A tokenizer that writes any text, a byte a token; its end is the first of ``special``."""
    signs = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={sign: index for index, sign in enumerate(signs)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    fast = PreTrainedTokenizerFast(tokenizer_object=made, eos_token=special[0], clean_up_tokenization_spaces=False)
    fast.chat_template = template if "{" in template else (TEMPLATES / f"{template}.jinja").read_text()
    return fast


def saved(folder: Path, tokenizer: Any, **changes: Any) -> str:
    """A tiny model's folder."""
    model = tiny_model(tokenizer)
    for key, value in changes.items():
        setattr(model.generation_config, key, value)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def examined(model: str, *overrides: str, env: str | None = None, **how: Any) -> dict[str, Line]:
    lines = examine(model, env, overrides=["resources.threads=1", *overrides], **how)
    for line in lines:  # whatever is not well says all three things
        found = line.finding
        told = bool(found.wrong) and bool(found.does) and bool(found.change)
        assert told == (found.status not in ("ok", "skipped")), line
        assert line.what
    return {line.name: line for line in lines}


def finding(model: str, name: str, *overrides: str, **how: Any) -> Finding:
    return examined(model, *overrides, only=[name], **how)[name].finding


def statuses(lines: dict[str, Line]) -> dict[str, str]:
    """Of what is not well."""
    return {name: line.finding.status for name, line in lines.items() if line.finding.status != "ok"}


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(tmp_path_factory.mktemp("healthy"), bytes_tokenizer("tools"), eos_token_id=256)


@pytest.fixture
def corridor() -> Any:
    gymnasium.register("toy/Corridor-v0", Corridor)
    yield "toy/Corridor-v0"
    gymnasium.registry.pop("toy/Corridor-v0")


# ── healthy and broken models ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_a_healthy_model_has_nothing_to_say(healthy: str) -> None:
    lines = examined(healthy)
    assert statuses(lines) == {}
    assert not failed(list(lines.values()))
    assert lines["tool_calls"].finding.numbers["read_as"] == "hermes"
    assert lines["logprobs"].finding.numbers["tokens"] >= 100
    assert lines["logprobs"].finding.numbers["max"] < 1e-4
    assert lines["iteration"].finding.numbers["rates"]["trained"] > 0
    assert lines["memory"].finding.numbers["peak"] > 1000


def test_a_template_that_drops_thoughts(tmp_path: Path) -> None:
    model = saved(tmp_path, bytes_tokenizer("drops_thoughts"))
    found = finding(model, "thoughts")
    assert (found.status, found.says) == ("warning", "the template drops the thoughts of earlier turns")
    assert "window memory" in found.does
    found = finding(model, "thoughts", "agent.memory={name='append'}")
    assert found.does.startswith('shows earlier turns as the template writes them (agent.earlier_turns = "auto")')
    assert '"as_sampled"' in found.change


def test_a_generation_prompt_that_opens_a_thought(tmp_path: Path) -> None:
    special = ["<|end_of_sentence|>", "<|begin|>", "<|User|>", "<|Assistant|>"]
    lines = examined(saved(tmp_path, bytes_tokenizer("opens_thought", special)), only=["conversation", "formats"])
    assert "opens <think> itself" in lines["thoughts"].finding.says
    assert "together with the opening" in lines["thoughts"].finding.does
    assert lines["prefix"].finding.status == lines["action_tags"].finding.status == "ok"


def test_a_template_that_renumbers_its_turns(tmp_path: Path) -> None:
    found = finding(saved(tmp_path, bytes_tokenizer(RENUMBERS)), "prefix", "agent.memory={name='append'}")
    assert found.status == "warning"
    assert found.says.endswith(
        r"from token 7 on, 'tart|>user (1 from the end)\nYou ' becomes 'tart|>user (3 from the end)\nYou '"
    )
    assert found.numbers["kept"] == len("user (") + 1
    assert "opens a new sample" in found.does


def test_a_system_text_that_moves_matters_where_there_is_one(tmp_path: Path) -> None:
    model = saved(tmp_path, bytes_tokenizer("inst_moving", ["</s>", "<s>", "[INST]", "[/INST]"]))
    found = finding(model, "prefix")
    assert found.status == "note" and "where agent.system is given" in found.says
    assert finding(model, "prefix", "agent.system=Go").status == "warning"


def test_templates_that_change_spaces_only(tmp_path: Path) -> None:
    model = saved(tmp_path, bytes_tokenizer("inst", ["</s>", "<s>", "[INST]", "[/INST]"]))
    found = examined(model, only=["conversation"])
    assert statuses(found) == {"prefix": "note", "roles": "note", "tools": "note"}
    assert "'ext? [/INST]I open the fridge 1.' is written 'ext? [/INST] I open" in found["prefix"].finding.says
    assert found["roles"].finding.numbers["refused"] == [
        "an assistant's message first",
        "two user messages in a row",
    ]


def test_an_end_of_turn_that_the_models_files_do_not_end_at(tmp_path: Path) -> None:
    made = bytes_tokenizer("chatml", [*SPECIAL, "<|endoftext|>"])
    made.eos_token = "<|endoftext|>"
    found = finding(saved(tmp_path, made), "end_of_turn")
    assert found.status == "warning"
    assert found.says.startswith(
        "'<|im_end|>' ends a turn in the template; the model's own files end generation at '<|endoft"
    )
    assert found.says.endswith(r"behind it the template writes '\n'")
    assert found.does.startswith("stops at both")
    assert "eos_token_id = 256" in found.change


def test_an_end_of_turn_that_is_no_special_token(tmp_path: Path) -> None:
    made = bytes_tokenizer("chatml", ["<|endoftext|>"])
    made.add_tokens([AddedToken("<|im_end|>", special=False, normalized=False)])
    found = finding(saved(tmp_path, made), "end_of_turn")
    assert (found.status, found.says) == (
        "failure",
        "'<|im_end|>' ends a turn in the template and is not declared special",
    )


def test_a_template_that_ends_turns_with_text(tmp_path: Path) -> None:
    plain = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n###\n{% endfor %}assistant: "
    found = finding(saved(tmp_path, bytes_tokenizer(plain)), "end_of_turn")
    assert found.status == "warning" and r"the template writes '\n###\nassistant: '" in found.says


def test_a_template_that_raises_on_tools(tmp_path: Path) -> None:
    raising = "{% if tools is not none %}{{ raise_exception('tools are not supported') }}{% endif %}"
    model = saved(tmp_path, bytes_tokenizer(raising + (TEMPLATES / "chatml.jinja").read_text()))
    found = finding(model, "tools")
    assert (found.status, found.says) == (
        "warning",
        "the template raises when it is given tools: tools are not supported",
    )
    assert finding(model, "tools", "agent.tools=template").status == "failure"


def test_a_template_that_raises_on_system_messages(tmp_path: Path) -> None:
    model = saved(tmp_path, bytes_tokenizer("no_system", ["<end_of_turn>", "<bos>", "<start_of_turn>"]))
    found = finding(model, "system")
    assert (found.status, found.says) == ("note", "the template takes no system message: there is no system role")
    assert finding(model, "system", "agent.system=Go").status == "failure"


def test_a_system_message_that_the_template_writes_itself(tmp_path: Path) -> None:
    model = saved(tmp_path, bytes_tokenizer("default_system"))
    assert finding(model, "system").says.endswith("writes its own: 'You go right.'")
    assert finding(model, "system", "agent.system=Go").status == "ok"


def test_a_template_that_renders_one_turn_only(tmp_path: Path) -> None:
    refusing = "{% if messages | length > 2 %}{{ raise_exception('one turn') }}{% endif %}"
    single = refusing + "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
    model = saved(tmp_path, bytes_tokenizer(single))
    lines = examined(model, "agent.memory={name='append'}", only=["prefix"])
    assert (lines["template"].finding.status, lines["turns"].finding.status) == ("ok", "failure")
    assert lines["prefix"].finding.says == "not run: 'turns' failed"


def test_a_vocabulary_beyond_the_embeddings(tmp_path: Path) -> None:
    made = bytes_tokenizer()
    model = saved(tmp_path, made)
    made.add_tokens(["<tool_one>", "<tool_two>"])
    made.save_pretrained(model)
    lines = examined(model)
    found = lines["vocabulary"].finding
    assert found.status == "failure"
    assert found.says == "2 of 260 tokens have no row in the 258 of the embeddings: '<tool_one>', '<tool_two>'"
    assert lines["logprobs"].finding == Finding("skipped", "not run: 'head' was skipped")


def test_a_tokenizer_of_few_words(tmp_path: Path) -> None:
    lines = examined(saved(tmp_path, family("chatml")), only=["tokens", "conversation", "formats"])
    assert statuses(lines) == {"tools": "note", "tool_calls": "note"}
    assert lines["special_text"].finding.numbers["would_act"] == 11


def test_calls_of_another_form_than_ours(tmp_path: Path) -> None:
    own = WITH_TOOLS.replace("<tool_call>", "<call>").replace("</tool_call>", "</call>")
    assert own != WITH_TOOLS
    found = finding(saved(tmp_path, bytes_tokenizer(own)), "tool_calls")
    assert found.status == "note" and "none of hermes, json, python" in found.says
    assert found.numbers["own"].startswith("<call>")


def test_beginnings(tmp_path: Path) -> None:
    special = [*SPECIAL, "<s>"]
    chatml = (TEMPLATES / "chatml.jinja").read_text()
    wanted = {
        "nothing": (chatml, "ok", "stands nowhere"),
        "once": ("{{ bos_token }}" + chatml, "ok", "once in front"),
        "twice": ("{{ bos_token }}{{ bos_token }}" + chatml, "warning", "twice"),
    }
    for name, (template, status, says) in wanted.items():
        made = bytes_tokenizer(template, special)
        made.bos_token = "<s>"
        found = finding(saved(tmp_path / name, made), "bos")
        assert (found.status, says in found.says) == (status, True), name


def test_what_generation_config_says_is_told(tmp_path: Path) -> None:
    model = saved(tmp_path, bytes_tokenizer(), do_sample=True, temperature=0.6, top_k=20)
    found = finding(model, "generation_config", "rollout.temperature=0.9")
    assert (found.status, found.numbers["ignored"]) == ("note", {"temperature": 0.6, "top_k": 20})
    assert "rollout.temperature = 0.9" in found.does


def test_contexts(healthy: str) -> None:
    assert finding(healthy, "context").numbers["positions"] == 512
    assert finding(healthy, "context", "agent.context=4096").status == "failure"


@pytest.mark.slow
def test_precisions(healthy: str) -> None:
    lines = examined(healthy, "model.dtype=bfloat16")
    assert statuses(lines) == {}
    assert 1e-5 < lines["logprobs"].finding.numbers["mean"] < 0.03
    lines = examined(healthy, "model.dtype=float16")
    assert statuses(lines) == {"dtype": "warning", "logprobs": "note", "iteration": "note"}


def test_weights_that_are_no_numbers(tmp_path: Path) -> None:
    import torch

    made = bytes_tokenizer()
    model = tiny_model(made)
    with torch.no_grad():
        model.model.norm.weight[3] = float("nan")
    model.save_pretrained(tmp_path)
    made.save_pretrained(tmp_path)
    found = finding(str(tmp_path), "weights")
    assert found.status == "failure" and found.says.endswith("first model.norm.weight")


def test_weights_and_tokenizers_that_are_not_there(tmp_path: Path) -> None:
    model = saved(tmp_path, bytes_tokenizer())
    (tmp_path / "model.safetensors").unlink()
    lines = examined(model, only=["weights", "prefix"])
    assert lines["weights"].finding.status == "failure" and lines["prefix"].finding.status == "ok"
    (tmp_path / "tokenizer.json").unlink()
    lines = examined(model)
    assert lines["tokenizer"].finding.status == "failure"
    assert set(statuses(lines).values()) == {"failure", "skipped"}


def test_a_model_that_does_not_fit_is_not_loaded(healthy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from agentrl.learning import estimate

    monkeypatch.setattr(estimate, "available", lambda device: 1000)
    lines = examined(healthy)
    assert lines["weights"].finding.status == "failure" and "do" in lines["weights"].finding.does
    assert lines["memory"].finding.status == "warning"


# ── engines ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Perturbed(TransformersPolicy):
    """Says other log-probs than those it draws from."""

    error = 0.0

    def generate_batch(self, requests: Any) -> Any:
        found = super().generate_batch(requests)
        for completion in found:
            completion.logprobs = [value + self.error for value in completion.logprobs or ()]
        return found


@pytest.fixture
def perturbed(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], str]:
    registry.load_plugins()
    monkeypatch.setitem(registry._table["policy"], "perturbed", Perturbed)

    def by(error: float) -> str:
        monkeypatch.setattr(Perturbed, "error", error)
        return "rollout.policy=perturbed"

    return by


@pytest.mark.parametrize(
    ("error", "status"), [(0.0, "ok"), (1e-5, "ok"), (0.01, "warning"), (-0.5, "failure"), (float("nan"), "warning")]
)
def test_an_engine_that_disagrees(healthy: str, perturbed: Callable[[float], str], error: float, status: str) -> None:
    found = finding(healthy, "logprobs", perturbed(error))
    assert found.status == status
    if error == error:
        assert abs(found.numbers["mean"] - abs(error)) < 2e-5
    if status != "ok":
        assert "old_logprobs" in found.does or "recomputes" in found.does


def test_answers_of_a_policy_that_is_asked_one_by_one() -> None:
    from agentrl.learning.probes import answers_of
    from agentrl.policies import Request
    from agentrl.types import Completion, Sampling

    class One:
        async def generate(self, prompt_ids: Any, sampling: Any, request_id: str) -> Completion:
            return Completion([len(prompt_ids)], [-1.0])

    requests = [Request(str(n), [1] * n, Sampling()) for n in (3, 1, 2)]
    assert [found.ids for found in answers_of(One(), requests)] == [[3], [1], [2]]
    assert [found.ids for found in answers_of(Answering(lambda request: [7]), requests)] == [[7]] * 3


# ── in an environment ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_a_healthy_model_in_an_environment(healthy: str, corridor: str) -> None:
    few = "algorithm.sampler={name='uniform', tasks=4}"
    lines = examined(healthy, "agent.memory={name='window', turns=1}", few, env=corridor)
    assert set(statuses(lines)) <= {"answers"}  # a random model answers nothing that holds an action
    assert lines["answers"].finding.numbers["with_action"] == 0
    assert lines["episodes"].finding.numbers["episodes"] == 4
    assert lines["prompts"].finding.numbers["context"] == 512
    assert lines["completions"].finding.numbers["max"] == len("go right") + len("<action></action>") + 1
    assert lines["iteration"].finding.numbers["seconds"]["training"] > 0


def test_prompts_and_answers_that_do_not_fit(healthy: str, corridor: str) -> None:
    window = "agent.memory={name='window', turns=1}"
    found = finding(healthy, "completions", window, "rollout.max_tokens=12", env=corridor)
    assert found.status == "failure" and "rollout.max_tokens, to" in found.change
    assert finding(healthy, "prompts", window, "rollout.max_tokens=400", env=corridor).status == "warning"
    assert finding(healthy, "prompts", window, "agent.context=200", env=corridor).status == "failure"


def test_a_sampler_that_wants_more_tasks_than_there_are(healthy: str, corridor: str) -> None:
    found = finding(healthy, "memory", "agent.memory={name='window', turns=1}", env=corridor)
    assert found.status == "failure" and "wants 12 different tasks" in found.says


def test_settings_that_do_not_fit_the_environment(healthy: str, corridor: str) -> None:
    lines = examined(healthy, "agent.prompt={inventory}", env=corridor, only=["episodes", "logprobs"])
    assert lines["agent"].finding.status == "failure" and "inventory" in lines["agent"].finding.wrong
    assert lines["episodes"].finding.status == "skipped"
    assert lines["logprobs"].finding.status == "ok"


def test_words_that_the_tokenizer_does_not_know(tmp_path: Path, corridor: str) -> None:
    model = saved(tmp_path, family("chatml"))
    found = finding(model, "words", "agent.prompt=Zanzibar {observation}", env=corridor)
    assert found.status == "warning" and "<|unknown|> You stand" in found.says


# ── how checks are run and told ──────────────────────────────────────────────────────────────────────────────────────


def test_a_check_that_raises_is_a_failure_and_stops_those_that_need_it() -> None:
    checks, check = collector("toy")

    @check()
    def first(subject: int) -> Finding:
        """First."""
        raise KeyError("lost")

    @check("first", "not there")
    def second(subject: int) -> Finding:
        """Second."""
        raise AssertionError("never asked")

    @check("not there")
    def third(subject: int) -> Finding:
        """Third."""
        return Finding("ok", f"{subject}")

    told: list[Line] = []
    lines = run(checks, 5, told.append)
    assert lines == told
    assert [line.finding.status for line in lines] == ["failure", "skipped", "ok"]
    assert "KeyError: 'lost' (test_doctor.py:" in lines[0].finding.says
    assert lines[1].finding.says == "not run: 'first' failed"
    assert render(lines).splitlines()[-1] == "1 ok, 1 failure, 1 skipped"
    assert render(lines).startswith("FAILURE  first: it could not be found out")


def test_every_check_says_what_it_looks_at() -> None:
    from agentrl.doctor import engine, formats, play, template, tokens, weights

    groups = [tokens.CHECKS, template.CHECKS, formats.CHECKS, weights.BEFORE, weights.CHECKS]
    groups += [play.BEFORE, play.CHECKS, engine.BEFORE, engine.CHECKS, machine.CHECKS, extras.CHECKS]
    found: list[Check[Any]] = [check for group in groups for check in group]
    assert all(check.what.endswith((".", "?")) for check in found)
    of_models = {check.name for group in groups[:-2] for check in group}
    assert len(of_models) == sum(map(len, groups[:-2]))
    assert {need for check in found for need in check.needs} <= of_models


# ── machines ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def no_browser() -> Path:
    raise ConfigError("no Chromium was found")


@pytest.fixture
def small(tmp_path: Path) -> machine.Machine:
    """A container of two cores' time and 1 GiB on a machine with 8 cores and 16 GiB."""
    for name, text in {
        "proc/meminfo": "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n",
        "sys/fs/cgroup/memory.max": str(2**30),
        "sys/fs/cgroup/cpu.max": "150000 100000",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return machine.Machine(
        runs=tmp_path / "runs", root=tmp_path, find=lambda name: None, browser=no_browser, environ={}, cores=8
    )


def looked(name: str, subject: machine.Machine) -> Finding:
    (check,) = (check for check in machine.CHECKS if check.name == name)
    return check.look(subject)


def test_this_machine() -> None:
    lines = examine_machine()
    assert {line.group for line in lines} == {"machine", "extras"}
    assert next(line for line in lines if line.name == "python").finding.status in ("ok", "note")
    assert next(line for line in lines if line.name == "extra train").finding.status == "ok"
    for line in lines:
        found = line.finding
        assert (found.status == "ok") == (not found.wrong) == (not found.change)
    names = [line.name for line in lines]
    assert len(set(names)) == len(names)


def test_a_container_has_less_than_its_machine(small: machine.Machine) -> None:
    found = looked("cores", small)
    assert (found.status, found.change) == ("warning", "resources.threads = 1")
    assert "8 cores, of which this container gets the time of 1.5" in found.says
    found = looked("memory", small)
    assert (found.status, found.numbers["limit"]) == ("warning", 2**30)
    (small.root / "sys/fs/cgroup/memory.max").write_text("max")
    (small.root / "sys/fs/cgroup/cpu.max").write_text("max 100000")
    assert looked("cores", small).status == looked("memory", small).status == "ok"


def test_older_containers_say_the_same_elsewhere(small: machine.Machine) -> None:
    for name in ("memory.max", "cpu.max"):
        (small.root / "sys/fs/cgroup" / name).unlink()
    assert small.core_limit is None and small.memory_limit is None
    for name, text in {
        "cpu/cpu.cfs_quota_us": "400000",
        "cpu/cpu.cfs_period_us": "100000",
        "memory/memory.limit_in_bytes": "5",
    }.items():
        path = small.root / "sys/fs/cgroup" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert (small.core_limit, small.memory_limit) == (4.0, 5)


def test_threads_that_spin(small: machine.Machine) -> None:
    assert looked("openmp", small).status == "ok"
    small.environ = {"OMP_WAIT_POLICY": "active"}
    assert looked("openmp", small).status == "warning"
    small.environ = {"OMP_NUM_THREADS": "2"}
    assert looked("openmp", small).status == "note"


def test_a_gpu_that_torch_cannot_use(small: machine.Machine) -> None:
    small.torch = {"version": "2.13.0", "build": "cpu", "threads": 2, "devices": [], "bfloat16": None}
    assert looked("torch", small).status == "ok"
    small.find = lambda name: f"/usr/bin/{name}"
    assert "is a build without CUDA" in looked("torch", small).wrong
    small.torch = {**small.torch, "build": "13.0"}
    assert "driver" in looked("torch", small).wrong
    device = {"name": "GPU", "bytes": 2**33, "free": 2**32}
    small.torch = {**small.torch, "devices": [device], "bfloat16": True}
    assert looked("torch", small).status == "ok" and "GPU, 4.0 GiB of 8.0 GiB free" in looked("torch", small).says
    small.torch = {**small.torch, "bfloat16": False}
    assert looked("torch", small).status == "note"
    small.torch = None
    assert "agentrl-toolkit[train]" in looked("torch", small).change


def test_disks(small: machine.Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total free")
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda place: usage(2**40, 2**40))
    assert looked("disk", small).status == "ok"
    monkeypatch.setattr(machine.os, "access", lambda place, mode: False)
    assert looked("disk", small).status == "failure"
    monkeypatch.undo()
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda place: usage(2**30, 2**29))
    assert looked("disk", small).status == "warning"
    assert looked("shared_memory", small).says == "there is no /dev/shm"
    (small.root / "dev" / "shm").mkdir(parents=True)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda place: usage(2**26, 2**26))
    assert looked("shared_memory", small).says == "/dev/shm holds 0.1 GiB"


def test_browsers(small: machine.Machine) -> None:
    assert looked("browser", small).says == "no Chromium was found"
    small.browser = lambda: Path("/opt/chrome")
    installed = importlib.util.find_spec("playwright") is not None
    assert ("/opt/chrome" in looked("browser", small).says) == installed


def test_walls_that_are_missing(small: machine.Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    python = registry.get("tool", "python")
    monkeypatch.setattr(python, "isolation", staticmethod(lambda: {"network": ("seccomp",), "writes": ()}))
    found = looked("isolation", small)
    assert (found.status, found.says) == ("warning", "no layer for writes; network (seccomp)")
    assert 'require = ["writes"]' in found.change


def test_extras_are_those_of_the_project() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    declared = {
        name: {line.split(">=")[0].split("[")[0]: line.split(">=")[1] for line in lines}
        for name, lines in project["optional-dependencies"].items()
        if name != "dev"
    }
    known = {name: dict(extra.packages) for name, extra in extras.EXTRAS.items() if name in declared}
    assert known == declared and set(extras.EXTRAS) - set(declared) == {"bfcl"}  # which no extra can install
    for name, extra in extras.EXTRAS.items():
        assert name not in declared or f"agentrl-toolkit[{name}]" in extra.command(name)
    assert extras.EXTRAS["vllm"].command("vllm") in str(MissingExtra("vllm", "the policy 'vllm'"))
    assert "make vllm-cpu" in str(MissingExtra("vllm", "the policy 'vllm'"))


def test_extras_that_are_old_or_half_there(monkeypatch: pytest.MonkeyPatch) -> None:
    extra = extras.Extra("things", {"one": "1.2", "two": "3"})
    for versions, status, says in (
        ({"one": "1.10", "two": "3.0"}, "ok", "things: one 1.10, two 3.0"),
        ({"one": "1.1.9", "two": "3"}, "warning", "too old: one 1.1.9 (wanted 1.2 or later)"),
        ({"one": "1.2"}, "note", "not complete: two missing"),
        ({}, "note", "not installed"),
    ):
        monkeypatch.setattr(extras, "version_of", versions.get)
        found = extras.look("some", extra)
        assert (found.status, found.says) == (status, says)
        assert status == "ok" or "agentrl-toolkit[some]" in found.change


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_the_command_prints_lines_and_json(healthy: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", healthy, "--json", "resources.threads=1"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["subject", "model", "env", "status", "counts", "checks"]
    assert (found["subject"], found["model"], found["env"], found["status"]) == ("model", healthy, None, "ok")
    keys = ["group", "name", "what", "status", "says", "wrong", "does", "change", "numbers", "seconds"]
    assert all(list(check) == keys for check in found["checks"])
    assert main(["doctor", healthy, "resources.threads=1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(found["checks"]) + 2
    assert lines[0].startswith("ok  tokenizer: ") and lines[-1] == f"{len(found['checks'])} ok"


def test_two_examinations_say_the_same(healthy: str) -> None:
    def told() -> list[dict[str, Any]]:
        checks = report({}, list(examined(healthy, only=["conversation", "logprobs"]).values()))["checks"]
        return [{**check, "seconds": 0} for check in checks]

    assert told() == told()


def test_a_failure_is_exit_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = bytes_tokenizer()
    made.chat_template = None
    with pytest.raises(SystemExit) as ended:
        main(["doctor", saved(tmp_path, made), "resources.threads=1"])
    assert ended.value.code == 1
    assert "FAILURE  template: there is no chat template" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nobody/has-this"], "neither a folder nor a model in Hugging Face's cache"),
        (["./nowhere"], "there is no folder ./nowhere"),
        (["a", "b", "c"], "wanted a model and an environment at most; got a, b, c"),
        (["run.seed=1"], "settings are for a model"),
        (["MODEL", "no/Such-v0"], "no/Such-v0"),
        (["MODEL", "rollout.max_tokns=3"], "max_tokens"),
        (["MODEL", "--option", "a=1"], "--option is for an environment"),
    ],
)
def test_bad_usage_is_exit_status_2(
    healthy: str, words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", *(healthy if word == "MODEL" else word for word in words)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and says in captured.err


def test_a_run_folder_says_how_its_model_is_used(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    model = saved(tmp_path / "checkpoints" / "step_1", bytes_tokenizer("tools"))
    (tmp_path / "checkpoints" / "latest").symlink_to("step_1")
    (tmp_path / "config.toml").write_text('[env]\nid = "toy/None-v0"\n[agent]\nsystem = "Go"\ncontext = 9999\n')
    found = finding(str(tmp_path), "context")
    assert found.status == "failure" and "agent.context = 9999" in found.says
    other = tmp_path / "other.toml"
    other.write_text("[agent]\ncontext = 400\n")
    assert finding(model, "context", config=str(other)).numbers["agent"] == 400
    with pytest.raises(CheckpointError, match=r"no config\.json in it"):
        examined(str(tmp_path / "checkpoints"))
    other.write_text("[agent]\ncontxt = 400\n")
    with pytest.raises(ConfigError, match="context"):
        examined(model, config=str(other))
