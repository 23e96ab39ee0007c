"""What the terminal shows of a class, and imports that are worth a look."""

import re

import pytest
from grading_help import result_of
from rich.console import Console

from cases import CASES
from engine.common import ROOT
from instructor.grading.class_view import histogram, shares, show, what_was_written
from instructor.grading.command import RUBRIC
from instructor.grading.imports import unusual_imports
from instructor.grading.points import read_rubric
from instructor.proof.attacks import SOLUTION, TEMPLATE


def graded(student, score, failed=(), **more):
    tests = [
        {"function": name, "case": case.__name__, "passed": case.__name__ not in failed}
        for name, (_, cases) in CASES.items()
        for case in cases
    ]
    return {**result_of(student, float(score)), **more, "tests": tests}


def shown(results):
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    show(results, read_rubric(RUBRIC), console)
    return console.export_text()


def test_two_hundred_students_fit_on_a_screen():
    results = [graded(f"student {i}", 100 if i < 150 else 50) for i in range(200)]
    results[7]["flags"] = ["late"]
    results[8]["flags"] = ["f gives other answers to the same question"]
    results[9] |= {"status": "rejected", "reason": "a symbolic link", "score": None, "tests": []}
    text = shown(results)
    assert len(text.splitlines()) < 45 and all(len(line) <= 80 for line in text.splitlines())
    assert "199 graded: mean 87.4, median 100.0 of 100 points" in text  # 149 · 100 + 50 · 50
    assert "2 rows need a look" in text
    assert "1 more have a flag in grades.csv that may wait." in text  # it was late
    assert "student 8 " in text and "student 9 " in text and "student 7 " not in text


def test_one_row_is_one_row():
    results = [graded("Ann", 50, flags=["f gives other answers"]), graded("Bob", 100)]
    assert "\n1 row needs a look\n" in shown(results)


def test_what_lies_in_the_folder_is_named_and_what_is_left_to_do(tmp_path):
    for name in ("feedback", "results", "grades.csv"):
        (tmp_path / name).touch()
    assert (
        what_was_written(tmp_path, None) == f"Wrote grades.csv, feedback and results to {tmp_path}"
    )
    for name in ("roster.csv", "answers.html", "answers.csv"):
        (tmp_path / name).touch()
    names = "grades.csv, roster.csv, feedback, results, answers.html and answers.csv"
    wrote, to_do = what_was_written(tmp_path, None).splitlines()
    assert wrote == f"Wrote {names} to {tmp_path}"
    assert to_do.endswith(f"add --resume --written {tmp_path / 'answers.csv'}.")
    assert what_was_written(tmp_path, "points.csv") == wrote


def test_many_rows_are_cut_and_the_worst_stand_first():
    results = [graded(f"s{i}", 50, flags=["f gives other answers"]) for i in range(60)]
    results += [graded(f"os{i}", 50, flags=["imports os", "late"]) for i in range(100)]
    results.append(graded("last", 0, status="rejected", reason="a symbolic link"))
    results.append(graded("nobody", 50, flags=["nobody is not in the roster"]))
    results.append(graded("open", 0, status="unclear", reason="Which?"))
    text = shown(results)
    assert "63 rows need a look" in text and "and 51 more: see flags in grades.csv" in text
    assert "100 more have a flag in grades.csv that may wait." in text
    lines = text.partition("look at")[2].splitlines()[1:5]
    assert [line.split()[0] for line in lines] == ["open", "last", "nobody", "s0"]


def test_the_hardest_cases_stand_first_and_only_what_counts():
    hard = "refunds_what_it_charges"
    results = [graded(f"s{i}", 90, (hard, "equals_the_score")) for i in range(3)]
    results.append(graded("s3", 100))
    text = shown(results)
    hardest = text.partition("hardest cases")[2].splitlines()[1:6]
    assert [line.split()[0] for line in hardest] == ["25%", "25%", "100%", "100%", "100%"]
    assert "sentiment_reward" not in text and "my_custom_reward" not in text
    found = {
        (name, case.__name__): share for name, case, share in shares(results, read_rubric(RUBRIC))
    }
    assert found["kl_penalty_forward", hard] == 0.25
    assert found["compute_ref_log_probs", "sums_the_completion"] == 1.0


def test_a_histogram_by_hand():
    assert [count for *_, count in histogram([0, 9.9, 10, 55, 99, 100], 100)] == [
        *(2, 1, 0, 0, 0),
        *(1, 0, 0, 0, 2),
    ]


@pytest.mark.parametrize("results", [[], [result_of("a", None, status="no submission")]])
def test_an_empty_class(results):
    assert "No row needs a look" in shown(results)


ODD_SOURCES = {
    "digits": f"def shaped_reward(scores):\n    return [0x{'f' * 5000}]\n",
    "signs": f"x = {'-' * 50_000}1\n",
    "dots": f"x = {'a.' * 50_000}b\n",
    "brackets": f"x = {'(' * 50_000}1\n",
    "nul": "x = 1\0\n",
}


def test_what_is_handed_out_has_no_unusual_imports():
    assert unusual_imports(SOLUTION) == unusual_imports(TEMPLATE) == []
    assert unusual_imports(SOLUTION + "\nimport ctypes\n") == ["ctypes"]


def test_the_grader_itself_parses_no_submission():
    """An f-string of 250 KB took it a minute; nobody else was graded meanwhile."""
    for path in (ROOT / "instructor" / "grading").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert (
            path.name == "imports.py"
            or "import ast" not in text
            and "compile(" not in re.sub(r"re\.compile\(", "", text)
        )


@pytest.mark.parametrize("name", ODD_SOURCES)
def test_a_file_that_cannot_be_parsed_has_no_imports(name):
    assert unusual_imports(ODD_SOURCES[name]) == []
