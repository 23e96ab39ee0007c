"""What the programs of this folder share: how they read arguments, run other programs, and end."""

import argparse
import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.common import ROOT, UserError, quiet_libraries, write_whole  # noqa: E402
from engine.options import OneLineParser  # noqa: E402

# Whose functions a run uses: a student's copy has no rewards_solution.py.
SOLUTION = ["--use_solution"] if (ROOT / "rewards_solution.py").exists() else []


def make_parser(description: str | None) -> OneLineParser:
    """A parser whose help shows the docstring of a program as it stands."""
    return OneLineParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


@contextlib.contextmanager
def one_line_errors(program: str):
    """For the work of a program: quiet libraries, and what goes wrong ends it with one line."""
    quiet_libraries()
    try:
        yield
    except (UserError, OSError) as error:
        sys.exit(f"{program}: {error}")


def name_or_folder(text):
    """A model of the command line, a Hub name or a folder: programs run in the project's folder."""
    return str(Path(text).resolve()) if Path(text).is_dir() else text


def run_program(*words: object, threads: int | None = None, timeout: float | None = None) -> str:
    """Run a program of this repository in a process of its own; returns what it prints.

    Args:
        words: its file and its arguments.
        threads: how many torch may use; by default all.
        timeout: seconds, after which it is killed.

    Raises:
        UserError: it failed; the message is its last line.
        subprocess.TimeoutExpired: the seconds were over.
    """
    threads_of_torch = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, **threads_of_torch},
        timeout=timeout,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"{words[0]} was ended from outside"]
        raise UserError(lines[-1])
    return done.stdout


def train_and_compare(folder: Path, flags: Sequence[object], threads: int | None = None) -> dict:
    """Train a run on the bundled models and compare it with their base, unless `folder` holds it.

    Returns:
        What `evaluate.py compare --json` tells.

    Raises:
        UserError: either command failed; the message is its last line.
    """
    figures = folder / "compare.json"
    if not figures.exists():
        run_program(
            *("train.py", "--preset", "tiny", *flags, "--output_dir", folder), threads=threads
        )
        files = ["tiny/gpt2", folder / "final", "--json", figures]
        table = run_program("evaluate.py", "compare", *files, threads=threads)
        write_whole(folder / "compare.txt", table)
    return json.loads(figures.read_text(encoding="utf-8"))


def means(run: dict, names: Sequence[str]) -> list[float]:
    """Figures of a trained model, from what `train_and_compare` returns.

    Args:
        names: of metrics, or of `Optimum.paid`: nan where the samples of the base cannot tell.
    """
    found = run["trained"] | {k: v or {"mean": math.nan} for k, v in run["nats"].items()}
    return [found[name]["mean"] for name in names]


def spread(values: Sequence[float], decimals: int = 2) -> str:
    """The mean of some seeds ± their standard deviation.

    >>> spread([0.5, 0.7]), spread([0.5], decimals=3)
    ('0.60 ± 0.14', '0.500')
    """
    deviation = f" ± {statistics.stdev(values):.{decimals}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{decimals}f}{deviation}"
