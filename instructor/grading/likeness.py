"""Flags for a person to look at: unusual imports, files that are alike. They cost no points."""

import ast
import collections

from engine.common import ROOT
from instructor.exercises import CASES

HARMLESS_IMPORTS = {
    *("math", "torch", "numpy", "re", "collections", "itertools", "functools", "statistics"),
    *("string", "typing", "operator", "sentiment", "reward_utils", "__future__"),
}
ALIKE = 0.9  # share of common five-token sequences from which two files are flagged


def unusual_imports(source):
    """Modules that a reward has no need of, for a person to look at. No protection."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    return sorted(names - HARMLESS_IMPORTS - {""})


def fingerprint(source):
    """Counts of five-token sequences of a file's functions, names of variables left out."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return collections.Counter()
    tokens = []
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef) and function.name in CASES:
            for statement in own_statements(function):
                tokens += tokens_of(statement)
    return collections.Counter(tuple(tokens[i : i + 5]) for i in range(len(tokens) - 4))


def own_statements(function):
    """The statements of an exercise that the student wrote; none of the given one or a TODO."""
    statements = function.body
    if ast.get_docstring(function) is not None:
        statements = statements[1:]
    to_do = bool(statements) and isinstance(statements[-1], ast.Raise)
    return [] if function.name == "sentiment_reward" or to_do else statements


def tokens_of(statement):
    """The kinds of nodes in a statement, with names of attributes and values of constants."""
    for node in ast.walk(statement):
        yield type(node).__name__
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Constant):
            yield short(node.value)


def short(value):
    """A constant in a few characters; of a number with thousands of digits, its size."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"int of {value.bit_length()} bits"
    return repr(value[:40] if isinstance(value, (str, bytes)) else value)[:40]


def likeness(one, other):
    """Share of common sequences, 0 to 1, of two fingerprints."""
    return (one & other).total() / max((one | other).total(), 1)


def similar(sources):
    """{name: flags} for files alike: {name: source} against each other and the solution."""
    prints = {name: fingerprint(source) for name, source in sources.items()}
    prints = {name: own for name, own in prints.items() if own.total() >= 100}
    solution = ROOT / "rewards_solution.py"
    known = fingerprint(solution.read_bytes()) if solution.exists() else None
    flags = collections.defaultdict(list)
    for name, own in prints.items():
        peers = {other: likeness(own, prints[other]) for other in prints if other != name}
        if known and (same := likeness(own, known)) >= ALIKE:
            flags[name].append(f"{same:.0%} like the solution")
        alike = [other for other in peers if peers[other] >= ALIKE]
        alike.sort(key=lambda other: -peers[other])
        flags[name] += [f"{peers[other]:.0%} like {other}" for other in alike[:2]]
        if alike[2:]:
            flags[name].append(f"and like {len(alike) - 2} more")
    return flags
