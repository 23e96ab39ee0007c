"""Write `exercise.ipynb`, the student's notebook, from `notebook.py`.

    python instructor/make_notebook.py                      # exercise.ipynb, without outputs
    python instructor/make_notebook.py --execute OUT.ipynb  # the solution, run, with its outputs

`notebook.py` is the notebook as text: `# %%` opens a cell, `# %% [markdown]` one of prose. Solution
bodies are marked as in `rewards_solution.py` and become TODOs.
"""

import argparse
import re
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from instructor.make_rewards import student_text  # noqa: E402

CELL = re.compile(r"^# %%(.*)\n", re.MULTILINE)


def notebook(solution=False):
    """The notebook without outputs: the student's, or the one with the solutions."""
    text = (ROOT / "instructor" / "notebook.py").read_text(encoding="utf-8")
    if solution:
        text = re.sub(r" *# (BEGIN|END) SOLUTION.*\n", "", text)
        text = text.replace("USE_SOLUTION = False  # your rewards.py", "USE_SOLUTION = True")
    else:
        text = student_text(text)
    _, *parts = CELL.split(text)
    cells = []
    for i, (kind, source) in enumerate(zip(parts[::2], parts[1::2])):
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
    temporary = path.with_suffix(".tmp")
    nbformat.write(book, temporary)
    temporary.replace(path)
    print(f"Wrote {path}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--execute", type=Path, metavar="OUT.ipynb")
    args = parser.parse_args()
    if args.execute:
        write(execute(notebook(solution=True)), args.execute)
    else:
        write(notebook(), ROOT / "exercise.ipynb")


if __name__ == "__main__":
    main()
