import doctest

import pytest

from engine.course import variants
from engine.measuring import judge, metrics, optimum, samples, tables
from engine.pages import run_page, token_view
from engine.training import credit

MODULES = [credit, judge, metrics, optimum, run_page, samples, tables, token_view, variants]


@pytest.mark.parametrize("module", MODULES)
def test_doctests(module):
    result = doctest.testmod(module)
    assert result.attempted > 0 and result.failed == 0
