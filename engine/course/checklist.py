"""`python rewards.py`: which exercises of a file are done; and hints."""

import ast
import re
import textwrap
from collections.abc import Iterable, Set
from pathlib import Path

from engine.common import sha256
from engine.course.hints import HINTS, LEVELS
from engine.course.importing import syntax_tree
from engine.options import OneLineParser

TO_DO = re.compile(r"(Exercise \w+|Bonus): implement")  # what the handed-out file raises


def functions(path: str | Path) -> list[ast.FunctionDef]:
    """The functions of a file, as syntax trees."""
    return [node for node in syntax_tree(path).body if isinstance(node, ast.FunctionDef)]


def exercises(path: str | Path) -> dict[str, str]:
    """The exercises of a rewards file in order: {function name: label} such as "Exercise 3b"."""
    labels = {
        node.name: re.match(r"[^:,]+", ast.get_docstring(node) or "") for node in functions(path)
    }
    return {name: match.group() for name, match in labels.items() if match}


def to_do(path: str | Path) -> dict[str, str]:
    """The exercises of a rewards file that still raise NotImplementedError: {name: label}."""
    labels = exercises(path)
    return {
        node.name: labels[node.name]
        for node in functions(path)
        if node.name in labels and any(map(raises_to_do, ast.walk(node)))
    }


def raises_to_do(node: ast.AST) -> bool:
    """Whether a node of a syntax tree is the TODO that the handed-out file holds:
    raise NotImplementedError("Exercise 3b: implement …")."""
    if not (isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args):
        return False
    text = node.exc.args[0]
    return (
        getattr(node.exc.func, "id", "") == "NotImplementedError"
        and isinstance(text, ast.Constant)
        and TO_DO.match(str(text.value)) is not None
    )


def code_sum(path: str | Path, called: Iterable[str]) -> str:
    """The SHA-256 of what a run uses of a rewards file: its code without comments, docstrings and
    the functions that neither the run calls nor what it calls.

    Args:
        called: names of the functions that the run calls.
    """
    tree = syntax_tree(path)
    left = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)} - set(called)
    while used := left & {n.id for n in ast.walk(without(tree, left)) if isinstance(n, ast.Name)}:
        left -= used
    tree = without(tree, left)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return sha256(ast.unparse(tree).encode())


def without(tree: ast.Module, names: Set[str]) -> ast.Module:
    """A module without some of its functions."""
    kept = [node for node in tree.body if getattr(node, "name", None) not in names]
    return ast.Module(kept, type_ignores=[])


def print_checklist(path: str | Path) -> None:
    """Say which exercises of a rewards file are done."""
    left = to_do(path)
    lines = {node.name: node.lineno for node in functions(path)}
    for name, label in exercises(path).items():
        state = "to do" if name in left else "done"
        print(f"{state:5}  {label:12}  {name} (line {lines[name]})")
    print("\nWhether what is done is right: python -m pytest --student")
    print(f"Hints, three for each exercise: python {Path(path).name} --hint 3b")


def print_hint(exercise: str, level: int, program: str) -> None:
    """One hint in lines of 80 characters, and how to ask for the next."""
    title = "Bonus" if exercise == "bonus" else f"Exercise {exercise}"
    print(f"{title}, hint {level} of {len(LEVELS)}: {LEVELS[level - 1]}\n")
    print(textwrap.fill(HINTS[exercise][level - 1], 80, break_on_hyphens=False))
    if level < len(LEVELS):
        print(f"\nThe next one: python {program} --hint {exercise} {level + 1}")


def main(path: str | Path, argv: list[str] | None = None) -> None:
    """The checklist, or with `--hint 3b` a hint."""
    path = Path(path)
    parser = OneLineParser(
        prog=path.name, description="Say which exercises of this file are done, or give a hint."
    )
    parser.add_argument(
        "--hint", choices=HINTS, metavar="EXERCISE", help=f"one of {', '.join(HINTS)}"
    )
    parser.add_argument(
        "level",
        nargs="?",
        type=int,
        choices=range(1, len(LEVELS) + 1),
        help="of the hint: " + ", ".join(f"{i} {name}" for i, name in enumerate(LEVELS, 1)),
    )
    args = parser.parse_args(argv)
    if args.hint:
        print_hint(args.hint, args.level or 1, path.name)
    elif args.level:
        parser.error(f"hint {args.level} of which exercise? Give --hint EXERCISE {args.level}")
    else:
        print_checklist(path)
