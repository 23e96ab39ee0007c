"""One run on two hosts, each a network namespace of this machine, and what may happen to them.

    unshare -rnm python tests/two_hosts.py WHAT FOLDER OPTION…

WHAT is `none`, or what happens after two steps: `kill` (the second host is gone), `cut` (so is the
link between them), or `full` (the disk of the second host, from the beginning). Each host has an
OUTPUT_DIR of its own, FOLDER/0 and FOLDER/1. Prints for each host its exit status, what it said and
how many seconds after the event it ended, as JSON. For test_several_processes.py.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ADDRESSES = "10.83.0.1", "10.83.0.2"
WAIT = 240  # seconds, for a step or for an end


def ip(*words, inside=()):
    subprocess.run([*inside, "ip", *words], check=True)


def second_host():
    """A network namespace joined to this one by a cable; the command that runs another in it."""
    keeper = subprocess.Popen(["unshare", "-n", "sleep", "1000"])
    own = os.readlink("/proc/self/ns/net")
    while os.readlink(f"/proc/{keeper.pid}/ns/net") == own:
        time.sleep(0.01)
    inside = ["nsenter", "-t", str(keeper.pid), "-n"]
    ip("link", "add", "cable0", "type", "veth", "peer", "name", "cable1")
    ip("link", "set", "cable1", "netns", str(keeper.pid))
    for name, address, place in zip(("cable0", "cable1"), ADDRESSES, ([], inside)):
        ip("addr", "add", f"{address}/24", "dev", name, inside=place)
        ip("link", "set", name, "up", inside=place)
        ip("link", "set", "lo", "up", inside=place)
    return keeper, inside


def start(rank, inside, folder, options):
    """The launch on one host."""
    launch = [sys.executable, "-m", "accelerate.commands.launch"]
    launch += ["--config_file", ROOT / "launch" / "two_machines.yaml", "--machine_rank", rank]
    launch += ["--main_process_ip", ADDRESSES[0], ROOT / "train.py", *options]
    command = [*inside, *map(str, [*launch, "--output_dir", folder / str(rank)])]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": f"cable{rank}", "OMP_NUM_THREADS": "1"}
    outputs = {}
    for name in ("stdout", "stderr"):
        outputs[name] = open(folder / f"{rank}.{name}", "w")
    return subprocess.Popen(command, env=environment, **outputs)


def kill_all(inside):
    """The end of a host: no process of it says goodbye."""
    space = subprocess.run(
        [*inside, "readlink", "/proc/self/ns/net"], capture_output=True, text=True
    )
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(process / "ns" / "net") == space.stdout.strip():
                os.kill(int(process.name), signal.SIGKILL)
        except OSError:
            pass  # gone, or another user's


def wait_for_steps(hosts, file, steps):
    deadline = time.monotonic() + WAIT
    while not file.exists() or file.read_text().count('"train"') < steps:
        if time.monotonic() > deadline or any(host.poll() is not None for host in hosts):
            return
        time.sleep(0.02)


def main():
    what, folder, options = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    if what == "full":
        (folder / "1").mkdir()
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=60m", "tmpfs", folder / "1"], check=True
        )
    keeper, inside = second_host()
    hosts = [start(rank, place, folder, options) for rank, place in enumerate(([], inside))]
    try:
        if what in ("kill", "cut"):
            wait_for_steps(hosts, folder / "0" / "metrics.jsonl", 2)
        if what == "kill":
            kill_all(inside)
        if what == "cut":
            ip("link", "set", "cable0", "down")
        happened, ended = time.monotonic(), {}
        while len(ended) < 2 and time.monotonic() < happened + WAIT:
            for rank, host in enumerate(hosts):
                if rank not in ended and host.poll() is not None:
                    ended[rank] = round(time.monotonic() - happened, 1)
            time.sleep(0.05)
    finally:
        kill_all(inside)
        keeper.wait()
        for host in hosts:
            host.kill()
    report = []
    for rank, host in enumerate(hosts):
        said = [(folder / f"{rank}.{name}").read_text() for name in ("stdout", "stderr")]
        left = sorted(path.name for path in (folder / str(rank)).glob("*"))
        report.append([host.poll(), ended.get(rank), *said, left])
    print(json.dumps(report))


if __name__ == "__main__":
    main()
