"""The command line of grade.py: its options, and how it ends."""

import json
import os
import signal
import sys
from pathlib import Path

from engine.common import ROOT, UserError, make_console, write_whole
from engine.options import OneLineParser, at_least
from instructor.grading.submission import GraderError

LINUX = sys.platform == "linux"
NOT_YOURS = "The grader failed, not your submission. Tell the staff:"
VISIBILITIES = ("visible", "hidden", "after_due_date", "after_published")


def parse_arguments(argv=None):
    parser = OneLineParser(description="Grade the rewards.py of a whole course in a sandbox.")
    add = parser.add_argument
    add("submissions", help="folder or zip, also as a platform exports it")
    add("--out", required=True, metavar="DIR", help="folder for grades and feedback")
    add("--roster", metavar="CSV", help="gradebook of a platform or your own, to be filled in")
    add("--column", default="GRPO", help="its column for the points (default: %(default)s)")
    add("--written", metavar="CSV", help="points for written answers: DIR/answers.csv, filled in")
    add("--rubric", default=str(RUBRIC), help="points per exercise (default: %(default)s)")
    add("--seeds", type=int, nargs="+", help="hidden seeds; drawn and recorded by default")
    add("--only", nargs="+", metavar="STUDENT", help="grade these again, keep the other results")
    add("--resume", action="store_true", help="continue an interrupted run")
    add("--jobs", type=at_least(1, int), default=processors(), help="submissions at a time")
    seconds = at_least(0.1, float)
    add("--timeout", type=seconds, default=10.0, help="seconds for one answer (%(default)s)")
    add("--visibility", default="visible", choices=VISIBILITIES, help="of Gradescope's results")
    add("--gradescope", action="store_true", help="one submission; write only DIR/results.json")
    add("--unsafe", action="store_true", help="grade without a sandbox: only for your own files")
    return parser.parse_args(argv)


RUBRIC = ROOT / "instructor" / "grading" / "rubric.yaml"


def processors():
    return len(os.sched_getaffinity(0)) if LINUX else 1


def main(argv=None):
    args = parse_arguments(argv)
    # torch takes seconds; --help need not wait
    from instructor.grading.class_view import show, what_was_written
    from instructor.grading.course import grade
    from instructor.grading.points import read_rubric

    console = make_console()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        results, entered = grade(args, console)
    except KeyboardInterrupt:
        sys.exit("\ngrade.py: interrupted; --resume goes on with what is left.")
    except (UserError, OSError) as error:
        if args.gradescope:  # the student reads why, and no submission is without results
            ours = isinstance(error, (GraderError, OSError))
            output = f"{NOT_YOURS} {error}" if ours else str(error)
            page = {"score": 0.0, "output": output, "output_format": "text", "tests": []}
            Path(args.out).mkdir(parents=True, exist_ok=True)
            write_whole(Path(args.out) / "results.json", json.dumps(page))
        sys.exit(f"grade.py: {error}")
    if args.gradescope:
        (page,) = (Path(args.out) / "results").iterdir()
        page.replace(Path(args.out) / "results.json")
    show(results, read_rubric(args.rubric), console)
    wrote = what_was_written(Path(args.out), args.written, entered)
    console.print(f"\n{wrote}", highlight=False)
