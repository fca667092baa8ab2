"""The command line: each error one line and exit status 2 with nothing left behind, and what each command prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from toy_runs import run_file, summary

from agentrl import listing
from agentrl.cli import main
from agentrl.errors import ConfigError
from agentrl.store import read_trajectories

pytest.importorskip("transformers", reason="training needs the extra 'train'")

HOUSEHOLD = "agentrl/Household-v0"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    gymnasium.registry.pop("toy/Stateless-v0", None)


Fails = Callable[..., str]


@pytest.fixture
def fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Fails:
    """Runs a command that must fail with one line on standard error, and leave no file behind."""

    def run(*arguments: str, status: int = 2) -> str:
        before = sorted(tmp_path.rglob("*"))
        assert main([str(argument) for argument in arguments]) == status
        captured = capsys.readouterr()
        assert captured.out == ""
        line = captured.err.removesuffix("\n")
        assert line.startswith("agentrl: ") and "\n" not in line and "Traceback" not in line
        assert sorted(tmp_path.rglob("*")) == before
        return line

    return run


@pytest.fixture
def answers(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs a command and returns the JSON that it prints."""

    def run(*arguments: str) -> Any:
        assert main([*arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


# ── errors of a run file ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("algorithm.credti={}", "unknown key 'algorithm.credti'. Did you mean 'credit'?"),
        ("run.itertions=3", "unknown key 'run.itertions'. Did you mean 'iterations'?"),
        ("optimizer.lr=-1", "optimizer.lr: input should be greater than 0; got -1"),
        ("optimizer.betas=[0.9, 2]", "optimizer.betas"),
        ("rollout.top_p=0.9", "rollout.top_p = 0.9"),
        ("rollout.policy=transformer", "Did you mean 'transformers'"),
        ("rollout.policy=scripted", "rollout.policy"),
        ("rollout.policy=openai", "does not sample from the trained model"),
        ("env.id=agentrl/Houshold-v0", "Did you mean 'agentrl/Household-v0'"),
        ("env.id=no_such_module:My-v0", "no_such_module"),
        ("env.options.difficulty=eazy", "Did you mean 'easy'"),
        ("env.options.dificulty=easy", "dificulty"),
        ("env.options.id=3", "id"),
        ("env.options.games=/no/such/games", "/no/such/games"),
        ("env.split=trian", "no split is called 'trian'. Did you mean 'train'?"),
        ("evaluation.split=valid", "no split is called 'valid'. Did you mean"),
        ("evaluation.games=/no/such/games", "/no/such/games"),
        ('algorithm.credit={name="gipgo"}', "no credit is called 'gipgo'. Did you mean 'gigpo' or"),
        ('algorithm.credit={gamma=0.5}', "algorithm.credit[0]: the table needs a key 'name'"),
        ('algorithm.credit={name="gigpo", gama=0.5}', "algorithm.credit[0] has no parameter 'gama'. Did you mean 'gamma'?"),
        ('algorithm.credit={name="gigpo", gamma=1.5}', "algorithm.credit[0].gamma"),
        ('algorithm.credit={name="gigpo", key="stat"}', "algorithm.credit[0].key"),
        ("algorithm.credit=[]", "reads the column 'advantage', which nobody before it writes"),
        ('algorithm.credit={name="toy_runs:ReadsNothingKnown"}', "reads the column 'stratum', which nobody before it writes"),
        ('algorithm.credit={name="toy_runs:Nothing"}', "toy_runs:Nothing"),
        ('algorithm.credit={name="no_such_module:Nothing"}', "no_such_module"),
        ('algorithm.sampler={name="uniform", tasks=1000000000}', "1000000000 different tasks"),
        ('algorithm.sampler={name="uniform", group_size=0}', "algorithm.sampler.group_size"),
        ('algorithm.loss={name="ppo_clip", aggregate="constant"}', "loss.constant"),
        ('algorithm.regularizers=[{name="kl"}]', "algorithm.regularizers[0].coef is missing"),
        ('agent.memory={name="windo"}', "Did you mean 'window'"),
        ('agent.memory={name="window", item="{nothing}"}', "{nothing}"),
        ("agent.prompt={obervation}", "Did you mean 'observation'"),
        ("rollout.policy=vlm", "no policy is called 'vlm'. Did you mean 'vllm'"),
        ("rollout.policy=engine", "replay, scripted, transformers, vllm."),
        ("agent.prompt={observation", "agent.prompt cannot be read as a template"),
        ("model.path=/no/such/checkpoint", "model.path and model.config"),
        ("model.config.model_type=qwen222", "qwen222"),
        ("model.config.hidden_size=wide", "model.config"),
        ("optimizer.schedule=cosine run.iterations=0", "cosine"),
    ],
)  # fmt: skip
def test_a_run_file_that_cannot_be_used(override: str, words: str, fails: Fails, tmp_path: Path) -> None:
    overrides = override.split(" run.") if " run." in override else [override]
    overrides[1:] = ["run." + rest for rest in overrides[1:]]
    assert words in fails("train", str(run_file(tmp_path)), *overrides)


def test_a_run_file_that_is_not_there(fails: Fails, tmp_path: Path) -> None:
    assert "nothing.toml cannot be read" in fails("train", "nothing.toml")
    assert "Did you mean 'quickstart'?" in fails("train", "quikstart")
    assert "Did you mean 'recipes/hgpo'" in fails("train", "recipes/hgop", "--dry-run")
    (tmp_path / "broken.toml").write_text("[env")
    for command in ("train", "demos", "sft"):
        assert "broken.toml is not TOML" in fails(command, "broken.toml")


def test_gigpo_without_state_keys_is_refused_with_the_remedy(fails: Fails, tmp_path: Path) -> None:
    gymnasium.register(id="toy/Stateless-v0", entry_point="toy_runs:Stateless")
    changes = ("env.id=toy/Stateless-v0", "env.options={}", "agent.prompt={observation}")
    line = fails("train", str(run_file(tmp_path)), *changes)
    assert "GiGPO reads the column 'state'" in line and "state_key()" in line and 'key = "observation"' in line
    assert main(["train", str(run_file(tmp_path)), *changes, 'algorithm.credit={name="grpo"}', "--dry-run"]) == 0


@pytest.mark.parametrize("override", ["model.path=/no/such/checkpoint", "model.path=no-such-model", "model.path=empty"])
def test_a_checkpoint_that_is_not_there(override: str, fails: Fails, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    path = run_file(tmp_path)
    path.write_text(path.read_text().split("[model.config]")[0] + "[agent]" + path.read_text().split("[agent]")[1])
    assert override.removeprefix("model.path=") in fails("train", str(path), override)
    assert "give a path" in fails("train", str(path))


def test_a_checkpoint_that_is_broken(tmp_path: Path, fails: Fails, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(run_file(tmp_path)), "--out", "run", "run.iterations=0", "evaluation.episodes=0"]) == 0
    capsys.readouterr()
    step = tmp_path / "run" / "checkpoints" / "step_0"
    for file in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"):
        kept = (step / file).read_bytes()
        for content in (kept[: len(kept) // 2], b"", b"\xff{}"):
            (step / file).write_bytes(content)
            assert "run" in fails("eval", HOUSEHOLD, "--policy", "checkpoint:run", "--episodes", "2", "--out", "found")
        (step / file).unlink()
        if file != "tokenizer_config.json":
            fails("eval", HOUSEHOLD, "--policy", f"checkpoint:{step}", "--episodes", "2")
        (step / file).write_bytes(kept)
    (tmp_path / "run" / "config.toml").unlink()
    assert "config.toml" in fails("eval", HOUSEHOLD, "--policy", "checkpoint:run")


GAME = {"task_dir": "pick_and_place_simple-Apple-None-SideTable-12", "trial": "trial_1", "split": "valid_seen"}


@pytest.mark.parametrize("text", ["no json", json.dumps(GAME), json.dumps(GAME | {"pddl_problem": "(define"})])
def test_a_game_that_cannot_be_read(text: str, fails: Fails, tmp_path: Path) -> None:
    (tmp_path / "games").mkdir()
    (tmp_path / "games" / "games.jsonl").write_text(text + "\n")
    games = str(tmp_path / "games")
    assert "games.jsonl" in fails("train", str(run_file(tmp_path)), f"evaluation.games={games}", "--out", "run")
    assert "games.jsonl" in fails("train", str(run_file(tmp_path)), f"env.options={{games='{games}'}}",
                                  "env.split=valid_seen", "--out", "run")  # fmt: skip
    assert "games.jsonl" in fails("eval", HOUSEHOLD, "--option", f"games={games}", "--episodes", "1", "--out", "found")


@pytest.mark.slow
def test_without_torch_the_extra_is_named() -> None:
    """In a process of its own, where torch cannot be imported."""
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('torch', 'transformers', 'tokenizers', 'accelerate', 'safetensors'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}')\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from agentrl.cli import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    here = run_file(Path.cwd())
    tests = str(Path(__file__).parent)
    for command in (["train", str(here)], ["demos", str(here)]):
        done = subprocess.run(
            [sys.executable, "-c", code, *command],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([tests, str(Path(tests).parent)])},
            check=False,
        )
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr.startswith("agentrl: ") and "pip install 'agentrl-toolkit[train]'" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert [path.name for path in Path.cwd().iterdir()] == ["tiny.toml"]


def test_a_folder_that_cannot_be_written(fails: Fails, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    small = ("run.iterations=0", "evaluation.episodes=0")
    for out in ("file", "file/below", "/dev/null/run"):
        assert out in fails("train", str(run_file(tmp_path)), *small, "--out", out)
        assert out in fails("eval", HOUSEHOLD, "--episodes", "1", "--out", out)
    (tmp_path / "runs").write_text("in the way")
    assert "runs" in fails("train", str(run_file(tmp_path)), *small)


# ── eval ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("agentrl/Houshold-v0", "Did you mean 'agentrl/Household-v0'"),
        ("CartPole-v1", "tasks(split)"),
        (f"{HOUSEHOLD} --split valid", "Did you mean 'valid_seen'"),
        (f"{HOUSEHOLD} --policy rnadom", "no policy is called 'rnadom'. Did you mean 'random'"),
        (f"{HOUSEHOLD} --policy expert:noise=2", "noise"),
        (f"{HOUSEHOLD} --policy expert:nois=0.2", "Did you mean 'noise'"),
        (f"{HOUSEHOLD} --policy expert:noise", "write key=value"),
        (f"{HOUSEHOLD} --policy checkpoint:/no/such/run", "/no/such/run"),
        (f"{HOUSEHOLD} --policy checkpoint:", "write checkpoint:PATH"),
        (f"{HOUSEHOLD} --episodes -1", "at least 0"),
        (f"{HOUSEHOLD} --max-turns 0", "at least 1"),
        (f"{HOUSEHOLD} --temperature -1", "at least 0"),
        (f"{HOUSEHOLD} --option difficulty", "write key=value"),
        (f"{HOUSEHOLD} --option difficulty=eazy", "Did you mean 'easy'"),
        (f"{HOUSEHOLD} --option difficulty=eazy --option dialect=put", "Did you mean 'easy'"),
        (f"{HOUSEHOLD} --option id=3", "id"),
        (f"{HOUSEHOLD} --option env_id=3", "env_id"),
    ],
)
def test_an_evaluation_that_cannot_be_made(arguments: str, words: str, fails: Fails) -> None:
    assert words in fails("eval", *arguments.split(), "--out", "found")


def test_an_agent_that_an_environment_cannot_serve_leaves_no_folder(fails: Fails) -> None:
    gymnasium.register(id="toy/Stateless-v0", entry_point="toy_runs:Stateless")
    for policy in ("random", "oracle", "expert"):
        line = fails("eval", "toy/Stateless-v0", "--policy", policy, "--episodes", "2", "--out", "found")
        assert policy in line


def test_evaluations_of_agents_without_a_model(answers: Callable[..., Any]) -> None:
    found = {}
    for policy in ("random", "oracle", "expert", "expert:noise=0.5"):
        result = answers("eval", HOUSEHOLD, "--policy", policy, "--episodes", "12")
        found[policy] = result["success_rate"]
        assert result["n"] == 12 and result["faults"] == 0 and result["valid_action_ratio"] == 1
        assert result["ci95"][0] <= result["success_rate"] <= result["ci95"][1]
        assert result["seconds"] > 0 and 0 < result["mean_turns"] <= 50
        assert sum(row["n"] for row in result["by_type"].values()) == 12
        assert {"success_rate", "n", "ci95", "mean_turns", "valid_action_ratio"} <= set(result["by_type"].popitem()[1])
        assert (result["env"], result["policy"], result["split"], result["seed"]) == (
            HOUSEHOLD,
            policy,
            "valid_seen",
            0,
        )
    assert found["oracle"] == 1 and found["random"] < found["expert:noise=0.5"] <= found["expert"]


def test_an_evaluation_repeats_and_its_options_matter(answers: Callable[..., Any]) -> None:
    def played(*more: str) -> Any:
        result = answers("eval", HOUSEHOLD, "--policy", "expert:noise=0.3", "--episodes", "8", *more)
        return {key: value for key, value in result.items() if key not in ("seconds", "time")}

    assert played() == played()
    assert played("--seed", "1") != played()
    assert played("--split", "valid_unseen") != played()
    assert played("--max-turns", "5")["mean_turns"] <= 5
    assert played("--option", "difficulty=easy") != played()


def test_options_add_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from agentrl.config import load

    options = ("--option", "difficulty=easy", "--option", "dialect=put")
    assert main(["eval", HOUSEHOLD, "--policy", "oracle", "--episodes", "1", *options, "--out", "found"]) == 0
    assert load(tmp_path / "found" / "config.toml").only_env.options == {"difficulty": "easy", "dialect": "put"}


def test_an_evaluation_as_tables_and_on_disk(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["eval", HOUSEHOLD, "--policy", "oracle", "--episodes", "6", "--out", "found"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    for word in ("task type", "pick_and_place_simple", "all", "1.000 [", "valid actions", "0 faults"):
        assert word in shown
    assert summary(tmp_path / "found")["success_rate"] == 1
    assert len(list(read_trajectories(tmp_path / "found" / "trajectories" / "eval.jsonl.zst"))) == 6
    assert main(arguments) == 2 and "exists already" in capsys.readouterr().err


def test_a_checkpoint_is_evaluated_as_it_was_trained(
    tmp_path: Path, answers: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    changes = ("run.iterations=1", "evaluation.episodes=6", "--out", "run")
    assert main(["train", str(run_file(tmp_path)), *changes]) == 0
    capsys.readouterr()
    trained = summary(tmp_path / "run")["eval"]["after"]["greedy"]
    places = ("run", "run/checkpoints/latest", "run/checkpoints/step_1", str(tmp_path / "run"))
    arguments = ("--episodes", "6", "--max-turns", "4", "--temperature", "0")
    for place in places:
        found = answers("eval", HOUSEHOLD, "--policy", f"checkpoint:{place}", *arguments)
        assert {key: found[key] for key in trained if key != "seconds"} == {
            key: value for key, value in trained.items() if key != "seconds"
        }


# ── list, check, bench ───────────────────────────────────────────────────────────────────────────────────────────────


def test_lists(answers: Callable[..., Any], capsys: pytest.CaptureFixture[str], fails: Fails) -> None:
    everything = answers("list")
    assert set(everything) == {"envs", "tools", "methods"}
    assert HOUSEHOLD in [row["id"] for row in answers("list", "envs")["envs"]]
    assert set(answers("list", "tools")) == {"tools"}
    methods = {(row["stage"], row["name"]): row for row in answers("list", "methods")["methods"]}
    stages = {"sampler", "filter", "reward", "credit", "loss", "regularizer"}
    assert stages <= {stage for stage, _ in methods}
    gigpo = methods["credit", "gigpo"]
    described = {"stage", "name", "parameters", "reads", "writes", "formula", "source"}
    assert set(gigpo) == {*described, "docstring", "module"}
    assert gigpo["parameters"]["gamma"] == {"type": "number", "minimum": 0, "maximum": 1, "default": 0.95}
    assert gigpo["formula"] and "2505.10978" in gigpo["source"] and gigpo["writes"] == ["advantage"]
    assert methods["regularizer", "kl"]["parameters"]["coef"]["required"] is True
    for row in methods.values():
        assert row["formula"], row["name"]
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    assert HOUSEHOLD in shown and "gigpo" in shown and "calculator" in shown
    assert "Did you mean 'methods'" in fails("list", "method")
    (seed,) = [row for row in answers("list", "keys")["keys"] if (row["table"], row["key"]) == ("run", "seed")]
    assert seed["default"] == 0 and seed["meaning"]
    assert main(["list", "keys"]) == 0
    assert "time_limit_s" in capsys.readouterr().out
    assert main(["list", "methods", "--markdown"]) == 0
    assert "### credit gigpo" in capsys.readouterr().out
    assert "no reference page of 'all'" in fails("list", "--markdown")


@pytest.mark.slow
def test_check_says_line_by_line_whether_an_environment_keeps_its_contract(
    fails: Fails, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", HOUSEHOLD]) == 0
    assert len(capsys.readouterr().out.splitlines()) > 10
    gymnasium.register(id="toy/Stateless-v0", entry_point="toy_runs:Moody")
    with pytest.raises(SystemExit) as caught:
        main(["check", "toy/Stateless-v0"])
    captured = capsys.readouterr()
    assert caught.value.code == 1 and captured.err == "" and "fail" in captured.out.lower()
    assert "Did you mean 'agentrl/Household-v0'" in fails("check", "agentrl/Houshold-v0")
    assert "dificulty" in fails("check", HOUSEHOLD, "--option", "dificulty=easy")


def test_benchmarks_need_a_checkout(fails: Fails, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "Did you mean 'household'" in fails("bench", "houshold")
    monkeypatch.setattr(listing, "BENCHMARKS", tmp_path / "site-packages" / "tests" / "benchmarks")
    assert "benchmarks live in a checkout" in fails("bench", "household")


def test_benchmark_rows(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    answers: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    row = {"name": "n", "value": 1.5, "unit": "s", "against": 0.03475021, "ratio": 2.0, "bound_ratio": None}
    (tmp_path / "bench_toy.py").write_text(f"def rows():\n    return [{row!r}]\n")
    monkeypatch.setattr(listing, "BENCHMARKS", tmp_path)
    assert answers("bench", "toy") == answers("bench", "all") == [row]
    assert main(["bench", "toy"]) == 0 and capsys.readouterr().out.split()[-1] == "0.03475"
    with pytest.raises(ConfigError):
        listing.benchmarks("other")


# ── train --dry-run, demos, sft ──────────────────────────────────────────────────────────────────────────────────────


def test_a_dry_run_prints_the_resolved_run_file_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from agentrl.config import load

    path = run_file(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main(["train", str(path), "run.seed=3", "--dry-run", "--out", "run"]) == 0
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "resolved.toml").write_text(capsys.readouterr().out)
    assert load(tmp_path / "resolved.toml") == load(path, ["run.seed=3"])


@pytest.mark.slow
def test_demonstrations_then_supervised_learning_then_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fails: Fails
) -> None:
    path = str(run_file(tmp_path))
    shorter = ("env.max_turns=6", "demos.episodes=12", "demos.agent={name='expert', noise=0.1}")
    assert main(["demos", path, *shorter, "--out", "demos"]) == 0
    assert summary(tmp_path / "demos")["demos"]["n"] == 12
    members = list(read_trajectories(tmp_path / "demos" / "trajectories" / "demos_000000.jsonl.zst"))
    assert {call.source for t in members for call in t.calls()} == {"demo"}
    learn = ("sft.updates=60", "sft.batch_size=16", "run.name=warm")
    assert main(["sft", path, *learn, "--demos", "demos", "--export", "start"]) == 0
    warm = tmp_path / "runs" / "warm"
    losses = [json.loads(line)["loss"] for line in (warm / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 60 and sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert summary(warm)["status"] == "completed" and summary(warm)["eval"]["after"]["sampled"]["n"] == 4
    text = Path(path).read_text()
    model = '[model]\npath = "start"\n\n'
    Path("from_start.toml").write_text(text.split("[model.config]")[0] + model + "[agent]" + text.split("[agent]")[1])
    assert main(["train", "from_start.toml", "run.iterations=1", "--out", "run"]) == 0
    assert (tmp_path / "start" / "model.safetensors").is_file()
    capsys.readouterr()
    assert main(["eval", HOUSEHOLD, "--policy", "checkpoint:runs/warm", "--episodes", "2"]) == 0
    capsys.readouterr()
    assert "cannot be resumed from" in fails("train", path, "--resume", "--out", "runs/warm")


def test_demonstrations_that_cannot_be_made_or_learned_from(
    fails: Fails, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(run_file(tmp_path))
    assert "there are 100000 tasks" in fails("demos", path, "demos.first=99999999")
    assert "agent" in fails("demos", path, "demos.agent={name='exprt'}")
    assert "demos.agent.noise" in fails("demos", path, "demos.agent={name='expert', noise=3}")
    assert "agentrl demos" in fails("sft", path, "--demos", "nowhere")
    nothing = ("env.max_turns=1", "demos.episodes=2", "demos.only_success=true", "demos.agent={name='random'}")
    assert main(["demos", path, *nothing, "--out", "nothing"]) == 0
    capsys.readouterr()
    assert "nothing" in fails("sft", path, "--demos", "nothing")


# ── the process ──────────────────────────────────────────────────────────────────────────────────────────────────────


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = [sys.executable, "-m", "agentrl.cli", *arguments]
    return subprocess.run(code, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_process_exits_with_two_and_one_line() -> None:
    done = command("train", "nothing.toml")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "agentrl: the run file nothing.toml cannot be read: No such file or directory\n"
    done = command("eval", HOUSEHOLD, "--policy", "oracle", "--episodes", "3", "--json")
    assert done.returncode == 0 and done.stderr == "" and json.loads(done.stdout)["success_rate"] == 1


@pytest.mark.parametrize("arguments", [["trian", "x.toml"], ["eval", HOUSEHOLD, "--episodes", "many"], ["train"]])
def test_what_the_parser_refuses_is_status_two_too(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


@pytest.mark.parametrize(
    "name",
    [
        "train",
        "demos",
        "sft",
        "export",
        "export-model",
        "eval",
        "compare",
        "play",
        "replay",
        "view",
        "check",
        "list",
        "bench",
        "init",
    ],
)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    shown = capsys.readouterr().out
    assert caught.value.code == 0 and name in shown
    for unclear in ("STR", "{None}", "(default: None)", "(default: )", "--no-"):
        assert unclear not in shown.replace("--no-open", "")  # view's own, not one half of a pair


def test_more_episodes_than_tasks_are_all_tasks_and_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", HOUSEHOLD, "--policy", "oracle", "--episodes", "1001", "--max-turns", "1", "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["n"] == 1000 and "has 1000 tasks" in shown.err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("NoInfo", "toy/Stateless-v0: reset must return (text, info); got str; run `agentrl check`"),
        ("Crashing", "toy/Stateless-v0 raised ZeroDivisionError: a bug of mine"),
        ("NumberedStates", "state_key must return text or None; got int"),
        ("Unmade", "toy/Stateless-v0 raised OSError: no server"),
    ],
)
def test_a_broken_environment_is_one_line_and_no_run_folder(
    name: str, words: str, fails: Fails, tmp_path: Path
) -> None:
    gymnasium.register(id="toy/Stateless-v0", entry_point=f"toy_runs:{name}")
    changes = ("env.id=toy/Stateless-v0", "env.options={}", "agent.prompt={observation}")
    assert words in fails("train", str(run_file(tmp_path)), *changes, "--out", "run")


def test_an_evaluation_takes_turns_and_options_from_the_run_file_and_closes_its_environments(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from agentrl.config import load
    from agentrl.rollouts import EnvPool

    closed = []
    monkeypatch.setattr(EnvPool, "close", lambda self: closed.append(len(self._free)))
    changes = ("run.iterations=0", "evaluation.episodes=0", "evaluation.max_turns=3", "env.options.dialect=put")
    assert main(["train", str(run_file(tmp_path)), *changes, "--out", "run"]) == 0
    closed.clear()
    for out, more, expected in [
        ("as_trained", [], (3, {"difficulty": "tiny", "dialect": "put"})),
        ("fewer", ["--max-turns", "2"], (2, {"difficulty": "tiny", "dialect": "put"})),
        (
            "other",
            ["--option", "difficulty=easy"],
            (None, {"difficulty": "easy"}),
        ),  # the task's own, which is none, so 50
    ]:
        assert main(["eval", HOUSEHOLD, "--policy", "checkpoint:run", "--episodes", "1", "--out", out, *more]) == 0
        table = load(tmp_path / out / "config.toml").only_env
        assert (table.max_turns, table.options) == expected
    assert closed == [1, 1, 1]


def test_names_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    from agentrl.evaluator import print_evaluation
    from agentrl.listing import print_listing

    row = {"n": 1, "success_rate": 1.0, "ci95": [0, 1], "mean_turns": 1, "valid_action_ratio": 1}
    print_evaluation({**row, "env": "[/red]", "policy": "p", "split": "s", "by_type": {"[bold]x": row}, "seconds": 1,
                      "faults": 0, "outcomes": {"max_turns": 1}})  # fmt: skip
    print_listing({"envs": [{"id": "my/[/E]-v0"}]})
    shown = capsys.readouterr().out
    assert "[/red]" in shown and "[bold]x" in shown and "my/[/E]-v0" in shown


def test_the_version_and_python_dash_m(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "agentrl", "--version"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.startswith("agentrl ") and done.stderr == ""


def test_a_current_folder_that_is_gone_is_no_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "gone").mkdir()
    os.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main(["list", "tools"]) == 0
