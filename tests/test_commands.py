"""Every command answers --help at once and does nothing."""

import subprocess
import sys

import pytest

from engine.common import ROOT

COMMANDS = [["train.py"], ["play.py"], ["kl_lab.py"], ["grpo_from_scratch.py"], ["evaluate.py"]]
COMMANDS += [["evaluate.py", name] for name in ("evaluate", "compare", "optimum", "prompting")]
COMMANDS += [["evaluate.py", name] for name in ("curves", "frontier", "report")]
COMMANDS += [["evaluate.py", name] for name in ("samples", "try")]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_says_what_a_command_does_and_does_nothing(command, tmp_path):
    script, *more = command
    done = subprocess.run(
        [sys.executable, "-X", "importtime", ROOT / script, *more, "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("usage:") and list(tmp_path.iterdir()) == []
    if script in ("train.py", "evaluate.py", "play.py"):
        assert "|torch\n" not in done.stderr.replace(" ", "")  # seconds that --help need not wait
