"""Adapters: only they are trained, the model below them is the reference, and what is saved can be played, continued and merged."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("peft")

import torch
from toy_cases import case, snapshot
from toy_runs import assert_same_run, run_file, summary
from toys import tiny_model, tokenizer

from agentrl.algorithms.losses import PPOClip
from agentrl.algorithms.regularizers import KL
from agentrl.cli import main
from agentrl.config import load, parse
from agentrl.errors import CheckpointError, ConfigError
from agentrl.learning import checkpoint, lora
from agentrl.learning.learner import Learner, OptimizerSettings
from agentrl.policies import Request
from agentrl.policies.transformers import TransformersPolicy
from agentrl.types import Sampling

IDS = torch.tensor([[11, 12, 13, 14, 15, 16]])
MOVING = OptimizerSettings(lr=3e-2)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The folder of a model."""
    made = tokenizer()
    checkpoint.write_model(tmp_path / "base", tiny_model(made), made)
    return tmp_path / "base"


def adapted(base: Path, dtype: str = "float32", **changes: Any) -> Any:
    shape = {"rank": 4, "alpha": 8.0, "targets": "all-linear", "seed": 0, **changes}
    return lora.add_adapter(checkpoint.load_model(str(base), dtype), base=str(base), **shape).eval()


def learner(model: Any, **changes: Any) -> Learner:
    settings = {"loss": PPOClip(high=10.0), "settings": MOVING, "old_logprobs": "sampler", **changes}
    return Learner(model=model, **settings)


def trained(model: Any, n_updates: int = 3, **changes: Any) -> Learner:
    given, made = case(), learner(model, **changes)
    data = made.prepare(given.samples, np.ones(len(given.table)), given.table)
    for _ in range(n_updates):
        made.update(given.samples, data, given.table)
    return made


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


# ---- learning -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_switched_off_it_is_the_model_below_exactly(base: Path, dtype: str) -> None:
    plain = checkpoint.load_model(str(base), dtype).eval()
    model = adapted(base, dtype)
    assert torch.equal(logits(model), logits(plain))  # a new adapter adds nothing
    made = trained(model)
    assert not torch.equal(logits(model), logits(plain))
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(plain))
    given = case()
    data = made.prepare(given.samples, given.advantages, given.table)
    off = lora.Reference(adapted(base, dtype))  # of a new one: nothing is kept
    assert off.copy is None and off.adapter == []
    with off.of(model) as frozen:
        found = made.logprobs(given.samples, data, model=frozen)
    expected = learner(plain).logprobs(given.samples, data)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])
    assert np.abs(made.logprobs(given.samples, data)[0] - found[0]).max() > 1e-3


def test_only_the_adapter_is_trained(base: Path) -> None:
    model = adapted(base, "bfloat16")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    made = trained(model, gradient_checkpointing=True, chunk=5)
    for name, parameter in model.named_parameters():
        is_adapter = ".lora_" in name
        assert parameter.requires_grad == is_adapter and (parameter.grad is not None) == is_adapter
        assert torch.equal(parameter, before[name]) != is_adapter
        assert parameter.dtype == (torch.float32 if is_adapter else torch.bfloat16)  # no further masters are needed
    assert made.masters.pairs == []
    assert sum(p.numel() for p in made.masters.parameters) < 0.6 * sum(p.numel() for p in model.parameters())
    targets = {name.split(".lora_")[0].rsplit(".", 1)[1] for name in before if ".lora_" in name}
    assert targets == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_the_reference_is_the_start_and_costs_no_second_model(base: Path, tmp_path: Path) -> None:
    given = case()
    made = learner(adapted(base), regularizers=[KL(coef=1.0)], with_reference=True)
    data = made.prepare(given.samples, given.advantages, given.table)
    np.testing.assert_array_equal(data.logp_ref, made.logprobs(given.samples, data)[0])
    assert made.update(given.samples, data, given.table)["kl"] == pytest.approx(0, abs=1e-6)
    after = made.prepare(given.samples, given.advantages, given.table)
    np.testing.assert_array_equal(after.logp_ref, data.logp_ref)
    assert made.update(given.samples, after, given.table)["kl"] > 1e-6  # it still learns after having been off
    assert made.reference is not None and made.reference.copy is None

    saved = checkpoint.save(tmp_path, 1, model=made.model, tokenizer=tokenizer())
    again = learner(checkpoint.load_model(str(saved)), regularizers=[KL(coef=1.0)], with_reference=True)
    start = again.prepare(given.samples, given.advantages, given.table)
    np.testing.assert_array_equal(start.logp_ref, again.logprobs(given.samples, start)[0])
    assert np.abs(start.logp_ref - data.logp_ref).max() > 1e-3  # where this run starts, not the model below
    again.update(given.samples, start, given.table)
    weights = [p.detach().clone() for p in again.masters.parameters]
    later = again.prepare(given.samples, given.advantages, given.table)
    np.testing.assert_array_equal(later.logp_ref, start.logp_ref)
    assert all(torch.equal(a, b) for a, b in zip(weights, again.masters.parameters, strict=True))


def test_the_policy_samples_with_the_adapter(base: Path) -> None:
    model = adapted(base)
    policy = TransformersPolicy(model, kv_cache_bytes=2**20)
    made = trained(model)
    policy.version = made.n_updates
    request = Request("e/turn=0", [11, 12, 13], Sampling(max_tokens=6, key=("e",)))
    done = policy.generate_batch([request])[0]
    ids = torch.tensor([[11, 12, 13, *done.ids]])
    for off in (False, True):
        with torch.no_grad():
            if off:
                with model.disable_adapter():
                    found = model(input_ids=ids).logits
            else:
                found = model(input_ids=ids).logits
        logp = found[0, 2:-1].log_softmax(-1).gather(1, ids[0, 3:, None]).squeeze(1)
        assert np.allclose(done.logprobs or [], logp.numpy(), atol=1e-5) != off


# ---- checkpoints ----------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_an_adapter_in_pefts_layout(base: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    made = trained(adapted(base))
    saved = checkpoint.save(tmp_path, 3, model=made.model, tokenizer=tokenizer())
    assert not (saved / "config.json").exists() and not (saved / "model.safetensors").exists()
    settings = json.loads((saved / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(base.resolve()) and settings["r"] == 4
    expected = logits(made.model)
    assert torch.equal(logits(checkpoint.load_model(str(tmp_path / "latest")).eval()), expected)
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), saved).eval()
    assert torch.equal(logits(theirs), expected)


def test_saved_and_loaded_it_goes_on_to_the_same_numbers(base: Path, tmp_path: Path) -> None:
    given, first = case(), trained(adapted(base), 2)
    data = first.prepare(given.samples, given.advantages, given.table)
    saved = checkpoint.save(
        tmp_path, 2, model=first.model, tokenizer=tokenizer(), training=first.state_dict(), state={}
    )
    expected = [first.update(given.samples, data, given.table) for _ in range(2)]
    again = learner(adapted(base))
    checkpoint.load_weights(again.model, saved)
    again.load_state_dict(checkpoint.load_state(saved)[0])
    assert [again.update(given.samples, data, given.table) for _ in range(2)] == expected
    file, other = io.BytesIO(), io.BytesIO()
    torch.save(snapshot(first)["model"], file)
    torch.save(snapshot(again)["model"], other)
    assert file.getvalue() == other.getvalue()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_export_has_whole_weights(base: Path, tmp_path: Path, dtype: str) -> None:
    made = trained(adapted(base, dtype))
    saved = checkpoint.save(tmp_path, 1, model=made.model, tokenizer=tokenizer())
    checkpoint.export(saved, tmp_path / "whole", dtype)
    assert not (tmp_path / "whole" / "adapter_config.json").exists()
    whole = checkpoint.load_model(str(tmp_path / "whole"), dtype).eval()
    assert not lora.has_adapter(whole) and whole.dtype == getattr(torch, dtype)
    tolerance = 1e-4 if dtype == "float32" else 0.3
    torch.testing.assert_close(logits(whole), logits(made.model), atol=tolerance, rtol=tolerance)
    with made.model.disable_adapter():
        assert not torch.allclose(logits(whole), logits(made.model), atol=tolerance, rtol=tolerance)
    checkpoint.export(saved, tmp_path / "alone", dtype, merge=False)
    assert torch.equal(logits(checkpoint.load_model(str(tmp_path / "alone"), dtype).eval()), logits(made.model))


def test_what_does_not_fit_is_one_clear_error(base: Path, tmp_path: Path) -> None:
    saved = checkpoint.save(tmp_path / "run", 1, model=adapted(base), tokenizer=tokenizer())
    with pytest.raises(CheckpointError, match=r"does not fit the run file's \[model\]"):
        checkpoint.load_weights(adapted(base, rank=2), saved)
    with pytest.raises(ConfigError, match=r"has rank 4 and alpha 8, but model.lora asks for 2 and 8"):
        lora.check_adapter(checkpoint.load_model(str(saved)), rank=2, alpha=8.0, path=str(saved))
    with pytest.raises(ConfigError, match=r"model.lora.targets = \['no_such'\] cannot be used"):
        adapted(base, targets=["no_such"])
    whole = (saved / "adapter_model.safetensors").read_bytes()
    (saved / "adapter_model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"adapter_model.safetensors is damaged \(SHA256SUMS does not agree\)"):
        checkpoint.load_model(str(saved))
    (saved / "SHA256SUMS").unlink()
    for read in (lambda: checkpoint.load_model(str(saved)), lambda: checkpoint.load_weights(adapted(base), saved)):
        with pytest.raises(CheckpointError, match=r"the adapter at .* cannot be read"):
            read()
    (saved / "adapter_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"the adapter at .* cannot be read"):
        checkpoint.load_model(str(saved))
    shutil.rmtree(base)
    gone = checkpoint.save(tmp_path / "gone", 1, model=_moved(saved, whole, base), tokenizer=tokenizer())
    with pytest.raises(CheckpointError, match=r"belongs on the model at .*/base, which is not there; put it back"):
        checkpoint.load_model(str(gone))


def _moved(saved: Path, weights: bytes, base: Path) -> Any:
    """An adapter whose model has been removed since."""
    base.mkdir()
    model = lora.add_adapter(tiny_model(tokenizer()), rank=4, alpha=8.0, targets="all-linear", base=str(base), seed=0)
    base.rmdir()
    return model


# ---- run files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"lora": {"rank": 0}}, "model.lora.rank"),
        ({"lora": {"alpha": 0.0}}, "model.lora.alpha"),
        ({"lora": {"targets": "everything"}}, "model.lora.targets"),
        ({"lora": {"targets": []}}, "model.lora.targets"),
        (
            {"lora": {"dropout": 0.1}},
            "model.lora.dropout = 0.1: with dropout an update would train another distribution",
        ),
        ({"lora": {"rnak": 3}}, "unknown key 'model.lora.rnak'. Did you mean 'rank'"),
        ({"lora": 3}, "model.lora must be a table"),
        ({"path": None, "lora": {}}, "model.lora needs model.path"),
    ],
)
def test_a_table_that_cannot_be_used(table: dict[str, Any], words: str) -> None:
    model = {key: value for key, value in ({"path": "somewhere"} | table).items() if value is not None}
    with pytest.raises(ConfigError) as caught:
        parse({"env": {"id": "agentrl/Household-v0"}, "model": model})
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_the_defaults_and_a_list_of_targets() -> None:
    data = {"env": {"id": "agentrl/Household-v0"}, "model": {"path": "somewhere", "lora": {"targets": ["q_proj"]}}}
    table = parse(data).model.lora
    assert table is not None and (table.rank, table.alpha, table.targets) == (16, 32.0, ["q_proj"])


@pytest.mark.slow
def test_a_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Trained, torn, resumed, evaluated, exported and trained on, from the command line."""
    monkeypatch.chdir(tmp_path)
    path, fast = str(run_file(tmp_path)), ["evaluation.episodes=4"]
    assert main(["train", path, *fast, "run.iterations=0", "--out", "start"]) == 0
    assert main(["export-model", "start", "plain"]) == 0
    assert "wrote the model of start to plain" in capsys.readouterr().out
    assert (
        Path("plain/model.safetensors").read_bytes() == Path("start/checkpoints/latest/model.safetensors").read_bytes()
    )
    assert {p.name for p in Path("plain").iterdir()} & {"training.pt", "state.json"} == set()
    text = Path(path).read_text()
    config = (
        text[: text.index("[model.config]")]
        + '[model]\npath = "start/checkpoints/latest"\n'
        + text[text.index("[agent]") :]
    )
    Path("lora.toml").write_text(config)
    changes = ["model.lora.rank=2", "model.dtype=bfloat16", "model.gradient_checkpointing=true", *fast]
    changes += ['algorithm.regularizers=[{name="kl", coef=0.1}]', 'agent.memory={name="append"}', "checkpoint.keep=0"]
    assert main(["train", "lora.toml", *changes, "--out", "run"]) == 0
    shutil.copytree("run", "torn", symlinks=True)
    shutil.rmtree("torn/checkpoints/step_3")
    Path("torn/checkpoints/latest").unlink()
    Path("torn/checkpoints/latest").symlink_to("step_2")
    assert main(["train", "lora.toml", *changes, "--out", "torn", "--resume"]) == 0
    for name in ("run", "torn"):  # what two runs are compared by
        latest = Path(name, "checkpoints", "latest")
        shutil.copy(latest / "adapter_model.safetensors", latest / "model.safetensors")
    assert_same_run(Path("run"), Path("torn"))
    for name in ("run", "torn"):
        Path(name, "checkpoints", "latest", "model.safetensors").unlink()
    found = summary(Path("run"))
    assert 0 < found["n_trained_parameters"] < 0.5 * found["n_parameters"]

    asked = ["agentrl/Household-v0", "--episodes", "4", "--max-turns", "4", "--temperature", "0", "--json"]
    assert main(["export-model", "run", "whole"]) == 0
    assert main(["export-model", "run", "alone", "--adapter"]) == 0
    assert load("whole/config.toml").model.lora is None and load("alone/config.toml").model.lora is not None
    assert main(["export-model", "run", "whole"]) == 2 and "whole exists already" in capsys.readouterr().err
    results = []
    for place in ("run", "run/checkpoints/step_3", "alone"):
        capsys.readouterr()
        assert main(["eval", *asked, "--policy", f"checkpoint:{place}"]) == 0
        results.append(json.loads(capsys.readouterr().out))
    after = found["eval"]["after"]["greedy"]
    for result in results:
        assert {key: result[key] for key in after if key != "seconds"} == {
            k: v for k, v in after.items() if k != "seconds"
        }
    assert main(["eval", *asked, "--policy", "checkpoint:whole"]) == 0
    assert main(["train", "lora.toml", *changes, "model.path=alone", "run.iterations=1", "--out", "on"]) == 0
    assert main(["train", "lora.toml", *fast, "model.path=alone", "run.iterations=1", "--out", "merged"]) == 0
    assert (tmp_path / "merged/checkpoints/latest/model.safetensors").is_file()
