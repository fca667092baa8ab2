"""The command line: a thin skin over the Python API. ``agentrl COMMAND --help`` explains each command.

Errors that a user can mend are one line on standard error and exit status 2; a check that fails is exit status 1.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, UseAppendAction, arg

from agentrl.errors import AgentRLError, UserError
from agentrl.overrides import overrides_first

DESCRIPTION = """Train, evaluate and inspect language-model agents.
`agentrl COMMAND --help` explains a command; `agentrl --version` prints the version. A first run: `agentrl train quickstart`."""
app = tyro.extras.SubcommandApp()
RunFile = Annotated[Positional[str], arg(metavar="CONFIG")]
EnvId = Annotated[Positional[str], arg(metavar="ENV")]
Overrides = Annotated[Positional[tuple[str, ...]], arg(metavar="[KEY=VALUE ...]", help_behavior_hint="")]
Options = Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="KEY=VALUE", help_behavior_hint="")]
Split = Annotated[str, arg(metavar="SPLIT")]
# Where nothing is given, the text of each option says what happens.
Folder = Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")]
Bound = Annotated[int | None, arg(metavar="N", help_behavior_hint="")]
Seconds = Annotated[float | None, arg(metavar="S", help_behavior_hint="")]
Isolation = Annotated[Literal["inline", "process"] | None, arg(metavar="inline|process", help_behavior_hint="")]
Flag = Annotated[bool, FlagCreatePairsOff, arg(help_behavior_hint="")]


@app.command
def train(
    config: RunFile,
    overrides: Overrides = (),
    /,
    out: Folder = None,
    resume: Flag = False,
    dry_run: Flag = False,
) -> None:
    """Train an agent by reinforcement learning, as a run file says.

    Args:
        config: A run file (TOML), or the name of one that ships with agentrl: quickstart, recipes/dapo, paper/gigpo_alfworld …
        overrides: Values that replace those of the run file, as in run.seed=1 algorithm.credit.gamma=0.9.
        out: Write metrics, trajectories and checkpoints to this new folder (default: runs/NAME, or the first free of
            runs/NAME-2 …; NAME is run.name).
        resume: Continue the folder of --out (default: runs/NAME) from its last checkpoint, to the same numbers.
        dry_run: Check everything, print what memory and time it needs here and the run file with all defaults filled in, and stop.
    """
    from agentrl import config as configs
    from agentrl import trainer

    settings = configs.load(configs.find(config), overrides)
    if dry_run:
        from agentrl.dry_run import dry_run as needs

        for line in needs(settings):
            print(f"# {line}".rstrip())
        print()
        _print_toml(settings)
        return
    trainer.train(settings, out, resume=resume, started=process_started())


@app.command
def sweep(
    recipes: Annotated[
        Positional[tuple[str, ...]], arg(metavar="[CONFIG ...] [KEY=VALUE ...]", help_behavior_hint="")
    ] = (),
    /,
    seeds: int = 0,
    first_seed: int = 0,
    jobs: Bound = None,
    threads: Bound = None,
    out: Folder = None,
    resume: Flag = False,
) -> None:
    """Train several run files over the same seeds and compare them; exit status 1 where a run is not complete.

    Args:
        recipes: Run files, as for `agentrl train`; the others are compared with the first. Between them values that replace those
            of each, as in run.iterations=25.
        seeds: How many seeds each run file is trained with (with --resume: 0 for those of before).
        first_seed: The first of them.
        jobs: Runs at a time (default: as many as there are cores, divided by --threads; 1 where there is a GPU).
        threads: Threads of each run (default: the cores, divided by --jobs).
        out: Write everything to this new folder (default: runs/sweep, or the first free of runs/sweep-2 …).
        resume: Go on with the folder of --out (default: runs/sweep): complete runs are kept, the others continue from their last
            checkpoints. CONFIG may be left out.
    """
    from agentrl.sweep import sweep

    files = [word for word in recipes if "=" not in word or Path(word).is_file()]
    values = [word for word in recipes if word not in files]
    result = sweep(
        files,
        seeds=range(first_seed, first_seed + seeds),
        overrides=values,
        jobs=jobs,
        threads=threads,
        out=out,
        resume=resume,
    )
    if result["status"] != "completed":
        raise SystemExit(1)


@app.command
def demos(config: RunFile, overrides: Overrides = (), /, out: Path = Path("runs/demos")) -> None:
    """Let an expert play and write its games down as demonstrations, from which `agentrl sft` teaches a model.

    Args:
        config: A run file; its table [demos] says who plays and how many episodes.
        overrides: Values that replace those of the run file, as in demos.episodes=100.
        out: Write the demonstrations to this new folder.
    """
    from agentrl import config as configs
    from agentrl.supervised import make_demos

    make_demos(configs.load(configs.find(config), overrides), out)


@app.command
def sft(
    config: RunFile,
    overrides: Overrides = (),
    /,
    demos: Path = Path("runs/demos"),
    out: Folder = None,
    export: Folder = None,
) -> None:
    """Teach a model to imitate demonstrations: the warm start of reinforcement learning.

    Args:
        config: A run file; its table [sft] says how many updates.
        overrides: Values that replace those of the run file, as in sft.updates=500.
        demos: The folder that `agentrl demos` wrote, or a training run: then its own successes are imitated.
        out: Write metrics and checkpoints to this new folder (default: the first free of runs/NAME, runs/NAME-2 …).
        export: Also write model (a LoRA adapter merged into it) and tokenizer to this folder, for model.path of another run file.
    """
    from agentrl import config as configs
    from agentrl.supervised import run_sft

    run_sft(configs.load(configs.find(config), overrides), demos, out, export=export, started=process_started())


@app.command(name="export-model")
def export_model(
    checkpoint: Annotated[Positional[Path], arg(metavar="RUN")],
    out: Annotated[Positional[Path], arg(metavar="DIR")],
    /,
    adapter: Flag = False,
) -> None:
    """Write the model of a run alone: weights, tokenizer and the run file that says how it is prompted.

    Args:
        checkpoint: A run folder, or a checkpoint of one.
        out: The folder to write.
        adapter: Write a LoRA adapter alone, not merged into the weights below it.
    """
    from agentrl.errors import CheckpointError
    from agentrl.evaluator import saved_model
    from agentrl.supervised import write_export

    settings, model = saved_model(str(checkpoint))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out} exists already and is not an empty folder; give another")
    write_export(model, out, settings, merge=not adapter)


@app.command(name="eval")
def eval_(
    env: EnvId,
    /,
    policy: Annotated[str, arg(metavar="POLICY")] = "random",
    config: Annotated[str | None, arg(metavar="CONFIG", help_behavior_hint="")] = None,
    episodes: int = 100,
    split: Split = "valid_seen",
    seed: int = 0,
    temperature: float = 1.0,
    max_turns: Bound = None,
    option: Options = (),
    isolation: Isolation = None,
    step_timeout_s: Seconds = None,
    reset_timeout_s: Seconds = None,
    out: Folder = None,
    json: Flag = False,
) -> None:
    """Evaluate an agent: one episode on each of the first tasks of a split; success with its 95 % interval, by task type.

    Args:
        env: An environment id, as `agentrl list envs` shows them; MODULE:ID imports MODULE first.
        policy: Who plays: random, oracle, expert, expert:noise=0.2, checkpoint:PATH (a run folder or one of its checkpoints), or
            openai:URL#MODEL,KEY=VALUE... (a model behind an API), as in
            openai:http://localhost:8000/v1#my-model,concurrency=8,timeout_s=60. Further keys: max_tokens, retries, key (the
            environment variable of the API key), price_in and price_out (for a million tokens); a wrong one lists them all.
        config: A run file whose table [agent] says how a model behind an API is prompted (default: a prompt of the
            environment's own fields).
        episodes: How many tasks, the first of the split; 0 for all.
        split: Which tasks: train, valid_seen or valid_unseen.
        seed: The same seed gives the same episodes.
        temperature: Of a model's sampling; 0 is greedy.
        max_turns: The most turns of an episode (default: a checkpoint's own, else 50).
        option: An option of the environment, as in difficulty=easy; repeat it for more (default: a checkpoint's own, else none).
        isolation: process gives each environment a process of its own, so that it can be stopped (default: a checkpoint's own,
            else inline).
        step_timeout_s: The most seconds of a step; needs a process (default: a checkpoint's own, else 60).
        reset_timeout_s: The same of a reset (default: a checkpoint's own, else 300).
        out: Write results and trajectories to this new folder, which `agentrl replay` reads.
        json: Print one JSON object instead of tables.
    """
    from agentrl.evaluator import evaluate, print_evaluation

    result = evaluate(
        env, policy, episodes, config=config, split=split, seed=seed, temperature=temperature, max_turns=max_turns,
        options=_options(option), isolation=isolation, step_timeout_s=step_timeout_s, reset_timeout_s=reset_timeout_s,
        out=out,
    )  # fmt: skip
    print(_json(result)) if json else print_evaluation(result)


@app.command
def play(
    env: EnvId,
    /,
    option: Options = (),
    split: Split = "train",
    task: Annotated[str | None, arg(metavar="ID", help_behavior_hint="")] = None,
    seed: int = 0,
    max_turns: Bound = None,
    record: Folder = None,
) -> None:
    """Play an environment yourself: you see what an agent sees and type its actions (or pipe them in, one a line).

    Args:
        env: An environment id, as `agentrl list envs` shows them; MODULE:ID imports MODULE first.
        option: An option of the environment, as in difficulty=easy; repeat it for more.
        split: Where the task is drawn from: train, valid_seen or valid_unseen.
        task: The id of one task, of any split (default: one is drawn).
        seed: Draws the task; the same seed gives the same game.
        max_turns: The most turns of the game (default: the task's own, else 50).
        record: Write the game to this folder, or add it to the games there; `agentrl replay` reads it.
    """
    from agentrl.play import play

    play(env, options=_options(option), split=split, task=task, seed=seed, max_turns=max_turns, record=record)


@app.command
def replay(
    run: Annotated[Positional[Path], arg(metavar="RUN")],
    id: Annotated[Positional[str], arg(metavar="ID")],
    /,
    show: Flag = False,
) -> None:
    """Take the actions of a recorded episode again in its environment, and compare every turn; exit status 1 at a difference.

    Args:
        run: The folder of a training run, an evaluation, demonstrations or recorded games.
        id: The id of a trajectory, or a part of it that no other has, as in iteration=12/task=ID/place=0/member=3.
        show: Also print every turn that came back equal.
    """
    from agentrl import replay as replaying

    result = replaying.replay(run, id, replaying.print_turn if show else None)
    replaying.print_replay(result)
    if result.difference is not None:
        raise SystemExit(1)


@app.command
def explain(
    run: Annotated[Positional[Path], arg(metavar="RUN")],
    trajectory: Annotated[Positional[str], arg(metavar="[TRAJECTORY]", help_behavior_hint="")] = "",
    turn: Annotated[Positional[int | None], arg(metavar="[TURN]", help_behavior_hint="")] = None,
    /,
    iteration: Bound = None,
    list: Flag = False,
    json: Flag = False,
) -> None:
    """Say why a turn has its advantage: its group, each formula with its numbers, and whether the sum is what was recorded; exit
    status 1 where it is not.

    Args:
        run: The folder of a training run.
        trajectory: The id of a trajectory, or a part of it that no other has, as in place=0/member=3; without it, all trajectories
            of the iteration are listed.
        turn: The number of a turn, from 0; without it, all turns are shown in a table.
        iteration: The iteration (default: that of the id, else the last).
        list: List the trajectories of the iteration with their outcomes and advantages.
        json: Print JSON, with all numbers and everything that was compared.
    """
    from agentrl import explain as explaining
    from agentrl.explain_text import print_explanation, print_overview

    overview = list or not trajectory
    found = explaining.overview(run, iteration) if overview else explaining.explain(run, trajectory, turn, iteration)
    if json:
        print(_json(found))
    else:
        print_overview(found) if overview else print_explanation(found)
    if not found["equal"]:
        raise SystemExit(1)


@app.command
def export(
    env: EnvId,
    /,
    out: Annotated[Path, arg(metavar="DIR")],
    split: Split = "valid_seen",
    episodes: int = 100,
    option: Options = (),
) -> None:
    """Write an environment's tasks as files of another engine, where it knows one.

    Household writes games that the real ALFWorld engine and games=FOLDER play; the extra alfworld must be installed.

    Args:
        env: An environment id, as `agentrl list envs` shows them; MODULE:ID imports MODULE first.
        out: Write to this new folder.
        split: Which tasks: train, valid_seen or valid_unseen.
        episodes: How many tasks, the first of the split; 0, or more than there are, for all.
        option: An option of the environment, as in difficulty=full; repeat it for more.
    """
    from agentrl.exporter import export

    n_tasks = export(env, out, episodes, split=split, options=_options(option))
    print(f"wrote {n_tasks} tasks to {out}")


@app.command
def check(env: EnvId, /, option: Options = ()) -> None:
    """Check that an environment keeps its contract (determinism, splits, hooks …); exit status 1 where one check fails.

    Args:
        env: An environment id, as `agentrl list envs` shows them; MODULE:ID imports MODULE first.
        option: An option of the environment, as in difficulty=easy; repeat it for more.
    """
    from agentrl.env import make
    from agentrl.env_check import check_env, failed, render

    options = _options(option)
    make(env, **options).close()
    checks = check_env(lambda: make(env, **options))
    print(render(checks))
    if failed(checks):
        raise SystemExit(1)


@app.command(name="list")
def list_(what: Annotated[Positional[str], arg(metavar="[WHAT]")] = "all", /, json: Flag = False) -> None:
    """List the environments, tools and methods that there are.

    Args:
        what: envs, tools, methods or all.
        json: Print JSON; of methods it also has the parameters with defaults, columns read and written, and the source.
    """
    from agentrl.listing import listing, print_listing

    found = listing(what)
    print(_json(found)) if json else print_listing(found)


@app.command
def bench(name: Annotated[Positional[str], arg(metavar="NAME")], /, json: Flag = False) -> None:
    """Measure the speed of a part against its reference (needs a checkout: tests/benchmarks).

    Args:
        name: household, credit … or all; another word lists those there are.
        json: Print JSON: rows of name, value, unit, against (what it is measured against), ratio and bound_ratio.
    """
    from agentrl.listing import benchmarks, print_rows

    rows = benchmarks(name)
    print(_json(rows)) if json else print_rows(rows)


def _options(pairs: Sequence[str]) -> dict[str, Any]:
    from agentrl.errors import ConfigError
    from agentrl.overrides import parse_value

    found = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise ConfigError(f"'{pair}' is not an option: write key=value, as in difficulty=easy")
        found[key] = parse_value(text)
    return found


def _json(value: Any) -> str:
    return json.dumps(value, indent=2)


def _print_toml(settings: Any) -> None:
    import tomli_w

    from agentrl.store import without_none

    print(tomli_w.dumps(without_none(settings.model_dump(mode="python"))), end="")


def process_started() -> float:
    """``time.time()`` of the moment this process began, imports included; where the system does not tell, now."""
    try:
        ticks = int(Path("/proc/self/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, IndexError, ValueError):
        age = 0.0
    return time.time() - age


@contextmanager
def _terminable(received: list[int]) -> Iterator[None]:
    """In the block, SIGTERM (a scheduler's) does what Ctrl-C does, and is added to ``received``; outside of the main
    thread, where no signal arrives, nothing changes."""

    def stop(number: int, frame: Any) -> None:
        received.append(number)
        interrupt = signal.getsignal(signal.SIGINT)  # asyncio puts its own there while it runs
        if not callable(interrupt):
            raise KeyboardInterrupt
        interrupt(signal.SIGINT, frame)

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _version() -> str:
    try:
        return importlib.metadata.version("agentrl-toolkit")
    except importlib.metadata.PackageNotFoundError:
        return "(a checkout that is not installed)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if list(arguments) == ["--version"]:
        print(f"agentrl {_version()}")
        return 0
    # Idle threads must sleep, not spin: beside any other process, spinning makes training several times slower. The OpenMP
    # runtime reads this when torch is imported, which every command does after this line.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with suppress(OSError):  # a current folder that was removed
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())  # a user's own modules: module:attribute in a run file, module:my/Env-v0
    received: list[int] = []
    try:
        with _terminable(received):
            app.cli(prog="agentrl", description=DESCRIPTION, args=overrides_first(arguments))
    except UserError as error:
        print(f"agentrl: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        remedy = "; continue with --resume" if list(arguments[:1]) in (["train"], ["sweep"]) else ""
        print(f"agentrl: interrupted{remedy}", file=sys.stderr)
        return 143 if received else 130
    except BrokenPipeError:
        return 1
    except (
        AgentRLError,
        FloatingPointError,
        OSError,
    ) as error:  # a run that failed, numbers that are none, a full disk
        print(f"agentrl: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
