"""What a run of the grader must remember to be continued: its settings and every result."""

import json
import secrets
from pathlib import Path

from engine.common import ROOT, lines_of, sha256, write_json
from instructor.grading.points import maximum, score
from instructor.grading.submission import GraderError
from instructor.grading.text import one_line

GRADER_ERROR = "grader error"  # the status where the grader failed: --resume tries again
CHANGED = "the file has changed since it was graded"
FLAG_LIMIT = 20
FIELDS = {  # of a result that is whole
    *("student", "path", "sha256", "status", "reason", "tests", "points", "score", "max"),
    *("flags", "output", "seconds", "sandbox"),
}
CODE = (  # what decides about points, besides the cases
    "examining.py",
    "points.py",
    "process.py",
    "sandbox.py",
    "watching.py",
    "worker.py",
)


def code_sha256():
    """The SHA-256 of the code that decides about points."""
    files = sorted((ROOT / "cases").glob("*.py"))
    files += [ROOT / "instructor" / "grading" / name for name in CODE]
    return sha256(b"".join(path.read_bytes() for path in files))


def run_settings(args, rubric):
    """What must not change between a run and its continuation, and the rubric, which may: the
    points are counted anew from the journal. Written to OUT/run.json.

    Raises:
        GraderError: OUT holds results of other settings, or results and no --resume; or it counted
            written answers, which are not named now.
    """
    out = Path(args.out)
    settings = {"rubric": rubric, "code": code_sha256(), "timeout": args.timeout}
    file = out / "run.json"
    journal = out / "results.jsonl"
    if journal.exists() and not (args.resume or args.only):
        raise GraderError(
            f"'{out}' holds results. --resume goes on with them; or name a new --out."
        )
    if file.exists() and journal.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
        seeds, written = before.pop("seeds"), before.pop("written", None)
        if {**before, "rubric": rubric} != settings or args.seeds not in (None, seeds[1:]):
            raise GraderError(f"options or code are not those of '{out}': name a new --out.")
        if written and not args.written:
            raise GraderError(
                f"'{out}' counted the answers in {written}: name them again with --written."
            )
        if before["rubric"] != rubric:
            then, now = maximum(before["rubric"]), maximum(rubric)
            print(f"Another rubric: all points are counted anew, of {now:g} (before: of {then:g}).")
        settings["seeds"] = seeds
        write_json(file, settings | {"written": args.written and str(args.written)})
        return settings
    hidden = args.seeds or [secrets.randbelow(2**31) + 1 for _ in range(rubric["hidden_seeds"])]
    settings["seeds"] = [0, *hidden]
    out.mkdir(parents=True, exist_ok=True)
    write_json(file, settings | {"written": args.written and str(args.written)})
    return settings


def finished(path, submissions, again):
    """{path of a submission: result} of the journal: what need not be graded now.

    Where the file has changed since, another hand-in of the student is the newest now, or the
    grader itself had failed, a submission is graded again, unless `again` names other students:
    then every other row stays as it is.

    Args:
        path: the journal.
        submissions: all that were handed in.
        again: the students of --only, whose results are not wanted; empty for --resume.
    """
    if not Path(path).exists():
        return {}
    by_path = {submission.path: submission for submission in submissions}
    done = {}
    for result in results_of(path):
        submission = by_path.get(result["path"])
        same = submission is not None and sha256(submission.source) == result["sha256"]
        if again:
            student = submission.student if submission else result["student"]
            wanted = student not in again
            if not same and CHANGED not in result["flags"]:
                result["flags"].append(CHANGED)
        else:
            still = same and submission.duplicate == (result["status"] == "duplicate")
            wanted = still and result["status"] != GRADER_ERROR
        if wanted:
            done[result["path"]] = result
    return done


def results_of(path):
    """The results of a journal; a line that a kill has cut off is left out."""
    for line in lines_of(path):
        try:
            result = json.loads(line)
        except ValueError:
            continue
        if isinstance(result, dict) and FIELDS <= set(result):
            yield result


def rescored(result, rubric):
    """A result with the points that a rubric, perhaps another one, gives for the same outcomes."""
    if result["status"] in ("graded", "import error"):
        result["points"] = score(result["tests"], rubric)
        result["score"] = round(sum(result["points"].values()), 2)
    return {**result, "max": maximum(rubric)}


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
    return {**result, "status": GRADER_ERROR, "reason": one_line(reason)[:300]}


def bounded(result):
    """A result whose texts and flags are of a size that a journal and a page can hold."""
    flags = [one_line(flag)[:200] for flag in result["flags"]]
    more = [f"and {len(flags) - FLAG_LIMIT} more flags"] if len(flags) > FLAG_LIMIT else []
    return {**result, "reason": result["reason"][:1000], "flags": flags[:FLAG_LIMIT] + more}
