"""Make the zip that Gradescope runs for each submission.

    python instructor/autograder.py autograder.zip

It holds what grading one submission needs, and no solution: what is not there cannot leak. Choose a
base image whose Python is 3.11 or newer.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from instructor.grading.gradescope import main  # noqa: E402

if __name__ == "__main__":
    main()
