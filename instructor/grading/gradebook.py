"""grades.csv, and how every CSV file that goes back to a course is written.

Everything that came from a submission or a roster is a stranger's text: control characters are gone
before it gets here (`text.clean`), and a cell that a spreadsheet would take for a formula starts
with an apostrophe.
"""

import codecs
import csv
import io
import re
import unicodedata
from pathlib import Path
from typing import NamedTuple

from engine.common import write_whole
from instructor.grading.points import every_case
from instructor.grading.submission import GraderError


def cell(value):
    """A value that no spreadsheet takes for a formula; numbers stay numbers.

    >>> cell("=HYPERLINK(1)"), cell("-5"), cell(" @x"), cell("Zoë, A."), cell("-")
    ("'=HYPERLINK(1)", '-5', "' @x", 'Zoë, A.', '-')
    """
    text = "" if value is None else str(value)
    if re.fullmatch(r"[+-]?\d+([.,]\d+)?|-", text):  # "-" is Moodle's cell without a grade
        return text
    first = unicodedata.normalize("NFKC", text).lstrip()[:1]  # of full width as well
    formula = first in ("=", "+", "-", "\N{MINUS SIGN}", "@") or text[:1] in ("\t", "\r")
    return f"'{text}" if text and formula else text


def number(value):
    """Points as people write them: 10, 7.5.

    >>> number(10.0), number(7.5), number(None)
    ('10', '7.5', '')
    """
    return "" if value is None else f"{value:g}"


def csv_text(rows, delimiter=","):
    """Lists of cells as the text of a CSV file."""
    buffer = io.StringIO()
    settings = {"quoting": csv.QUOTE_ALL, "lineterminator": "\r\n", "delimiter": delimiter}
    csv.writer(buffer, **settings).writerows(rows)
    return buffer.getvalue()


def write_csv(path, rows, delimiter=",", encoding="utf-8"):
    """Write lists of values as a CSV file, each value made harmless by `cell`."""
    text = csv_text([[cell(value) for value in row] for row in rows], delimiter)
    write_whole(path, text.encode(encoding))


class Table(NamedTuple):
    """A CSV file as a spreadsheet or a platform has saved it."""

    header: list[str]
    rows: list[list[str]]
    delimiter: str
    encoding: str

    def records(self):
        """Each row as {title: cell}; a short row has empty cells."""
        blank = dict.fromkeys(self.header, "")
        return [blank | dict(zip(self.header, row)) for row in self.rows]


def read_csv(path, what):
    """The `Table` in a CSV file. Excel writes semicolons in many countries, Blackboard tabs and
    UTF-16.

    Args:
        path: the file.
        what: what it is, for the message.

    Raises:
        GraderError: it cannot be read, or is empty.
    """
    try:
        data = Path(path).read_bytes()
        wide = data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        marked = data.startswith(codecs.BOM_UTF8)  # as Excel writes it, to know it again
        encoding = "utf-16" if wide else "utf-8-sig" if marked else "utf-8"
        text = data.decode(encoding)

        def read(mark):
            return csv.reader(io.StringIO(text, newline=""), delimiter=mark)

        def fits(mark):
            """How many titles there are, none of which a mark has cut within its quotes."""
            titles = next(read(mark), [])
            return not any('"' in title for title in titles), len(titles)

        mark = max(",;\t", key=fits)
        rows = [row for row in read(mark) if row]
    except UnicodeDecodeError as error:
        raise GraderError(f"{what} '{path}' is not UTF-8: save it as 'CSV UTF-8'.") from error
    except (OSError, csv.Error) as error:
        raise GraderError(f"{what} '{path}' cannot be read: {error}") from error
    if not rows:
        raise GraderError(f"{what} '{path}' is empty.")
    return Table(rows[0], rows[1:], mark, encoding)


def write_grades(path, results):
    """grades.csv: one row per hand-in, one column per case."""
    tests = [f"{name}.{case.__name__}" for name, case in every_case()]
    written = next((result["written"] for result in results if result.get("written")), {})
    header = ["student", "status", "score", "max", *tests, *(f"answer {name}" for name in written)]
    header += ["corrections", "flags", "seconds", "sandbox", "path"]
    rows = [header]
    for result in results:
        passed = {f"{test['function']}.{test['case']}": test["passed"] for test in result["tests"]}
        row = [result["student"], result["status"]]
        row += [number(result["score"]), number(result["max"])]
        row += [int(passed[test]) if test in passed else "" for test in tests]
        row += [number(result.get("written", {}).get(name)) for name in written]
        row += ["; ".join(result.get("corrections", [])), "; ".join(result["flags"])]
        row += [result["seconds"], result["sandbox"], result["path"]]
        rows.append(row)
    write_csv(path, rows)
