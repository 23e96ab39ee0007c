"""Grade the rewards.py files of a whole course, each in a sandbox, with one command.

    python instructor/grade.py SUBMISSIONS --out DIR
    python instructor/grade.py SUBMISSIONS --out DIR --roster gradebook.csv
    python instructor/grade.py SUBMISSIONS --out DIR --resume

SUBMISSIONS is a folder or a zip, as the platform exports it. DIR gets grades.csv, feedback/,
results/ for Gradescope, the filled-in roster, and the journal results.jsonl, from which --resume
goes on. instructor/README.md explains every option.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from instructor.grading.command import main  # noqa: E402

if __name__ == "__main__":
    main()
