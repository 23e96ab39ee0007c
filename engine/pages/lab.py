"""The frame of the labs, kl_lab.py and grpo_lab.py: options, tables, and where pictures go."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.common import make_console
from engine.options import OneLineParser
from engine.pages.report import save_figure

Experiments = dict[str, Callable]  # name -> callable(own) -> a figure, or None where none was drawn


def parse(description: str, experiments: Experiments, argv: list[str] | None) -> argparse.Namespace:
    """The options of a lab: `experiment`, `use_solution` and `out`."""
    parser = OneLineParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "experiment", nargs="?", choices=experiments, help="one of them; without it, all"
    )
    parser.add_argument(
        "--use_solution", action="store_true", help="show the functions of rewards_solution.py"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("."),
        metavar="FOLDER",
        help="where the pictures LAB_EXPERIMENT.png go (default: this folder)",
    )
    return parser.parse_args(argv)


def run(lab: str, experiments: Experiments, args: argparse.Namespace, own: Any) -> None:
    """Show one experiment or all of them, and write their pictures.

    Args:
        lab: how the names of its pictures begin.
        args: of `parse`.
        own: what the experiments get: the student's functions.
    """
    args.out.mkdir(parents=True, exist_ok=True)
    for name in [args.experiment] if args.experiment else experiments:
        figure = experiments[name](own)
        if figure is not None:
            path = args.out / f"{lab}_{name}.png"
            save_figure(figure, path)
            print(f"Picture: {path}\n")


def make_table(title: str, *columns: str):
    """A table of 80 characters at most, whose first columns are text."""
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def add_figures(table, *titles: str) -> None:
    """Columns of numbers."""
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)


def show(what) -> None:
    """Print a table or a text."""
    make_console().print(what, highlight=False, markup=False)
