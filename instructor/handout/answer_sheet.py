"""The sheet for written answers, `answers.md` in the students' copy: its questions and its text.

The questions are those of the docstrings in rewards_solution.py and of the analysis in the
notebook; nothing is written twice.
"""

import ast
import re

from engine.common import ROOT
from instructor.handout.notebook_file import source_text

KEY = ROOT / "instructor" / "handout" / "answers.md"
ANALYSIS = re.compile(r"^# ## Analysis\n(.*?)^# %%", re.DOTALL | re.MULTILINE)
ITEM = re.compile(r"^(\d+)\. (.*?)(?=^\d+\. |\Z)", re.DOTALL | re.MULTILINE)


def questions():
    """{heading: question} in order: "3b" for exercise 3b, "Analysis 1" for the notebook."""
    found = {}
    for node in ast.parse((ROOT / "rewards_solution.py").read_text(encoding="utf-8")).body:
        text = ast.get_docstring(node) if isinstance(node, ast.FunctionDef) else None
        exercise = re.match(r"Exercise (\w+)", text or "")
        question = re.search(r"^Question: (.*?)(?:\n\n|\Z)", text or "", re.DOTALL | re.MULTILINE)
        if exercise and question:
            text = " ".join(question.group(1).split())
            found[exercise.group(1)] = text[0].upper() + text[1:]
    section = ANALYSIS.search(source_text()).group(1)
    section = re.sub(r"^# ?", "", section, flags=re.MULTILINE)
    return found | {f"Analysis {n}": " ".join(text.split()) for n, text in ITEM.findall(section)}


def answer_key():
    """{heading: the answer, as Markdown} of the questions, from answers.md of the instructor."""
    text = KEY.read_text(encoding="utf-8")
    sections = re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    found = {title.split(". ")[0]: body.strip() for title, body in sections}
    analysis = next(body for title, body in found.items() if "analysis" in title.lower())
    items = ITEM.findall(analysis)
    return found | {f"Analysis {n}": " ".join(body.split()) for n, body in items}


def sheet():
    """The text of the students' answers.md."""
    parts = [
        "# Answers\n",
        "Write your answers below the questions, in your own words; three sentences are enough. "
        "Keep the\nheadings: they tell which question you answer. Hand this file in beside "
        "`rewards.py`.",
    ]
    for heading, question in questions().items():
        parts.append(f"\n## {heading}\n\n> {question}\n")
    return "\n".join(parts) + "\n"
