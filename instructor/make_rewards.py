"""Write `rewards.py`, the student's file, from `rewards_solution.py`.

    python instructor/make_rewards.py

Each body between `# BEGIN SOLUTION 3b` and `# END SOLUTION` becomes a TODO that raises
NotImplementedError("Exercise 3b: …"). Everything else is copied as it is, so that the two files
cannot drift apart; a test compares them.
"""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
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


def main():
    solution = (ROOT / "rewards_solution.py").read_text(encoding="utf-8")
    target = ROOT / "rewards.py"
    temporary = target.with_suffix(".tmp")
    temporary.write_text(student_text(solution), encoding="utf-8")
    temporary.replace(target)
    print(f"Wrote {target}")


if __name__ == "__main__":
    main()
