"""The cases of the exercises, tests/cases, for the tools of the instructor."""

import sys

from engine.common import ROOT

if str(ROOT / "tests") not in sys.path:
    sys.path.insert(0, str(ROOT / "tests"))

from cases import CASES, Ask, Wrong, report  # noqa: E402

__all__ = ["CASES", "Ask", "Wrong", "report", "every_case"]


def every_case():
    """Every case of every exercise as (function name, case), in order."""
    return [(name, case) for name, (_, cases) in CASES.items() for case in cases]
