"""Grade the rewards.py of a whole course in a sandbox, with one command.

    python instructor/grade.py SUBMISSIONS --out DIR
    python instructor/grade.py SUBMISSIONS --out DIR --roster gradebook.csv --train 12
    python instructor/grade.py SUBMISSIONS --out DIR --resume

SUBMISSIONS is a folder or a zip, as the platform exports it (collect.py). Every submission runs in
processes of its own that are locked in (sandbox.py, worker.py) and only answer questions; what is
right is decided here (judge.py). DIR gets grades.csv, feedback/, results/ for Gradescope, the
filled-in roster and the journal results.jsonl, from which --resume goes on. See
instructor/README.md.
"""

import argparse
import concurrent.futures
import hashlib
import json
import math
import os
import queue
import secrets
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from instructor import collect, gradebook, judge  # noqa: E402
from instructor.judge import GraderError  # noqa: E402
from instructor.sandbox import PROTECTIONS  # noqa: E402

CODE = ("tests/cases.py", "instructor/judge.py", "instructor/worker.py", "instructor/gradebook.py")


def parse_arguments(argv):
    parser = argparse.ArgumentParser(
        description="Grade the rewards.py of a whole course in a sandbox."
    )
    add = parser.add_argument
    add("submissions", help="folder or zip, also as Gradescope, Canvas or Moodle export it")
    add("--out", required=True, metavar="DIR", help="where grades and feedback go")
    add("--roster", metavar="CSV", help="gradebook of Canvas, Moodle or your own, to be filled in")
    add("--column", default="GRPO", help="its column for the points (default: %(default)s)")
    add("--rubric", default=str(ROOT / "instructor" / "rubric.yaml"), help="points per exercise")
    add("--seeds", type=int, nargs="+", help="hidden seeds; drawn and recorded by default")
    add("--only", nargs="+", metavar="STUDENT", help="grade these again, keep the other results")
    add("--resume", action="store_true", help="go on with an interrupted run")
    add("--jobs", type=int, default=len(os.sched_getaffinity(0)) if LINUX else 1)
    add("--timeout", type=float, default=10.0, help="seconds for one answer")
    add("--train", action="store_true", help="also train a few steps with each reward")
    add("--visibility", default="visible", choices=VISIBILITIES, help="of Gradescope's results")
    add("--gradescope", action="store_true", help="one submission, DIR/results.json alone")
    add("--unsafe", action="store_true", help="go on without a sandbox: only for your own files")
    return parser.parse_args(argv)


LINUX = sys.platform == "linux"
VISIBILITIES = ("visible", "hidden", "after_due_date", "after_published")


def run_settings(args, rubric):
    """What must not change between a run and its continuation; written to OUT/run.json."""
    out = Path(args.out)
    code = b"".join((ROOT / name).read_bytes() for name in CODE)
    settings = {
        "rubric": rubric,
        "code": hashlib.sha256(code).hexdigest(),
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
    gradebook.write(file, json.dumps(settings, indent=1))
    return settings


def finished(path, submissions, again):
    """{path of a submission: result} of the journal, where the file is still the same."""
    if not Path(path).exists():
        return {}
    wanted = {s.path: digest(s) for s in submissions if s.student not in again}
    done = {}
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            result = json.loads(line)
        except ValueError:
            continue  # the last line of a run that was killed
        if wanted.get(result["path"]) == result["sha256"]:
            done[result["path"]] = result
    return done


def digest(submission):
    return hashlib.sha256(submission.source).hexdigest()


def blank_result(submission, settings, sandbox):
    """The result of a submission before anything is known."""
    return {
        "student": submission.student,
        "path": submission.path,
        "sha256": digest(submission),
        "status": gradebook.GRADED,
        "reason": "",
        "tests": [],
        "points": {},
        "score": None,
        "max": gradebook.maximum(settings["rubric"]),
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


def grade_one(workshop, control, submission, settings, sandbox, models):
    """The result of one submission: a dict, as it stands in the journal."""
    rubric, started = settings["rubric"], time.monotonic()
    result = blank_result(submission, settings, sandbox)
    if submission.duplicate:
        result |= {"status": "duplicate", "reason": "A newer submission is graded instead."}
    elif submission.rejected:
        result |= {"status": "rejected", "reason": submission.rejected, "score": 0.0}
    else:
        outcomes, flags, output = judge.judge(
            workshop, control, submission.source, settings["seeds"], models, settings["timeout"]
        )
        result["tests"] = [vars(outcome) for outcome in outcomes]
        result["points"] = gradebook.score(result["tests"], rubric)
        result["score"] = round(sum(result["points"].values()), 2)
        result["output"] = output
        if outcomes[0].message.startswith(judge.NO_IMPORT):
            result |= {"status": "import error", "reason": outcomes[0].message}
        imports = gradebook.unusual_imports(submission.source)
        result["flags"] += sorted(flags) + [f"imports {', '.join(imports)}"] * bool(imports)
        if settings["train"]:
            from instructor import training

            result["training"] = training.check(
                workshop, control, submission.source, rubric["train"], models
            )
    # Rounded up to tens, so that a run that was resumed writes the very same files.
    result["seconds"] = math.ceil((time.monotonic() - started) / 10) * 10
    return result


def grade_all(workshop, submissions, settings, sandbox, models, journal, tick):
    """Grade in parallel; each result goes to the journal as soon as it is there."""
    controls = queue.SimpleQueue()
    for control in workshop.controls:
        controls.put(control)

    def work(submission):
        control = controls.get()
        try:
            return grade_one(workshop, control, submission, settings, sandbox, models)
        except GraderError:
            raise
        except Exception as error:  # one submission shall not end the others
            return unfinished(submission, settings, sandbox, error)
        finally:
            controls.put(control)

    pool = concurrent.futures.ThreadPoolExecutor(len(workshop.controls))
    results = []
    try:
        with open(journal, "a", encoding="utf-8") as file:
            tasks = [pool.submit(work, submission) for submission in submissions]
            for task in concurrent.futures.as_completed(tasks):
                results.append(task.result())
                file.write(gradebook.journal_line(results[-1]))
                file.flush()
                tick(results[-1])
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return results


def self_check(workshop, settings, models):
    """Grade files whose grade is known; GraderError if one gets another.

    The solution earns everything, the template nothing, each wrong solution loses points at its
    exercise and only there, each attack earns nothing.
    """
    from instructor import attacks

    control, rubric = workshop.controls[0], settings["rubric"]
    for title, source, expected in attacks.known_files():
        outcomes, _, _ = judge.judge(workshop, control, source, settings["seeds"][:2], models, 3.0)
        points = gradebook.score([vars(outcome) for outcome in outcomes], rubric)
        for name, entry in rubric["exercises"].items():
            got, most, wanted = points[name], entry["points"], expected[name]
            if got != {"all": most, "none": 0}.get(wanted, got) or (
                wanted == "less" and got == most
            ):
                raise GraderError(
                    f"self-check: '{title}' earns {got:g} of {most:g} for {name}; it should earn "
                    f"{wanted}. The tests do not hold on this machine; nothing was graded."
                )


def require_sandbox(held, unsafe):
    """The name of the tier that holds on this machine.

    Raises:
        GraderError: something does not hold, and `unsafe` is not given.
    """
    missing = [name for name, holds in held.items() if not holds]
    if not missing:
        return "landlock+seccomp"
    if not unsafe:
        raise GraderError(
            f"no sandbox for {', '.join(missing)} here. Grade on Linux 5.13 or newer with "
            "libseccomp2 (a container will do); --unsafe runs strangers' code without."
        )
    return f"unsafe (no {', '.join(missing)})"


def show_sandbox(held, console):
    for name, meaning in PROTECTIONS.items():
        mark = "[green]✓[/]" if held[name] else "[red]✗[/]"
        console.print(f"  {mark} {name:10} {meaning}", highlight=False)


def write_all(args, results, submissions, settings):
    """Every file of the course from the results, sorted; the journal too."""
    out, rubric = Path(args.out), settings["rubric"]
    order = {submission.path: i for i, submission in enumerate(submissions)}
    results = sorted(results, key=lambda r: order[r["path"]])
    journal = "".join(gradebook.journal_line(result) for result in results)
    gradebook.write(out / "results.jsonl", journal)
    sources = {
        s.student: s.source for s in submissions if s.source and not (s.rejected or s.duplicate)
    }
    alike = gradebook.similar(sources)
    results = [
        {**r, "flags": r["flags"] + (alike[r["student"]] if not_duplicate(r) else [])}
        for r in results
    ]
    files = gradebook.file_names([r["student"] for r in results if not_duplicate(r)])
    for result in filter(not_duplicate, results):
        stem = files[result["student"]]
        text = gradebook.feedback(result, rubric)
        gradebook.write(out / "feedback" / f"{stem}.md", text)
        page = gradebook.gradescope(result, rubric, args.visibility)
        gradebook.write(out / "results" / f"{stem}.json", json.dumps(page, indent=1))
    if args.roster:
        results += fill_roster(args, results, submissions)
    gradebook.write_grades(out / "grades.csv", results)
    return results


def not_duplicate(result):
    return result["status"] != "duplicate"


def fill_roster(args, results, submissions):
    """Write OUT/roster.csv; returns a row for everybody who has handed nothing in."""
    kind, header, rows = collect.read_roster(args.roster)
    people = list(collect.people_of(kind, header, rows))
    by_path, by_row = {r["path"]: r for r in results}, {}
    for submission in submissions:
        result = by_path.get(submission.path)
        if submission.duplicate or result is None:
            continue
        person = collect.match(submission, people)
        if person is None:
            result["flags"].append("not in the roster")
        elif person["row"] in by_row:
            result["flags"].append("shares a row of the roster with another")
        else:
            text = result["reason"] or gradebook.summary_line(result)
            by_row[person["row"]] = {**result, "text": text}
    target = Path(args.out) / "roster.csv"
    gradebook.write_roster(target, kind, header, rows, by_row, args.column)
    missing = [person for person in people if person["row"] not in by_row]
    blank = {"status": "no submission", "score": None, "max": None, "tests": [], "flags": []}
    return [
        {"student": p["name"] or p["email"], **blank, "seconds": "", "sandbox": "", "path": ""}
        for p in missing
    ]


def show(results, console):
    """The table of students and the view of the class."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, expand=True)
    table.add_column("student", no_wrap=True, overflow="ellipsis", max_width=32)
    table.add_column("status", no_wrap=True)
    table.add_column("points", justify="right", no_wrap=True)
    table.add_column("look at", no_wrap=True, overflow="ellipsis", ratio=1)
    for r in results:
        points = f"{gradebook.number(r['score'])}/{gradebook.number(r['max'])}"
        points = points if r["score"] is not None else ""
        notes = [r["reason"]] * bool(r.get("reason")) + r["flags"]
        table.add_row(Text(r["student"]), r["status"], points, Text("; ".join(notes)))
    console.print(table)
    console.print("\nshare of the class that passes", style="bold")
    function = None
    for name, case, share in gradebook.class_view(results):
        if name != function:
            console.print(f"  {name}", highlight=False)
        function, bar = name, "█" * round(10 * share) if share == share else ""
        console.print(f"    {share:5.0%} {bar:10} {case}", highlight=False, markup=False)


def grade(args, console):
    """Grade as the command line says; returns the results.

    Raises:
        GraderError, collect.Rejected: in one line, what to do.
    """
    from rich.progress import Progress

    import monitor
    from models import load_model
    from sentiment import load_sentiment_model

    rubric = gradebook.read_rubric(args.rubric)
    submissions = collect.collect(args.submissions)
    if args.gradescope and len(submissions) > 1:
        raise GraderError(f"--gradescope grades one submission; there are {len(submissions)}.")
    if args.roster:
        collect.read_roster(args.roster)
    again = set(args.only or ())
    if unknown := again - {s.student for s in submissions}:
        raise GraderError(f"nobody handed in as {', '.join(sorted(unknown))}.")
    settings = run_settings(args, rubric)
    journal = Path(args.out) / "results.jsonl"
    done = finished(journal, submissions, again)
    if args.only:
        todo = [s for s in submissions if s.student in again]
    else:
        todo = [s for s in submissions if s.path not in done]
    gradebook.write(journal, "".join(map(gradebook.journal_line, done.values())))

    with judge.Workshop(max(1, args.jobs), args.unsafe) as workshop:
        import torch

        monitor.quiet_libraries()
        torch.set_num_threads(1)
        load_sentiment_model(str(ROOT / "tiny" / "sentiment"), "cpu")
        models = load_model(str(ROOT / "tiny" / "gpt2"), "cpu")
        workshop.wait()
        held = judge.probe(workshop, workshop.controls[0])
        console.print("sandbox")
        show_sandbox(held, console)
        sandbox = require_sandbox(held, args.unsafe)
        if (ROOT / "rewards_solution.py").exists():
            self_check(workshop, settings, models)
            console.print("self-check passed: solution, template, wrong solutions, attacks\n")
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("grading", total=len(todo))
            new = grade_all(
                workshop, todo, settings, sandbox, models, journal, lambda r: bar.advance(task)
            )
    return write_all(args, [*done.values(), *new], submissions, settings)


def main(argv=None):
    args = parse_arguments(argv)
    from monitor import make_console

    console = make_console()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        results = grade(args, console)
    except KeyboardInterrupt:
        sys.exit("\ngrade.py: interrupted; --resume goes on with what is left.")
    except (GraderError, collect.Rejected, OSError) as error:
        if args.gradescope:  # the student reads why, and no submission is without results
            page = {"score": 0.0, "output": str(error), "output_format": "text", "tests": []}
            gradebook.write(Path(args.out) / "results.json", json.dumps(page))
        sys.exit(f"grade.py: {error}")
    if args.gradescope:
        (page,) = (Path(args.out) / "results").iterdir()
        page.replace(Path(args.out) / "results.json")
    show(results, console)
    console.print(f"\nWrote grades.csv, feedback/ and results/ to {args.out}", highlight=False)


if __name__ == "__main__":
    main()
