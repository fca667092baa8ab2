"""The same runs in a container, where docker or podman is at hand: its own system, and limits that hold for all processes
of a run together."""

from __future__ import annotations

import signal
import subprocess
import tempfile
import time
import uuid
from dataclasses import replace
from pathlib import Path

from agentrl.errors import ToolFault
from agentrl.tools.sandbox.files import WORK
from agentrl.tools.sandbox.launch import GRACE_S, Collector, Ended, Limits, Setting, Stop, Watch, close, send

PROGRAM = "cat > main.py && exec timeout -s KILL {wall_s:g} python -u -s main.py < /dev/null"
START_S = 60.0  # for a container to start: only inside can the program's own time be measured


def command(program: str, image: str, name: str, cid_file: str, limits: Limits, setting: Setting) -> list[str]:
    """The command line of one run; the code comes on its standard input. Nothing is pulled."""
    options = {
        "name": name,
        "cidfile": cid_file,
        "pull": "never",
        "network": "none",
        "memory": f"{limits.memory_mb}m",
        "memory-swap": f"{limits.memory_mb}m",
        "pids-limit": str(limits.processes + 2),  # the first process and the one that counts seconds are no part of it
        "cap-drop": "ALL",
        "security-opt": "no-new-privileges",
        "user": "65534:65534",
        "tmpfs": f"{WORK}:rw,nosuid,nodev,size={limits.disk_mb}m,nr_inodes={limits.n_files},mode=1777",
        "workdir": WORK,
        "log-driver": "none",
    }
    ulimits = {
        "cpu": limits.cpu_s,
        "fsize": limits.file_mb << 20,
        "nofile": limits.open_files,
        "core": 0,
    }
    line = [program, "run", "--rm", "--interactive", "--init", "--read-only"]
    line += [f"--{key}={value}" for key, value in options.items()]
    line += [f"--ulimit={key}={value}:{value}" for key, value in ulimits.items()]
    line += [f"--volume={path}:{path}:ro" for path in setting.readable]
    environment = {**setting.environment, "HOME": WORK, "TMPDIR": WORK}
    line += [f"--env={key}={value}" for key, value in environment.items() if key != "PATH"]
    return [*line, image, "sh", "-c", PROGRAM.format(wall_s=limits.wall_s)]


def run(
    code: str,
    program: str,
    image: str,
    limits: Limits,
    setting: Setting,
    keep_bytes: int = 1 << 20,
    stop: Stop | None = None,
) -> Ended:
    """As ``launch.run``. Raises ToolFault where the container could not be started."""
    started = time.monotonic()
    name = f"agentrl-{uuid.uuid4().hex}"
    with tempfile.TemporaryDirectory(prefix="agentrl-python-") as folder:
        cid_file = Path(folder, "cid")
        process = subprocess.Popen(
            command(program, image, name, str(cid_file), limits, setting),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
        )
        assert process.stdout is not None and process.stdin is not None
        collector = Collector(keep_bytes)
        outer = replace(limits, wall_s=limits.wall_s + START_S)
        watch = Watch(process.stdout.fileno(), None, outer, collector, lambda: remove(program, name))
        try:
            send(process, code.encode())
            process.stdin.close()
            watch.to_the_end(stop)
        finally:
            close(process)
            process.stdout.close()
            if watch.why or process.returncode < 0:
                remove(program, name)
        if not cid_file.exists() or not cid_file.read_text():
            raise ToolFault(f"{program} started no container: {collector.head.decode(errors='replace').strip()}")
    code_out = process.returncode
    exit_code = 128 - code_out if code_out > 128 else code_out  # a shell's way to name signals
    wall_s = time.monotonic() - started
    why = watch.why or ("wall" if exit_code == -signal.SIGKILL and wall_s >= limits.wall_s else "")
    return Ended(collector.head, collector.tail, collector.n_bytes, exit_code, why, 0.0, wall_s, (program,))


def remove(program: str, name: str) -> None:
    """Kills a container; one that has gone already is no error."""
    subprocess.run([program, "rm", "--force", name], capture_output=True, timeout=GRACE_S, check=False)
