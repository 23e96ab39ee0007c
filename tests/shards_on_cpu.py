"""train.py with sharded weights on a CPU, over gloo. For test_several_processes.py.

    accelerate launch --config_file launch/fsdp.yaml tests/shards_on_cpu.py OPTION…

accelerate shards on GPUs only: where a launch runs on a CPU, it answers MULTI_CPU
(`PartialState._prepare_backend`), looks for FSDP only under MULTI_GPU and for DeepSpeed only where
the CPU was not asked for (`AcceleratorState.__init__`). So this program makes the process group
itself and answers MULTI_GPU on the device "cpu". All else is what a GPU would run.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ["ACCELERATE_TORCH_DEVICE"] = os.environ["DS_ACCELERATOR"] = "cpu"

import torch.distributed
from accelerate.state import PartialState
from accelerate.utils import DistributedType

import train

if __name__ == "__main__":
    torch.distributed.init_process_group("gloo")
    PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)
    train.main()
