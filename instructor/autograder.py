"""Make the zip that Gradescope runs for each submission.

    python instructor/autograder.py autograder.zip

Holds what grading one submission needs: the cases, the grader, the bundled models, `setup.sh` and
`run_autograder`. No solution: what is not there cannot leak. Choose a base image whose Python is
3.11 or newer.
"""

import argparse
import stat
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from instructor.judge import TOOLS  # noqa: E402

FILES = (
    *TOOLS,
    "kl_lab.py",
    "requirements.txt",
    "tests/cases.py",
    "instructor/collect.py",
    "instructor/grade.py",
    "instructor/gradebook.py",
    "instructor/judge.py",
    "instructor/rubric.yaml",
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
"$root/venv/bin/pip" install -r "$root/source/requirements.txt"
"""
RUN = """#!/usr/bin/env bash
# Runs for each submission. results.json is there whatever happens.
root=${AUTOGRADER_ROOT:-/autograder}
python=${PYTHON:-$root/venv/bin/python}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
"$python" "$root/source/instructor/grade.py" "$root/submission" --out "$out/graded" --gradescope
if [ -f "$out/graded/results.json" ]; then
    cp "$out/graded/results.json" "$root/results/results.json"
else
    echo '{"score": 0, "output": "The grader failed, not your submission. Tell the staff."}' \\
        > "$root/results/results.json"
fi
"""


def add(archive, name, data, executable=False):
    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    info.external_attr = (stat.S_IFREG | (0o755 if executable else 0o644)) << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(info, data)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", metavar="OUT.zip")
    out = Path(parser.parse_args(argv).out)
    pins = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    (torch,) = (line.partition("==")[2] for line in pins if line.startswith("torch=="))
    models = sorted(p for p in (ROOT / "tiny").rglob("*") if p.is_file())
    paths = [*(ROOT / name for name in FILES), *models]
    temporary = out.with_name(f".{out.name}.tmp")
    try:
        with zipfile.ZipFile(temporary, "w") as archive:
            add(archive, "setup.sh", SETUP.replace("TORCH", torch), executable=True)
            add(archive, "run_autograder", RUN, executable=True)
            for path in paths:
                add(archive, path.relative_to(ROOT).as_posix(), path.read_bytes())
        temporary.replace(out)
    except OSError as error:
        sys.exit(f"autograder.py: {error}")
    print(f"Wrote {out}: {out.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
