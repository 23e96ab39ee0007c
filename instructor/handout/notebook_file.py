"""Write `exercise.ipynb`, the student's notebook, from `notebook.py` and `notebook_training.py`.

    python -m instructor.handout.notebook_file                      # exercise.ipynb, no outputs
    python -m instructor.handout.notebook_file --execute OUT.ipynb  # the solution, after a run

The two files, one after the other, are the notebook as text: `# %%` opens a cell, `# %% [markdown]`
one of prose, `# %% [hidden]` one whose source is folded away; `{hints 3b}` are the hints of an
exercise. No exercise is solved in it: its cells load `rewards.py`, or `rewards_solution.py` where
the solved one is made.
"""

import json
import re
from datetime import datetime
from pathlib import Path

from engine.common import ROOT, whole_file
from engine.course.hints import HINTS, LEVELS
from engine.options import OneLineParser

CELL = re.compile(r"^# %%(.*)\n", re.MULTILINE)
HEADING = re.compile(r"^## (.*?)( · .*)?$", re.MULTILINE)
HINTS_OF = re.compile(r"\{hints (\w+)\}")
TEXTS = tuple(Path(__file__).with_name(name) for name in ("notebook.py", "notebook_training.py"))
GITHUB = re.compile(r"https://github\.com/([\w.-]+/[\w.-]+?)(\.git|/)?")
TIMES = {  # seconds that the cells below a heading take; `--execute` prints them
    "Exercise 2: shaping (optional)": 1,
    "Exercise 3: staying close to the reference": 1,
    "Exercise 4: GRPO itself (core)": 1,
    "Before training": 2,
    "Training": 71,
    "Collapse (core)": 28,
    "Comparing (core)": 13,
    "Could you just have asked? (optional)": 6,
    "A closer look at KL (optional)": 1,
    "Bonus (optional)": 1,
}
HARDWARE = "two cores of an AMD EPYC with nothing else to do"
HIDDEN = {"jupyter": {"source_hidden": True}, "cellView": "form"}  # in JupyterLab; on Colab
COLAB = "https://colab.research.google.com"


def source_text():
    """The whole notebook as text."""
    return "\n".join(path.read_text(encoding="utf-8") for path in TEXTS)


def colab_link(repo):
    """Where Colab opens exercise.ipynb of a GitHub repository, branch main; None elsewhere."""
    found = GITHUB.fullmatch(repo)
    return f"{COLAB}/github/{found.group(1)}/blob/main/exercise.ipynb" if found else None


def folded_hints(exercise):
    """The hints of an exercise as Markdown, each folded away inside the one before it."""
    folded = [
        f"<details><summary>Hint {level} of {len(LEVELS)}: {title}</summary>\n\n{text}\n"
        for level, (title, text) in enumerate(zip(LEVELS, HINTS[exercise]), 1)
    ]
    return "\n".join([*folded, "</details>" * len(LEVELS)])


def duration(seconds):
    """A time as people say it."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"


def heading_with_time(match):
    """A match of HEADING with the time that its cells take, if that is worth mentioning."""
    title = match.group(1)
    return f"## {title} · {duration(TIMES[title])}" if title in TIMES else f"## {title}"


def measured_times(book):
    """{heading: seconds} of a notebook that has been executed."""
    times = {}
    title = "Start"
    for cell in book.cells:
        if cell.cell_type == "markdown":
            title = next((found[1] for found in HEADING.finditer(cell.source)), title)
        else:
            when = cell.metadata.execution
            began = datetime.fromisoformat(when["iopub.status.busy"])
            ended = datetime.fromisoformat(when["iopub.status.idle"])
            times[title] = times.get(title, 0.0) + (ended - began).total_seconds()
    return times


def prose(source):
    """The Markdown of a cell of prose."""
    text = re.sub(r"^# ?", "", source, flags=re.MULTILINE)
    text = HINTS_OF.sub(lambda match: folded_hints(match.group(1)), text)
    text = HEADING.sub(heading_with_time, text)
    return text.replace("{time}", duration(sum(TIMES.values()))).replace("{hardware}", HARDWARE)


def notebook(solution=False, repo=""):
    """The notebook without outputs: the student's, or the one that runs the solution.

    Args:
        solution: whether it is the solved one.
        repo: address that its first cell fetches the exercise from; with a badge for Colab if it is
            one of GitHub.
    """
    import nbformat

    text = source_text()
    if solution:
        text = text.replace("REWARDS = None", 'REWARDS = "rewards_solution.py"')
    if repo:
        text = text.replace('REPO = ""', f"REPO = {json.dumps(repo)}")
        if link := colab_link(repo):
            badge = f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({link})"
            text = text.replace("[markdown]\n", f"[markdown]\n# {badge}\n#\n", 1)
    _, *kinds_and_sources = CELL.split(text)
    cells = []
    for kind, source in zip(kinds_and_sources[::2], kinds_and_sources[1::2]):
        source = source.strip("\n")
        if "markdown" in kind:
            cell = nbformat.v4.new_markdown_cell(prose(source))
        else:
            cell = nbformat.v4.new_code_cell(source, metadata=HIDDEN if "hidden" in kind else {})
        cells.append({**cell, "id": f"cell-{len(cells)}"})  # stable from one build to the next
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return nbformat.from_dict(
        {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    )


def execute(book, folder=ROOT):
    """Run all cells in `folder`; the outputs are written into `book`.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    from nbclient import NotebookClient

    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(book, timeout=1800, resources=resources, coalesce_streams=True).execute()
    return book


def write(book, path):
    import nbformat

    with whole_file(path) as temporary:
        nbformat.write(book, temporary)


def main(argv=None):
    parser = OneLineParser(
        prog="notebook_file",
        description="Write exercise.ipynb, the student's notebook, without outputs.",
    )
    parser.add_argument(
        "--execute",
        type=Path,
        metavar="OUT.ipynb",
        help="instead, run the notebook with the solutions and write it with its outputs",
    )
    args = parser.parse_args(argv)
    path = args.execute or ROOT / "exercise.ipynb"
    book = notebook(solution=bool(args.execute))
    if args.execute:
        for title, seconds in measured_times(execute(book)).items():
            print(f"{seconds:6.1f} s  {title}")
    write(book, path)
    print(f"Wrote {path}")


if __name__ == "__main__":
    main()
