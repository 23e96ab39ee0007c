"""Shared fixtures. The suite needs no network, no GPU and nothing outside this repository.

It hides a GPU, so that its figures are a CPU's everywhere; only `-m gpu` sees one.
"""

import ast
import gc
import os
import sys
from importlib.util import find_spec
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch

from engine import common
from engine.common import UserError
from engine.course.checklist import exercises
from engine.course.importing import syntax_tree
from engine.course.student import is_to_do, load_rewards, rewards_file
from engine.model.loading import load_model
from engine.options import PRESETS
from sentiment import load_sentiment_model

TINY = PRESETS["tiny"]
SAID = pytest.StashKey()
HAS_SOLUTION = rewards_file(use_solution=True).exists()
INSTRUCTORS = Path(__file__).parent / "instructor"


def pytest_addoption(parser):
    parser.addoption("--student", action="store_true", help="test rewards.py alone: red is to do")


def pytest_configure(config):
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # nothing has asked CUDA so far
    common.hide_warnings = lambda: None  # here they are to be seen: TRL and transformers move on
    common.quiet_libraries()
    gc.freeze()  # accelerate looks for garbage after each run, in all that is imported too
    if config.getoption("--student"):
        try:
            load_rewards(fenced=True)
        except UserError as error:  # one line, not one failure for each test
            pytest.exit(str(error), returncode=pytest.ExitCode.TESTS_FAILED)
    elif INSTRUCTORS.exists() and not (config.option.file_or_dir or find_spec("hypothesis")):
        pytest.exit(
            "The whole suite needs pip install -r requirements-dev.txt; your file alone does not: "
            "python -m pytest --student",
            returncode=pytest.ExitCode.USAGE_ERROR,
        )


def pytest_ignore_collect(collection_path, config):
    """Leave the instructor's tests out where packages for them may be missing: with --student, and
    on Windows, where what the sandbox is made of cannot even be imported."""
    left_out = config.getoption("--student") or sys.platform == "win32"
    return True if left_out and collection_path == INSTRUCTORS else None


def pytest_generate_tests(metafunc):
    if "rewards" in metafunc.fixturenames:
        alone = metafunc.config.getoption("--student") or not HAS_SOLUTION
        files = ["rewards"] if alone else ["solution", "rewards"]
        metafunc.parametrize("rewards", files, indirect=True)


def pytest_collection_modifyitems(config, items):
    for item in items:  # -m exercise3 selects 3a, 3b and 3c
        for marker in list(item.iter_markers()):
            if marker.name.startswith("exercise") and marker.name[-1] in "abc":
                item.add_marker(marker.name[:-1])
    if config.getoption("--student"):
        items[:] = [item for item in items if "rewards" in getattr(item, "fixturenames", ())]


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("for a GPU: python -m pytest tests/engine -m gpu")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """An untouched TODO by its name: red for the exercise itself where only the student's file is
    under test, otherwise skipped. In a test of the instructor's tools it is one like others."""
    todo = None
    try:
        return (yield)
    except NotImplementedError as error:
        if of_the_instructor(item) or not is_to_do(error):
            raise
        todo = str(error)
    except UserError as error:  # the same, from provided code that called the function
        if not is_to_do(error.__cause__):
            raise
        todo = str(error.__cause__)
    student = item.config.getoption("--student") or not HAS_SOLUTION
    if item.get_closest_marker("bonus"):
        pytest.skip(f"{todo} (the bonus is optional)")
    if student and "rewards" in getattr(item, "fixturenames", ()):
        tell_once(item.config, f"to do: {todo}")  # one red test for each exercise
    pytest.skip(todo)


def of_the_instructor(item):
    return INSTRUCTORS in item.path.parents


def tell_once(config, text):
    """Fail with a text the first time; afterwards skip."""
    said = config.stash.setdefault(SAID, set())
    if text not in said:
        said.add(text)
        pytest.fail(text, pytrace=False)
    pytest.skip(text)


@pytest.fixture
def solution():
    """The solution; without it, as in a student's copy, the student's file."""
    return load_rewards(rewards_file(HAS_SOLUTION))


@pytest.fixture
def rewards(request, classifier):
    """The functions under test: those of the solution, and those of the student."""
    try:
        return load_rewards(rewards_file(request.param == "solution"), fenced=True)
    except UserError as error:
        tell_once(request.config, str(error))


@pytest.fixture
def unsolved(request, tmp_path):
    """A rewards.py as on the first day, whatever the student has done since."""
    source = rewards_file()
    try:
        tree = syntax_tree(source)
    except SyntaxError as error:
        tell_once(request.config, f"rewards.py, line {error.lineno}: {error.msg}")
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name != "sentiment_reward":
            label = exercises(source)[node.name]
            todo = f'raise NotImplementedError("{label}: implement {node.name}")'
            node.body = [node.body[0], *ast.parse(todo).body]
    folder = tmp_path / "unsolved"
    folder.mkdir()
    (folder / "rewards.py").write_text(ast.unparse(tree), encoding="utf-8")
    return folder / "rewards.py"


@pytest.fixture(scope="session")
def classifier():
    return load_sentiment_model(TINY["sentiment_model"], "cpu")


@pytest.fixture(scope="session")
def policy():
    """The bundled GPT-2 and its tokenizer; never train it."""
    return load_model(TINY["model_name"], "cpu")


@pytest.fixture
def small_gpt2():
    """A random GPT-2 of two layers with a vocabulary of eleven tokens; 0 ends a text."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=11,
        n_positions=32,
        n_embd=16,
        n_layer=2,
        n_head=2,
        initializer_range=0.5,
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPT2LMHeadModel(config).eval()


@pytest.fixture
def small_bloom():
    """The same for BLOOM, which takes no positions."""
    from transformers import BloomConfig, BloomForCausalLM

    torch.manual_seed(0)
    config = BloomConfig(
        vocab_size=11,
        hidden_size=16,
        n_layer=2,
        n_head=2,
        initializer_range=0.5,
        bos_token_id=0,
        eos_token_id=0,
    )
    return BloomForCausalLM(config).eval()


class TokenIds:
    """All that `generate` asks of a tokenizer."""

    pad_token_id = eos_token_id = 0


@pytest.fixture
def token_ids():
    return TokenIds()
