"""Run one training in many lives, each but the last killed at a random moment. For test_faults.py.

    python tests/kill_runs.py OUTPUT_DIR KILLS

Libraries are imported once and every life is a fork, so that a kill costs no start of Python.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import trl.trainer.grpo_trainer  # noqa: F401  # the longest import, before the first fork

from engine.course.student import rewards_file
from train import train

# A student's copy has no solution, and perhaps no penalty yet.
HAS_SOLUTION = rewards_file(use_solution=True).exists()
SOLVED = {"use_solution": True, "kl_type": "forward", "kl_target": 1.0} if HAS_SOLUTION else {}
OPTIONS = {
    "preset": "tiny",
    **SOLVED,
    "batch_size": 4,
    "num_generations": 2,
    "max_completion_length": 4,
    "max_steps": 400,
    "eval_steps": 100,
    "save_steps": 2,
}


def live(output_dir):
    """Train to the end in a process of its own, from where the last one got to."""
    pid = os.fork()
    if pid:
        return pid
    try:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        resume = (output_dir / "run.json").exists()
        train(**OPTIONS, output_dir=str(output_dir), resume=resume)
        os._exit(0)
    finally:
        os._exit(1)


def main():
    output_dir, kills = Path(sys.argv[1]), int(sys.argv[2])
    rng = random.Random(0)
    for _ in range(kills):
        pid = live(output_dir)
        time.sleep(rng.uniform(0.2, 2.5))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSIGNALED(status):
            sys.exit(f"the run ended before it was killed: {status}")
    _, status = os.waitpid(live(output_dir), 0)
    sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    torch.set_num_threads(1)  # a fork has no pool of threads
    main()
