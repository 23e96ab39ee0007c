"""From outcomes to points, and from points to every file that goes back to a course.

Everything that came from a submission or a roster is text of a stranger: control characters are
gone before it gets here (judge.clean), a cell that a spreadsheet would take for a formula starts
with an apostrophe, Markdown is escaped.
"""

import ast
import collections
import csv
import html
import io
import json
import math
import re
from pathlib import Path

import yaml

from instructor.judge import CASES, ROOT, GraderError

GRADED = "graded"
HARMLESS_IMPORTS = {
    *("math", "torch", "numpy", "re", "collections", "itertools", "functools", "statistics"),
    *("string", "typing", "operator", "sentiment", "reward_utils", "__future__"),
}
ALIKE = 0.9  # share of common five-token sequences from which two files are flagged


def read_rubric(path):
    """The rubric as a dict, checked against the exercises there are.

    Raises:
        GraderError: naming what is wrong.
    """
    try:
        rubric = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        exercises = rubric["exercises"]
        for name, entry in exercises.items():
            if name not in CASES:
                raise GraderError(f"rubric: there is no exercise {name}; known: {', '.join(CASES)}")
            known = {case.__name__ for case in CASES[name][1]}
            if unknown := set(entry.get("core", ())) - known:
                raise GraderError(f"rubric: {name} has no case {', '.join(sorted(unknown))}")
            if not (isinstance(entry["points"], (int, float)) and entry["points"] >= 0):
                raise GraderError(f"rubric: points of {name} must be a number from 0 on")
        if not 0 <= rubric["without_core"] <= 1 or int(rubric["hidden_seeds"]) < 0:
            raise GraderError("rubric: without_core lies in [0, 1], hidden_seeds is 0 or more")
    except OSError as error:
        raise GraderError(f"the rubric '{path}' cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
        text = str(error).splitlines()[0]
        raise GraderError(
            f"the rubric '{path}' is not of the form of rubric.yaml: {text}"
        ) from error
    return rubric


def score(tests, rubric):
    """{function: points} from a submission's tests, rounded to hundredths.

    >>> rubric = {"without_core": 0.5, "exercises": {"f": {"points": 10, "core": ["a"]}}}
    >>> tests = [{"function": "f", "case": c, "passed": p} for c, p in (("a", False), ("b", True))]
    >>> score(tests + [{"function": "f", "case": "c", "passed": True}], rubric)
    {'f': 5.0}
    """
    points = {}
    for name, entry in rubric["exercises"].items():
        own = {test["case"]: test["passed"] for test in tests if test["function"] == name}
        share = sum(own.values()) / len(own) if own else 0.0
        if not all(own.get(case, False) for case in entry.get("core", ())):
            share = min(share, rubric["without_core"])
        points[name] = round(entry["points"] * share, 2)
    return points


def maximum(rubric):
    return sum(entry["points"] for entry in rubric["exercises"].values())


def unusual_imports(source):
    """Modules that a reward has no need of, for a person to look at. No protection."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    return sorted(names - HARMLESS_IMPORTS - {""})


def fingerprint(source):
    """Counts of five-token sequences of a file's functions, names of variables left out."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return collections.Counter()
    tokens = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name in CASES:
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            if node.name == "sentiment_reward" or isinstance(
                body[-1:][0] if body else None, ast.Raise
            ):
                continue
            for statement in body:
                for part in ast.walk(statement):
                    tokens.append(type(part).__name__)
                    if isinstance(part, ast.Attribute):
                        tokens.append(part.attr)
                    elif isinstance(part, ast.Constant):
                        tokens.append(repr(part.value)[:40])
    return collections.Counter(tuple(tokens[i : i + 5]) for i in range(len(tokens) - 4))


def likeness(a, b):
    """Share of common sequences, 0 to 1, of two fingerprints."""
    return (a & b).total() / max((a | b).total(), 1)


def similar(sources):
    """{name: flags} for files alike: {name: source} against each other and the solution."""
    prints = {name: fingerprint(source) for name, source in sources.items()}
    prints = {name: own for name, own in prints.items() if own.total() >= 100}
    solution = ROOT / "rewards_solution.py"
    known = fingerprint(solution.read_bytes()) if solution.exists() else None
    flags = collections.defaultdict(list)
    for name, own in prints.items():
        peers = {other: likeness(own, prints[other]) for other in prints if other != name}
        if known and (same := likeness(own, known)) >= ALIKE:
            flags[name].append(f"{same:.0%} like the solution")
        alike = sorted((other for other in peers if peers[other] >= ALIKE), key=lambda o: -peers[o])
        flags[name] += [f"{peers[other]:.0%} like {other}" for other in alike[:2]]
        if alike[2:]:
            flags[name].append(f"and like {len(alike) - 2} more")
    return flags


def cell(value):
    """A value that no spreadsheet takes for a formula; numbers stay numbers.

    >>> cell("=HYPERLINK(1)"), cell("-5"), cell(" @x"), cell("Zoë, A.")
    ("'=HYPERLINK(1)", '-5', "' @x", 'Zoë, A.')
    """
    text = "" if value is None else str(value)
    if re.fullmatch(r"[+-]?\d+(\.\d+)?", text):
        return text
    return (
        f"'{text}"
        if text.lstrip()[:1] in ("=", "+", "-", "@") or text[:1] in "\t\r" and text
        else text
    )


def number(value):
    """Points as people write them: 10, 7.5.

    >>> number(10.0), number(7.5), number(None)
    ('10', '7.5', '')
    """
    return "" if value is None else f"{value:g}"


def write(path, text):
    """Under a temporary name, then renamed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8", newline="")
    temporary.replace(path)


def csv_text(rows):
    buffer = io.StringIO()
    csv.writer(buffer, quoting=csv.QUOTE_ALL, lineterminator="\r\n").writerows(rows)
    return buffer.getvalue()


def test_names():
    """Every case of every exercise as (function, case)."""
    return [(name, case) for name, (_, cases) in CASES.items() for case in cases]


def write_grades(path, results):
    """grades.csv: one row per hand-in, one column per test."""
    tests = [f"{name}.{case.__name__}" for name, case in test_names()]
    rows = [["student", "status", "score", "max", *tests, "flags", "seconds", "sandbox", "path"]]
    for r in results:
        passed = {f"{t['function']}.{t['case']}": int(t["passed"]) for t in r["tests"]}
        cells = [r["student"], r["status"], number(r["score"]), number(r["max"])]
        cells += [passed.get(test, "") for test in tests]
        cells += ["; ".join(r["flags"]), r["seconds"], r["sandbox"], r["path"]]
        rows.append([cell(value) for value in cells])
    write(path, csv_text(rows))


def gradescope(result, rubric, visibility="visible"):
    """The results.json of one student, as Gradescope's autograder documents it."""
    tests = []
    for i, (name, entry) in enumerate(rubric["exercises"].items(), 1):
        exercise, cases = CASES[name]
        own = {t["case"]: t for t in result["tests"] if t["function"] == name}
        earned, shares = result["points"].get(name, 0.0), len(cases)
        for j, case in enumerate(cases, 1):
            test = own.get(case.__name__, {"passed": False, "message": result["reason"]})
            passed = [c for c in cases if own.get(c.__name__, {}).get("passed")]
            part = earned / len(passed) if test["passed"] and passed else 0.0
            tests.append(
                {
                    "score": round(part, 4),
                    "max_score": round(entry["points"] / shares, 4),
                    "status": "passed" if test["passed"] else "failed",
                    "name": f"{exercise} {name}: {title(case)}",
                    "number": f"{i}.{j}",
                    "output": test["message"][:2000],
                    "output_format": "text",
                    "tags": [f"exercise {exercise}"],
                    "visibility": visibility,
                }
            )
    return {
        "score": result["score"] or 0.0,
        "execution_time": result["seconds"],
        "output": result["reason"] or summary_line(result),
        "output_format": "text",
        "visibility": visibility,
        "stdout_visibility": "hidden",
        "extra_data": {"flags": result["flags"], "sandbox": result["sandbox"]},
        "tests": tests,
    }


def title(case):
    return case.__doc__.splitlines()[0]


def summary_line(result):
    passed = sum(test["passed"] for test in result["tests"])
    return f"{number(result['score'])} of {number(result['max'])} points; {passed} tests passed."


def escape(text):
    """Text that Markdown and HTML show as it is."""
    return html.escape(re.sub(r"([\\`*_\[\]#|!])", r"\\\1", text), quote=False)


def fence(text):
    """A block of code that its content cannot close."""
    ticks = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
    return f"{ticks}text\n{text}\n{ticks}"


def feedback(result, rubric):
    """What a student gets to read: points, what was checked, the own error, a hint."""
    lines = [f"# {escape(result['student'])}", ""]
    if not result["tests"]:
        lines += [f"Not graded: {escape(result['status'])}.", "", fence(result["reason"]), ""]
        return "\n".join(lines)
    lines += [f"**{number(result['score'])} of {number(result['max'])} points**", ""]
    if result["reason"]:
        lines += [fence(result["reason"]), ""]
    lines += ["| exercise | points |", "|---|---|"]
    for name, entry in rubric["exercises"].items():
        points = f"{number(result['points'][name])} of {number(entry['points'])}"
        lines.append(f"| {CASES[name][0]} `{name}` | {points} |")
    for name, entry in rubric["exercises"].items():
        lines += ["", f"## Exercise {CASES[name][0]}: `{name}`", ""]
        own = {test["case"]: test for test in result["tests"] if test["function"] == name}
        said = set()
        for case in CASES[name][1]:
            test = own[case.__name__]
            lines.append(f"- {'passed' if test['passed'] else '**failed**'}: {title(case)}")
            if test["message"] and test["message"] not in said:
                said.add(test["message"])
                block = fence(test["message"][:1500]).replace("\n", "\n  ")
                lines += ["", f"  {block}", ""]
        core = [c for c in entry.get("core", ()) if not own[c]["passed"]]
        if core and result["points"][name]:
            share = f"{rubric['without_core']:.0%}"
            lines += ["", f"Without {', '.join(core)} at most {share} of the points count."]
    if result.get("training"):
        lines += ["", "## Training with your reward", "", escape(result["training"])]
    if result["output"].strip():
        lines += ["", "## What your file printed", "", fence(result["output"].rstrip())]
    lines += [
        "",
        "`pytest --student` shows the public tests; graded are further inputs as well.",
        "",
    ]
    return "\n".join(lines)


def file_names(students):
    """{student: a file name}: letters of the name, and a number where two would be the same."""
    names, taken = {}, collections.Counter()
    for student in students:
        stem = re.sub(r"[^\w.-]+", "_", student).strip("._")[:80] or "student"
        taken[stem.casefold()] += 1
        repeat = taken[stem.casefold()]
        names[student] = stem if repeat == 1 else f"{stem}-{repeat}"
    return names


def write_roster(path, kind, header, rows, by_row, column):
    """The course's own gradebook filled in, every other cell as it was (formulas made harmless).

    Args:
        kind: canvas, moodle or plain, of `collect.read_roster`.
        header, rows: of the roster.
        by_row: {row number: result}.
        column: title of the assignment's column in a Canvas or plain gradebook.
    """
    header, rows = list(header), [list(row) for row in rows]
    if kind == "moodle":
        columns = {"Grade": "score", "Feedback comments": "text"}
    elif kind == "canvas":
        found = [
            title for title in header if re.fullmatch(rf"{re.escape(column)}( \(\d+\))?", title)
        ]
        columns = {(found or [column])[0]: "score"}
    else:
        columns = {column: "score"}
    for title in columns:
        if title not in header:
            header.append(title)
    for i, row in enumerate(rows):
        row += [""] * (len(header) - len(row))
        result = by_row.get(i)
        if result is None:
            continue
        for title, what in columns.items():
            text = number(result["score"]) if what == "score" else result["text"]
            row[header.index(title)] = text
    write(path, csv_text([[cell(v) for v in row] for row in [header, *rows]]))


def class_view(results):
    """[(exercise, case, share that passes)] over what was graded."""
    graded = [r for r in results if r["tests"]]
    view = []
    for name, case in test_names():
        passed = sum(
            t["passed"]
            for r in graded
            for t in r["tests"]
            if (t["function"], t["case"]) == (name, case.__name__)
        )
        view.append((name, case.__name__, passed / len(graded) if graded else math.nan))
    return view


def journal_line(result):
    return json.dumps(result, ensure_ascii=False, sort_keys=True) + "\n"
