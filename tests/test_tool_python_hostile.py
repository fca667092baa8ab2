"""Programs that mean harm. After each: no process of theirs is left, the temporary folder is empty, nothing outside has
changed. Those that could hurt the machine come after a mild one has shown that what stops them is in force."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentrl.tools.sandbox import system
from agentrl.tools.sandbox.launch import CHUNK, Ended, Limits, Setting, run

pytestmark = pytest.mark.skipif(not system.LINUX, reason="processes are confined on Linux (x86_64, arm64) only")

SYSTEM_PYTHON = "/usr/bin/python3"  # one that every user may run
SECRET = "AGENTRL_TEST_SECRET"
LIMITS = Limits(wall_s=20, cpu_s=2, memory_mb=256, file_mb=2, disk_mb=8, n_files=50, output_bytes=200_000, processes=12)
Play = Callable[..., Ended]

MODES = {
    "all": Setting(),
    "no files": Setting(left_out=("files",)),
    "no namespaces": Setting(left_out=("namespaces", "user")),
    "own user": Setting(interpreter=SYSTEM_PYTHON, left_out=("namespaces",)),
}


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    """Everything, and what is left where the system gives less."""
    if request.param == "own user" and (os.geteuid() != 0 or not os.access(SYSTEM_PYTHON, os.X_OK)):
        pytest.skip("only root gives a program another user, and it needs a Python in /usr")
    return request.param


@pytest.fixture
def own_folder() -> Iterator[Path]:
    """A folder that other users reach too. (pytest's own are closed to them, again at each start of a pytest.)"""
    with tempfile.TemporaryDirectory(prefix="agentrl-test-") as name:
        Path(name).chmod(0o777)
        yield Path(name)


@pytest.fixture
def outside_folder() -> Iterator[Path]:
    """Another one, where no program has anything to do."""
    with tempfile.TemporaryDirectory(prefix="agentrl-test-") as name:
        Path(name).chmod(0o777)
        yield Path(name)


@pytest.fixture
def play(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Play]:
    """Runs a program, and afterwards looks for what it left."""
    monkeypatch.setattr("tempfile.tempdir", str(own_folder))
    monkeypatch.setenv(SECRET, "s3cret")
    mark = f"mark-{uuid.uuid4().hex}"

    def play(code: str, mode: str = "all", **limits: float) -> Ended:
        setting = MODES[mode]
        setting = Setting(setting.interpreter, (), {"MARK": mark, "PATH": "/usr/bin:/bin"}, (), setting.left_out)
        ended = run(code, Limits(**{**vars(LIMITS), **limits}), setting)
        assert left(mark) == []
        return ended

    yield play
    assert os.listdir(own_folder) == []


def left(mark: str) -> list[str]:
    """Processes that carry the mark in their environment, or descend from this one and belong to a sandbox."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                environment = Path("/proc", name, "environ").read_bytes()
                line = Path("/proc", name, "cmdline").read_bytes()
                parent = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()[1]
            except (OSError, ProcessLookupError):
                continue
            if mark.encode() in environment or (b"sandbox" in line and int(parent) == os.getpid()):
                found.append(name)
    return found


def text(ended: Ended) -> str:
    return ended.output.decode(errors="replace")


# ── the test of the tests ────────────────────────────────────────────────────────────────────────────────────────────

REACH = """
import ctypes, os, socket, sys
reached = []
def attempt(name, action):
    try:
        if action() is not False:
            reached.append(name)
    except (OSError, MemoryError, ValueError):
        pass
libc = ctypes.CDLL(None, use_errno=True)
caller, outside, keeper = {caller}, {outside!r}, os.getppid()
def opened(path, how="rb"):
    with open(path, how) as file:
        return bool(file.read(1)) if "r" in how else None
attempt("socket", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
attempt("unix socket", lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
attempt("netlink", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))
attempt("signal", lambda: os.kill(caller, 0))
attempt("nice of the caller", lambda: os.setpriority(os.PRIO_PROCESS, caller, 1))
attempt("environment of the caller", lambda: opened(f"/proc/{{caller}}/environ"))
attempt("memory of the caller", lambda: opened(f"/proc/{{caller}}/mem", "r+b") or True)
attempt("environment of the keeper", lambda: opened(f"/proc/{{keeper}}/environ"))
attempt("memory of the keeper", lambda: opened(f"/proc/{{keeper}}/mem", "r+b") or True)
attempt("files of the keeper", lambda: os.listdir(f"/proc/{{keeper}}/fd"))
attempt("trace the keeper", lambda: libc.ptrace(16, keeper, 0, 0) == 0)
attempt("kill the keeper", lambda: os.kill(keeper, 0) if keeper > 1 else False)
attempt("read a file", lambda: opened(outside))
attempt("write a file", lambda: opened(outside + ".new", "wb") or True)
attempt("change a file", lambda: os.truncate(outside, 0) or True)
attempt("mode of a file", lambda: os.chmod(outside, 0o600) or True)
attempt("mode of a folder", lambda: os.chmod(os.path.dirname(outside), 0o700) or True)
attempt("date of a file", lambda: os.utime(outside, (1, 1)) or True)
attempt("owner of a file", lambda: os.chown(outside, os.getuid(), os.getgid()) or True)
attempt("attribute of a file", lambda: os.setxattr(outside, "user.x", b"x") or True)
attempt("remove a file", lambda: os.unlink(outside) or True)
attempt("read through a link", lambda: os.symlink(outside, "link") or opened("link"))
attempt("read by dots", lambda: opened("../../../../../../../../" + outside))
attempt("shadow", lambda: opened("/etc/shadow"))
attempt("dev shm", lambda: opened("/dev/shm/{mark}", "wb") or os.path.samefile("/dev/shm", os.getcwd()) is False)
attempt("tmp", lambda: opened("/tmp/{mark}", "wb") or True)
attempt("var tmp", lambda: opened("/var/tmp/{mark}", "wb") or True)
attempt("program of the system", lambda: opened("/usr/bin/{mark}", "wb") or True)
attempt("interpreter", lambda: os.chmod(sys.executable, os.stat(sys.executable).st_mode & 0o777) or True)
attempt("package", lambda: opened(os.path.join(os.path.dirname(os.__file__), "{mark}"), "wb") or True)
attempt("mount", lambda: libc.mount(b"none", b"/", None, 0x44000, None) == 0)
attempt("namespace", lambda: libc.unshare(0x10000000) == 0)
attempt("chroot", lambda: os.chroot("."))
attempt("become root", lambda: os.setresuid(0, 0, 0) if os.getuid() else False)
attempt("memory file", lambda: os.memfd_create("x"))
attempt("shared memory", lambda: libc.shmget(0, 4096, 0o1600) >= 0)
attempt("higher limit", lambda: __import__("resource").setrlimit(7, (99999, 99999)))
attempt("limit of the caller", lambda: __import__("resource").prlimit(caller, 7, (64, 64)))
attempt("host name", lambda: socket.sethostname("x"))
attempt("secret", lambda: any("{secret}" in part for part in [*os.environ, *os.environ.values()]))
attempt("terminal", lambda: os.open("/dev/tty", os.O_RDWR))
attempt("standard input", lambda: bool(sys.stdin.read(1)))
attempt("open files", lambda: [n for n in os.listdir("/proc/self/fd") if int(n) > 3] != [])
print(*reached, sep="\\n")
"""
# Where files are only fenced in, names of the system's folders can be followed; what these tests must never show stays out.
HARMLESS_UNCONFINED = {"socket", "unix socket", "netlink", "signal", "memory file", "shared memory", "read a file"}


def test_what_reaches_out_is_refused(play: Play, mode: str, outside_folder: Path) -> None:
    folder = outside_folder
    outside = folder / "file"
    outside.write_text("as it was")
    outside.chmod(0o666)
    folder.chmod(0o777)
    mark = f"mark{uuid.uuid4().hex}"
    code = REACH.format(caller=os.getpid(), outside=str(outside), mark=mark, secret=SECRET)
    ended = play(code, mode)
    assert ended.exit_code == 0, text(ended)
    assert text(ended) == "\n"
    assert outside.read_text() == "as it was" and os.listdir(folder) == ["file"]
    assert outside.stat().st_mode & 0o777 == 0o666 and outside.stat().st_mtime > 1 and os.listxattr(outside) == []
    assert not any(Path(place, mark).exists() for place in ("/tmp", "/var/tmp", "/dev/shm", "/usr/bin"))


def test_the_same_program_reaches_out_where_nothing_confines_it(tmp_path: Path) -> None:
    """So the test above can fail: only attempts that harm nothing are made here."""
    outside = tmp_path / "file"
    outside.write_text("as it was")
    lines = REACH.format(caller=os.getpid(), outside=str(outside), mark="unused", secret=SECRET).splitlines()
    kept = [line for line in lines if not line.startswith("attempt(") or line.split('"')[1] in HARMLESS_UNCONFINED]
    done = subprocess.run([sys.executable, "-c", "\n".join(kept)], capture_output=True, text=True, check=True)
    assert set(done.stdout.split("\n")) - {""} == HARMLESS_UNCONFINED


# ── processes ────────────────────────────────────────────────────────────────────────────────────────────────────────

FIFTY = """
import os, time
n = 0
try:
    while n < 50:
        if os.fork() == 0:
            time.sleep(30)
            os._exit(0)
        n += 1
except OSError:
    pass
print(n)
"""
BOMB = """
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
"""


def test_fork_bomb(play: Play, mode: str) -> None:
    n = int(text(play(FIFTY, mode)))
    assert n < LIMITS.processes  # or the next line would be a danger to the machine
    ended = play(BOMB, mode, wall_s=1.5)
    assert ended.why == "wall" or ended.exit_code == -signal.SIGXCPU
    assert ended.wall_s < 15


def test_threads_without_end(play: Play) -> None:
    ended = play(
        "import threading, time\n"
        "n = 0\n"
        "try:\n"
        "    while n < 100:\n"
        "        threading.Thread(target=time.sleep, args=(30,), daemon=True).start()\n"
        "        n += 1\n"
        "except RuntimeError:\n"
        "    pass\n"
        "print(n)\n"
        "import os\n"
        "os._exit(0)\n"
    )
    assert 0 < int(text(ended)) < LIMITS.processes


DAEMON = """
import os, signal, time
if os.fork() == 0:
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    if os.fork() == 0:
        os.setsid()
        for end in (0, 1, 2):
            os.close(end)
        open("alive", "w").close()
        time.sleep(600)
    os._exit(0)
while not os.path.exists("alive"):
    time.sleep(0.01)
print("daemon started")
"""


@pytest.mark.parametrize("mode", ["all", "own user"])
def test_daemon_that_left_its_session(play: Play, mode: str) -> None:
    if mode == "own user" and os.geteuid() != 0:
        pytest.skip("only root gives a program another user")
    ended = play(DAEMON, mode)
    assert (text(ended), ended.exit_code, ended.why) == ("daemon started\n", 0, "")
    assert ended.wall_s < 15


@pytest.mark.parametrize("code", ["signal.SIGCONT", "signal.SIGTERM", "signal.SIGSTOP", "signal.SIGKILL"])
def test_signals_to_all_reach_nobody_else(play: Play, mode: str, code: str) -> None:
    with subprocess.Popen(["sleep", "60"]) as victim:
        try:
            mild = play(f"import os\ntry:\n    os.kill({victim.pid}, 0)\nexcept OSError:\n    print('refused')", mode)
            assert text(mild) == "refused\n"  # or the next lines would kill everybody's processes
            attempt = (
                "import os, signal\n"
                f"for pid in (-1, {victim.pid}, os.getppid() or 1, 0):\n"
                f"    try:\n        os.kill(pid, {code})\n    except OSError as error:\n        print(pid, 'refused')\n"
            )
            ended = play(attempt, mode, wall_s=1.5)
            assert f"{victim.pid} refused" in text(ended)  # -1 is no error where all others are merely not its own
            assert victim.poll() is None
            assert "T" not in Path(f"/proc/{victim.pid}/stat").read_text().rpartition(")")[2].split()[0]
        finally:
            victim.kill()


def test_stops_itself(play: Play) -> None:
    ended = play("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\nprint('went on')", wall_s=1)
    assert (ended.why, text(ended)) == ("wall", "")


def test_ignores_the_order_to_end(play: Play, mode: str) -> None:
    code = (
        "import signal, time\n"
        "for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:\n"
        "    signal.signal(number, signal.SIG_IGN)\n"
        "print('deaf')\n"
        "time.sleep(600)\n"
    )
    ended = play(code, mode, wall_s=1.5)
    assert (ended.why, text(ended)) == ("wall", "deaf\n")


# ── time, memory, output, files ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_endless_loop(play: Play) -> None:
    ended = play("while True:\n    pass", cpu_s=1)
    assert ended.exit_code == -signal.SIGXCPU
    assert 0.5 <= ended.cpu_s <= 1.5


@pytest.mark.slow
def test_endless_loop_that_ignores_the_limit(play: Play) -> None:
    ended = play("import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True:\n    pass", cpu_s=1)
    assert ended.exit_code == -signal.SIGKILL
    assert 1.2 <= ended.cpu_s <= 2.5


def test_memory(play: Play, mode: str) -> None:
    mild = play("try:\n    x = bytearray(300 << 20)\nexcept MemoryError:\n    print('refused')", mode)
    assert text(mild) == "refused\n"
    ended = play("x = []\nwhile True:\n    x.append(bytearray(1 << 20))", mode)
    assert ended.exit_code != 0 and "MemoryError" in text(ended)


def test_memory_of_many_processes_together(play: Play) -> None:
    code = (
        "import os, time\n"
        "for _ in range(4):\n"
        "    if os.fork() == 0:\n"
        "        x = bytearray(100 << 20)\n"
        "        time.sleep(600)\n"
        "time.sleep(600)\n"
    )
    ended = play(code)
    assert ended.why == "memory"
    assert ended.wall_s < 15


@pytest.mark.parametrize("write", ["print('x' * 1000)", "os.write(1, bytes(65536))", "os.write(2, b'no line end')"])
def test_output_without_end(play: Play, write: str) -> None:
    ended = play(f"import os\nwhile True:\n    {write}")
    assert ended.why == "output"
    assert LIMITS.output_bytes < ended.n_bytes <= LIMITS.output_bytes + CHUNK


def test_output_closed_or_binary(play: Play) -> None:
    ended = play("import os\nos.close(1)\nos.close(2)\nos._exit(5)")
    assert (text(ended), ended.exit_code) == ("", 5)
    ended = play("import os\nos.write(1, bytes(range(256)))")
    assert (ended.output, ended.exit_code) == (bytes(range(256)), 0)


def test_huge_file(play: Play, mode: str) -> None:
    code = (
        "import os\n"
        "with open('big', 'wb') as file:\n"
        "    try:\n"
        "        for _ in range(64):\n"
        "            file.write(bytes(1 << 18)); file.flush()\n"
        "    except OSError as error:\n"
        "        print(error.errno)\n"
        "print(os.path.getsize('big') >> 20)\n"
    )
    assert text(play(code, mode)) == "27\n2\n"  # EFBIG


def test_many_files(play: Play) -> None:
    code = (
        "n = 0\n"
        "try:\n"
        "    while n < 200:\n"
        "        open(f'file{n}', 'w').close()\n"
        "        n += 1\n"
        "except OSError as error:\n"
        "    print(error.errno)\n"
        "print(n)\n"
    )
    error, n = text(play(code)).split()
    assert error == "28" and int(n) < 50  # ENOSPC


def test_files_together(play: Play) -> None:
    code = (
        "n = 0\n"
        "try:\n"
        "    while n < 12:\n"
        "        with open(f'file{n}', 'wb') as file:\n"
        "            file.write(bytes(1 << 20))\n"
        "        n += 1\n"
        "except OSError as error:\n"
        "    print(error.errno)\n"
        "print(n)\n"
    )
    assert text(play(code)) in ("28\n7\n", "28\n8\n")


def test_open_files(play: Play) -> None:
    ended = play("import os\nfiles = []\nwhile len(files) < 500:\n    files.append(os.open('/dev/null', 0))")
    assert "Too many open files" in text(ended)


# ── what is left in the folder ───────────────────────────────────────────────────────────────────────────────────────


def test_links_in_the_folder_are_not_followed_when_it_is_removed(play: Play, mode: str, outside_folder: Path) -> None:
    folder = outside_folder
    (folder / "file").write_text("as it was")
    code = (
        "import os\n"
        f"os.symlink({str(folder)!r}, 'link')\n"
        f"os.symlink({str(folder / 'file')!r}, 'link to a file')\n"
        "os.symlink('..', 'up')\n"
        "os.makedirs('a/b/c')\n"
        f"os.symlink({str(folder)!r}, 'a/b/c/link')\n"
        "os.mkfifo('pipe')\n"
        "os.rename('main.py', 'moved.py')\n"
        "os.mkdir('closed', 0)\n"
        "for path in ('a/b', 'a', '.'):\n"
        "    try:\n        os.chmod(path, 0)\n    except PermissionError:\n        pass\n"
        "print('done')\n"
    )
    assert text(play(code, mode)) == "done\n"
    assert os.listdir(folder) == ["file"] and (folder / "file").read_text() == "as it was"


def test_folders_nested_deeper_than_any_path(play: Play, mode: str) -> None:
    code = (
        "import os\n"
        "n = 0\n"
        "try:\n"
        "    while n < 60:\n"
        "        os.mkdir('f' * 200)\n        os.chdir('f' * 200)\n        n += 1\n"
        "except OSError:\n"
        "    pass\n"
        "print(n)\n"
    )
    assert int(text(play(code, mode))) >= (40 if mode == "all" else 60)


def test_nothing_of_a_call_is_seen_by_the_next(play: Play, mode: str) -> None:
    assert text(play("open('left', 'w').write('x')\nimport os\nprint(sorted(os.listdir()))", mode)).startswith(
        "['left', "
    )
    assert text(play("import os\nprint(os.listdir())", mode)) == "['main.py']\n"


# ── the interpreter's own ways to end ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_crashes(play: Play) -> None:
    ended = play("import ctypes\nctypes.string_at(0)")
    assert ended.exit_code == -signal.SIGSEGV
    ended = play("import sys\nsys.setrecursionlimit(10**9)\ndef f(g):\n    return f(g)\nlist(map(f, [1]))")
    assert ended.exit_code != 0
    ended = play("import os\nos.abort()")
    assert ended.exit_code == -signal.SIGABRT
    assert play("(((").exit_code == 1
    assert play("\0").exit_code == 1


def test_the_callers_folder_is_not_importable(
    play: Play, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    here = tmp_path_factory.mktemp("here")
    (here / "beside_the_caller.py").write_text("print('imported')")
    monkeypatch.chdir(here)
    monkeypatch.setenv("PYTHONPATH", str(here))
    assert "ModuleNotFoundError" in text(play("import beside_the_caller"))


def test_no_connection_to_a_server_of_this_machine(play: Play, mode: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = f"import socket\nsocket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 2).send(b'x')"
        ended = play(code, mode)
        assert ended.exit_code == 1 and "PermissionError" in text(ended)
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_the_network_namespace_holds_without_the_filter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = Setting(left_out=("seccomp", "landlock"))
    if "network namespace" not in run("", LIMITS, setting).layers:
        pytest.skip("no network namespaces here")
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = f"import socket\nsocket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 2)"
        assert "Network is unreachable" in text(run(code, LIMITS, setting))


AS_ANYBODY = r"""
import os, sys
package = type(sys)("agentrl.tools")
package.__path__ = [sys.argv[1]]
sys.modules["agentrl.tools"] = package  # the package itself needs what this interpreter lacks
from agentrl.tools.sandbox.launch import Limits, Setting, run
CLOSED = '''
import os
os.makedirs("a/b/c")
for path in ("a/b/c", "a/b", "a", "."):
    try:
        os.chmod(path, 0)
    except PermissionError:
        pass
'''
CODE = '''
import os, time
try:
    os.kill(CALLER, 0)
    print("signalled", end=" ")
except OSError:
    print("refused", end=" ")
n = 0
try:
    while n < 30:
        if os.fork() == 0:
            time.sleep(600)
        n += 1
except OSError:
    pass
print(n < 12)
''' + CLOSED
for left_out in ((), ("namespaces",), ("namespaces", "landlock")):
    ended = run(CODE.replace("CALLER", str(os.getpid())), Limits(processes=12), Setting(left_out=left_out))
    print(ended.output.decode().strip(), ended.exit_code, "user namespace" in ended.layers, sep="|")
run(CLOSED, Limits(), Setting(left_out=("namespaces", "seccomp")))
"""


def test_for_an_ordinary_user(own_folder: Path) -> None:
    """The same with user namespaces, and with neither those nor another user to change to."""
    root = Path(__file__).parent.parent
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", SYSTEM_PYTHON]
    if subprocess.run([*nobody, "-c", "import agentrl.errors"], cwd=root, capture_output=True).returncode != 0:
        pytest.skip("needs a Python in /usr, and a checkout that other users may read")
    done = subprocess.run(
        [*nobody, "-c", AS_ANYBODY, str(root / "tools")],
        cwd=root,
        env={"TMPDIR": str(own_folder), "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    spaces, *fallbacks = done.stdout.splitlines()
    assert spaces in ("refused True|0|True", "refused True|0|False")  # some systems forbid user namespaces
    assert fallbacks == ["refused True|0|False", "refused True|0|False"]
    assert os.listdir(own_folder) == []


def test_the_callers_death_ends_everything(tmp_path: Path) -> None:
    mark = f"mark-{uuid.uuid4().hex}"
    caller = (
        "from agentrl.tools.sandbox.launch import Limits, Setting, run\n"
        f"run('import time; time.sleep(600)', Limits(wall_s=600), Setting(environment={{'MARK': {mark!r}}}))\n"
    )
    root = Path(__file__).parent.parent
    with subprocess.Popen(
        [sys.executable, "-c", caller], cwd=root, env={**os.environ, "TMPDIR": str(tmp_path)}
    ) as process:
        try:
            until(lambda: left(mark) != [])
        finally:
            process.kill()
    until(lambda: left(mark) == [])


def until(condition: Callable[[], bool], limit_s: float = 60.0) -> None:
    """Waits for it."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
