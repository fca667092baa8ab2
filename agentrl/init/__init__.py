"""``agentrl init NAME``: a small package with an environment and a tool of one's own, that can be installed, checked and trained.

The files stand in ``template/``; in them ``$name`` is the name, ``$project`` the distribution's.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import keyword
import shutil
import sys
import tempfile
from pathlib import Path
from string import Template

from agentrl.errors import ConfigError

TEMPLATES = Path(__file__).parent / "template"
FILES = {  # in the project -> template
    "README.md": "README.md",
    "pyproject.toml": "pyproject.toml",
    "run.toml": "run.toml",
    "{name}/__init__.py": "package_init.py",
    "{name}/env.py": "env.py",
    "{name}/tool.py": "tool.py",
    "tests/test_{name}.py": "test.py",
}


def create(name: str, out: Path | None = None) -> list[Path]:
    """Writes the project into the new folder ``out`` (absent: ``name`` in the current folder), whole or not at all, and returns
    its files. Raises ConfigError for a name that no package can have or that is taken, and for a folder that exists."""
    folder = Path(name) if out is None else out
    check_name(name)
    if folder.exists():
        raise ConfigError(f"{folder} exists already; give another folder with --out")
    words = {"name": name, "project": name.replace("_", "-")}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        made = Path(temporary) / "project"
        for file, template in FILES.items():
            path = made / file.format(name=name)
            path.parent.mkdir(parents=True, exist_ok=True)
            text = (TEMPLATES / f"{template}.template").read_text(encoding="utf-8")
            path.write_text(Template(text).substitute(words), encoding="utf-8")
        shutil.move(made, folder)
    return [folder / file.format(name=name) for file in FILES]


def check_name(name: str) -> None:
    """Raises ConfigError for what cannot be the name of a new package: of an import, a distribution and a namespace of ids."""
    fitting = name.isascii() and name.isidentifier() and not keyword.iskeyword(name) and name == name.lower()
    if not fitting or name.startswith("_") or name.endswith("_"):
        plain = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in name.lower()).strip("_")
        hint = f"; '{plain}' would do" if plain.isidentifier() and not keyword.iskeyword(plain) else ""
        raise ConfigError(f"'{name}' is no name of a package: use lower-case letters, digits and _, as in my_env{hint}")
    if name in sys.stdlib_module_names or name == "tests":
        raise ConfigError(
            f"'{name}' is a module of Python or of the project's own tests; give another name, as in {name}_env"
        )
    if owner := _owner(name):
        raise ConfigError(f"'{name}' is installed already ({owner}); give another name, as in my_{name}")


def _owner(name: str) -> str:
    """What has this name already: a distribution, or a module that can be imported; "" where nothing has."""
    try:
        return importlib.metadata.distribution(name).name
    except importlib.metadata.PackageNotFoundError:
        spec = importlib.util.find_spec(name)
    # without an origin it is a folder that only could be a part of a package
    return spec.origin if spec is not None and spec.origin else ""
