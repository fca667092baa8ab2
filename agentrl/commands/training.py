"""Commands that train: run files in, run folders out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from agentrl.commands.words import Bound, Flag, Folder, Overrides, RunFile, app, print_toml, process_started


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
        print_toml(settings)
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
    print(f"wrote the {'adapter' if adapter else 'model'} of {checkpoint} to {out}")
