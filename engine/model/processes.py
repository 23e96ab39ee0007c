"""Several processes that train together, on one machine or on more: which rows are whose, and
weights that are sharded between them made whole for a while."""

import contextlib
import copy
import datetime
import functools
import json
import os
import uuid
from pathlib import Path

from engine.common import UserError


def join(device, timeout):
    """Meet the other processes of the launch, where there are any.

    Args:
        device: of this process.
        timeout: seconds that a process waits for the others at any time; then it fails.

    Returns:
        accelerate's PartialState.
    """
    from accelerate import PartialState

    wait = datetime.timedelta(seconds=timeout)
    return PartialState(cpu=device.type == "cpu", timeout=wait)


def this_process():
    """(index, count): which of how many processes this is."""
    from accelerate import PartialState

    return PartialState().process_index, PartialState().num_processes


def several_hosts():
    """Whether the processes of this launch run on more than one machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1)) < int(os.environ.get("WORLD_SIZE", 1))


def is_shared(folder):
    """Whether every process sees what the first one writes to a folder. Asked by all at once."""
    token = from_first(f".{uuid.uuid4().hex}.tmp")
    mark, first = Path(folder) / token, this_process()[0] == 0
    if first:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    from_first(None)  # now it is there
    seen = all(gather([mark.exists()], this_process()))
    if first:
        mark.unlink()
    return seen


def own_rows(total, process):
    """The rows of a process, as a range: parts of equal size, one after the other.

    Args:
        total: number of rows.
        process: (index, count).

    >>> [own_rows(10, (index, 4)) for index in range(4)]
    [range(0, 2), range(2, 5), range(5, 7), range(7, 10)]
    """
    index, count = process
    return range(total * index // count, total * (index + 1) // count)


def gather(rows, process):
    """The rows of all processes, in the order of the processes: a list, the same in each.

    Args:
        rows: list of this process; anything that can be pickled.
        process: (index, count).
    """
    if process[1] == 1:
        return rows
    from accelerate.utils import gather_object

    return gather_object(rows)


def from_first(value):
    """What the first process gives, in every process."""
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([value])[0]


@contextlib.contextmanager
def whole_weights(trainer):
    """Every process holds all weights for a while, where FSDP2 or ZeRO stage 3 shards them.

    Sampling reads the weights once for each token, and processes end their texts at different
    tokens: gathering them layer by layer would be slow, and would wait for whoever has stopped.
    All processes must enter together; inside, each may work as it likes.
    """
    from torch.distributed.fsdp import FSDPModule
    from trl.models import unwrap_model_for_generation

    with (
        unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator),  # ZeRO
        no_comparison_of_traces(trainer.model_wrapped),
    ):
        sharded = [module for module in trainer.model.modules() if isinstance(module, FSDPModule)]
        for module in sharded:
            module.set_reshard_after_forward(False, recurse=False)
            module.unshard()
        try:
            yield
        finally:
            for module in sharded:
                module.reshard()
                module.set_reshard_after_forward(True, recurse=False)


@contextlib.contextmanager
def no_comparison_of_traces(model):
    """Keep ZeRO stage 3 from comparing, at each forward pass, what the processes have read before.

    TRL takes off DeepSpeed's hooks while the weights are whole, all but this one. It would wait for
    processes that are not computing.
    """
    offload = getattr(getattr(model, "optimizer", None), "parameter_offload", None)
    if offload is None:
        yield
        return
    coordinator = offload.get_param_coordinator()
    coordinator.reset_step = lambda: None
    try:
        yield
    finally:
        del coordinator.reset_step


def is_sharded():
    """Whether this launch shards the weights: FSDP, or DeepSpeed's ZeRO stage 3.

    Raises:
        UserError: FSDP in its first version, or DeepSpeed's file cannot be read.
    """
    fsdp = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if fsdp and os.environ.get("FSDP_VERSION", "2") != "2":
        raise UserError("FSDP 1 is not supported: set fsdp_version: 2, as in launch/fsdp.yaml.")
    return fsdp or deepspeed_stage() == "3"


def deepspeed_stage():
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


def gather_where_needed(trainer, validations):
    """Have a trainer that shards its weights sample, reward and validate with all of them.

    Args:
        trainer: TRL's; its rollout and its reward are wrapped.
        validations: `monitor.Validations` of this process.
    """
    whole = functools.partial(whole_weights, trainer)
    validations.around = whole
    trainer.reward_funcs = [whole()(function) for function in trainer.reward_funcs]
    if trainer.rollout_func is not None:
        trainer.rollout_func = whole()(trainer.rollout_func)


def whole_model(trainer, like):
    """What a trainer that shards the weights has trained, with all of them; all processes ask.

    Args:
        like: a whole model of the same kind, such as the reference; it stays as it is.

    Returns:
        The model in the first process, None in the others.
    """
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if this_process()[0]:
        return None
    model = copy.deepcopy(like)
    model.load_state_dict(weights)
    return model
