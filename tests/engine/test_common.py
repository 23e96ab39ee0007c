import io
import json
import os
import shlex
import subprocess
import sys

import pytest
from rich.console import Console

from engine import common


def test_rows_beyond_a_checkpoint_are_dropped(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"step": 4')  # the last was cut off
    common.keep_rows(file, lambda row: row["step"] <= 2)
    assert file.read_text() == '{"step": 1}\n{"step": 2}\n'


SEPARATORS = "a\u2028b\u2029c\u0085d\x0be\x1cf"


def test_json_lines_may_hold_every_character(tmp_path):
    """Python's splitlines() takes six characters for line ends that JSON leaves as they are."""
    file = tmp_path / "completions.jsonl"
    rows = [{"step": 1, "completion": SEPARATORS}, {"step": 2, "completion": "plain\n"}]
    common.append_jsonl(file, rows)
    assert common.read_jsonl(file) == rows
    common.keep_rows(file, lambda row: row["step"] <= 1)
    assert common.read_jsonl(file) == rows[:1]


def test_a_line_that_was_cut_off_is_no_row(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n{"step": 2')
    assert common.read_jsonl(file) == [{"step": 1}]


@pytest.mark.parametrize("sync", [False, True])
def test_a_file_is_written_whole_or_stays_as_it_was(tmp_path, sync):
    file = tmp_path / "f.json"
    common.write_json(file, {"é": 1}, sync)
    assert json.loads(file.read_text(encoding="utf-8")) == {"é": 1}
    with pytest.raises(RuntimeError):
        with common.whole_file(file, sync) as temporary:
            temporary.write_text("half")
            raise RuntimeError
    assert json.loads(file.read_text(encoding="utf-8")) == {"é": 1}
    assert list(tmp_path.iterdir()) == [file]


def test_sha256_of_bytes_and_of_a_file(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    want = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-4
    assert common.sha256(b"abc") == common.sha256(tmp_path / "f") == want


def test_common_and_options_need_no_torch():
    code = "import sys; from engine import common, options; "
    code += "import engine.model.loading, engine.measuring.tables; "
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=common.ROOT).returncode == 0


def test_a_bar_shows_nothing_where_there_is_no_terminal(capsys):
    with common.progress("working", 3) as tick:
        tick()
    assert capsys.readouterr().out == ""


def test_a_bar_counts_on_a_terminal_and_leaves_nothing():
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with common.progress("working", 4, console) as tick:
        tick()
        tick()
        tick()
    shown = console.file.getvalue()
    assert "working" in shown and " 75%" in shown and shown.endswith("\x1b[2K")


def test_a_command_can_be_pasted(tmp_path, monkeypatch):
    monkeypatch.chdir(common.ROOT)
    line = common.command_line("train.py", "--output_dir", "für alle/my run", "--resume")
    want = ["python", "train.py", "--output_dir", "für alle/my run", "--resume"]
    assert shlex.split(line) == want
    monkeypatch.chdir(tmp_path)
    assert shlex.split(common.command_line("train.py"))[1] == str(common.ROOT / "train.py")


@pytest.mark.parametrize(
    "error, said",
    [
        (common.UserError("name a file."), "x.py: name a file."),
        (
            PermissionError(13, "Permission denied", "/a b"),
            "x.py: '/a b' cannot be used: Permission",
        ),
        (KeyError("step"), "x.py: KeyError: 'step' (--debug shows where)"),
        (ValueError("one\ntwo"), "x.py: ValueError: one (--debug shows where)"),
    ],
)
def test_every_error_ends_a_program_with_one_line(error, said):
    with pytest.raises(SystemExit) as end:
        common.end_with(error, "x.py")
    assert end.value.code.startswith(said) and "\n" not in end.value.code
    with pytest.raises(type(error)):
        common.end_with(error, "x.py", debug=True)


@pytest.mark.parametrize(
    "launched, said", [({}, "legal for this batch"), ({"LOCAL_WORLD_SIZE": "2"}, "")]
)
def test_a_rank_that_a_launch_has_left_behind_hides_no_error(launched, said):
    command = [sys.executable, common.ROOT / "train.py", "--batch_size", "10"]
    environment = {k: v for k, v in os.environ.items() if k != "LOCAL_WORLD_SIZE"} | launched
    done = subprocess.run(
        command, env=environment | {"LOCAL_RANK": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 1 and said in done.stderr and bool(said) == bool(done.stderr)


def test_what_a_stream_cannot_show_is_replaced():
    """Into a file on Windows, in a locale of few characters, and where all can be shown."""
    text = "\u22121 ± 2 \u2192 3 \u2016 \u2713 \u2717 \u0394 ü"
    shown = {
        "cp1252": "-1 ± 2 > 3 | + x ? ü",
        "ascii": "-1 ? 2 > 3 | + x ? ?",
        "utf-8": text,
    }
    code = f"import engine.common\nprint({ascii(text)})"
    for encoding, expected in shown.items():
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=common.ROOT, env=environment, capture_output=True)
        assert done.stdout.decode(encoding).rstrip() == expected, done.stderr
