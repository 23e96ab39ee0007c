"""What a run of the grader must remember to be continued: its settings and every result."""

import json
import secrets
from pathlib import Path

from engine.common import ROOT, lines_of, sha256, write_json
from instructor.grading.points import maximum
from instructor.grading.submission import GraderError

CODE = (  # what decides about points, besides the cases
    "exercises.py",
    "grading/examining.py",
    "grading/points.py",
    "grading/process.py",
    "grading/remote.py",
    "grading/worker.py",
)


def code_sha256():
    """The SHA-256 of the code that decides about points."""
    files = sorted((ROOT / "tests" / "cases").glob("*.py"))
    files += [ROOT / "instructor" / name for name in CODE]
    return sha256(b"".join(path.read_bytes() for path in files))


def run_settings(args, rubric):
    """What must not change between a run and its continuation; written to OUT/run.json.

    Raises:
        GraderError: OUT holds results of other settings, or results and no --resume.
    """
    out = Path(args.out)
    settings = {
        "rubric": rubric,
        "code": code_sha256(),
        "train": args.train,
        "timeout": args.timeout,
    }
    file, journal = out / "run.json", out / "results.jsonl"
    if journal.exists() and not (args.resume or args.only):
        raise GraderError(
            f"'{out}' holds results. --resume goes on with them; or name a new --out."
        )
    if file.exists() and journal.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
        seeds = before.pop("seeds")
        if before != settings or args.seeds not in (None, seeds[1:]):
            raise GraderError(
                f"rubric, options or code are not those of '{out}': name a new --out."
            )
        return {**settings, "seeds": seeds}
    hidden = args.seeds or [secrets.randbelow(2**31) + 1 for _ in range(rubric["hidden_seeds"])]
    settings["seeds"] = [0, *hidden]
    out.mkdir(parents=True, exist_ok=True)
    write_json(file, settings)
    return settings


def finished(path, submissions, again):
    """{path of a submission: result} of the journal, where the file is still the same.

    Args:
        path: the journal.
        submissions: all that were handed in.
        again: students whose results are not wanted, because they are graded again.
    """
    if not Path(path).exists():
        return {}
    wanted = {
        submission.path: sha256(submission.source)
        for submission in submissions
        if submission.student not in again
    }
    done = {}
    for line in lines_of(path):
        try:
            result = json.loads(line)
        except ValueError:
            continue  # a line that a kill has cut off
        if wanted.get(result["path"]) == result["sha256"]:
            done[result["path"]] = result
    return done


def journal_line(result):
    return json.dumps(result, ensure_ascii=False, sort_keys=True) + "\n"


def blank_result(submission, settings, sandbox):
    """The result of a submission before anything is known."""
    return {
        "student": submission.student,
        "path": submission.path,
        "sha256": sha256(submission.source),
        "status": "graded",
        "reason": "",
        "tests": [],
        "points": {},
        "score": None,
        "max": maximum(settings["rubric"]),
        "flags": list(submission.flags),
        "output": "",
        "seconds": 0,
        "sandbox": sandbox,
        "seeds": settings["seeds"],
    }


def unfinished(submission, settings, sandbox, error):
    """The result where the grader itself failed: no points, for a person to look at."""
    reason = f"the grader failed, not the submission: {type(error).__name__}: {error}"
    result = blank_result(submission, settings, sandbox)
    return {**result, "status": "grader error", "reason": reason[:300]}
