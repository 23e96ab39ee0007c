"""Write `exercise.ipynb`, the student's notebook, from `notebook.py`.

    python -m instructor.handout.notebook_file                      # exercise.ipynb, no outputs
    python -m instructor.handout.notebook_file --execute OUT.ipynb  # the solution, after a run

`notebook.py` is the notebook as text: `# %%` opens a cell, `# %% [markdown]` one of prose. Solution
bodies are marked as in `rewards_solution.py` and become TODOs.
"""

import re
from pathlib import Path

from engine.common import ROOT, whole_file
from engine.options import OneLineParser
from instructor.handout.rewards_file import student_text

CELL = re.compile(r"^# %%(.*)\n", re.MULTILINE)
TEXT = Path(__file__).with_name("notebook.py")


def notebook(solution=False):
    """The notebook without outputs: the student's, or the one with the solutions."""
    import nbformat

    text = TEXT.read_text(encoding="utf-8")
    if solution:
        text = re.sub(r" *# (BEGIN|END) SOLUTION.*\n", "", text)
        text = text.replace("USE_SOLUTION = False  # your rewards.py", "USE_SOLUTION = True")
    else:
        text = student_text(text)
    _, *kinds_and_sources = CELL.split(text)
    cells = []
    for i, (kind, source) in enumerate(zip(kinds_and_sources[::2], kinds_and_sources[1::2])):
        source = source.strip("\n")
        if "markdown" in kind:
            source = re.sub(r"^# ?", "", source, flags=re.MULTILINE)
            cell = nbformat.v4.new_markdown_cell(source)
        else:
            cell = nbformat.v4.new_code_cell(source)
        cells.append({**cell, "id": f"cell-{i}"})  # stable from one build to the next
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

    where = {"metadata": {"path": str(folder)}}
    NotebookClient(book, timeout=1800, resources=where, coalesce_streams=True).execute()
    return book


def write(book, path):
    import nbformat

    with whole_file(path) as temporary:
        nbformat.write(book, temporary)
    print(f"Wrote {path}")


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
    if args.execute:
        write(execute(notebook(solution=True)), args.execute)
    else:
        write(notebook(), ROOT / "exercise.ipynb")


if __name__ == "__main__":
    main()
