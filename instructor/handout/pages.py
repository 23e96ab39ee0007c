"""Pages for students: README.md and docs/ without what only instructors need."""

import json
import re
from pathlib import Path

from instructor.handout.notebook_file import colab_link

OPENING = Path(__file__).with_name("opening.md")
FOR_INSTRUCTORS = re.compile(r"^## For instructors\n.*?(?=^## |\Z)", re.DOTALL | re.MULTILINE)
NO_SOLUTION = re.compile(r"^\| `--use_solution` .*\n", re.MULTILINE)  # its file stays here
LINK = re.compile(r"\]\(([^)\s#]+)(#[^)\s]*)?\)")
NAMED_FILE = re.compile(r"(?<![\w./%-])[\w./-]+\.(?:py|md|ipynb|ya?ml|toml|txt)(?![\w/])")


def student_page(text, opening=False, repo=""):
    """A page as students get it.

    Args:
        text: the page.
        opening: put opening.md in the place of all that comes before "## The exercises",
            the results that students are to find among it.
        repo: the address of the copy; the opening then has a link to Colab, if it is of GitHub.
    """
    text = NO_SOLUTION.sub("", FOR_INSTRUCTORS.sub("", text))
    if not opening:
        return text
    _, heading, rest = text.partition("## The exercises")
    opening_text = OPENING.read_text(encoding="utf-8")
    if link := colab_link(repo):
        opening_text += f"\nWithout installing anything: [exercise.ipynb in Colab]({link}).\n"
    return f"{opening_text}\n{heading}{rest}"


def dead_references(folder, pages=None):
    """(page, what it names) for every link and file name that leads nowhere in `folder`.

    A link must lead to a file. A file name in backticks or in a command must be the end of the path
    of some file: `test_inputs.py` for tests/test_inputs.py. By default all pages are looked at.
    """
    paths = ["/" + path.relative_to(folder).as_posix() for path in folder.rglob("*")]
    paths = [path for path in paths if not path.startswith("/.venv/")]
    dead = []
    for page in pages or sorted([*folder.rglob("*.md"), *folder.rglob("*.ipynb")]):
        text = text_of(page)
        links = [target for target, _ in LINK.findall(text) if "://" not in target]
        names = [target for target in links if not (page.parent / target).exists()]
        for name in named_files(text):
            if not any(path.endswith(f"/{name.removeprefix('./')}") for path in paths):
                names.append(name)
        dead += [(page.relative_to(folder).as_posix(), name) for name in names]
    return dead


def text_of(page):
    """The text of a page, of a notebook that of its Markdown cells."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".md":
        return text
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
    return "\n\n".join("".join(cell["source"]) for cell in cells)


def named_files(text):
    """File names in the backticks and the blocks of code of a page, each once."""
    blocks = re.findall(r"^```.*?^```", text, re.DOTALL | re.MULTILINE)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"(?ms)^```.*?^```", "", text))
    return sorted({name for code in [*blocks, *spans] for name in NAMED_FILE.findall(code)})
