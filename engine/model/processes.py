"""Several processes that train together on one machine: which rows are whose, and weights that are
sharded between them made whole for a while."""

import contextlib
import datetime
import json
import os
from pathlib import Path
from typing import NamedTuple

from engine.common import UserError


class Process(NamedTuple):
    """Which of how many processes this is."""

    index: int = 0
    count: int = 1

    @property
    def is_first(self):
        return self.index == 0


def join(device, timeout) -> Process:
    """Meet the other processes of the launch, where there are any.

    Args:
        device: of this process.
        timeout: seconds that a process waits for the others at any time; then it fails.

    Returns:
        `this_process()`.

    Raises:
        UserError: they run on more than one machine.
    """
    if int(os.environ.get("LOCAL_WORLD_SIZE", 1)) < int(os.environ.get("WORLD_SIZE", 1)):
        raise UserError("Several machines cannot train one run: launch all processes on one.")
    from accelerate import PartialState

    PartialState(cpu=device.type == "cpu", timeout=datetime.timedelta(seconds=timeout))
    return this_process()


def this_process() -> Process:
    """Which of the processes of the launch this is. Without a launch, the only one."""
    from accelerate import PartialState

    return Process(PartialState().process_index, PartialState().num_processes)


def own_rows(total, process):
    """The rows of a process, as a range: parts of equal size, one after the other.

    Args:
        total: number of rows.

    >>> [own_rows(10, Process(index, 4)) for index in range(4)]
    [range(0, 2), range(2, 5), range(5, 7), range(7, 10)]
    """
    start = total * process.index // process.count
    return range(start, total * (process.index + 1) // process.count)


def gather(rows, process):
    """The rows of all processes, in the order of the processes: a list, the same in each.

    Args:
        rows: list of this process; anything that can be pickled.
    """
    if process.count == 1:
        return rows
    from accelerate.utils import gather_object

    return gather_object(rows)


def from_first(value):
    """What the first process gives, in every process."""
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([value])[0]


@contextlib.contextmanager
def whole_weights(model):
    """Every process holds all weights of a model for a while, where FSDP2 shards them.

    Sampling reads the weights once for each token, and processes end their texts at different
    tokens: gathering them layer by layer would be slow, and would wait for whoever has stopped.
    All processes must enter together; inside, each may work as it likes.
    """
    from torch.distributed.fsdp import FSDPModule

    sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for module in sharded:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in sharded:
            module.reshard()
            module.set_reshard_after_forward(True, recurse=False)


def is_sharded():
    """Whether this launch shards the weights, with FSDP.

    Raises:
        UserError: FSDP in its first version, or DeepSpeed's ZeRO stage 3.
    """
    if _deepspeed_stage() == "3":
        raise UserError(
            "ZeRO stage 3 is not supported: shard the weights with FSDP, as in launch/fsdp.yaml."
        )
    fsdp = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if fsdp and os.environ.get("FSDP_VERSION", "2") != "2":
        raise UserError("FSDP 1 is not supported: set fsdp_version: 2, as in launch/fsdp.yaml.")
    return fsdp


def _deepspeed_stage():
    """The ZeRO stage of this launch as text: of accelerate's YAML file, or of DeepSpeed's JSON."""
    file = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    if file.lower() == "none":
        return os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE")
    try:
        settings = json.loads(Path(file).read_text(encoding="utf-8"))
        return str(settings.get("zero_optimization", {}).get("stage", 0))
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(
            f"Cannot read the DeepSpeed file {file}: {type(error).__name__}."
        ) from error
