"""The command that looks at a model or a machine before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, arg

from agentrl.commands.words import Flag, Options, app, as_json, options_of


@app.command
def doctor(
    what: Annotated[
        Positional[tuple[str, ...]], arg(metavar="[MODEL [ENV]] [KEY=VALUE ...]", help_behavior_hint="")
    ] = (),
    /,
    config: Annotated[str | None, arg(metavar="CONFIG", help_behavior_hint="")] = None,
    option: Options = (),
    only: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="CHECK", help_behavior_hint="")] = (),
    json: Flag = False,
) -> None:
    """Look at a model (chat template, tokens, log-probs, memory, time), also in an environment; alone: at this machine.

    A line a check: ok, note, warning or failure, with what is wrong, what agentrl does about it and which setting to change. Exit
    status 1 where one check fails.

    Args:
        what: A run folder, a checkpoint's folder or a model in Hugging Face's cache, then an environment id, then values that
            replace those of the run file, as in model.dtype=bfloat16 rollout.max_tokens=256.
        config: A run file that says how the model will be used (default: the one beside the model, else all defaults).
        option: An option of the environment, as in difficulty=easy; repeat it for more.
        only: A check, or a group of them (tokens, conversation, formats, model, environment, engine; machine, extras), with what it
            needs; repeat it for more.
        json: Print one JSON object instead of lines.
    """
    from agentrl import doctor as doctors
    from agentrl.errors import ConfigError

    overrides = [word for word in what if "=" in word and not Path(word).is_dir()]
    names = [word for word in what if word not in overrides]
    if len(names) > 2:
        raise ConfigError(f"wanted a model and an environment at most; got {', '.join(names)}")
    if not names and (overrides or option or config):
        raise ConfigError("settings are for a model; write agentrl doctor MODEL [ENV] [KEY=VALUE ...]")
    if option and len(names) < 2:
        raise ConfigError("--option is for an environment; write agentrl doctor MODEL ENV --option KEY=VALUE")
    model, env = [*names, None, None][:2]
    if model is None:
        about, lines = {"subject": "machine"}, doctors.examine_machine(only)
    else:
        about = {"subject": "model", "model": model, "env": env}
        how = {"config": config, "options": options_of(option), "overrides": overrides}
        lines = doctors.examine(model, env, only=only, **how)
    print(as_json(doctors.report(about, lines)) if json else doctors.render(lines))
    if doctors.failed(lines):
        raise SystemExit(1)
