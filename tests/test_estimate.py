"""What a dry run tells: the formulas against what torch really keeps, and models that are too large or not at hand."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from toy_runs import metrics, run_file
from transformers import AutoConfig, AutoModelForCausalLM

from agentrl.cli import main
from agentrl.errors import CheckpointError, ConfigError
from agentrl.learning import estimate
from agentrl.learning.estimate import KNOWN, Turns

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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "changes", [{}, {"intermediate_size": 320}, {"num_key_value_heads": 4}, {"num_hidden_layers": 6}]
)
def test_activations_are_what_autograd_keeps(changes: dict[str, Any], dtype: str) -> None:
    kept = kept_for_backward(build(dtype, **changes), 4, 128)
    shape, _ = estimate.shape_of(None, {**SMALL, **changes}, 50)
    parts = estimate.memory(shape, TURNS, dtype=dtype, reference=False, token_budget=4 * 128, rows=4)
    assert parts["activations"][0] == pytest.approx(kept, rel=0.06)


def test_the_cache_is_what_generation_keeps() -> None:
    model = build()
    output = model(input_ids=torch.zeros(4, 100, dtype=torch.long), use_cache=True)
    kept = sum(layer.keys.nbytes + layer.values.nbytes for layer in output.past_key_values.layers)
    shape, _ = estimate.shape_of(None, SMALL, 50)
    parts = estimate.memory(shape, TURNS, dtype="float32", reference=False, token_budget=100, rows=4)
    assert parts["KV cache"][0] == kept


def test_the_parts_add_up() -> None:
    shape, _ = estimate.shape_of(None, SMALL, 50)
    n = shape.n_parameters

    def parts(**changes: Any) -> dict[str, int]:
        settings = {"dtype": "float32", "reference": True, "token_budget": 1000, "rows": 1, **changes}
        return {name: size for name, (size, _) in estimate.memory(shape, TURNS, **settings).items()}

    found = parts()
    assert [found[name] for name in ("weights", "gradients", "optimiser state", "reference policy")] == [
        4 * n,
        4 * n,
        8 * n,
        4 * n,
    ]
    assert found["critic"] == 0 and parts(critic=True)["critic"] == 16 * n
    assert found["logits"] == 1000 // 4 * 50 * 16  # a quarter of the tokens is trained
    assert parts(reference=False)["reference policy"] == 0
    assert (
        parts(token_budget=1)["activations"] == parts(token_budget=100)["activations"]
    )  # the longest sample comes alone
    told = {name: (size, "") for name, size in found.items()}
    assert estimate.peak(told) == sum(found.values()) - found["KV cache"]
    assert estimate.peak({**told, "KV cache": (10**12, "")}) == 16 * n + 10**12
    assert estimate.peak({**told, "critic": (7, "")}) == estimate.peak(told) + 7


def test_operations_follow_the_tokens() -> None:
    shape, _ = estimate.shape_of(None, SMALL, 50)
    n = shape.n_parameters
    found = estimate.operations(shape, TURNS, scorings=2, epochs=3)
    assert {name: value for name, (value, _) in found.items()} == {
        "generation": 2 * n * 800,
        "scoring": 2 * n * 800 * 2,
        "training": 6 * n * 800 * 3,
    }
    with_critic = estimate.operations(shape, TURNS, scorings=2, epochs=3, critic_epochs=2)
    assert with_critic["critic"][0] == (2 + 6 * 2) * n * 800


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


def test_a_folder_without_a_model_is_an_error_in_a_dry_run_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "quickstart", "model.path=./nothing", "--dry-run"]) == 2
    assert "there is no checkpoint at ./nothing" in capsys.readouterr().err
