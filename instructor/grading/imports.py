"""What a submission imports. Runs in its own process: Python's parser may take a minute and much
memory for a quarter of a megabyte. Imports nothing of the grader: a copy lies beside worker.py.
"""

import ast

HARMLESS = {
    *("math", "torch", "numpy", "re", "collections", "itertools", "functools", "statistics"),
    *("string", "typing", "operator", "sentiment", "reward_utils", "__future__"),
    "engine",  # the last lines of the handed-out file
}
SHOWN = 20  # modules


def unusual_imports(source):
    """Modules that a reward has no need of, for a person to look at. No protection."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError, LookupError):
        return []
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    return [name[:60] for name in sorted(names - HARMLESS - {""})[:SHOWN]]
