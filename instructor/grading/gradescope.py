"""Make the zip that Gradescope runs for each submission: setup.sh, run_autograder, the grader.

No solution: what is not there cannot leak.
"""

import sys
import zipfile
from pathlib import Path

from engine.common import ROOT, whole_file
from engine.options import OneLineParser
from instructor.archive import add_file

FILES = (  # besides what a submission may import
    "requirements-grading.txt",
    "rewards.py",  # as it is handed out: a student may hand it in beside the real one
    "cases/*.py",
    "instructor/__init__.py",
    "instructor/archive.py",
    "instructor/grade.py",
    "instructor/grading/*.py",
    "instructor/grading/rubric.yaml",
    "tiny/**/*",
)
SETUP = """#!/usr/bin/env bash
# Runs once, when Gradescope builds the image.
set -euo pipefail
root=${AUTOGRADER_ROOT:-/autograder}
apt-get update
apt-get install -y --no-install-recommends python3 python3-venv libseccomp2
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
python3 -m venv "$root/venv"
"$root/venv/bin/pip" install torch==TORCH --index-url https://download.pytorch.org/whl/cpu
"$root/venv/bin/pip" install -r "$root/source/requirements-grading.txt"
"""
RUN = """#!/usr/bin/env bash
# Runs for each submission. results.json is there whatever happens.
root=${AUTOGRADER_ROOT:-/autograder}
python=${PYTHON:-$root/venv/bin/python}
limits=${CGROUP:-/sys/fs/cgroup}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
mkdir -p "$root/results"

fail() {
    echo '{"score": 0, "output": "The grader failed, not your submission. Tell the staff'"$1"'"}' \\
        > "$root/results/results.json"
}

# Grading takes 1 GB beside the submission. With less, the kernel kills processes of right answers.
memory=$(cat "$limits/memory.max" "$limits/memory/memory.limit_in_bytes" 2> /dev/null | head -n 1)
if [[ $memory =~ ^[0-9]+$ ]] && [ "$memory" -lt 1500000000 ]; then
    fail ": the container has too little memory. Give it 2 GB in the settings of the autograder."
    exit
fi
"$python" "$root/source/instructor/grade.py" "$root/submission" --out "$out/graded" --gradescope
if [ -f "$out/graded/results.json" ]; then
    cp "$out/graded/results.json" "$root/results/results.json"
else
    fail "."
fi
"""


def files_of_the_grader():
    """Paths, below the root, of all that grading one submission needs."""
    from instructor.grading.process import modules_to_copy

    found = {path for pattern in FILES for path in ROOT.glob(pattern) if path.is_file()}
    return sorted({path.relative_to(ROOT).as_posix() for path in found} | set(modules_to_copy()))


def torch_version():
    """The version of torch that the requirements ask for."""
    pins = (ROOT / "requirements-grading.txt").read_text(encoding="utf-8").splitlines()
    (version,) = (pin.partition("==")[2] for pin in pins if pin.startswith("torch=="))
    return version


def main(argv=None):
    parser = OneLineParser(description="Make the zip that Gradescope runs for each submission.")
    parser.add_argument("out", metavar="OUT.zip", help="the zip to write")
    out = Path(parser.parse_args(argv).out)
    try:
        with whole_file(out) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            add_file(archive, "setup.sh", SETUP.replace("TORCH", torch_version()), executable=True)
            add_file(archive, "run_autograder", RUN, executable=True)
            for name in files_of_the_grader():
                add_file(archive, name, (ROOT / name).read_bytes())
    except OSError as error:
        sys.exit(f"autograder.py: {error}")
    print(f"Wrote {out}: {out.stat().st_size / 1e6:.0f} MB")
