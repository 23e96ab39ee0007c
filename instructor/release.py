"""Make the copy that students get: no solutions, no answer key, no instructor's tools.

    python instructor/release.py OUT_DIR

writes the folder OUT_DIR and OUT_DIR.zip beside it, after two checks: no line of a solution stands
in any released file, and in the copy `pytest` fails at every exercise and nowhere else. Refuses to
overwrite. The exit status is 0 only if both checks hold.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from instructor.make_rewards import BODY  # noqa: E402

RELEASED = (
    "*.py",
    "*.txt",
    "*.md",
    "*.toml",
    "LICENSE",
    ".gitignore",
    "exercise.ipynb",
    "tests/*.py",
    "tiny/**/*",
    "benchmarks/*",
    "launch/*",
)
WITHHELD = {
    "rewards_solution.py",
    "CONTRIBUTING.md",
    "tests/test_grade.py",
    "tests/test_instructor.py",
}
MOVED = {"instructor/classroom.yml": ".github/workflows/classroom.yml"}
HARMLESS = {  # lines of solutions that stand elsewhere too and say nothing about an exercise
    "with torch.no_grad():",
    "return get_sentiment_scores(completions)",  # the worked example
    "scores = get_sentiment_scores(completions)",
    "for completion, prompt in zip(completions, prompts):",
    'prompt_ids = tokenizer(prompt)["input_ids"]',
    "if mask is None:",
    "rewards = []",
    "return rewards",
}
SOLVED = """;
`exercise_solved.ipynb` is the same notebook after a run with the solution, to read on the web"""
BODIES = ("rewards_solution.py", "instructor/notebook.py")


class Refused(Exception):
    """Why there is no release."""


def released_files():
    """Relative paths of what a student gets."""
    found = {p.relative_to(ROOT) for glob in RELEASED for p in ROOT.glob(glob) if p.is_file()}
    return sorted(path for path in found if path.as_posix() not in WITHHELD)


def student_readme(text, files):
    """README.md with an opening for students, and without the files that they do not get."""
    _, heading, rest = text.partition("## What you will see")
    opening = (ROOT / "instructor" / "opening.md").read_text(encoding="utf-8")
    names = {path.as_posix() for path in files}
    before, tree, after = re.split(r"(?<=## Files\n\n```\n)(.*?)(?=```)", rest, flags=re.DOTALL)
    kept = [line for line in tree.splitlines(keepends=True) if is_released(line, names)]
    after = re.sub(r"## For instructors\n.*?(?=^## )", "", after, flags=re.DOTALL | re.MULTILINE)
    before = before.replace(SOLVED, "")
    return f"{opening}\n{heading}{before}{''.join(kept)}{after}"


def is_released(line, names):
    name = line.split()[0]
    return name in names or any(other.startswith(name.rstrip("/") + "/") for other in names)


def solution_lines():
    """Every line of a solution body that gives something away, without its indentation."""
    lines = set()
    for name in BODIES:
        for body in BODY.finditer((ROOT / name).read_text(encoding="utf-8")):
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
    """(file, line) wherever a line of a solution stands in a released file."""
    lines = solution_lines()
    texts = {
        path: text_of(path)
        for path in folder.rglob("*")
        if path.suffix != ".safetensors" and path.is_file()
    }
    return [
        (path.relative_to(folder).as_posix(), line)
        for path, text in texts.items()
        for line in sorted(lines)
        if line in text
    ]


def run_tests(folder):
    """(exercises that fail, other tests that fail) of the copy's own suite."""
    with tempfile.TemporaryDirectory() as temporary:
        report = Path(temporary) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={report}"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if not report.exists():
            raise Refused(f"pytest did not run in the copy:\n{done.stdout[-2000:]}{done.stderr}")
        cases = list(ElementTree.parse(report).iter("testcase"))
    for cache in folder.rglob("__pycache__"):
        shutil.rmtree(cache, ignore_errors=True)
    failed = [case for case in cases if any(child.tag in ("failure", "error") for child in case)]
    exercises, others = set(), []
    for case in failed:
        match = re.match(r"test_exercise\[rewards-(\w+)-", case.get("name"))
        if match:
            exercises.add(match.group(1))
        else:
            others.append(f"{case.get('classname')}::{case.get('name')}")
    return exercises, others


def exercises_to_do():
    """Names of the functions whose bodies students write."""
    text = (ROOT / "rewards.py").read_text(encoding="utf-8")
    return set(re.findall(r'raise NotImplementedError\(".*: implement (\w+)"\)', text))


def copy_files(folder):
    files = released_files()
    for path in files:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, target)
    for source, name in MOVED.items():
        (folder / name).parent.mkdir(parents=True)
        shutil.copyfile(ROOT / source, folder / name)
    readme = folder / "README.md"
    readme.write_text(student_readme(readme.read_text(encoding="utf-8"), files), encoding="utf-8")
    return files


def write_zip(folder, target):
    """All files below the folder's name, in order and with one date: equal input, equal bytes."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            name = f"{target.stem}/{path.relative_to(folder).as_posix()}"
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            archive.writestr(info, path.read_bytes())


def release(out_dir):
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
        files = copy_files(folder)
        print(f"{len(files)} files copied. Looking for solutions in them …", flush=True)
        leaks = find_leaks(folder)
        if leaks:
            listed = "\n".join(f"  {name}: {line}" for name, line in leaks[:10])
            raise Refused(f"Lines of the solution stand in the copy:\n{listed}")
        print("None. Running the copy's tests …", flush=True)
        exercises, others = run_tests(folder)
        if others:
            raise Refused("Tests of provided code fail in the copy:\n  " + "\n  ".join(others))
        if exercises != exercises_to_do():
            odd = ", ".join(sorted(exercises ^ exercises_to_do()))
            raise Refused(f"In the copy, exactly the exercises must fail; look at {odd}.")
        print(f"Red at {len(exercises)} exercises, green elsewhere.")
        write_zip(folder, Path(temporary) / archive.name)
        (Path(temporary) / archive.name).replace(archive)
        folder.replace(out_dir)
    print(f"Wrote {out_dir} and {archive.name}")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out_dir", metavar="OUT_DIR")
    args = parser.parse_args(argv)
    try:
        release(args.out_dir)
    except (Refused, OSError) as error:
        sys.exit(f"release.py: {error}")


if __name__ == "__main__":
    main()
