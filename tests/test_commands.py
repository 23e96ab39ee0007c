"""Every command answers --help at once and does nothing, and refuses a wrong flag in one line."""

import json
import subprocess
import sys

import pytest

from engine.common import ROOT

PROGRAMS = [f"benchmarks/{p.name}" for p in sorted((ROOT / "benchmarks").glob("*.py"))]
PROGRAMS.remove("benchmarks/starting.py")  # what the others share
WITHOUT_TORCH = ["train.py", "play.py", "evaluate.py", *PROGRAMS]
WITHOUT_TORCH += [f"evaluate.py {name}" for name in ("evaluate", "compare", "optimum", "prompting")]
WITHOUT_TORCH += [
    f"evaluate.py {name}" for name in ("curves", "frontier", "report", "samples", "try")
]
COMMANDS = [*WITHOUT_TORCH, "rewards.py", "kl_lab.py", "grpo_from_scratch.py"]
WRONG = {"benchmarks/ladder.py": "--seeds=-1", "benchmarks/speed.py": "--steps=0"}

# All in one process. It prints, for each line of words: the exit code, stdout, stderr, and whether
# torch is loaded by then.
ASK = """
import contextlib, io, json, runpy, sys
from pathlib import Path

root, words_of_all = Path(sys.argv[1]), json.loads(sys.argv[2])
answers = []
for program, *words in words_of_all:
    out, err, code = io.StringIO(), io.StringIO(), 0
    sys.argv = [program, *words]
    sys.path[0] = str((root / program).parent)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_path(str(root / program), run_name="__main__")
        except SystemExit as stop:
            code = stop.code
    answers.append([code, out.getvalue(), err.getvalue(), "torch" in sys.modules])
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """{command: (its answer to --help, its answer to a wrong flag)}, and the folder they ran in."""
    folder = tmp_path_factory.mktemp("commands")
    asked = [[*command.split(), "--help"] for command in COMMANDS]
    asked += [[*command.split(), WRONG.get(command, "--no_such_flag")] for command in COMMANDS]
    command = [sys.executable, "-c", ASK, ROOT, json.dumps(asked)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    half = len(COMMANDS)
    return dict(zip(COMMANDS, zip(found[:half], found[half:]))), folder


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_a_command_does_and_does_nothing(command, answers):
    pairs, folder = answers
    code, out, err, torch_loaded = pairs[command][0]
    assert code == 0 and out.startswith("usage:") and err == ""
    if command in WITHOUT_TORCH:
        assert not torch_loaded  # seconds that --help need not wait
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_flag_is_one_line(command, answers):
    code, out, err, _ = answers[0][command][1]
    assert code == 2 and out == "" and err.count("\n") == 1
