"""What ships: the packages, the links, what an import loads, and the shape of the files themselves."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]
LINKED = ("envs", "tools", "configs")
HEAVY = (
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "vllm",
    "ray",
    "playwright",
    "alfworld",
    "textworld",
    "matplotlib",
)
WITHOUT_EDITABLE = (
    "import sys; sys.meta_path[:] = [f for f in sys.meta_path if '__editable__' not in getattr(f, '__module__', '')]"
)
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60


def shipped_folders() -> Iterator[tuple[str, Path]]:
    """(import name, folder) of every folder with Python files, links not followed."""
    for name, top in SETUPTOOLS["package-dir"].items():
        for folder, subfolders, files in os.walk(CHECKOUT / top):
            subfolders[:] = sorted(sub for sub in subfolders if not sub.startswith((".", "__")))
            if any(file.endswith(".py") for file in files):
                parts = Path(folder).relative_to(CHECKOUT / top).parts
                yield ".".join((name, *parts)), Path(folder)


def source_files() -> list[Path]:
    return sorted(file for _, folder in shipped_folders() for file in folder.glob("*.py"))


def python(code: str, cwd: Path, **environ: str) -> str:
    """What a fresh interpreter prints that sees ``cwd`` and no editable install. Its failure fails the test."""
    inherited = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    done = subprocess.run(
        [sys.executable, "-c", f"{WITHOUT_EDITABLE}\n{code}"],
        cwd=cwd,
        env=inherited | environ,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_every_package_is_listed():
    found = {name for name, _ in shipped_folders()}
    listed = set(SETUPTOOLS["packages"])
    assert len(listed) == len(SETUPTOOLS["packages"]), "a package is listed twice"
    assert found - listed == set(), "add them to tool.setuptools.packages in pyproject.toml"
    assert listed - found == set(), "listed in pyproject.toml, but there is no such folder with a .py file"


def test_every_package_has_an_init():
    missing = [name for name, folder in shipped_folders() if not (folder / "__init__.py").is_file()]
    assert missing == []


@pytest.mark.parametrize("name", LINKED)
def test_links_point_at_the_top_level_folders(name: str):
    link = CHECKOUT / "agentrl" / name
    assert link.is_symlink()
    assert os.readlink(link) == f"../{name}"
    assert (link / "__init__.py").samefile(CHECKOUT / name / "__init__.py")


def test_own_plugins_are_the_declared_entry_points():
    from agentrl.registry import OWN_PLUGINS

    assert sorted(PROJECT["project"]["entry-points"]["agentrl.plugins"].values()) == sorted(OWN_PLUGINS)


def test_constraints_pin_every_direct_requirement():
    pinned = {line.split("==")[0] for line in (CHECKOUT / "constraints.txt").read_text().splitlines() if "==" in line}
    extras = PROJECT["project"]["optional-dependencies"]
    # vllm pins its own torch; setuptools must suit whatever else is installed.
    wanted = [
        *PROJECT["project"]["dependencies"],
        *(line for name in extras for line in extras[name] if name != "vllm"),
    ]
    names = {line.split(">=")[0].split("[")[0] for line in wanted} - {"setuptools"}
    assert names - pinned == set()


@pytest.mark.parametrize(
    "module",
    [
        "agentrl",
        "agentrl.types",
        "agentrl.env",
        "agentrl.registry",
        "agentrl.algorithms.credit",
        "agentrl.envs",
        "agentrl.tools",
        "agentrl.configs",
        "agentrl.cli",
    ],
)
def test_import_is_light(module: str):
    code = f"import json, {module}; print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    assert json.loads(python(code, CHECKOUT)) == []


def test_plugins_load_without_heavy_packages():
    """All own methods, agents, environments and tools can be listed where the extras are missing."""
    block = "class Block:\n    def find_spec(self, name, path=None, target=None):\n"
    block += f"        if name.partition('.')[0] in {HEAVY!r}: raise ModuleNotFoundError(name)\n"
    code = block + "sys.meta_path.insert(0, Block())\nfrom agentrl.registry import names\nprint(len(names('credit')))"
    assert int(python(code, CHECKOUT)) > 0


def test_uninstalled_checkout_works():
    code = "import agentrl.envs, agentrl.tools, agentrl.configs; print(agentrl.envs.__file__)"
    assert python(code, CHECKOUT) == str(CHECKOUT / "agentrl" / "envs" / "__init__.py")


def test_nobody_imports_the_folders_by_their_top_level_names():
    banned = PROJECT["tool"]["ruff"]["lint"]["flake8-tidy-imports"]["banned-api"]
    assert sorted(banned) == sorted(LINKED)
    files = [*source_files(), *(CHECKOUT / "tests").rglob("*.py"), *(CHECKOUT / "examples").rglob("*.py")]
    bad = []
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(), str(file))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            else:
                continue
            bad += [f"{file.name}:{node.lineno} {name}" for name in names if name.partition(".")[0] in LINKED]
    assert bad == [], "write `import agentrl.envs`: the short names are other people's projects"


def test_no_file_is_too_long():
    lengths = {file: len(file.read_text().splitlines()) for file in source_files()}
    long = {str(file.relative_to(CHECKOUT)): n for file, n in lengths.items() if n > MAX_FILE_LINES}
    assert long == {}, f"split them: a file has at most {MAX_FILE_LINES} lines"


def test_no_function_is_too_long():
    long = {}
    for file in source_files():
        for node in ast.walk(ast.parse(file.read_text(), str(file))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                n_lines = 1 + (node.end_lineno or node.lineno) - node.lineno
                if ast.get_docstring(node) is not None:  # a formula may take the room it needs
                    n_lines -= 1 + (node.body[0].end_lineno or 0) - node.body[0].lineno
                if n_lines > MAX_FUNCTION_LINES:
                    long[f"{file.relative_to(CHECKOUT)}:{node.lineno} {node.name}"] = n_lines
    assert long == {}, f"split them: a function has at most {MAX_FUNCTION_LINES} lines besides its docstring"


@pytest.fixture(scope="module")
def source_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is built from, so that building leaves nothing in the checkout."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("agentrl", *LINKED):
        shutil.copytree(CHECKOUT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        if (CHECKOUT / name).exists():
            shutil.copy(CHECKOUT / name, copy)
    return copy


def build(kind: str, source: Path, out: Path) -> Path:
    code = f"from setuptools import build_meta; print('built:' + build_meta.build_{kind}({str(out)!r}))"
    return out / python(code, source).rpartition("built:")[2]


def expected_files() -> set[str]:
    """Every file of every shipped folder by its name in the wheel; pictures of pages stay in the checkout."""
    names = set()
    for package, folder in shipped_folders():
        listed = {".".join((package, child.name)) for child in folder.iterdir()} & set(SETUPTOOLS["packages"])
        for file in folder.rglob("*"):
            inside = file.relative_to(folder)
            first = f"{package}.{inside.parts[0]}"
            if file.is_file() and not {"__pycache__", "images"} & set(inside.parts) and first not in listed:
                names.add("/".join((*package.split("."), *inside.parts)))
    return names


@pytest.mark.slow
def test_wheel_holds_every_file_and_works(source_copy: Path, tmp_path: Path):
    wheel = build("wheel", source_copy, tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert expected_files() - names == set(), "name them under tool.setuptools.package-data"
    assert names - expected_files() == set()
    assert "agentrl/py.typed" in names
    assert {name.split("/")[0] for name in names} == {"agentrl"}, "the wheel must not own any other top-level name"

    target = tmp_path / "target"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*command, str(wheel)], check=True, timeout=120)
    code = "import agentrl.envs, agentrl.tools, agentrl.configs; print(agentrl.envs.__file__)"
    assert python(code, tmp_path, PYTHONPATH=str(target)) == str(target / "agentrl" / "envs" / "__init__.py")

    (installed,) = importlib.metadata.distributions(path=[str(target)])
    points = {(point.group, point.value) for point in installed.entry_points}
    assert ("console_scripts", "agentrl.cli:main") in points
    assert ("agentrl.plugins", "agentrl.envs") in points
    assert installed.metadata["License-Expression"] == "Apache-2.0"


@pytest.mark.slow
def test_sdist_builds_the_same_wheel(source_copy: Path, tmp_path: Path):
    sdist = build("sdist", source_copy, tmp_path)
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.glob("agentrl_toolkit-*/")
    with zipfile.ZipFile(build("wheel", unpacked, tmp_path)) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == expected_files()
