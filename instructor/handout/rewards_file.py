"""Write `rewards.py`, the student's file, from `rewards_solution.py`.

    python -m instructor.handout.rewards_file

Each body between `# BEGIN SOLUTION 3b` and `# END SOLUTION` becomes a TODO that raises
NotImplementedError("Exercise 3b: …"). Everything else is copied as it is, so that the two files
cannot drift apart; a test compares them.
"""

import re

from engine.common import ROOT, write_whole
from engine.options import OneLineParser

BODY = re.compile(r"( *)# BEGIN SOLUTION (\w+)\n.*?# END SOLUTION\n", re.DOTALL)
FUNCTION = re.compile(r"^def (\w+)", re.MULTILINE)


def student_text(solution):
    """The student's version of the solution's source text."""

    def todo(match):
        indent, exercise = match.groups()
        function = FUNCTION.findall(solution[: match.start()])[-1]
        label = "Bonus" if exercise == "bonus" else f"Exercise {exercise}"
        return (
            f"{indent}# TODO: your code here\n"
            f'{indent}raise NotImplementedError("{label}: implement {function}")\n'
        )

    return BODY.sub(todo, solution)


def main(argv=None):
    parser = OneLineParser(
        prog="rewards_file",
        description="Write rewards.py, the student's file, from rewards_solution.py. "
        "What stands in rewards.py is lost.",
    )
    parser.parse_args(argv)
    solution = (ROOT / "rewards_solution.py").read_text(encoding="utf-8")
    write_whole(ROOT / "rewards.py", student_text(solution))
    print(f"Wrote {ROOT / 'rewards.py'}")


if __name__ == "__main__":
    main()
