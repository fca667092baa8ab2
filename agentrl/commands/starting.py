"""The command that starts a package of one's own."""

from __future__ import annotations

from typing import Annotated

from tyro.conf import Positional, arg

from agentrl.commands.words import Folder, app


@app.command
def init(name: Annotated[Positional[str], arg(metavar="NAME")], /, out: Folder = None) -> None:
    """Make a small package with an environment and a tool of your own, which passes `agentrl check` and its tests and trains.

    Args:
        name: The package's name, as in my_env; the environment's id is NAME/Rooms-v0.
        out: Write it to this new folder (default: NAME).
    """
    from agentrl.init import create

    files = create(name, out)
    folder = files[0].parent
    print(f"wrote {len(files)} files to {folder}/")
    print(f"  cd {folder} && agentrl check {name}:{name}/Rooms-v0 && agentrl train run.toml --dry-run")
