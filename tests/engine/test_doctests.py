import doctest
import importlib

import pytest

from engine.common import ROOT


def with_examples(*folders):
    """Modules below folders of the project that have examples in docstrings, by their paths."""
    paths = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    found = [path for path in paths if ">>> " in path.read_text(encoding="utf-8")]
    return [path.relative_to(ROOT).as_posix() for path in found]


@pytest.mark.parametrize("path", with_examples("engine", "benchmarks", "tiny"))
def test_examples_in_docstrings(path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")  # its programs import each other by name
    name = path.removeprefix("benchmarks/").removesuffix(".py").replace("/", ".")
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0 and result.failed == 0
