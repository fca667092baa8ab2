"""What is asked of Ray, what a run file may say of it, and how the training process meets answers that do not come."""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import os
import queue
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from agentrl.cluster import placement
from agentrl.cluster.placement import Wanted
from agentrl.cluster.plugins import Sent, install
from agentrl.cluster.workers import Slot, Workers
from agentrl.config import RUNTIME_ENV, parse
from agentrl.errors import ConfigError, MissingExtra
from agentrl.run_tables import ResourcesTable

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="resources.backend = 'ray' needs the extra 'ray'"
)


def test_what_is_wanted_of_a_cluster() -> None:
    table = ResourcesTable(backend="ray", rollout_workers=3, learners=2, worker_gpus=0.5, placement="spread")
    wanted = Wanted.of(table, gpus=True)
    assert wanted.bundles == [{"CPU": 1.0, "GPU": 0.5}] * 3 + [{"CPU": 1.0, "GPU": 1.0}]
    assert str(wanted) == (
        "3 rollout workers with 1 CPU and 0.5 GPU each and 1 further learner with 1 CPU and 1 GPU each "
        "(4 CPU and 2.5 GPU in all, placement spread)"
    )
    assert Wanted.of(ResourcesTable(backend="ray", device="cpu"), gpus=True).bundles == [{"CPU": 1.0}]


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'agentrl-toolkit\[ray\]'"):
        placement.enter(ResourcesTable(backend="ray"))


@pytest.mark.parametrize("key", ["rollout_workers", "worker_cpus", "runtime_env", "placement"])
def test_a_key_for_ray_alone_is_refused_in_a_local_run(key: str) -> None:
    value = {"rollout_workers": 2, "worker_cpus": 2.0, "runtime_env": {"pip": []}, "placement": "spread"}[key]
    with pytest.raises(ConfigError, match=rf'resources.{key} is for resources.backend = "ray"'):
        parse({"env": {"id": "a"}, "resources": {key: value}})
    assert parse({"env": {"id": "a"}, "resources": {key: value, "backend": "ray"}}).resources.backend == "ray"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"runtime_env": {"working_dri": "."}}, r"resources.runtime_env has no key 'working_dri'. Did you mean 'working_dir'"),
        ({"runtime_env": {"env_vars": {"N": 1}}}, r"runtime_env.env_vars: wanted a table of texts.*got \{'N': 1\}"),
        ({"runtime_env": {"env_vars": 3}}, r"runtime_env.env_vars: wanted a table of texts"),
        ({"worker_gpus": 1.5}, r"resources.worker_gpus: wanted a whole number of GPUs, or a part of one below 1; got 1.5"),
        ({"learner_gpus": 2.25}, r"resources.learner_gpus: wanted a whole number"),
    ],
)  # fmt: skip
def test_what_ray_would_not_take_is_refused_with_the_run_file(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse({"env": {"id": "a"}, "resources": {"backend": "ray", **given}})
    assert parse({"env": {"id": "a"}, "resources": {"backend": "ray", "worker_gpus": 2.0, "learner_gpus": 0.5}})


@needs_ray
def test_the_keys_of_a_runtime_environment_are_ray_s_and_ray_says_what_else_is_wrong() -> None:
    from ray.runtime_env import RuntimeEnv

    assert set(RUNTIME_ENV) <= {name for name in RuntimeEnv.known_fields if not name.startswith("_")}
    placement.check_runtime_env(ResourcesTable(backend="ray", runtime_env={"env_vars": {"A": "1"}}))
    for wrong in ({"working_dir": "/not/there"}, {"pip": 3}, {"pip": ["a"], "conda": "b"}):
        with pytest.raises(ConfigError, match=r"^resources.runtime_env: "):
            placement.check_runtime_env(ResourcesTable(backend="ray", runtime_env=wrong))


def test_rounds_and_workers_do_not_go_together() -> None:
    run = {"env": {"id": "a"}, "rollout": {"batching": "rounds"}, "resources": {"backend": "ray"}}
    with pytest.raises(ConfigError, match=r'rollout.batching = "rounds".*leave batching out'):
        parse(run)


@needs_ray
def test_a_worker_that_dies_over_going_to_sleep_is_killed_and_the_others_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray
    from ray.exceptions import RayActorError

    killed, asleep = [], []
    monkeypatch.setattr(ray, "kill", lambda actor, no_restart: killed.append(actor))

    async def answer(slot: Slot) -> Any:
        await asyncio.sleep(0)
        if slot.index == 0:
            raise RayActorError
        asleep.append(slot.index)
        return "done", None

    found = [Slot(index, ready=True) for index in range(3)]
    for slot in found:
        slot.actor = SimpleNamespace(sleep=SimpleNamespace(remote=functools.partial(answer, slot)))
    workers = Workers.__new__(Workers)
    workers._problem, workers._slots = None, found
    asyncio.run(workers._sleep())
    assert killed == [found[0].actor] and asleep == [1, 2]


@needs_ray
def test_a_learner_is_not_given_up_because_the_training_process_itself_stood_still(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import ray

    from agentrl.cluster.learners import RayLink

    link = RayLink.__new__(RayLink)
    link._orders, link._place, link._here, link.name = queue.Queue(), None, "here", "learner 2 (Ray actor)"
    link._orders.put("order")
    monkeypatch.setattr(link, "_beat", lambda: "beat")
    waits = iter([([], None), (["beat"], None), (["order"], None)])  # the first one ended while nobody looked
    monkeypatch.setattr(ray, "wait", lambda refs, timeout: next(waits))
    monkeypatch.setattr(ray, "get", lambda ref: ("here", 77) if ref == "beat" else b"answer")
    assert link.receive(5.0) == b"answer" and link.name == "learner 2 (process 77 on here)"
    link._orders.put("order")
    waits = iter([([], None), ([], None)])
    with pytest.raises(TimeoutError, match="no sign of life for 5 s"):
        link.receive(5.0)


# ── what this process gives and keeps ────────────────────────────────────────────────────────────────────────────────


def test_workers_import_what_can_be_imported_here_and_what_the_user_says_of_their_variables_wins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(tmp_path / "mine")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "inherited"))
    monkeypatch.setenv("HF_HOME", "here")
    given: dict[str, Any] = {"pip": ["a"], "env_vars": {"OMP_WAIT_POLICY": "ACTIVE", "MINE": "1"}}
    found = placement.runtime_env(ResourcesTable(backend="ray", runtime_env=given))
    variables = found["env_vars"]
    path = variables["PYTHONPATH"].split(os.pathsep)
    assert path[0] == str(tmp_path / "mine") and path[-1] == str(tmp_path / "inherited")
    assert {name: variables[name] for name in ("OMP_WAIT_POLICY", "MINE", "HF_HOME")} == {
        "OMP_WAIT_POLICY": "ACTIVE", "MINE": "1", "HF_HOME": "here",
    }  # fmt: skip
    assert found["pip"] == ["a"]


@pytest.mark.parametrize(
    ("shown", "alone", "device", "left"),
    [
        ("3,4,5", True, "auto", "4,5"),
        ("3", True, "auto", "3"),
        ("3,4", False, "auto", "3,4"),
        ("3,4", True, "cpu", "3,4"),
    ],
)
def test_the_first_of_several_devices_is_kept_for_the_training_process(
    shown: str, alone: bool, device: Any, left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    with placement._first_device_kept(ResourcesTable(backend="ray", device=device), alone=alone):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == left
    assert os.environ["CUDA_VISIBLE_DEVICES"] == shown


def test_who_handled_sigterm_before_ray_goes_on_doing_so() -> None:
    before = signal.signal(signal.SIGTERM, mine := lambda *_: None)
    try:
        with placement._handlers_kept():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


def test_relative_paths_of_a_run_file_begin_in_a_worker_where_they_do_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path)
    assert install(Sent(str(tmp_path / "run"))) == [] and Path.cwd() == tmp_path / "run"
    assert install(Sent(str(tmp_path / "elsewhere"))) == [] and Path.cwd() == tmp_path / "run"
