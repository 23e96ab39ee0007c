"""The pages that students read: Markdown, and the results.json of Gradescope.

Text of a submission is escaped, so that no page shows it as Markdown or HTML.
"""

import html
import itertools
import re

from cases import CASES, is_news
from instructor.grading.gradebook import number

FOLLOWS = "This may follow from what is told above. Mend that first."


def title(case):
    return case.__doc__.splitlines()[0]


def summary_line(result):
    passed = sum(test["passed"] for test in result["tests"])
    return f"{number(result['score'])} of {number(result['max'])} points; {passed} tests passed."


def outcomes_of(result, name, core):
    """{case: its test} of one function in order, without messages that tell nothing new."""
    own = {test["case"]: test for test in result["tests"] if test["function"] == name}
    outcomes = {}
    failures = {}
    for case in (case.__name__ for case in CASES[name][1]):
        test = own.get(case, {"passed": False, "message": result["reason"]})
        message = test["message"]
        if not test["passed"]:
            test = {**test, "message": message if is_news(message, failures, core) else ""}
            failures[case] = message
        outcomes[case] = test
    return outcomes


def gradescope(result, rubric, visibility="visible"):
    """The results.json of one student, as the documentation of Gradescope's autograder has it."""
    tests = []
    for i, (name, entry) in enumerate(rubric["exercises"].items(), 1):
        exercise, cases = CASES[name]
        own = outcomes_of(result, name, entry.get("core", ()))
        passed = sum(test["passed"] for test in own.values())
        share = result["points"].get(name, 0.0) / passed if passed else 0.0
        for j, case in enumerate(cases, 1):
            test = own[case.__name__]
            follows = "" if test["passed"] else FOLLOWS
            tests.append(
                {
                    "score": round(share if test["passed"] else 0.0, 4),
                    "max_score": round(entry["points"] / len(cases), 4),
                    "status": "passed" if test["passed"] else "failed",
                    "name": f"{exercise} {name}: {title(case)}",
                    "number": f"{i}.{j}",
                    "output": test["message"][:2000] or follows,
                    "output_format": "text",
                    "tags": [f"exercise {exercise}"],
                    "visibility": visibility,
                }
            )
    corrections = result.get("corrections", [])
    tests += written_tests(result, rubric, len(rubric["exercises"]) + 1, visibility)
    return {
        "score": result["score"] or 0.0,
        "execution_time": result["seconds"],
        "output": "\n".join([result["reason"] or summary_line(result), *corrections]),
        "output_format": "text",
        "visibility": visibility,
        "stdout_visibility": "hidden",
        "extra_data": {"flags": result["flags"], "sandbox": result["sandbox"]},
        "tests": tests,
    }


def written_tests(result, rubric, number_of_section, visibility):
    """The written answers as Gradescope's tests, where they have points."""
    return [
        {
            "score": points,
            "max_score": rubric["written"][heading]["points"],
            "status": "passed" if points else "failed",
            "name": f"written answer {heading}",
            "number": f"{number_of_section}.{i}",
            "output": "",
            "output_format": "text",
            "tags": ["written"],
            "visibility": visibility,
        }
        for i, (heading, points) in enumerate(result.get("written", {}).items(), 1)
    ]


def written_lines(result, rubric):
    """The section of the written answers."""
    lines = ["", "## Written answers", "", "| question | points |", "|---|---|"]
    for heading, points in result["written"].items():
        most = rubric["written"][heading]["points"]
        lines.append(f"| {escape(heading)} | {number(points)} of {number(most)} |")
    return lines + (["", escape(result["comment"])] if result["comment"] else [])


def correction_lines(result):
    """What was given or taken besides, and why: for a late day, or by a person."""
    if not result.get("corrections"):
        return []
    points = f"That makes {number(result['score'])} of {number(result['max'])} points."
    given = [f"- {escape(text)}" for text in result["corrections"]]
    return ["", "## Corrections", "", *given, "", points, ""]


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
        lines += [*written_lines(result, rubric), ""] if result.get("written") else []
        lines += correction_lines(result)
        return "\n".join(lines)
    lines += [f"**{number(result['score'])} of {number(result['max'])} points**", ""]
    if result["reason"]:
        lines += [fence(result["reason"]), ""]
    lines += ["| exercise | points |", "|---|---|"]
    for name, entry in rubric["exercises"].items():
        points = f"{number(result['points'][name])} of {number(entry['points'])}"
        lines.append(f"| {CASES[name][0]} `{name}` | {points} |")
    if result["status"] == "import error":
        lines += ["", "Nothing else was tested: mend this first, then run `python rewards.py`."]
    else:
        for name, entry in rubric["exercises"].items():
            lines += ["", *exercise_lines(result, rubric, name, entry)]
    if result.get("written"):
        lines += written_lines(result, rubric)
    lines += correction_lines(result)
    if result.get("printed", "").strip():  # later it could print hidden inputs
        lines += ["", "## What your file printed when it was imported", ""]
        lines += [fence(result["printed"].rstrip())]
    lines += [
        "",
        "`pytest --student` shows the public tests; graded are further inputs as well.",
        "",
    ]
    return "\n".join(lines)


def exercise_lines(result, rubric, name, entry):
    """The section of one exercise: each case, passed or failed, and what is to be mended first."""
    lines = [f"## Exercise {CASES[name][0]}: `{name}`", ""]
    own = outcomes_of(result, name, entry.get("core", ()))
    for case in CASES[name][1]:
        test = own[case.__name__]
        lines.append(f"- {'passed' if test['passed'] else '**failed**'}: {title(case)}")
        if test["message"]:
            block = fence(test["message"][:1500]).replace("\n", "\n  ")
            lines += ["", f"  {block}", ""]
    failed = [test for test in own.values() if not test["passed"]]
    if any(not test["message"] for test in failed):
        lines += ["", "What failed without a word may follow from what is told. Mend that first."]
    core = [case for case in entry.get("core", ()) if not own[case]["passed"]]
    if core and result["points"][name]:
        share = f"{rubric['without_core']:.0%}"
        lines += ["", f"Without {', '.join(core)} at most {share} of the points count."]
    return lines


def file_names(students):
    """{student: a file name}: letters of the name, and a number where two would be the same, also
    on a disk that takes BOB for bob.

    >>> file_names(["BOB", "bob", "bob-2"])
    {'BOB': 'BOB', 'bob': 'bob-2', 'bob-2': 'bob-2-2'}
    """
    names = {}
    taken = set()
    for student in students:
        stem = re.sub(r"[^\w.-]+", "_", student).strip("._").encode()[:120]
        stem = stem.decode(errors="ignore") or "student"  # file systems count bytes
        numbered = (f"{stem}-{repeat}" for repeat in itertools.count(2))
        name = next(n for n in itertools.chain([stem], numbered) if n.casefold() not in taken)
        taken.add(name.casefold())
        names[student] = name
    return names
