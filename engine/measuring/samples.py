"""A sample of a policy as a dict, and how it is shown in a terminal."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from rich.text import Text

from engine.common import UserError, make_console, short_path
from engine.measuring.metrics import METRICS, Sample, repetition
from engine.measuring.runs import read_run
from engine.model.processes import Process
from engine.model.sampling import Sampling
from engine.model.scoring import Models
from engine.model.texts import decode_completions, end_ids

COLUMNS = {"sentiment": 9, "kl": 9}  # in front of a text, and their widths


@dataclass(frozen=True)
class Measuring(Sampling):
    """How `evaluate.evaluate_model` samples from a policy, and what it asks about the samples."""

    amp_dtype: torch.dtype | None = None  # autocast type for the log-probabilities
    # What the policy reads before each prompt, and the reference does not: the KL is then what the
    # prefix (and any training) changed.
    prefix: str = ""
    judge: Callable[[list[str]], list[float]] | None = None  # of `sentiment.load_judge`
    tick: Callable[[], object] = lambda: None  # for a progress bar, called twice for each batch
    # Where several processes measure together: each samples and scores its part of the rows, and
    # all get the result of all.
    process: Process = Process()


def describe_samples(models: Models, prompts: list[str], prompt_ids, completion_ids):
    """Samples as dicts, with what their token ids tell: a list of N.

    Args:
        models: the policy that sampled, and its tokenizer.
        prompts: list of N strings.
        prompt_ids, completion_ids: N lists of token ids; what the policy read may be longer than
            `prompts`.
    """
    texts = decode_completions(models.policy, models.tokenizer, prompt_ids, completion_ids)
    ends = end_ids(models.policy, models.tokenizer)
    return [
        {
            "prompt": prompt,
            "completion": text,
            "ids": row,
            "length": len(row),
            "repetition_3": repetition(row, 3),
            "repetition_4": repetition(row, 4),
            "finished": row[-1] in ends,
        }
        for prompt, text, row in zip(prompts, texts, completion_ids)
    ]


def print_sample(console, front, prompt, completion):
    """Print `front` and then the text, every further line indented to where the text began.

    Args:
        console: rich's; its width counts.
        front: text of any width, without line ends.
        prompt, completion: line ends and control characters in them are shown as spaces.
    """
    text = Text(plain(prompt + completion))
    text.stylize("dim", 0, len(plain(prompt)))
    for line in text.wrap(console, max(console.width - len(front), 20)):
        line.rstrip()
        console.print(Text(front) + line, soft_wrap=True, highlight=False)
        front = " " * len(front)


def plain(text: str) -> str:
    """A text in one line, without what a terminal would obey.

    >>> plain("good.\\n\\n A\\x1b[2J film ")
    'good. A [2J film'
    """
    return " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", text).split())


def print_samples(samples, with_kl=True):
    """Print samples whole, with their sentiment and KL in front.

    Args:
        samples: dicts with `prompt`, `completion`, `sentiment` and, if it is shown, `kl`.
        with_kl: False where no reference is known.
    """
    console = make_console()
    shown = {name: width for name, width in COLUMNS.items() if name != "kl" or with_kl}
    titles = [METRICS[name].column.rjust(width) for name, width in shown.items()]
    console.print("".join(titles) + "  prompt and completion", style="bold", highlight=False)
    for sample in samples:
        cells = [METRICS[name].form.format(sample[name]).rjust(w) for name, w in shown.items()]
        print_sample(
            console, "".join(cells) + "  ", sample["prompt"], completion=sample["completion"]
        )
    if with_kl:
        note = "KL nats: log q − log p of this text, which may be below 0; the mean is the KL."
        console.print(note, style="dim", highlight=False)


def samples_of_run(folder, step: int | None = None, count: int = 20) -> list[Sample]:
    """Samples of one validation of a run, spread evenly over its prompts.

    Args:
        folder: OUTPUT_DIR of the run, or the `final` in it.
        step: of the validation; the last one by default.
        count: how many; all, where there are fewer.

    Raises:
        UserError: there is no run, or no validation at this step.
    """
    run = read_run(folder)
    steps = sorted({row["step"] for row in run["completions"]})
    if step is None and steps:
        step = steps[-1]
    rows = [row for row in run["completions"] if row["step"] == step]
    if not rows:
        known = f"There are those of {', '.join(map(str, steps))}." if steps else "It has none."
        raise UserError(f"'{short_path(folder)}' has no samples of step {step}. {known}")
    count = min(count, len(rows))
    return [rows[i * len(rows) // count] for i in range(count)]
