"""Where the figures of a run can also go: Weights & Biases, trackio, TensorBoard.

The library writes to all three (`--report_to` is its own option). Here is what it leaves open: a
package that is missing is told before anything is written, and Weights & Biases goes on without
its server.
"""

import dataclasses
import importlib.util
import shlex
from pathlib import Path

from engine.common import UserError, first_line
from engine.options import PROJECT


def require_tracker(name):
    """Refuse a tracker whose package is not installed.

    Args:
        name: of `--report_to`; its package has the same name.

    Raises:
        UserError: with the command that installs it.
    """
    if name != "none" and importlib.util.find_spec(name) is None:
        raise UserError(f"--report_to {name} needs a package: pip install {name}")


def start_tracker(options, console):
    """Start a Weights & Biases run, if the figures go there, with the options as its config.

    Where the server cannot be reached, the run is kept on the disk. The library starts the other
    trackers itself.
    """
    if options.report_to != "wandb":
        return
    import wandb
    from wandb.errors import Error

    settings = {
        "project": PROJECT,
        "name": Path(options.output_dir).name,
        "config": dataclasses.asdict(options),
    }
    try:
        wandb.init(**settings, settings=wandb.Settings(init_timeout=30))
    except Error as error:
        wandb.teardown()
        offline = wandb.init(**settings, mode="offline")
        console.print(f"Weights & Biases: {first_line(error)[:100]}.")
        console.print("The figures are kept on this disk. To send them later:")
        folder = shlex.quote(str(Path(offline.dir).parent))
        console.print(f"  wandb sync {folder}", soft_wrap=True, highlight=False)
