"""How long a large class takes, with hostile files in it, and whether it leaves the others alone.

    python -m instructor.proof.large_class
    python -m instructor.proof.large_class 40 --jobs 2

grades files that are right, in different styles, and ten hostile ones beside them. Exits with an
error where a right file loses a point or a hostile one gains any.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from engine.common import ROOT
from instructor.proof import attacks, swelling

HOSTILE = {
    "ends": attacks.CRASH_AT_IMPORT,
    "exits": attacks.EXIT_AT_IMPORT,
    "endless": attacks.on_import(attacks.ENDLESS),
    "garbage": attacks.GARBAGE_ON_THE_PIPE,
    "guesses": attacks.GUESSED_ANSWERS,
    "patches": attacks.PATCHES_JSON,
    "equal": attacks.ALWAYS_EQUAL,
    "swells": attacks.swells_and_misleads(),
    "fills": attacks.fills_and_floods(),
    "mapped": attacks.everywhere(swelling.MAPPED),
}
MOST = 25  # points: what zeros everywhere earn


def main():
    parser = argparse.ArgumentParser(description="Grade a large class with hostile files in it.")
    parser.add_argument("students", type=int, nargs="?", default=200, help="(default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="(default: %(default)s)")
    args = parser.parse_args()
    right = [*attacks.valid_files().values()]
    with tempfile.TemporaryDirectory() as temporary:
        course = Path(temporary, "in")
        for i in range(args.students - len(HOSTILE)):
            hand_in(course / f"right {i:03}", f"{right[i % len(right)]}\n# {i}\n")
        for name, source in HOSTILE.items():
            hand_in(course / f"hostile {name}", source)
        began = time.monotonic()
        command = [sys.executable, str(ROOT / "instructor" / "grade.py"), str(course)]
        options = ["--out", f"{temporary}/out", "--jobs", str(args.jobs)]
        subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - began
        with open(Path(temporary, "out", "grades.csv"), newline="", encoding="utf-8") as file:
            points = {row["student"]: float(row["score"] or 0) for row in csv.DictReader(file)}
    worked = sum(os.times()[2:4])  # of all processes that this one has waited for
    print(f"{len(points)} graded in {seconds:.0f} seconds, {worked:.0f} of a processor's")
    odd = [name for name, earned in points.items() if name.startswith("right") and earned < 100]
    odd += [name for name, earned in points.items() if name[:7] == "hostile" and earned > MOST]
    if odd or len(points) != args.students:
        sys.exit(f"not as it should be: {', '.join(odd) or 'a row is missing'}")


def hand_in(folder, source):
    folder.mkdir(parents=True)
    (folder / "rewards.py").write_text(source, encoding="utf-8")


if __name__ == "__main__":
    main()
