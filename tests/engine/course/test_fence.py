"""What the grader would refuse is refused before; all else goes on as ever."""

import os
import tempfile
from pathlib import Path

import pytest

from engine.course.fence import PROVIDED, as_in_the_grader


def test_what_is_allowed_goes_on(tmp_path):
    mine = tmp_path / "rewards.py"
    mine.write_text("")
    before = (os.getcwd(), tempfile.gettempdir())
    with as_in_the_grader(mine):
        Path("log.txt").write_text("kept in a folder that goes away")
        with tempfile.TemporaryFile() as file:
            file.write(b"x")
        assert mine.read_text() == ""
        with open(os.devnull, "w") as file:
            file.write("x")
    assert (os.getcwd(), tempfile.gettempdir()) == before
    assert list(tmp_path.iterdir()) == [mine]
    (tmp_path / "after.txt").write_text("no fence any more")


def test_the_environment_names_no_folder_that_is_gone(tmp_path, monkeypatch):
    """torch.compile leaves the name of its cache there, and everything after it would fail."""
    monkeypatch.setenv("MY_CACHE", "mine")
    with as_in_the_grader(tmp_path / "rewards.py"):
        os.environ["MY_CACHE"] = os.environ["MY_OTHER_CACHE"] = f"{tempfile.gettempdir()}/cache"
        monkeypatch.setenv("MY_WISH", "kept")
    assert os.environ["MY_CACHE"] == "mine" and "MY_OTHER_CACHE" not in os.environ
    assert os.environ["MY_WISH"] == "kept"


@pytest.mark.parametrize(
    "act, words",
    [
        (lambda folder: (folder / "log.txt").write_text("x"), "write into the temporary folder"),
        (lambda folder: os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT), "write into"),
        (lambda folder: (folder / "words.txt").read_text(), "Only rewards.py is handed in: words"),
        (lambda folder: os.system("true"), "start no process"),
    ],
)
def test_what_is_refused_is_not_done(tmp_path, act, words):
    (tmp_path / "words.txt").write_text("good")
    with pytest.raises(PermissionError, match=words), as_in_the_grader(tmp_path / "rewards.py"):
        act(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["words.txt"]


def test_an_error_that_a_library_makes_of_a_refusal_tells_the_refusal(tmp_path):
    with pytest.raises(PermissionError, match="start no process"):
        with as_in_the_grader(tmp_path / "rewards.py"):
            try:
                os.system("true")
            except PermissionError as error:
                raise ValueError("your model is not a local folder") from error


def test_whoever_lives_with_a_refusal_lives_on(tmp_path):
    with as_in_the_grader(tmp_path / "rewards.py"):
        with pytest.raises(PermissionError):
            os.system("true")


def test_the_modules_that_may_be_imported_are_those_of_the_grader():
    process = pytest.importorskip("instructor.grading.process")
    assert PROVIDED == process.MODULES
