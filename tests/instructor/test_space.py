"""play.py as the folder of a Hugging Face Space."""

import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.request

import pytest
import yaml
from made_up_run import write_run

from engine.common import portable
from engine.options import PRESETS
from instructor.handout.space import main
from instructor.handout.student_copy import find_leaks


@pytest.fixture
def run(tmp_path):
    recorded = {name: portable(PRESETS["tiny"][name]) for name in ("model_name", "sentiment_model")}
    folder = write_run(tmp_path / "run", **recorded)
    shutil.copytree(PRESETS["tiny"]["model_name"], folder / "final")
    return folder


def files_of(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_what_the_folder_says_is_what_is_locked(tmp_path, run):
    main([str(tmp_path / "space"), str(run), str(run)])
    space = tmp_path / "space"
    _, head, text = (space / "README.md").read_text(encoding="utf-8").split("---\n")
    settings = yaml.safe_load(head)
    needed = (space / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert f"gradio=={settings['sdk_version']}" in needed and "movie review" in text
    assert (settings["sdk"], settings["app_file"]) == ("gradio", "app.py")
    assert len(settings["short_description"]) <= 60  # the Hub's limit
    assert needed[0] == "--extra-index-url https://download.pytorch.org/whl/cpu"
    names = files_of(space)
    assert {"app.py", "runs/run/run.json", "runs/run-2/final/model.safetensors"} <= names
    assert find_leaks(space) == [] and not [name for name in names if "rewards" in name]
    assert {path.name for path in tmp_path.iterdir()} == {"run", "space"}


def test_nothing_is_overwritten_and_no_half_space_is_left(tmp_path, run):
    with pytest.raises(SystemExit, match="space: .* exists. Give another name"):
        main([str(run), str(run)])
    (tmp_path / "unfinished").mkdir()
    with pytest.raises(SystemExit, match="unfinished has no folder 'final'"):
        main([str(tmp_path / "space"), str(run), str(tmp_path / "unfinished")])
    assert {path.name for path in tmp_path.iterdir()} == {"run", "unfinished"}


def answer(queue, prompt):
    """What the page shows for a prompt: one sample of eight tokens by each policy, with seed 0.

    Args:
        queue: address of Gradio's queue, which the page in a browser asks too.
    """
    asked = {"data": [prompt, 1.0, 8, 1, 0], "fn_index": 0, "session_hash": "a-test"}
    head = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{queue}/join", json.dumps(asked).encode(), head)
    urllib.request.urlopen(request).close()
    with urllib.request.urlopen(f"{queue}/data?session_hash=a-test") as events:
        for line in events:
            event = json.loads(line.removeprefix(b"data:") if line.strip() else "{}")
            if event.get("msg") == "process_completed":
                return event["output"]["data"][0]


@pytest.mark.slow
def test_the_folder_serves_its_page_alone(tmp_path, run):
    """From its own folder, at the address and port that a Space sets, without writing a file of
    its own: the page, and what it answers to a prompt.
    """
    pytest.importorskip("gradio")
    space, home = tmp_path / "space", tmp_path / "home"
    home.mkdir()
    main([str(space), str(run)])
    before = files_of(space)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
    environment |= {"HOME": str(home), "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    environment |= {"GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_SERVER_PORT": str(port)}
    command = [sys.executable, "app.py"]
    with subprocess.Popen(command, cwd=space, env=environment, stdout=subprocess.PIPE) as process:
        try:
            assert str(port).encode() in process.stdout.readline()
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as page:
                assert b"This movie was" in page.read()
            shown = answer(f"http://127.0.0.1:{port}/gradio_api/queue", "The plot is")
            assert shown.count("The plot is") == 2 and "runs/run" in shown
            assert "base: tiny/gpt2" in shown  # the folder's own
        finally:
            process.terminate()
    assert files_of(space) == before
    fonts = ".cache/matplotlib/"  # its list of them: Gradio loads Matplotlib at the first prompt
    assert {name for name in files_of(home) if not name.startswith(fonts)} == set()
