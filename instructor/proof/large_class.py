"""How long a large class takes, with hostile files in it, and whether it leaves the others alone.

    python -m instructor.proof.large_class
    python -m instructor.proof.large_class 40 --jobs 2

grades files that are right, in different styles, and ten hostile ones beside them. Exits with an
error where a right file loses a point, on its page too, where a hostile one gains any or something
that it must not do worked, and where a file that was handed in has changed.
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
    "hostile ends": attacks.CRASH_AT_IMPORT,
    "hostile endless": attacks.on_import(attacks.ENDLESS),
    # A name but for case, and a text that takes Python's parser a minute.
    "hostile ENDLESS": attacks.on_import("x = f'" + "{x!r}" * 48_000 + "'", attacks.TEMPLATE),
    '=HYPERLINK("x") hostile': attacks.GUESSED_ANSWERS,
    "hostile patches": attacks.PATCHES_JSON,
    "hostile locks": attacks.attempt(
        "import fcntl, json\nfcntl.lockf(open(json.__file__), fcntl.LOCK_SH)"
    ),
    "hostile timers": attacks.attempt(
        """
        import ctypes
        if ctypes.CDLL(None).timer_create(1, None, ctypes.byref(ctypes.c_ulong())):
            raise OSError
        """
    ),
    "hostile swells": attacks.swells_and_misleads(),
    "hostile fills": attacks.fills_and_floods(),
    "hostile mapped": attacks.everywhere(swelling.MAPPED),
}
MOST = 25  # points: what zeros everywhere earn
FULL = b"# %s\n\n**100 of 100 points**\n"  # how the page of a right file begins


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
            hand_in(course / name, source)
        before = contents_of(course)
        began = time.monotonic()
        command = [sys.executable, str(ROOT / "instructor" / "grade.py"), str(course)]
        options = ["--out", f"{temporary}/out", "--jobs", str(args.jobs)]
        subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - began
        with open(Path(temporary, "out", "grades.csv"), newline="", encoding="utf-8") as file:
            points = {row["student"]: float(row["score"] or 0) for row in csv.DictReader(file)}
        pages = contents_of(Path(temporary, "out", "feedback"))
        worked = b"IT WORKED" in Path(temporary, "out", "results.jsonl").read_bytes()
        unchanged = contents_of(course) == before
    busy = sum(os.times()[2:4])  # of all processes that this one has waited for
    print(f"{len(points)} graded in {seconds:.0f} seconds, {busy:.0f} of a processor's")
    right = [name for name in points if name.startswith("right")]
    odd = [name for name in right if points[name] < 100]
    odd += [name for name, earned in points.items() if "hostile" in name and earned > MOST]
    for name in right:
        page = pages.get(f"{name.replace(' ', '_')}.md", b"")
        odd += [] if page.startswith(FULL % name.encode()) else [f"the page of {name}"]
    odd += ["a row is missing"] if len(points) != args.students else []
    odd += ["a page is missing"] if len(pages) != args.students else []
    odd += ["an attempt worked"] if worked else []
    odd += [] if unchanged else ["a file that was handed in"]
    if odd:
        sys.exit(f"not as it should be: {', '.join(odd)}")


def contents_of(folder):
    """{relative path of a file or folder: its bytes, or None}."""
    paths = folder.rglob("*")
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in paths
    }


def hand_in(folder, source):
    folder.mkdir(parents=True)
    (folder / "rewards.py").write_text(source, encoding="utf-8")


if __name__ == "__main__":
    main()
