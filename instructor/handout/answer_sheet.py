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
    asked = {}
    for node in ast.parse((ROOT / "rewards_solution.py").read_text(encoding="utf-8")).body:
        text = ast.get_docstring(node) if isinstance(node, ast.FunctionDef) else None
        exercise = re.match(r"Exercise (\w+)", text or "")
        question = re.search(r"^Question: (.*?)(?:\n\n|\Z)", text or "", re.DOTALL | re.MULTILINE)
        if exercise and question:
            line = " ".join(question.group(1).split())
            asked[exercise.group(1)] = line[0].upper() + line[1:]
    section = ANALYSIS.search(source_text()).group(1)
    return asked | analysis_items(re.sub(r"^# ?", "", section, flags=re.MULTILINE))


def answer_key():
    """{heading: the answer, as Markdown} of the questions, from answers.md of the instructor."""
    text = KEY.read_text(encoding="utf-8")
    sections = re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    answers = {title.split(". ")[0]: body.strip() for title, body in sections}
    analysis = next(body for title, body in answers.items() if "analysis" in title.lower())
    return answers | analysis_items(analysis)


def analysis_items(text):
    """{"Analysis 1": text} of a numbered list."""
    return {f"Analysis {number}": " ".join(item.split()) for number, item in ITEM.findall(text)}


def sheet():
    """The text of the students' answers.md."""
    opening = (
        "# Answers\n\n"
        "Write your answers below the questions, in your own words; three sentences are enough. "
        "Keep the\nheadings: they tell which question you answer. Hand this file in beside "
        "`rewards.py`."
    )
    blocks = [f"\n## {heading}\n\n> {question}\n" for heading, question in questions().items()]
    return "\n".join([opening, *blocks]) + "\n"
