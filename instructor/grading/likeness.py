"""Flags for a person to look at: unusual imports, files that are alike. They cost no points."""

import ast
import collections
import itertools
import math

from engine.common import ROOT
from instructor.exercises import CASES

HARMLESS_IMPORTS = {
    *("math", "torch", "numpy", "re", "collections", "itertools", "functools", "statistics"),
    *("string", "typing", "operator", "sentiment", "reward_utils", "__future__"),
    "engine",  # the last lines of the handed-out file
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


def pairs_alike(prints):
    """{(name, other): likeness} of all pairs that are at least ALIKE.

    Two sets of n and at least n things that share 90 % of all share one of the rarest n/10 + 1
    things of either. So only files that share a rare sequence are compared, not all with all.
    """
    names_of = collections.defaultdict(list)  # equal files are looked at once
    for name, counts in prints.items():
        things = frozenset((what, i) for what, n in counts.items() for i in range(n))
        names_of[things].append(name)
    frequency = collections.Counter(thing for things in names_of for thing in things)
    by_thing, found = collections.defaultdict(list), {}
    for things in names_of:
        rarest = sorted(things, key=lambda thing: (frequency[thing], thing))
        rarest = rarest[: len(things) - math.ceil(ALIKE * len(things)) + 1]
        for other in {id(x): x for thing in rarest for x in by_thing[thing]}.values():
            common = len(things & other)
            if (same := common / (len(things) + len(other) - common)) >= ALIKE:
                for a, b in itertools.product(names_of[things], names_of[other]):
                    found[a, b] = found[b, a] = same
        for thing in rarest:
            by_thing[thing].append(things)
        for a, b in itertools.permutations(names_of[things], 2):
            found[a, b] = 1.0
    return found


def similar(sources):
    """{name: flags} for files alike: {name: source} against each other and the solution."""
    prints = {name: fingerprint(source) for name, source in sources.items()}
    prints = {name: own for name, own in prints.items() if own.total() >= 100}
    solution = ROOT / "rewards_solution.py"
    known = fingerprint(solution.read_bytes()) if solution.exists() else None
    peers = collections.defaultdict(list)
    for (name, other), same in pairs_alike(prints).items():
        peers[name].append((-same, other))
    flags = collections.defaultdict(list)
    for name, own in prints.items():
        if known and (same := likeness(own, known)) >= ALIKE:
            flags[name].append(f"{same:.0%} like the solution")
        alike = sorted(peers[name])
        flags[name] += [f"{-same:.0%} like {other}" for same, other in alike[:2]]
        if alike[2:]:
            flags[name].append(f"and like {len(alike) - 2} more")
    return flags
