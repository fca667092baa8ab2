"""What is handed to an engine: names and values of a checkpoint, heads filled up, adapters added, folders that do not pile up."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")

import torch
from safetensors.torch import load_file
from toys import tiny_model, tokenizer

from agentrl.errors import AgentRLError, ConfigError
from agentrl.learning import lora
from agentrl.learning.checkpoint import build_model, load_model
from agentrl.policies.vllm_weights import PREFIX, WeightsFolder, head_size, padded_config, padded_heads, tensors_of


@pytest.fixture
def model() -> Any:
    return tiny_model(tokenizer())


def test_a_folder_is_a_checkpoint_of_the_model(model: Any, tmp_path: Path) -> None:
    handed = WeightsFolder(place=tmp_path)
    path, n_bytes = handed.write(model, 3)
    again = load_model(str(path)).state_dict()
    assert all(torch.equal(again[name], weight) for name, weight in model.state_dict().items())
    assert (
        n_bytes == sum(file.stat().st_size for file in path.iterdir()) > 4 * sum(p.numel() for p in model.parameters())
    )


def test_one_folder_is_left_and_none_after_the_end(model: Any, tmp_path: Path) -> None:
    handed = WeightsFolder(place=tmp_path)
    paths = [handed.write(model, version)[0] for version in (1, 2, 2)]
    assert len(set(paths)) == 3
    assert [path.exists() for path in paths] == [False, False, True]
    handed.close()
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    (tmp_path / f"{PREFIX}-{int(gone.stdout)}-abc").mkdir()
    (tmp_path / f"{PREFIX}-{os.getppid()}-abc").mkdir()
    (tmp_path / "another").mkdir()
    handed = WeightsFolder(place=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {f"{PREFIX}-{os.getppid()}-abc", "another", handed.path.name}


def test_whose_folder_it_is_says_its_lock_and_not_a_number(tmp_path: Path) -> None:
    """In another container every process here looks gone; and a number is given again to another process."""
    living = WeightsFolder(place=tmp_path)
    elsewhere = living.path.rename(tmp_path / f"{PREFIX}-99999999-abc")
    left = tmp_path / f"{PREFIX}-{os.getppid()}-abc"
    left.mkdir()
    (left / ".lock").touch()
    handed = WeightsFolder(place=tmp_path)
    assert set(tmp_path.iterdir()) == {elsewhere, handed.path}
    handed.close()
    handed.close()  # twice is once
    assert set(tmp_path.iterdir()) == {elsewhere}
    elsewhere.rename(living.path)
    living.close()


def test_no_room_is_one_error_and_leaves_nothing(model: Any, tmp_path: Path, monkeypatch: Any) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    handed = WeightsFolder(place=tmp_path)
    before, _ = handed.write(model, 0)
    monkeypatch.setattr("agentrl.policies.vllm_weights.save_file", full)
    with pytest.raises(AgentRLError, match=r"No space left on device; .* needs room for two copies"):
        handed.write(model, 1)
    assert list(handed.path.glob("[!.]*")) == [before]


def test_larger_heads_compute_the_same(model: Any) -> None:
    """Of one layer: the scores q·k/√size and what the output projection makes of the values."""
    own, size, prefix = head_size(model.config), 32, "model.layers.1.self_attn"
    assert own == 8
    plain = dict(model.named_parameters())
    grown = dict(padded_heads(iter(plain.items()), own, size))
    assert set(grown) == set(plain)
    changed = {name for name in plain if grown[name].shape != plain[name].shape}
    assert changed == {n for n in plain if "_attn." in n and not n.endswith("o_proj.bias")}
    hidden = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))

    def heads(weights: dict[str, Any], part: str, width: int) -> torch.Tensor:
        found = hidden @ weights[f"{prefix}.{part}_proj.weight"].T + weights[f"{prefix}.{part}_proj.bias"]
        return found.unflatten(1, (-1, width))

    with torch.no_grad():
        scores = [
            torch.einsum("thd,sgd->ths", heads(w, "q", n), heads(w, "k", n)) / n**0.5
            for w, n in ((plain, own), (grown, size))
        ]
        torch.testing.assert_close(scores[0], scores[1])
        outputs = [
            heads(w, "v", n).repeat(1, 2, 1).flatten(1) @ w[f"{prefix}.o_proj.weight"].T
            for w, n in ((plain, own), (grown, size))
        ]
        torch.testing.assert_close(outputs[0], outputs[1])


@pytest.mark.parametrize("own", range(2, 64, 2))
def test_the_places_that_turn_stay_as_many(model: Any, own: int) -> None:
    """Engines read the share of a head that turns as int(size * share)."""
    config = copy.deepcopy(model.config)
    config.head_dim = own
    fields = padded_config(config, 64)
    assert int(64 * fields["rope_parameters"]["partial_rotary_factor"]) == own
    assert fields["head_dim"] == 64 and fields["qkv_bias"] and not fields["attention_bias"]


def test_heads_that_cannot_grow_are_refused(model: Any, tmp_path: Path) -> None:
    model.config.rope_parameters = {"rope_type": "yarn", "rope_theta": 1e4}
    with pytest.raises(ConfigError, match="no heads of size 8"):
        WeightsFolder(size=32, place=tmp_path).write(model, 0)


def adapted() -> Any:
    base = build_model(
        {"model_type": "qwen2", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
         "num_attention_heads": 2, "num_key_value_heads": 1}, tokenizer(), 0,
    )  # fmt: skip
    model = lora.add_adapter(base, rank=2, alpha=4, targets="all-linear", base="", seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.fill_(0.1)
    return model


def test_an_adapter_is_added_to_the_weights_and_the_model_stays(tmp_path: Path) -> None:
    model = adapted()
    found = {name: weight.clone() for name, weight in tensors_of(model)}
    base = {name for name, _ in model.named_parameters() if name.endswith("base_layer.weight")}
    assert base  # it still has its adapter
    wanted = dict(lora.merged(adapted()).named_parameters())
    assert set(found) == set(wanted)
    for name, weight in wanted.items():
        torch.testing.assert_close(found[name], weight)


def test_an_adapter_alone_is_written_in_peft_s_layout_and_what_is_below_it_once(tmp_path: Path) -> None:
    model = adapted()
    handed = WeightsFolder(adapter_alone=True, place=tmp_path)
    path, _ = handed.write(model, 1)
    assert (path / "adapter_model.safetensors").is_file() and not (path / "model.safetensors").exists()
    below = load_file(handed.write_base(model) / "model.safetensors")
    plain = {n.replace(".base_layer.", ".").removeprefix("base_model.model."): p for n, p in model.named_parameters()}
    assert all(torch.equal(weight, plain[name]) for name, weight in below.items())
    assert not any("lora" in name for name in below)
    assert json.loads((handed.path / "base" / "config.json").read_text())["architectures"] == ["Qwen2ForCausalLM"]
