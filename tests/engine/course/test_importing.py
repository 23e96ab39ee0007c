"""Student files as editors and students make them: what works under `import` works here, and the
process is afterwards as it was."""

import os
import random
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from engine.common import ROOT, UserError
from engine.course.checklist import exercises
from engine.course.importing import SETTINGS, syntax_tree
from engine.course.student import call_student, load_rewards, student_code

TEXTS = [" good", " bad"]
PLAIN = 'def f(completions, **kwargs):\n    """Exercise 9, an example."""\n    return [NAME] * 2\n'
FILES = {
    "a byte-order mark": b"\xef\xbb\xbfNAME = '\xc3\xbc'\n" + PLAIN.encode(),
    "a declared encoding": b"# -*- coding: latin-1 -*-\nNAME = '\xfc'\n" + PLAIN.encode(),
    "line ends of Windows": f"NAME = 'ü'\n{PLAIN}".replace("\n", "\r\n").encode(),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_read_as_python_reads_it(tmp_path, name):
    file = tmp_path / "mine.py"
    file.write_bytes(FILES[name])
    assert call_student(load_rewards(file).f, TEXTS) == ["ü", "ü"]
    assert exercises(file) == {"f": "Exercise 9"}
    assert len(syntax_tree(file).body) == 2


def write(folder, source, name="mine.py"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(source, encoding="utf-8")
    return folder / name


def test_a_dataclass_with_postponed_annotations(tmp_path):
    source = (
        "from __future__ import annotations\nfrom dataclasses import KW_ONLY, dataclass\n"
        "@dataclass\nclass W:\n    _: KW_ONLY\n    a: float = 0.25\n"
        "def f(completions):\n    return [W(a=0.5).a] * len(completions)\n"
    )
    assert call_student(load_rewards(write(tmp_path, source)).f, TEXTS) == [0.5, 0.5]


@pytest.mark.parametrize(
    "method, name", [("fork", "mine"), ("spawn", "mine"), ("spawn", "data"), ("spawn", "rewards")]
)
def test_a_pool_of_processes(tmp_path, method, name):
    """Whose processes find the file, also where another module has its name."""
    if method == "fork" and sys.platform != "linux":
        pytest.skip("Linux's own")
    source = f"""
import multiprocessing
def score(text): return float(len(text))
def f(completions):
    with multiprocessing.get_context("{method}").Pool(1) as pool:
        return pool.map(score, completions)
"""
    file = write(tmp_path / "für alle", source, f"{name}.py")
    # In a program whose own file another process can import, which pytest's is not.
    program = write(
        tmp_path,
        "import sys\nfrom engine.course.student import call_student, load_rewards\n"
        "if __name__ == '__main__':\n"
        f"    print(call_student(load_rewards({str(file)!r}).f, {TEXTS}))\n",
        "program.py",
    )
    command = [sys.executable, str(program)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[5.0, 4.0]\n", done.stderr


def test_a_helper_beside_the_file(tmp_path):
    """At the import and in a call; another file's helper of the same name is another."""
    source = "from help_me import A\ndef f(completions):\n    import help_me_too\n"
    source += "    return [A, help_me_too.B]\n"
    before = sys.path[:]
    for name in ("one", "two"):
        file = write(tmp_path / name, source)
        write(tmp_path / name, f"A = '{name}'", "help_me.py")
        write(tmp_path / name, "B = 2", "help_me_too.py")
        assert call_student(load_rewards(file).f, TEXTS) == [name, 2]
        assert sys.path == before
    write(tmp_path / "two", "A = 'changed'", "help_me.py")
    assert load_rewards(file).A == "changed"
    write(tmp_path / "two", "A = (", "help_me.py")
    with pytest.raises(UserError, match=r"mine.py cannot be imported: SyntaxError.*\(help_me.py"):
        load_rewards(file)


@pytest.mark.parametrize("name", ["data", "evaluate", "json", "time", "__main__", "v1.2"])
def test_no_file_takes_the_place_of_another_module(tmp_path, name):
    import data

    known = {**sys.modules}
    file = write(tmp_path, "from data import TRAIN_PROMPTS as value", f"{name}.py")
    write(tmp_path, "TRAIN_PROMPTS = 0", "data.py") if name != "data" else None
    module = load_rewards(file)
    assert module.value is data.TRAIN_PROMPTS
    assert {key: sys.modules[key] for key in known} == known
    assert sys.modules[module.__name__] is module


def test_a_file_is_imported_anew_whatever_its_time_and_size(tmp_path):
    file = write(tmp_path, "A = 1")
    times = (os.stat(file).st_atime, os.stat(file).st_mtime)
    assert load_rewards(file).A == 1
    write(tmp_path, "A = 2")
    os.utime(file, times)
    assert load_rewards(file).A == 2
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]


def test_a_file_that_fails_leaves_no_module(tmp_path):
    with pytest.raises(UserError, match=r"ZeroDivisionError.*\(mine_2.py, line 2\)"):
        load_rewards(write(tmp_path, "\n1 / 0", "mine_2.py"))
    assert "mine_2" not in sys.modules


EXITS = {
    "in a call": ("def f(completions):\n    import sys\n    sys.exit(0)", "f failed", "0", 3),
    "quit": ("def f(completions):\n    raise SystemExit", "f failed", "None", 2),
    "at import": ("import sys\nsys.exit('no')", "mine.py cannot be imported", "'no'", 2),
    "argparse": (
        "import argparse\nparser = argparse.ArgumentParser()\nparser.parse_args(['--preset'])",
        "mine.py cannot be imported",
        "2",
        3,
    ),
}


@pytest.mark.parametrize("name", EXITS)
def test_an_exit_is_one_line_that_names_who_called_it(tmp_path, capsys, name):
    source, who, code, line = EXITS[name]
    with pytest.raises(UserError) as error:
        call_student(load_rewards(write(tmp_path, source)).f, TEXTS)
    text = f"{who}: SystemExit: sys.exit({code}) was called (mine.py, line {line})"
    assert str(error.value).startswith(text)
    assert capsys.readouterr().err == ""  # no usage of argparse


def test_what_an_import_says_on_standard_error_is_seen(tmp_path, capsys):
    source = "import sys, logging\nprint('at import', file=sys.stderr)\n"
    source += "handler = logging.StreamHandler()\n"
    source += "def f(completions):\n    handler.stream.write('later')\n    {}['x']\n"
    module = load_rewards(write(tmp_path, source))
    assert capsys.readouterr().err == "at import\n"
    with pytest.raises(UserError, match="KeyError"):
        call_student(module.f, TEXTS)
    assert capsys.readouterr().err == "later"


CHANGES = {
    "dtype": "torch.set_default_dtype(torch.float64)",
    "device": "torch.set_default_device('meta')",
    "gradients": "torch.set_grad_enabled(False)",
    "anomalies": "torch.autograd.set_detect_anomaly(True)",
    "threads": "torch.set_num_threads(torch.get_num_threads() + 1)",
    "deterministic": "torch.use_deterministic_algorithms(True)",
    "folder": "os.chdir(os.path.dirname(__file__))",
    "warnings": "warnings.simplefilter('error')",
    "numpy": "numpy.seterr(all='raise')",
    "seed": "torch.manual_seed(0)",
}


def state():
    """All that a student's code may have changed."""
    read = [read() for read, _ in SETTINGS]
    return [*read, warnings.filters[:], np.geterr(), torch.get_rng_state().tolist()]


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("ends", ["", "; 1 / 0"])
def test_what_is_set_for_the_whole_process_is_put_back(tmp_path, name, ends):
    source = f"import os, warnings, numpy, torch\n{CHANGES[name]}\n"
    source += f"def f(completions):\n    {CHANGES[name]}{ends}\n    return [0.0, 0.0]\n"
    torch.manual_seed(0)  # setting the same seed again is an effect too
    torch.rand(3)
    before = state()
    module = load_rewards(write(tmp_path, source))
    assert state() == before
    if ends:
        with pytest.raises(UserError, match="ZeroDivisionError"):
            call_student(module.f, TEXTS)
    else:
        assert call_student(module.f, TEXTS) == [0.0, 0.0]
    assert state() == before


def drawn():
    return [torch.rand(()).item(), random.random(), np.random.rand()]


def test_random_numbers_that_are_drawn_stay_drawn(tmp_path):
    """As without us: each call draws others, and those of a seeded run are the same."""
    source = "import random, numpy, torch\ndef f(completions):\n"
    source += "    return [torch.rand(()).item(), random.random(), numpy.random.rand()]\n"
    f = load_rewards(write(tmp_path, source)).f
    torch.manual_seed(5), random.seed(5), np.random.seed(5)
    want = [drawn() for _ in range(4)]
    torch.manual_seed(5), random.seed(5), np.random.seed(5)
    assert [drawn(), call_student(f, TEXTS), call_student(f, TEXTS), drawn()] == want
    assert torch.initial_seed() == 5


def test_a_state_of_another_layout_is_kept_too(tmp_path, monkeypatch):
    """Here its seed is not in front. Another seed is put back, what is drawn stays drawn."""
    read, put = torch.get_rng_state, torch.set_rng_state
    monkeypatch.setattr(torch, "get_rng_state", lambda: read().roll(16))
    monkeypatch.setattr(torch, "set_rng_state", lambda state: put(state.roll(-16)))
    torch.manual_seed(5)
    want = [torch.rand(()).item() for _ in range(3)]
    torch.manual_seed(5)
    with student_code(tmp_path, None):
        got = [torch.rand(()).item()]
    got.append(torch.rand(()).item())
    with student_code(tmp_path, None):
        torch.manual_seed(6)
    assert [*got, torch.rand(()).item()] == want


def test_normal_numbers_come_in_pairs_of_which_one_may_be_left(tmp_path):
    """The state of the generator is more than its first bytes and its table."""
    torch.manual_seed(5)
    want = [torch.randn((), dtype=torch.float64).item() for _ in range(3)]
    torch.manual_seed(5)
    got = [torch.randn((), dtype=torch.float64).item()]
    with student_code(tmp_path, None):
        got.append(torch.randn((), dtype=torch.float64).item())
    assert [*got, torch.randn((), dtype=torch.float64).item()] == want
