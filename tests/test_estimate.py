"""What a dry run tells: the formulas against what torch really keeps, and models that are too large or not at hand."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("peft")

import numpy as np
import torch
import torch.distributed as dist
from toy_runs import metrics, run_file
from toys import tiny_model, tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from agentrl.algorithms.losses import PPOClip
from agentrl.algorithms.regularizers import EntropyBonus
from agentrl.cli import main
from agentrl.errors import CheckpointError, ConfigError
from agentrl.learning import checkpoint, estimate, lora
from agentrl.learning.estimate import KNOWN, Plan, Turns
from agentrl.learning.learner import Learner
from agentrl.learning.samples import Sample
from agentrl.policies import Request
from agentrl.policies.transformers import TransformersPolicy
from agentrl.types import Sampling

SMALL = {
    "model_type": "qwen2",
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
}
TURNS = Turns(episodes=4, turns=8, samples=8, longest=100, read=600, sampled=200, trained_on=800)


def build(dtype: str = "float32", **changes: Any) -> Any:
    fields = {**SMALL, "vocab_size": 50, **changes}
    made = AutoConfig.for_model(fields.pop("model_type"), **fields)
    return AutoModelForCausalLM.from_config(made).to(getattr(torch, dtype))


def kept_for_backward(model: Any, batch: int, length: int) -> int:
    """Bytes that autograd keeps in a forward pass of everything below the head, parameters aside."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Any] = {}

    def pack(tensor: Any) -> Any:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no storage is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.base_model(input_ids=torch.zeros(batch, length, dtype=torch.long), use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


# ── shapes ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "n_parameters", "n_computing"),
    [
        ("Qwen/Qwen2.5-1.5B-Instruct", 1_543_714_304, 1_543_714_304),
        ("Qwen/Qwen2.5-7B-Instruct", 7_615_616_512, 7_615_616_512 - 152_064 * 3584),
    ],
)
def test_the_known_models_have_as_many_parameters_as_their_cards_say(
    name: str, n_parameters: int, n_computing: int
) -> None:
    shape, found = estimate.shape_of(name, None, None)
    assert (shape.n_parameters, shape.n_computing) == (n_parameters, n_computing)
    assert "agentrl's own table" in found and name in KNOWN


@pytest.mark.parametrize("tied", [True, False])
def test_a_shape_counts_what_the_model_has(tied: bool, tmp_path: Path) -> None:
    model = build(tie_word_embeddings=tied)
    model.save_pretrained(tmp_path)
    at_path, found = estimate.shape_of(str(tmp_path), None, None)
    from_table, _ = estimate.shape_of(None, {**SMALL, "tie_word_embeddings": tied}, 50)
    assert at_path == from_table and found == f"the config.json of {tmp_path}"
    assert at_path.n_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert at_path.n_parameters - at_path.n_computing == (0 if tied else 50 * 64)
    assert (at_path.layers, at_path.hidden, at_path.intermediate, at_path.kv) == (3, 64, 160, 32)
    assert estimate.weights_at_hand(str(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    assert not estimate.weights_at_hand(str(tmp_path))


def test_a_model_that_is_not_at_hand_or_none_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"the config of nobody/Nothing-1B is not at hand.*Qwen2.5-7B-Instruct"):
        estimate.shape_of("nobody/Nothing-1B", None, None)
    assert not estimate.weights_at_hand("nobody/Nothing-1B")
    with pytest.raises(ConfigError, match="makes no model"):
        estimate.shape_of(None, {**SMALL, "num_attention_heads": 0}, 50)


# ── memory ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def plan(**changes: Any) -> Plan:
    return Plan(**{"token_budget": 1000, "rows": 1, **changes})


def sizes(shape: estimate.Shape, **changes: Any) -> dict[str, int]:
    return {name: size for name, (size, _) in estimate.memory(shape, TURNS, plan(**changes)).items()}


def adapter(rank: int = 4, targets: Any = "all-linear") -> dict[str, Any]:
    return {"rank": rank, "alpha": 2.0 * rank, "targets": targets}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "changes", [{}, {"intermediate_size": 320}, {"num_key_value_heads": 4}, {"num_hidden_layers": 6}]
)
def test_activations_are_what_autograd_keeps(changes: dict[str, Any], dtype: str) -> None:
    kept = kept_for_backward(build(dtype, **changes), 4, 128)
    shape, _ = estimate.shape_of(None, {**SMALL, **changes}, 50)
    assert sizes(shape, dtype=dtype, token_budget=4 * 128)["activations"] == pytest.approx(kept, rel=0.06)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"], ["down_proj"]])
def test_activations_of_an_adapter_are_what_autograd_keeps(targets: Any, dtype: str) -> None:
    made = lora.add_adapter(build(dtype), **adapter(targets=targets), base="", seed=0)
    kept = kept_for_backward(lora.causal_lm(made), 4, 128)
    shape, _ = estimate.shape_of(None, SMALL, 50, adapter(targets=targets))
    assert shape.n_adapter == sum(p.numel() for p in made.parameters() if p.requires_grad)
    found = sizes(shape, dtype=dtype, token_budget=4 * 128)["activations"]
    # Of single layers it is a bound: before the first of them nothing is kept, and what two of them read counts twice.
    assert 0.9 * kept < found < (1.1 if targets == "all-linear" else 1.5) * kept


def test_the_parts_add_up() -> None:
    shape, _ = estimate.shape_of(None, SMALL, 50)
    n, found = shape.n_parameters, sizes(shape, reference=True)
    names = ("weights", "masters", "gradients", "new gradients", "optimiser state", "reference policy")
    assert [found[name] for name in names] == [4 * n, 0, 4 * n, 0, 8 * n, 4 * n]
    assert found["logits"] == 1000 // 4 * 50 * 16  # a quarter of the tokens is trained
    assert sizes(shape)["reference policy"] == 0
    # the longest sample comes alone
    assert sizes(shape, token_budget=1)["activations"] == sizes(shape, token_budget=100)["activations"]
    told = {name: (size, "") for name, size in found.items()}
    assert estimate.peak(told) == 20 * n + found["activations"] + max(found["logits"], found["layer under way"])
    assert estimate.peak({**told, "critic": (7, "")}) == estimate.peak(told) + 7
    assert sizes(shape)["critic"] == 0 and sizes(shape, critic=True)["critic"] == 16 * n
    assert sizes(shape, critic=True, dtype="bfloat16")["critic"] == 18 * n
    assert estimate.peak({**told, "KV cache": (10**12, "")}) == 16 * n + 10**12 + found["reading"]
    assert estimate.peak({**told, "new gradients": (10**12, "")}) == 20 * n + 10**12 + found["layer under way"]
    assert estimate.peak({**told, "optimiser step": (10**12, "")}) == 20 * n + 10**12


def test_bfloat16_has_float32_masters_and_sums() -> None:
    shape, _ = estimate.shape_of(None, SMALL, 50)
    n, found = shape.n_parameters, sizes(shape, dtype="bfloat16", reference=True)
    names = ("weights", "masters", "gradients", "new gradients", "optimiser state", "reference policy")
    assert [found[name] for name in names] == [
        2 * n,
        4 * n,
        4 * n,
        2 * n,
        8 * n,
        2 * n,
    ]  # 20 bytes a parameter, and the copy


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("bfloat16", 2)])
def test_of_an_adapter_only_it_is_moved(dtype: str, size: int) -> None:
    whole, _ = estimate.shape_of(None, SMALL, 50)
    shape, _ = estimate.shape_of(None, SMALL, 50, adapter(rank=4))
    n, a, found = whole.n_parameters, shape.n_adapter, sizes(shape, dtype=dtype, reference=True)
    per_layer = 4 * (
        2 * 64 + 2 * (64 + 32) + 2 * 64 + 3 * (64 + 160)
    )  # rank x (in + out) of q, k, v, o, gate, up, down
    assert (shape.n_parameters, a, shape.n_trained, whole.n_trained) == (n, 3 * per_layer, a, n)
    names = ("weights", "masters", "gradients", "new gradients", "optimiser state", "reference policy")
    assert [found[name] for name in names] == [size * n + 4 * a, 0, 4 * a, 0, 8 * a, 0]
    assert sizes(shape, dtype=dtype, reference=True, continued=True)["reference policy"] == 8 * a
    assert estimate.shape_of(None, SMALL, 50, adapter(rank=8))[0].n_adapter == 2 * a
    with pytest.raises(ConfigError, match="targets"):
        estimate.shape_of(None, SMALL, 50, adapter(targets=["no_such_layer"]))


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("bfloat16", 2)])
def test_gradient_checkpointing_keeps_an_input_a_layer_and_one_layer(dtype: str, size: int) -> None:
    for wanted in (None, adapter()):
        shape, _ = estimate.shape_of(None, SMALL, 50, wanted)
        layer = estimate.kept_by_layer(shape, dtype)
        plain, again = (sizes(shape, dtype=dtype, gradient_checkpointing=on) for on in (False, True))
        assert plain["activations"] - again["activations"] == 1000 * 3 * (layer - 64 * size)
        assert again["layer under way"] - plain["layer under way"] == 1000 * layer
        assert {name for name in plain if plain[name] != again[name]} == {"activations", "layer under way"}


def test_logits_are_bounded_by_a_chunk() -> None:
    shape, _ = estimate.shape_of(None, {**SMALL, "tie_word_embeddings": False}, 5000)
    head = 5000 * 64 * 4
    assert sizes(shape)["logits"] == 250 * 5000 * 16
    assert sizes(shape, logit_chunk=200)["logits"] == 200 * 5000 * 16
    assert sizes(shape, logit_chunk=200, entropy_gradient=True)["logits"] == 200 * 5000 * 20
    assert sizes(shape, logit_chunk=10)["logits"] == 10 * 5000 * 12 + 2 * head  # two chunks' gradients of the head
    huge, _ = estimate.shape_of(None, SMALL, 2**20)
    assert sizes(huge, entropy_gradient=True)["logits"] == 64 * 2**20 * 16 + 2 * 2**20 * 64 * 4  # chunks of 256 MiB
    adapted, _ = estimate.shape_of(None, SMALL, 2**20, adapter())
    assert sizes(adapted)["logits"] == 64 * 2**20 * 16  # the head is not trained


def test_the_cache_is_what_generation_keeps() -> None:
    output = build()(input_ids=torch.zeros(4, 100, dtype=torch.long), use_cache=True)
    kept = sum(layer.keys.nbytes + layer.values.nbytes for layer in output.past_key_values.layers)
    shape, _ = estimate.shape_of(None, SMALL, 50)
    assert sizes(shape, rows=4)["KV cache"] == kept
    assert sizes(shape, rows=4, dtype="bfloat16")["KV cache"] == kept // 2
    assert sizes(shape, rows=4, kept_rows=8, kept_bytes=10**9)["KV cache"] == 3 * kept
    assert sizes(shape, rows=4, kept_rows=8, kept_bytes=1000)["KV cache"] == kept + 1000


def test_the_optimisers_step_on_a_gpu() -> None:
    shape, _ = estimate.shape_of(None, SMALL, 50)
    parameters = [torch.zeros(64, 64, requires_grad=True) for _ in range(20)]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer = torch.optim.AdamW(parameters, foreach=True)  # what torch does on a GPU
    optimizer.step()
    n = sum(parameter.numel() for parameter in parameters)
    assert allocated(optimizer.step) == pytest.approx(4 * n, rel=0.05)
    assert sizes(shape, cuda=True)["optimiser step"] == 4 * shape.n_parameters
    assert sizes(shape)["optimiser step"] == 0


# ── against what torch allocates ─────────────────────────────────────────────────────────────────────────────────────


def allocated(work: Callable[[], Any]) -> int:
    """The most bytes that torch held at a time in ``work``, beyond what it held before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    held = most = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


COMBINATIONS = [
    ({}, {}, 50),
    ({"dtype": "bfloat16"}, {}, 50),
    ({"gradient_checkpointing": True}, {}, 50),
    ({"dtype": "bfloat16", "gradient_checkpointing": True}, {}, 50),
    ({}, adapter(8), 50),
    ({"dtype": "bfloat16"}, adapter(8), 50),
    ({"dtype": "bfloat16", "gradient_checkpointing": True}, adapter(8), 50),
    ({}, {}, 5000),
    ({"entropy_gradient": True}, {}, 5000),
    ({"dtype": "bfloat16", "logit_chunk": 16}, {}, 5000),
    ({"gradient_checkpointing": True, "logit_chunk": 32}, adapter(8), 5000),
]


@pytest.mark.parametrize(("options", "adapted", "vocabulary"), COMBINATIONS)
def test_an_update_allocates_what_was_told(options: dict[str, Any], adapted: dict[str, Any], vocabulary: int) -> None:
    shape, _ = estimate.shape_of(None, SMALL, vocabulary, adapted or None)
    turns = Turns(episodes=8, turns=8, samples=8, longest=128, read=8 * 96, sampled=8 * 32, trained_on=8 * 128)
    wanted = plan(token_budget=512, **options)
    told = estimate.update_peak(estimate.memory(shape, turns, wanted))

    model = build(wanted.dtype, vocab_size=vocabulary)
    model = lora.add_adapter(model, **adapted, base="", seed=0) if adapted else model
    rng = np.random.default_rng(0)
    ids = rng.integers(0, vocabulary, (8, 128)).tolist()
    samples = [Sample.of(row, first=96, row=0, trajectory=number) for number, row in enumerate(ids)]
    learner = Learner(
        model=model,
        loss=PPOClip(),
        regularizers=[EntropyBonus(coef=0.01)] if wanted.entropy_gradient else [],
        token_budget=wanted.token_budget,
        chunk=wanted.logit_chunk,
        gradient_checkpointing=wanted.gradient_checkpointing,
    )
    data = learner.prepare(samples, np.ones(1), None)
    learner.update(samples, data, None)  # from here on there is an optimiser's state
    learner.optimizer.zero_grad()
    assert told == pytest.approx(allocated(lambda: learner.update(samples, data, None)), rel=0.1)


@pytest.mark.parametrize(
    ("dtype", "vocabulary", "changes"),
    [("float32", 50, {}), ("bfloat16", 50, {"num_hidden_layers": 12}), ("float32", 50_000, {})],
)
def test_generation_allocates_what_was_told(dtype: str, vocabulary: int, changes: dict[str, Any]) -> None:
    shape, _ = estimate.shape_of(None, {**SMALL, **changes}, vocabulary)
    turns = Turns(episodes=8, turns=8, samples=8, longest=144, read=1024, sampled=128, trained_on=1152)
    parts = estimate.memory(shape, turns, plan(rows=8, dtype=dtype))
    policy = TransformersPolicy(build(dtype, vocab_size=vocabulary, **changes))
    prompts = np.random.default_rng(0).integers(0, 50, (8, 128)).tolist()
    requests = [Request(str(n), ids, Sampling(max_tokens=16, key=(n,))) for n, ids in enumerate(prompts)]
    told = parts["KV cache"][0] + parts["reading"][0]
    assert told == pytest.approx(allocated(lambda: policy.generate_batch(requests)), rel=0.1)


def test_operations_follow_the_tokens() -> None:
    shape, _ = estimate.shape_of(None, SMALL, 50)
    n = shape.n_parameters
    found = estimate.operations(shape, TURNS, scorings=2, epochs=3)
    assert {name: value for name, (value, _) in found.items()} == {
        "generation": 2 * n * 800,
        "scoring": 2 * n * 800 * 2,
        "training": 6 * n * 800 * 3,
    }
    again = estimate.operations(shape, TURNS, scorings=2, epochs=3, gradient_checkpointing=True)
    assert again["training"][0] == 8 * n * 800 * 3
    with_critic = estimate.operations(shape, TURNS, scorings=2, epochs=3, critic_epochs=2)
    assert with_critic["critic"][0] == (2 + 6 * 2) * n * 800
    adapted, _ = estimate.shape_of(None, SMALL, 50, adapter())
    assert estimate.operations(adapted, TURNS, scorings=2, epochs=3)["training"][0] == 4 * n * 800 * 3


def test_this_machine_is_measured() -> None:
    assert 1e8 < estimate.matmul_speed("cpu", "float32", seconds=0.01) < 1e14
    free = estimate.available("cpu")
    assert free is None or free > 2**20


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, dict[str, Any]]:
    assert main(["train", *arguments, "--dry-run"]) == 0
    text = capsys.readouterr().out
    return text, tomllib.loads(text)


def test_a_dry_run_tells_memory_and_time_and_then_the_run_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, tables = told(capsys, str(run_file(tmp_path)))
    assert tables["run"]["name"] == "tiny"
    assert "at most 8 episodes, 32 turns, 32 samples" in text and "every part of the run was made" in text
    for part in ("weights", "optimiser state", "activations", "KV cache", "generation", "training", "FLOP/s"):
        assert part in text
    with_critic, _ = told(capsys, str(run_file(tmp_path)), 'algorithm.credit={name="turn_gae"}', "critic.epochs=3")
    assert "2 N x" in with_critic and "tokens x 3" in with_critic and "every part of the run was made" in with_critic
    with_critic, _ = told(capsys, str(run_file(tmp_path)), 'algorithm.credit={name="turn_gae"}', "critic.epochs=3")
    assert "2 N x" in with_critic and "tokens x 3" in with_critic and "every part of the run was made" in with_critic


@pytest.mark.slow
@pytest.mark.xdist_group("ranks")
@pytest.mark.parametrize("sharding", ["ddp", "fsdp2"])
def test_a_dry_run_of_several_learners_tells_what_each_holds(
    sharding: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, _ = told(capsys, str(run_file(tmp_path)), "resources.learners=2", f"resources.sharding={sharding}")
    assert f"in learner 1 of 2 ({sharding}; the table below), which samples" in text and " together, " in text
    assert ("a part of 2: AdamW" in text) == (sharding == "fsdp2")
    assert "every part of the run was made" in text and not dist.is_initialized()


def test_learners_hold_parts_and_only_the_first_samples() -> None:
    parts = dict.fromkeys(
        (*estimate.LASTING, "gradients", "new gradients", "activations", "layer under way"), (100, "")
    )
    parts |= dict.fromkeys(("logits", "optimiser step", "KV cache", "reading"), (100, ""))
    shape = estimate.Shape("qwen2", 1000, 900, 5, 4, 8, 2, 25, None)
    plan = estimate.Plan(token_budget=8, rows=1, dtype="float32")

    def sizes(**which: bool) -> dict[str, int]:
        return {name: size for name, (size, _) in estimate.of_learner(shape, plan, parts, 3, **which).items()}

    whole = dict.fromkeys(parts, 100)
    assert sizes(sharded=False, first=True) == whole
    assert sizes(sharded=False, first=False) == whole | dict.fromkeys(estimate.SAMPLES, 0)
    cut = whole | dict.fromkeys(estimate.DIVIDED, 34) | {"layer under way": 100 + 4 * (200 + 25 * 4)}
    assert sizes(sharded=True, first=False) == cut | dict.fromkeys(estimate.SAMPLES, 0)
    assert sizes(sharded=True, first=True) == cut | {"weights": 34 + 4000}


def test_a_dry_run_follows_the_run_file(tmp_path: Path) -> None:
    from agentrl import build, config
    from agentrl.dry_run import plan_of

    def told(*overrides: str) -> Plan:
        settings = config.load(run_file(tmp_path), overrides)
        return plan_of(settings, build.methods(settings.algorithm, state_keys=True), TURNS, "cpu")

    plain = told()
    assert plain == Plan(token_budget=16384, rows=4, kept_rows=4)
    changes = {
        "model.dtype=bfloat16": {"dtype": "bfloat16"},
        "model.gradient_checkpointing=true": {"gradient_checkpointing": True},
        "optimizer.logit_chunk=7": {"logit_chunk": 7},
        "optimizer.token_budget=64": {"token_budget": 64},
        "rollout.batch_size=2": {"rows": 2},
        "rollout.max_live=3": {"rows": 3, "kept_rows": 3},
        "agent.memory={name='append'}": {"kept_bytes": 4 * 2**30},
        "algorithm.regularizers=[{name='kl', coef=0.1}]": {"reference": True},
        "algorithm.regularizers=[{name='entropy', coef=0.1}]": {"entropy_gradient": True},
    }
    for override, change in changes.items():
        assert told(override) == dataclasses.replace(plain, **change), override
    off = told("agent.memory={name='append'}", "rollout.kv_cache=false")
    assert off.kept_bytes == 0


def test_a_dry_run_of_an_adapter_and_of_one_that_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = tokenizer()
    checkpoint.write_model(tmp_path / "base", tiny_model(made), made)
    base = checkpoint.load_model(str(tmp_path / "base"))
    adapted = lora.add_adapter(base, rank=2, alpha=4.0, targets="all-linear", base=str(tmp_path / "base"), seed=0)
    checkpoint.write_model(tmp_path / "adapter", adapted, made)
    n = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    text = run_file(tmp_path).read_text()
    start, end = text.index("[model.config]"), text.index("[agent]")
    (tmp_path / "lora.toml").write_text(text[:start] + text[end:])
    arguments = [str(tmp_path / "lora.toml"), "algorithm.regularizers=[{name='kl', coef=0.1}]"]
    wanted = "model.lora={rank=2, alpha=4.0}"
    text, _ = told(capsys, *arguments, wanted, f"model.path={tmp_path / 'base'}")
    assert f"{n:,} of an adapter" in text and "the model without its adapter" in text
    text, _ = told(capsys, *arguments, wanted, f"model.path={tmp_path / 'adapter'}")
    assert (
        f"{n:,} of an adapter" in text
        and "where the adapter began" in text
        and "every part of the run was made" in text
    )
    text, _ = told(capsys, *arguments, f"model.path={tmp_path / 'adapter'}")  # merged, and trained as a whole
    assert "of an adapter" not in text and "a frozen copy" in text


def test_the_bound_holds_for_a_run(tmp_path: Path) -> None:
    from agentrl import build, config, stages
    from agentrl.dry_run import upper_bound
    from agentrl.scenes import Scenes
    from agentrl.trainer import train

    for memory in ("{name='append'}", "{name='window', turns=2}"):
        settings = config.load(
            run_file(tmp_path), [f"agent.memory={memory}", "run.iterations=1", "evaluation.episodes=0"]
        )
        scenes = Scenes.of(settings)
        methods = build.methods(settings.algorithm, state_keys=True)
        states = stages.initial_states(methods, settings.run.seed)
        requests = methods.sampler.propose(states.get("sampler"), 0, scenes.tasks)
        bound = upper_bound(settings, scenes, requests, build.tokenizer(settings, scenes.pools)[1], 512)
        train(settings, tmp_path / memory.split("'")[1])
        (line,) = metrics(tmp_path / memory.split("'")[1])
        assert line["n_trajectories"] == bound.episodes
        assert 0.5 * bound.turns < line["n_turns"] <= bound.turns
        assert 0.5 * bound.sampled < line["n_sampled_tokens"] <= bound.sampled
        assert bound.samples == (8 if "append" in memory else bound.turns)


def test_a_model_that_is_too_large_is_estimated_and_not_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    huge = ("hidden_size=16384", "intermediate_size=65536", "num_hidden_layers=200", "num_attention_heads=128")
    text, _ = told(capsys, str(run_file(tmp_path)), *(f"model.config.{setting}" for setting in huge))
    assert "IT DOES NOT FIT" in text and "was not made because it does not fit" in text


def test_a_model_of_the_hub_is_estimated_without_a_download(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, tables = told(capsys, "paper/gigpo_alfworld", "env.options.difficulty=tiny")
    assert "1,543,714,304 parameters" in text and "at most 128 episodes, 6,400 turns" in text
    assert "are not at hand, and nothing is downloaded" in text and "words and signs" in text
    assert tables["model"]["path"] == "Qwen/Qwen2.5-1.5B-Instruct"
    overrides = ("model.path=nobody/Nothing-1B", "env.options.difficulty=tiny")
    assert main(["train", "paper/gigpo_alfworld", *overrides, "--dry-run"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "the config of nobody/Nothing-1B is not at hand" in captured.err


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("evaluation.split=nonsense", "no split is called 'nonsense'"),
        ("evaluation.games=./nowhere", "nowhere"),
        ('algorithm.scores=[{name="judge"}]', "has no reference to compare an answer with"),
    ],
)
def test_a_dry_run_without_the_weights_finds_all_that_needs_none(
    override: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "paper/gigpo_alfworld", "env.options.difficulty=tiny", "evaluation.episodes=2", override]
    assert main([*arguments, "--dry-run"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and words in captured.err


def test_a_folder_without_a_model_is_an_error_in_a_dry_run_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "quickstart", "model.path=./nothing", "--dry-run"]) == 2
    assert "there is no checkpoint at ./nothing" in capsys.readouterr().err
