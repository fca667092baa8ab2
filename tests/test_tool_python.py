"""The tool ``python``: what a model sees of a program, what a user may require, and the containers' command line."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from agentrl.errors import ConfigError, ToolFault
from agentrl.tool import Recipe, ToolResult, tools_of
from agentrl.tools import python as module
from agentrl.tools.python import PROPERTIES, Python, isolation, shown
from agentrl.tools.sandbox import containers, seccomp, system
from agentrl.tools.sandbox.launch import Collector, Ended, LayersMissing, Limits, Setting, run

linux = pytest.mark.skipif(not system.LINUX, reason="processes are confined on Linux (x86_64, arm64) only")
LIMITS = Limits(wall_s=2, cpu_s=3, memory_mb=64, output_bytes=1000)


def ended(output: bytes = b"", exit_code: int = 0, why: str = "", cpu_s: float = 0.1) -> Ended:
    return Ended(output, b"", len(output), exit_code, why, cpu_s, 1.0, ())


def call(tools: Python, code: str) -> ToolResult:
    async def once() -> ToolResult:
        try:
            return await tools.tools()[0].call({"code": code})
        finally:
            tools.close()

    return asyncio.run(once())


def made(table: dict[str, object]) -> object:
    """The toolset of a run file's table."""
    recipe = tools_of(table)
    assert isinstance(recipe, Recipe)
    return recipe.make()


# ── what the model sees ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("how", "text"),
    [
        (ended(b"4\n"), "4\n"),
        (ended(), "(no output)"),
        (ended(b"half", 3), "half\n[exit code 3]"),
        (ended(b"line\n", -9, "wall"), "line\n[killed: it took longer than 2 s]"),
        (ended(b"", -9, "output"), "[killed: it wrote more than 1000 bytes]"),
        (ended(b"", -9, "memory"), "[killed: it took more than 64 MB of memory]"),
        (ended(b"", -24, cpu_s=2.7), "[killed: it used more than 3 s of CPU time]"),
        (ended(b"", -9, cpu_s=3.9), "[killed: it used more than 3 s of CPU time]"),
        (ended(b"", -9), "[killed by SIGKILL]"),
        (ended(b"", -11), "[killed by SIGSEGV]"),
        (ended(b"", -40), "[killed by signal 40]"),
        (ended(b"a\0\x1b[1m\xff\t"), "a��[1m�\t"),
        (ended("é".encode() * 5), "é" * 5),
        (ended(b"1234567890" + b"abcdefghij" + b"."), "12345\n… (cut: 21 bytes in all) …\nghij."),
    ],
)
def test_shown(how: Ended, text: str) -> None:
    assert shown(how, LIMITS, 10) == text


def test_collector_keeps_both_ends() -> None:
    kept = Collector(4)
    for part in (b"ab", b"cdef", b"", b"ghi", b"j"):
        kept.add(part)
    assert (kept.head, kept.tail, kept.n_bytes) == (b"abcd", b"ghij", 10)
    kept = Collector(4)
    kept.add(b"abcdef")
    assert (kept.head, kept.tail) == (b"abcd", b"ef")


@linux
def test_a_program_is_run_and_its_error_is_a_result() -> None:
    assert call(Python(), "print(sum(range(10)))").text == "45\n"
    result = call(Python(), "x = {}\nprint('before')\nx['a']")
    assert result.error is None
    assert result.text == (
        'before\nTraceback (most recent call last):\n  File "/work/main.py", line 3, in <module>\n'
        "    x['a']\n    ~^^^^^\nKeyError: 'a'\n[exit code 1]"
    )


@linux
def test_the_same_program_gives_the_same_text() -> None:
    """Sets of strings have the same order, and the folder the same name, whatever the layers."""
    code = "print({str(i) for i in range(50)})\nimport os\nprint(os.getcwd())\n1/0"
    assert call(Python(), code).text == call(Python(), code).text
    fenced = Setting(environment=module.ENVIRONMENT, left_out=("namespaces",))
    assert shown(run(code, Limits(), fenced), LIMITS, 4000) == call(Python(), code).text


@linux
def test_packages_and_readable_folders(tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("seven")
    tmp_path.chmod(0o755)
    code = f"import numpy\nprint(numpy.arange(4).sum())\nprint(open({str(tmp_path / 'data.txt')!r}).read())"
    assert call(Python(readable=(str(tmp_path),)), code).text == "6\nseven\n"
    assert "FileNotFoundError" in call(Python(), code).text or "PermissionError" in call(Python(), code).text


@linux
def test_programs_are_refused_that_are_none() -> None:
    long = call(Python(), "#" * 100_001)
    assert (long.error, long.text) == ("tool", "Error: a program has 100000 characters at most; this one has 100001")
    assert call(Python(), "print('\ud800')").error == "tool"


@linux
def test_a_caller_that_gives_up_ends_the_program() -> None:
    async def given_up() -> float:
        tools = Python(wall_s=300)
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(tools.python("import time\ntime.sleep(300)"), 0.5)
        tools.close()
        return time.monotonic() - started

    assert asyncio.run(given_up()) < 60


@linux
def test_calls_run_side_by_side_and_wait_for_their_turn() -> None:
    async def many() -> list[str]:
        tools = Python(concurrency=2, wall_s=60)
        results = await asyncio.gather(*(tools.python(f"print({i})") for i in range(5)))
        tools.close()
        return results

    assert asyncio.run(many()) == [f"{i}\n" for i in range(5)]


# ── what a user may require ──────────────────────────────────────────────────────────────────────────────────────────


@linux
def test_isolation_names_every_property_and_what_gives_it() -> None:
    here = isolation()
    assert set(here) == set(PROPERTIES)
    for name, layers in here.items():
        assert set(layers) <= set(PROPERTIES[name])
    held = [name for name, layers in here.items() if layers]
    assert call(Python(require=tuple(held)), "print(1)").text == "1\n"


@linux
def test_a_property_that_is_lacking_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = {name: (() if name == "disk" else layers) for name, layers in isolation().items()}
    monkeypatch.setattr(module, "isolation", lambda interpreter: lacking)
    with pytest.raises(
        ConfigError, match=r"python\.require: this machine cannot give disk \(wanted one of: root folder\)"
    ):
        Python(require=("network", "disk"))


@linux
def test_a_layer_that_fails_later_stops_the_program(tmp_path: Path) -> None:
    setting = Setting(needed=(("seccomp", "network namespace"),), left_out=("seccomp", "namespaces"))
    with pytest.raises(LayersMissing, match="seccomp or network namespace"):
        run("print('has run')", Limits(), setting)
    tools = Python()
    tools._setting = replace(setting, environment={})
    with pytest.raises(ToolFault, match="no longer gives seccomp or network namespace"):
        call(tools, "print('has run')")


@linux
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"wall_s": 0}, "python.wall_s: wanted above 0; got 0"),
        ({"output_chars": 9000}, "python.output_chars: wanted at most 7000; got 9000"),
        ({"require": ["networks"]}, "python.require: no property 'networks'. Did you mean 'network'?"),
        ({"interpreter": "/no/python"}, "python.interpreter: no program /no/python"),
        ({"backend": "vm"}, "tools.Python.backend: input should be 'process', 'docker' or 'podman'; got 'vm'"),
        ({"memory": 5}, "tools.Python has no parameter 'memory'. Did you mean 'memory_mb'?"),
    ],
)
def test_wrong_options(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        made({"name": "python", **wrong})
    assert str(raised.value) == message


@linux
def test_a_supervisor_that_dies_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentrl.tools.sandbox.launch.START", "raise SystemExit(3)")
    with pytest.raises(ToolFault, match="a sandbox failed: its processes were killed from outside"):
        run("print(1)", Limits(), Setting())


# ── the filter, the containers ───────────────────────────────────────────────────────────────────────────────────────


def passed(code: list[seccomp.Instruction], number: int, argument: int = 0, machine: str = "x86_64") -> int:
    """What the filter answers, by a machine of a few lines."""
    memory = {0: number, 4: seccomp.ARCHITECTURE[machine], 16: argument & 0xFFFFFFFF}
    at, value = 0, 0
    while True:
        kind, yes, no, k = code[at]
        at += 1
        if kind == seccomp.RETURN:
            return k
        if kind == seccomp.LOAD:
            value = memory[k]
        else:
            true = {seccomp.EQUAL: value == k, seccomp.GREATER_EQUAL: value >= k, seccomp.ANY_BIT: bool(value & k)}
            at += yes if true[kind] else no


def test_filter() -> None:
    error = seccomp.ERROR
    free = seccomp.program("x86_64", 77, forks=True, alone=False, fenced=False)
    bound = seccomp.program("x86_64", 77, forks=False, alone=True, fenced=True)
    assert len(bound) < 4096  # the kernel's bound
    assert all(yes < 256 and no < 256 for _, yes, no, _ in bound)
    for code in (free, bound):
        assert passed(code, 0) == passed(code, 59) == seccomp.ALLOW  # read, execve
        assert passed(code, 41) == passed(code, 101) == error | 1  # socket, ptrace
        assert passed(code, 53) == seccomp.ALLOW  # socketpair
        assert passed(code, 435) == error | 38
        assert passed(code, 0x40000000 | 41) == seccomp.KILL  # x32
        assert passed(code, 56, 0x3D0F00) == seccomp.ALLOW  # clone of a thread
        assert passed(code, 56, 0x10000011) == error | 1  # clone into a user namespace
        assert passed(code, 0, machine="aarch64") == seccomp.KILL
    assert (passed(free, 56, 17), passed(free, 57)) == (seccomp.ALLOW, seccomp.ALLOW)
    assert (passed(bound, 56, 17), passed(bound, 57)) == (error | 11, error | 11)
    assert (passed(free, 62, 1), passed(free, 90)) == (seccomp.ALLOW, seccomp.ALLOW)
    assert passed(bound, 90) == error | 1
    assert [passed(bound, 62, pid) for pid in (77, 78, -1, 0, -77)] == [seccomp.ALLOW, *[error | 1] * 4]
    assert [passed(bound, 302, pid) for pid in (77, 78, 0)] == [seccomp.ALLOW, error | 1, seccomp.ALLOW]


def test_container_command() -> None:
    line = containers.command("docker", "python:3.12", "agentrl-1", "/tmp/cid", LIMITS, Setting(readable=("/data",)))
    assert line[:5] == ["docker", "run", "--rm", "--interactive", "--init"]
    assert line[-4:] == [
        *("python:3.12", "sh", "-c"),
        "cat > main.py && exec timeout -s KILL 2 python -u -s main.py < /dev/null",
    ]
    assert set(line[5:-4]) == {
        *("--read-only", "--name=agentrl-1", "--cidfile=/tmp/cid", "--pull=never", "--network=none"),
        *("--memory=64m", "--memory-swap=64m", "--pids-limit=18", "--cap-drop=ALL", "--user=65534:65534"),
        *("--security-opt=no-new-privileges", "--workdir=/work", "--log-driver=none", "--volume=/data:/data:ro"),
        "--tmpfs=/work:rw,nosuid,nodev,size=64m,nr_inodes=2000,mode=1777",
        *("--ulimit=cpu=3:3", "--ulimit=fsize=16777216:16777216", "--ulimit=nofile=64:64", "--ulimit=core=0:0"),
        *("--env=HOME=/work", "--env=TMPDIR=/work"),
    }


def test_a_back_end_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match='"podman" is not installed here'):
        Python(backend="podman")


FAKE = """#!/bin/sh
# A docker of one command: it takes the name of the file for the container's id, and runs the program here.
if [ "$1" = rm ]; then echo "$@" >> {log}; exit 0; fi
for word in "$@"; do case "$word" in --cidfile=*) {cid}; esac; done
cd {folder}
cat > main.py
{program}
"""


@pytest.mark.parametrize(
    ("program", "cid", "text"),
    [
        ("cat main.py; exit 3", 'echo 1 > "${word#--cidfile=}"', "some code\n[exit code 3]"),
        ("exit 137", 'echo 1 > "${word#--cidfile=}"', "[killed by SIGKILL]"),
        ("echo no such image; exit 125", ":", None),
    ],
)
def test_container_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, cid: str, text: str | None
) -> None:
    fake = tmp_path / "docker"
    fake.write_text(FAKE.format(log=tmp_path / "log", cid=cid, folder=tmp_path, program=program))
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    if text is None:
        with pytest.raises(ToolFault, match="docker started no container: no such image"):
            call(Python(backend="docker"), "some code")
    else:
        assert call(Python(backend="docker"), "some code").text == text


@pytest.mark.slow
@pytest.mark.parametrize("program", ["docker", "podman"])
def test_a_real_container(program: str) -> None:
    if shutil.which(program) is None or subprocess.run([program, "info"], capture_output=True).returncode != 0:
        pytest.skip(f"{program} does not run here")
    image = "python:3.12-slim"
    if subprocess.run([program, "image", "inspect", image], capture_output=True).returncode != 0:
        pytest.skip(f"{program} has no image {image}")
    tools = Python(backend=program, image=image)  # type: ignore[arg-type]
    assert call(tools, "print(1 + 1)").text == "2\n"
    assert "Network is unreachable" in call(tools, "import socket\nsocket.create_connection(('192.0.2.1', 80), 2)").text
