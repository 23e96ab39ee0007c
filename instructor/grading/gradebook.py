"""grades.csv, and how every CSV file that goes back to a course is written.

Everything that came from a submission or a roster is a stranger's text: control characters are gone
before it gets here (`text.clean`), and a cell that a spreadsheet would take for a formula starts
with an apostrophe.
"""

import csv
import io
import re

from engine.common import write_whole
from instructor.grading.points import every_case


def cell(value):
    """A value that no spreadsheet takes for a formula; numbers stay numbers.

    >>> cell("=HYPERLINK(1)"), cell("-5"), cell(" @x"), cell("Zoë, A.")
    ("'=HYPERLINK(1)", '-5', "' @x", 'Zoë, A.')
    """
    text = "" if value is None else str(value)
    if re.fullmatch(r"[+-]?\d+(\.\d+)?", text):
        return text
    formula = text.lstrip()[:1] in ("=", "+", "-", "@") or text[:1] in ("\t", "\r")
    return f"'{text}" if text and formula else text


def number(value):
    """Points as people write them: 10, 7.5.

    >>> number(10.0), number(7.5), number(None)
    ('10', '7.5', '')
    """
    return "" if value is None else f"{value:g}"


def csv_text(rows):
    """Lists of cells as the text of a CSV file."""
    buffer = io.StringIO()
    csv.writer(buffer, quoting=csv.QUOTE_ALL, lineterminator="\r\n").writerows(rows)
    return buffer.getvalue()


def write_csv(path, rows):
    """Write lists of values as a CSV file, each value made harmless by `cell`."""
    write_whole(path, csv_text([[cell(value) for value in row] for row in rows]))


def write_grades(path, results):
    """grades.csv: one row per hand-in, one column per case."""
    tests = [f"{name}.{case.__name__}" for name, case in every_case()]
    written = next((result["written"] for result in results if result.get("written")), {})
    header = ["student", "status", "score", "max", *tests, *(f"answer {name}" for name in written)]
    header += ["flags", "seconds", "sandbox", "path"]
    rows = [header]
    for result in results:
        passed = {f"{test['function']}.{test['case']}": test["passed"] for test in result["tests"]}
        row = [result["student"], result["status"]]
        row += [number(result["score"]), number(result["max"])]
        row += [int(passed[test]) if test in passed else "" for test in tests]
        row += [number(result.get("written", {}).get(name)) for name in written]
        row += ["; ".join(result["flags"]), result["seconds"], result["sandbox"], result["path"]]
        rows.append(row)
    write_csv(path, rows)
