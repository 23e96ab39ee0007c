"""Every command answers --help at once and does nothing, and refuses a wrong flag in one line."""

import json
import os
import subprocess
import sys

import pytest

from engine.common import ROOT
from engine.course.student import rewards_file

PROGRAMS = [f"benchmarks/{p.name}" for p in sorted((ROOT / "benchmarks").glob("*.py"))]
PROGRAMS.remove("benchmarks/starting.py")  # what the others share
PROGRAMS.remove(ALONE := "benchmarks/padding.py")  # to be pasted: plain argparse, imports on top
WITHOUT_TORCH = ["train.py", "play.py", "evaluate.py", *PROGRAMS]
WITHOUT_TORCH += [f"evaluate.py {name}" for name in ("evaluate", "compare", "optimum", "prompting")]
WITHOUT_TORCH += [
    f"evaluate.py {name}" for name in ("curves", "frontier", "report", "samples", "try")
]
HAS_SOLUTION = rewards_file(use_solution=True).exists()  # a student's copy has none
COMMANDS = [*WITHOUT_TORCH, ALONE, "rewards.py", "kl_lab.py", "grpo_lab.py", "grpo_from_scratch.py"]
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
    lines = 2 if command == ALONE else 1
    assert code == 2 and out == "" and err.count("\n") == lines


POOR = {
    "Windows": {"PYTHONIOENCODING": "cp1252"},
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}
TINY = "--preset tiny --batch_size 4 --num_generations 2 --max_completion_length 4 --max_steps 1"


@pytest.mark.slow
@pytest.mark.parametrize("console", POOR)
def test_a_console_of_few_characters_ends_no_program(tmp_path, console):
    """What they write is UTF-8 all the same."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONUTF8", "LANG")}
    prompts = tmp_path / "prompts.csv"
    prompts.write_text('prompt\n"Ein Film, der überrascht"\nΔ was\n', encoding="utf-8")
    run, use = tmp_path / "run", ["--use_solution"] * HAS_SOLUTION
    for command in (
        ["train.py", *TINY.split(), *use, "--prompts", prompts, "--output_dir", run],
        ["train.py", *TINY.split(), *use, "--check", "--output_dir", tmp_path / "none"],
        ["kl_lab.py", "places", *use, "--out", tmp_path],
        ["grpo_lab.py", "length", *use, "--out", tmp_path],
        ["grpo_from_scratch.py", *use],
        ["evaluate.py", "samples", run],
        ["evaluate.py", "report", run, "--out", tmp_path / "report.html"],
        ["rewards.py", "--hint", "3b"],
    ):
        done = subprocess.run(
            [sys.executable, *map(str, command)],
            cwd=ROOT,
            env=environment | POOR[console],
            capture_output=True,
        )
        assert done.returncode == 0 and done.stdout, done.stderr
    rows = (run / "completions.jsonl").read_text(encoding="utf-8")
    assert "This movie" in rows
    for file in [*run.glob("*.json*"), *run.glob("*.md"), tmp_path / "report.html"]:
        file.read_text(encoding="utf-8")
