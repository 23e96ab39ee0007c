"""Make the copy that students get: no solutions, no answer key, no tools of the instructor.

    python instructor/release.py OUT_DIR
    python instructor/release.py OUT_DIR --repo https://github.com/OWNER/NAME

writes the folder OUT_DIR and OUT_DIR.zip beside it, after three checks: no line of a solution
stands in a released file, every file that a page names is there, and in the copy `pytest --student`
can import every test, and fails at every exercise and nowhere else. Never overwrites anything. The
exit status is 0 only if all checks hold. With the address that the copy will have, its notebook
also runs alone, as on Colab: it fetches the rest.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from instructor.handout.student_copy import main  # noqa: E402

if __name__ == "__main__":
    main()
