import doctest

import pytest

from engine.measuring import judge, metrics, optimum, samples
from engine.pages import run_page, token_view


@pytest.mark.parametrize("module", [judge, metrics, optimum, samples, run_page, token_view])
def test_doctests(module):
    result = doctest.testmod(module)
    assert result.attempted > 0 and result.failed == 0
