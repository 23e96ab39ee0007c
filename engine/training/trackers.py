"""Where the figures of a run can also go: Weights & Biases, trackio, TensorBoard.

The library writes to all three (`--report_to` is its own option). Here is what it leaves open: a
package that is missing is told before anything is written, and Weights & Biases goes on without
its server.
"""

import dataclasses
import importlib.util
from pathlib import Path

from engine.common import UNUSED, UserError, first_line, import_without, quiet_libraries
from engine.options import PROJECT


def load_trl(report_to):
    """Import TRL, quiet; without Weights & Biases, half a second, unless the figures go there."""
    quiet_libraries()
    unused = UNUSED if report_to == "wandb" else (*UNUSED, "wandb")
    import_without("trl.trainer.grpo_trainer", *unused)


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
    import trl.extras.profiling
    import trl.trainer.grpo_trainer
    import wandb

    trl.extras.profiling.wandb = trl.trainer.grpo_trainer.wandb = wandb  # loaded without it before
    settings = {
        "project": PROJECT,
        "name": Path(options.output_dir).name,
        "config": dataclasses.asdict(options),
    }
    try:
        wandb.init(**settings, settings=wandb.Settings(init_timeout=30))
    except wandb.errors.Error as error:
        wandb.teardown()
        offline = wandb.init(**settings, mode="offline")
        console.print(f"Weights & Biases: {first_line(error)[:100]}.")
        console.print("The figures are kept on this disk. To send them later:")
        console.print(f"  wandb sync {Path(offline.dir).parent}", soft_wrap=True, highlight=False)
