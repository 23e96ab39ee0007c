"""The copy of this repository that students get, and the checks before anybody gets it."""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from engine.common import ROOT, UserError, whole_file
from engine.options import OneLineParser
from instructor.archive import add_file
from instructor.handout.answer_sheet import sheet
from instructor.handout.notebook_file import notebook, write
from instructor.handout.pages import dead_references, student_page
from instructor.handout.rewards_file import BODY

RELEASED = (
    "*.py",
    "*.txt",
    "README.md",
    "pyproject.toml",
    "uv.lock",
    "LICENSE",
    ".gitignore",
    ".devcontainer/*",
    "exercise.ipynb",
    "benchmarks/*.py",
    "cases/*.py",
    "docs/*",
    "engine/**/*.py",
    "engine/pages/page/*",
    "launch/*.yaml",
    "tests/*.py",
    "tests/engine/**/*.py",
    "tiny/**/*",
)
WITHHELD = {  # what RELEASED leaves out stays here too
    "rewards_solution.py",
    "requirements-dev.txt",
    "requirements-grading.txt",
    "docs/results.md",  # what the analysis asks students to find
    "docs/samples.md",
    "docs/appendix.md",
    "tests/engine/course/test_variants.py",  # asks for exercise 4
    "docs/frontier.png",
    "docs/optimal_hacking.png",
    "docs/over_optimisation.png",
    "docs/optimum.png",
    "tests/engine/course/test_experiments.py",  # a student's file with the penalty in it
    "tests/test_kl_lab.py",
}
# A penalty in the place of a student's, by whatever names: kl_coef · (log q − log p), or · (1 − r).
PENALTY = re.compile(
    r"kl_coef \* .*(?:\b(?:q|old|policy\w*|log_q) - (?:p|ref\w*|log_p)\b|\b1(?:\.0)? - r)"
)
MEANT = {  # what students may find, and where: the report says so; no other file may have a PENALTY
    "evaluate.py": "3b but for kl_coef: the divergence that it measures",
    "cases/penalties.py": "3b and 3c: what people write instead, some with only the sign turned",
    "cases/log_probs.py": "3a: the same sum, at once and token by token, to compare with",
    "engine/course/experiments.py": "3b: five estimates; the KL lab shows which of them pulls",
    "benchmarks/stock.py": "3b: TRL as it is, for the speed",
    "tests/test_evaluate.py": "3b but for kl_coef: what evaluate.py measures, token by token",
    "tests/test_play.py": "3b but for kl_coef: the colour of each token",
}
MOVED = {
    "instructor/handout/agents.md": "AGENTS.md",
    "instructor/handout/exercise.yml": ".github/workflows/exercise.yml",
}
HARMLESS = {  # lines of solutions that stand elsewhere too and say nothing about an exercise
    "with torch.no_grad():",
    "scores = get_sentiment_scores(completions)",
    "for completion, prompt in zip(completions, prompts):",
    'prompt_ids = tokenizer(prompt)["input_ids"]',
    "rewards = []",
    "return rewards",
}


class Refused(UserError):
    """Why there is no release."""


def released_files():
    """Relative paths of what a student gets."""
    found = {
        path.relative_to(ROOT)
        for pattern in RELEASED
        for path in ROOT.glob(pattern)
        if path.is_file() and path.suffix != ".pyc"
    }
    return sorted(path for path in found if path.as_posix() not in WITHHELD)


def copy_files(folder, repo=""):
    """Copy what is released into `folder`; the pages become those for students.

    Args:
        folder: where to.
        repo: the address of the copy, which its notebook then fetches the other files from.
    """
    files = released_files()
    names = {path: path for path in files} | MOVED
    for source, name in names.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / source, target)
    for path in files:
        if path.suffix == ".md":
            text = (ROOT / path).read_text(encoding="utf-8")
            page = student_page(text, opening=path.as_posix() == "README.md", repo=repo)
            (folder / path).write_text(page, encoding="utf-8")
    (folder / "answers.md").write_text(sheet(), encoding="utf-8")
    write(notebook(repo=repo), folder / "exercise.ipynb")
    return files


def solution_lines():
    """Every line of a solution body that gives something away, without its indentation."""
    lines = set()
    for body in BODY.finditer((ROOT / "rewards_solution.py").read_text(encoding="utf-8")):
        lines |= {line.split("  #")[0].strip() for line in body.group().splitlines()[1:-1]}
    return {line for line in lines if len(line) > 10} - HARMLESS


def text_of(path):
    """The text of a file; of a notebook, its sources and outputs as they read."""
    text = path.read_bytes().decode("utf-8", errors="ignore")
    if path.suffix != ".ipynb":
        return text
    cells = json.loads(text)["cells"]
    return "\n".join("".join(cell["source"]) + json.dumps(cell.get("outputs")) for cell in cells)


def find_leaks(folder):
    """(file, line) wherever a released file has a line of a solution, or one that is as good."""
    lines = solution_lines()
    texts = {
        path: text_of(path)
        for path in folder.rglob("*")
        if path.suffix != ".safetensors" and path.is_file()
    }
    found = []
    for path, text in texts.items():
        name = path.relative_to(folder).as_posix()
        own = [line for line in sorted(lines) if line in text]
        if name not in MEANT and path.suffix in (".py", ".ipynb"):
            own += [match.group() for match in PENALTY.finditer(text)]
        found += [(name, line) for line in own]
    return found


class Red(NamedTuple):
    """What fails in the tests of a copy."""

    exercises: set[str]  # functions of the student's file
    others: list[str]  # other tests, and files of tests that cannot be imported


def run_tests(folder, *options):
    """What is red in the copy's own tests. They run beside it and leave nothing in it.

    Args:
        folder: the copy.
        options: of pytest. `--student` tests the student's file alone, and still imports every
            file of the suite.

    Raises:
        Refused: pytest does not start.
    """
    with tempfile.TemporaryDirectory() as temporary:
        report = Path(temporary) / "report.xml"
        beside = shutil.copytree(folder, Path(temporary) / "copy")
        command = [sys.executable, "-m", "pytest", f"--junitxml={report}", *options]
        done = subprocess.run(command, cwd=beside, capture_output=True, text=True)
        if not report.exists():
            raise Refused(f"pytest did not run in the copy:\n{(done.stdout + done.stderr)[-2000:]}")
        tests = list(ElementTree.parse(report).iter("testcase"))
    red = Red(set(), [])
    for test in tests:
        if test.find("failure") is None and test.find("error") is None:
            continue
        if match := re.match(r"test_exercise\[rewards-(\w+)-", test.get("name")):
            red.exercises.add(match.group(1))
        else:
            red.others.append(f"{test.get('classname')}::{test.get('name')}")
    return red


def check_copy(folder):
    """Look for solutions, for dead references and for red tests in a copy.

    Raises:
        Refused: naming what should not be so.
    """
    from engine.course.checklist import to_do

    if leaks := find_leaks(folder):
        listed = "\n".join(f"  {name}: {line}" for name, line in leaks[:10])
        raise Refused(f"Lines of the solution stand in the copy:\n{listed}")
    if dead := dead_references(folder):
        listed = "\n".join(f"  {name}: {reference}" for name, reference in dead[:10])
        raise Refused(f"Pages of the copy name files that are not in it:\n{listed}")
    print("None, but what is meant to be found by whoever looks:")
    for name, what in MEANT.items():
        if (folder / name).exists():
            print(f"  {name}: {what}")
    print("Running the tests of the student's file in the copy …", flush=True)
    red = run_tests(folder, "--student")
    if red.others:
        raise Refused("Tests of provided code fail in the copy:\n  " + "\n  ".join(red.others))
    labels = to_do(ROOT / "rewards.py")
    expected = {name for name in labels if labels[name] != "Bonus"}  # which is optional: skipped
    if red.exercises != expected:
        odd = ", ".join(sorted(red.exercises ^ expected))
        raise Refused(f"In the copy, exactly the exercises must fail; look at {odd}.")
    print(f"Red at {len(expected)} exercises, green elsewhere.")


def write_zip(folder, target):
    """All files of a folder, below the name of the zip, in order: equal input, equal bytes."""
    with whole_file(target) as temporary:
        with zipfile.ZipFile(temporary, "w") as archive:
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                name = f"{target.stem}/{path.relative_to(folder).as_posix()}"
                add_file(archive, name, path.read_bytes())


def release(out_dir, repo=""):
    """Write OUT_DIR and OUT_DIR.zip.

    Raises:
        Refused: something is in the way, leaks, or does not test as it should. Nothing is written.
    """
    out_dir = Path(out_dir).absolute()
    archive = out_dir.with_name(out_dir.name + ".zip")
    for path in (out_dir, archive):
        if path.exists():
            raise Refused(f"{path} exists. Give another name, or remove it first.")
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out_dir.parent, prefix=".release-") as temporary:
        folder = Path(temporary) / out_dir.name
        files = copy_files(folder, repo)
        print(f"{len(files)} files copied. Looking for solutions in them …", flush=True)
        check_copy(folder)
        write_zip(folder, archive)
        folder.replace(out_dir)
    print(f"Wrote {out_dir} and {archive.name}")


def main(argv=None):
    parser = OneLineParser(description="Make the copy that students get, without solutions.")
    parser.add_argument("out_dir", metavar="OUT_DIR", help="folder to write; OUT_DIR.zip beside it")
    parser.add_argument(
        "--repo",
        default="",
        metavar="URL",
        help="where the copy will be found, a git repository or a zip: exercise.ipynb then also "
        "runs alone, as on Colab; if it is GitHub (branch main), a badge opens it there",
    )
    args = parser.parse_args(argv)
    if args.repo and "://" not in args.repo:
        parser.error("--repo takes an address such as https://github.com/OWNER/NAME")
    try:
        release(args.out_dir, args.repo)
    except (Refused, OSError) as error:
        sys.exit(f"release.py: {error}")
