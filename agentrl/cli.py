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
from typing import Annotated, Any

import tyro
from tyro.conf import Positional, UseAppendAction, arg

from agentrl.errors import AgentRLError, UserError

app = tyro.extras.SubcommandApp()
Options = UseAppendAction[tuple[str, ...]]  # --option a=1 --option b=2: each adds one
Overrides = Annotated[Positional[tuple[str, ...]], arg(metavar="[KEY=VALUE ...]", help="dotted.key=value")]


@app.command
def train(
    config: Positional[str],
    overrides: Overrides = (),
    /,
    out: Path | None = None,
    resume: bool = False,
    dry_run: bool = False,
) -> None:
    """Train an agent as a run file says.

    Args:
        config: A run file (TOML), or the name of one that ships with agentrl (quickstart).
        overrides: Changes to the run file, as in run.seed=1.
        out: The run folder (default: runs/NAME).
        resume: Continue the run folder from its last checkpoint.
        dry_run: Check everything, print the resolved run file, and stop.
    """
    from agentrl import config as configs
    from agentrl import trainer
    from agentrl.console import Progress

    settings = configs.load(configs.find(config), overrides)
    if dry_run:
        trainer.Trainer(settings, Progress(), time.time())
        _print_toml(settings)
        return
    trainer.train(settings, out, resume=resume, started=process_started())


@app.command
def demos(config: Positional[str], overrides: Overrides = (), /, out: Path = Path("runs/demos")) -> None:
    """Let an expert play and write its actions down as the chat agent's completions.

    Args:
        config: A run file; its table [demos] says who plays and how much.
        overrides: Changes to the run file.
        out: The folder to write.
    """
    from agentrl import config as configs
    from agentrl.supervised import make_demos

    make_demos(configs.load(configs.find(config), overrides), out)


@app.command
def sft(
    config: Positional[str],
    overrides: Overrides = (),
    /,
    demos: Path = Path("runs/demos"),
    out: Path | None = None,
    export: Path | None = None,
) -> None:
    """Teach a model to imitate demonstrations: the warm start of reinforcement learning.

    Args:
        config: A run file; its table [sft] says how long.
        overrides: Changes to the run file.
        demos: The folder that `agentrl demos` wrote, or a training run: then its own successes are imitated.
        out: The run folder (default: runs/NAME).
        export: Also write the model and tokenizer alone to this folder.
    """
    from agentrl import config as configs
    from agentrl.supervised import run_sft

    run_sft(configs.load(configs.find(config), overrides), demos, out, export=export, started=process_started())


@app.command(name="eval")
def eval_(
    env: Positional[str],
    /,
    policy: str = "random",
    episodes: int = 100,
    split: str = "valid_seen",
    seed: int = 0,
    temperature: float = 1.0,
    max_turns: int | None = None,
    option: Options = (),
    out: Path | None = None,
    json: bool = False,
) -> None:
    """Evaluate an agent on a fixed panel of tasks: success with its interval, by task type.

    Args:
        env: An environment id, as in agentrl/Household-v0.
        policy: random, oracle, expert, or checkpoint:PATH (a run folder or a checkpoint of one).
        episodes: How many tasks, the first of the split; 0 for all.
        split: train, valid_seen or valid_unseen.
        seed: The root of all random streams.
        temperature: Of a checkpoint's sampling; 0 is greedy.
        max_turns: The bound of an episode (default: the run file's of a checkpoint in its own environment, else 50).
        option: Options of the environment, as in difficulty=easy (default: likewise, else none).
        out: Write results and trajectories to this folder.
        json: Print one JSON object instead of tables.
    """
    from agentrl.evaluator import evaluate, print_evaluation

    result = evaluate(
        env, policy, episodes, split=split, seed=seed, temperature=temperature, max_turns=max_turns,
        options=_options(option), out=out,
    )  # fmt: skip
    print(_json(result)) if json else print_evaluation(result)


@app.command
def export(
    env: Positional[str],
    /,
    out: Path,
    split: str = "valid_seen",
    episodes: int = 100,
    option: Options = (),
) -> None:
    """Write an environment's tasks as files of another engine, where it knows one.

    Household writes games that the real ALFWorld engine and games=FOLDER play; the extra alfworld must be installed.

    Args:
        env: An environment id, as in agentrl/Household-v0.
        out: The folder to write; it must not exist.
        split: train, valid_seen or valid_unseen.
        episodes: How many tasks, the first of the split; 0, or more than there are, for all.
        option: Options of the environment, as in difficulty=full.
    """
    from agentrl.exporter import export

    n_tasks = export(env, out, episodes, split=split, options=_options(option))
    print(f"wrote {n_tasks} tasks to {out}")


@app.command
def check(env: Positional[str], /, option: Options = ()) -> None:
    """Verify an environment's contract, one line a check; exit status 1 where one fails.

    Args:
        env: An environment id; MODULE:ID imports MODULE first.
        option: Options of the environment, as in difficulty=easy.
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
def list_(what: Positional[str] = "all", /, json: bool = False) -> None:
    """List environments, tools and methods.

    Args:
        what: envs, tools, methods or all.
        json: Print JSON: of methods also stage, parameters with defaults, reads, writes, formula and source.
    """
    from agentrl.listing import listing, print_listing

    found = listing(what)
    print(_json(found)) if json else print_listing(found)


@app.command
def bench(name: Positional[str], /, json: bool = False) -> None:
    """Run a benchmark of tests/benchmarks (a checkout is needed).

    Args:
        name: household, credit … or all.
        json: Print rows of name, value, unit, against, ratio, bound_ratio.
    """
    from agentrl.listing import benchmarks, print_rows

    rows = benchmarks(name)
    print(_json(rows)) if json else print_rows(rows)


def _options(pairs: Sequence[str]) -> dict[str, Any]:
    from agentrl.config import parse_value
    from agentrl.errors import ConfigError

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
            app.cli(prog="agentrl", description="Train, evaluate and inspect language-model agents.", args=arguments)
    except UserError as error:
        print(f"agentrl: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        remedy = "; continue with --resume" if list(arguments[:1]) == ["train"] else ""
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
