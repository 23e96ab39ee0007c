"""What everybody shares: one kind of error, one way to write a file, the console. No torch."""

import codecs
import contextlib
import hashlib
import io
import json
import os
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

# How long a thread of torch turns on the spot at a barrier before it sleeps. GNU's own 300,000 only
# takes time from whoever else needs the processor (docs/speed.md); to be said before torch loads.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
if "LOCAL_WORLD_SIZE" not in os.environ:  # left over from a launch that this process is no part of
    os.environ.pop("LOCAL_RANK", None)
ROOT = Path(__file__).resolve().parent.parent  # the folder of train.py
MANIFEST = "run.json"  # of a run's folder: its options, versions and results


def _similar(error):
    """What stands in the place of characters that a stream cannot show."""
    text = error.object[error.start : error.end].translate(SIMILAR)
    return text.encode("ascii", errors="replace").decode("ascii"), error.end


# Into a file on Windows, or in the C locale, a stream knows few characters: that ends no program.
SIMILAR = str.maketrans("−–—→‖×✓✗", "--->|x+x")
codecs.register_error("similar", _similar)
if isinstance(sys.stdout, io.TextIOWrapper):  # not in a notebook, which shows all
    sys.stdout.reconfigure(errors="similar")


class UserError(Exception):
    """A problem the user can solve. The message says what happened and what to do, in one line."""


def first_line(error):
    """The first line of an error's message, or its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def end_with(error, program, debug=False):
    """End a program with one line about an error, or with the error itself, to `debug` it."""
    if debug:
        raise error
    said = f"{type(error).__name__}: {first_line(error)} (--debug shows where)"
    if isinstance(error, UserError):
        said = str(error)
    elif isinstance(error, OSError) and error.filename and error.strerror:
        said = f"'{error.filename}' cannot be used: {error.strerror}."
    sys.exit(f"{program}: {said}")


def short_path(path):
    """A path inside the current folder without that folder; anything else as it is."""
    try:
        return str(Path(path).resolve().relative_to(Path.cwd())) if Path(path).exists() else path
    except ValueError:
        return str(path)


def command_line(program, *words):
    """The line that runs a program of this project, to be pasted in the current folder."""
    words = ["python", short_path(ROOT / program), *map(str, words)]
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def portable(name: str) -> str:
    """A model or a file as a run records it, so that this project may move: what lies in it by the
    path from there, what lies elsewhere by its whole path, and a name of the Hub as it is."""
    if not os.path.exists(name):  # False too for what can be no path
        return name
    path = Path(name).resolve()
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)


def usable(name: str) -> str:
    """What `portable` recorded, as a name that leads there from any folder."""
    return str(ROOT / name) if os.path.exists(ROOT / name) else name


@contextlib.contextmanager
def whole_file(path, sync=False):
    """Yield a temporary path; at the end it becomes `path`, so that nobody ever sees half a file.

    If an error comes first, the temporary file is removed and an older `path` stays as it was.

    Args:
        path: the file to write.
        sync: force the bytes to the disk before the renaming, for what must survive a power cut.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        if sync:
            sync_to_disk(temporary)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def sync_to_disk(path):
    """Return only when the file's bytes are on the disk."""
    with open(path, "r+b") as file:  # Windows syncs only what it could write to
        os.fsync(file.fileno())


def write_whole(path, content, sync=False):
    """Write a text (as UTF-8, line ends as they are) or bytes through `whole_file`."""
    content = content.encode() if isinstance(content, str) else content
    with whole_file(path, sync) as temporary:
        temporary.write_bytes(content)


def write_json(path, value, sync=False):
    """Write a value as indented JSON through `whole_file`."""
    write_whole(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n", sync)


def share_alike(folder, like):
    """Give each file below a folder the mode of one that was written as usual, by the umask:
    safetensors 0.8 lets nobody but the owner read what it has written."""
    for path in Path(folder).rglob("*"):
        with contextlib.suppress(OSError):  # a file system without modes
            if path.is_file():
                path.chmod(like.stat().st_mode)


def append_jsonl(path, rows):
    """Append one JSON object per line."""
    with open(path, "a", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def lines_of(path):
    r"""The lines of a text file that end with "\n"; a last line without that end is left out.

    Not `splitlines()`: a JSON text may hold U+2028 or U+0085, which Python takes for line ends.
    """
    return Path(path).read_bytes().decode("utf-8", errors="replace").split("\n")[:-1]


def read_jsonl(path, **match):
    """The rows of a JSONL file whose fields equal those of `match`."""
    return [row for row in map(json.loads, lines_of(path)) if match.items() <= row.items()]


def keep_rows(path, wanted):
    """Drop the rows of a JSONL file that are not `wanted(row)`, and what a kill has cut off."""
    if not Path(path).exists():
        return
    kept = []
    for line in lines_of(path):
        with contextlib.suppress(ValueError):
            if wanted(json.loads(line)):
                kept.append(f"{line}\n")
    write_whole(path, "".join(kept))


def sha256(content):
    """The SHA-256 of bytes, or of the file at a path, as hexadecimal text."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with open(content, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_console():
    """Rich's console; in a notebook, plain lines, where it would box every print."""
    from rich.console import Console

    if "ipykernel" in sys.modules:
        return Console(force_jupyter=False, force_terminal=False, color_system=None)
    return Console()


@contextlib.contextmanager
def progress(title, total, console=None):
    """A bar for what takes more than seconds; only on a terminal, and gone at the end.

    Yields:
        callable() that moves the bar by one of `total` steps.
    """
    from rich.progress import Progress

    console = console or make_console()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total)
        yield lambda: bar.advance(task)


def hide_warnings():
    """What the libraries warn of is for whoever maintains this: the tests show it."""
    warnings.filterwarnings("ignore")


def quiet_libraries():
    """No progress bars, no advice and no messages of the Hub from the libraries underneath; and
    none to the Hub: trackio would report its use there."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ.setdefault("WANDB_SILENT", "true")
    import datasets
    import transformers

    hide_warnings()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()
