"""Commands that play episodes, and that look at an environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from agentrl.commands.words import (
    Bound,
    EnvId,
    Flag,
    Folder,
    Isolation,
    Options,
    Seconds,
    Split,
    app,
    as_json,
    options_of,
)


@app.command(name="eval")
def eval_(
    env: EnvId,
    /,
    policy: Annotated[str, arg(metavar="POLICY")] = "random",
    config: Annotated[str | None, arg(metavar="CONFIG", help_behavior_hint="")] = None,
    episodes: int = 100,
    samples: int = 1,
    split: Split = "valid_seen",
    seed: int = 0,
    temperature: float = 1.0,
    max_turns: Bound = None,
    option: Options = (),
    isolation: Isolation = None,
    step_timeout_s: Seconds = None,
    reset_timeout_s: Seconds = None,
    out: Folder = None,
    resume: Flag = False,
    without_report: Flag = False,
    json: Flag = False,
) -> None:
    """Evaluate an agent on the first tasks of a split: success with its 95 % interval, by task type, pass@k, why episodes fail.

    Args:
        env: An environment id, as `agentrl list envs` shows them; MODULE:ID imports MODULE first.
        policy: Who plays: random, oracle, expert, expert:noise=0.2, checkpoint:PATH (a run folder or one of its checkpoints), or
            openai:URL#MODEL,KEY=VALUE... (a model behind an API), as in
            openai:http://localhost:8000/v1#my-model,concurrency=8,timeout_s=60. Further keys: max_tokens, retries, key (the
            environment variable of the API key), price_in and price_out (for a million tokens); a wrong one lists them all.
        config: A run file, or a run folder, whose table [agent] says how a model behind an API is prompted, and its
            rollout.max_tokens how long an answer may be (default: a prompt of the environment's own fields, 1024).
        episodes: How many tasks, the first of the split; 0 for all.
        samples: Episodes on each task; of more than one pass@k and pass^k are told, and intervals are clustered by task.
        split: Which tasks: train, valid_seen or valid_unseen.
        seed: The same seed gives the same episodes.
        temperature: Of a model's sampling; 0 is greedy.
        max_turns: The most turns of an episode (default: a checkpoint's own, else the task's own, else 50).
        option: An option of the environment, as in difficulty=easy; repeat it for more (default: a checkpoint's own, else none).
        isolation: process gives each environment a process of its own, so that it can be stopped (default: a checkpoint's own,
            else inline).
        step_timeout_s: The most seconds of a step; needs a process (default: a checkpoint's own, else 60).
        reset_timeout_s: The same of a reset (default: a checkpoint's own, else 300).
        out: Write results (eval.json, eval.md, eval.html), trajectories and report.html to this new folder, which `agentrl replay`,
            `agentrl view` and `agentrl compare` read.
        resume: Continue the folder of --out, with the same settings, to the same results; in a complete one, try faults again.
        without_report: Do not write report.html into --out, the page that `agentrl view` shows.
        json: Print one JSON object instead of tables.
    """
    from agentrl.console import PanelProgress
    from agentrl.evaluator import evaluate, print_evaluation

    result = evaluate(
        env, policy, episodes, samples=samples, config=config, split=split, seed=seed, temperature=temperature, max_turns=max_turns,
        options=options_of(option), isolation=isolation, step_timeout_s=step_timeout_s, reset_timeout_s=reset_timeout_s,
        out=out, resume=resume, report=not without_report, progress=PanelProgress(),
    )  # fmt: skip
    print(as_json(result)) if json else print_evaluation(result)


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

    play(env, options=options_of(option), split=split, task=task, seed=seed, max_turns=max_turns, record=record)


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

    n_tasks = export(env, out, episodes, split=split, options=options_of(option))
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

    options = options_of(option)
    make(env, **options).close()
    checks = check_env(lambda: make(env, **options))
    print(render(checks))
    if failed(checks):
        raise SystemExit(1)
