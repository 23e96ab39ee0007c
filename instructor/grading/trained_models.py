"""Measure trained models that students hand in, from their weights alone.

    python -m instructor.grading.trained_models MODELS --out checkpoints.csv

MODELS holds one folder for each student. Only the tensors of its `model.safetensors` are read, into
the architecture of the base model: no configuration and no code that was handed in ever runs.
"""

import copy
import sys
from pathlib import Path

from engine.common import ROOT, UserError, quiet_libraries
from engine.options import OneLineParser
from instructor.grading.submission import GraderError, normal

COLUMNS = ("sentiment", "judge", "kl", "perplexity", "repetition_3", "length")
SIZE_LIMIT = 4 << 30


def load_weights(base, path):
    """A copy of the base model with the tensors of a safetensors file.

    Raises:
        GraderError: the file is missing, too large, damaged, or of another model.
    """
    tensors = read_tensors(Path(path))
    model = copy.deepcopy(base)
    check_tensors(tensors, model.state_dict())
    model.load_state_dict({name: x.float() for name, x in tensors.items()}, strict=False)
    model.tie_weights()
    return model


def read_tensors(path):
    """{name: tensor} of a safetensors file.

    Raises:
        GraderError: it is missing, too large or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path.is_symlink() or not path.is_file():
        raise GraderError("no model.safetensors (a regular file; pickles are not opened)")
    if path.stat().st_size > SIZE_LIMIT:
        raise GraderError(f"model.safetensors is larger than {SIZE_LIMIT >> 30} GB")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise GraderError(f"model.safetensors cannot be read: {error}") from error


def check_tensors(tensors, wanted):
    """Compare tensors with those of the base model.

    Raises:
        GraderError: other names or shapes, or values that are not finite.
    """
    import torch

    tied = {"lm_head.weight"}  # GPT-2's output layer is its embedding; it is stored once
    missing, more = set(wanted) - set(tensors) - tied, set(tensors) - set(wanted)
    if missing or more:
        raise GraderError(f"other tensors than the base model's: {sorted(missing | more)[0]}")
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise GraderError(f"{name} has the shape {tuple(tensor.shape)}, not the base's")
        if not torch.isfinite(tensor).all():
            raise GraderError(f"{name} holds values that are not finite")


def measure(base, tokenizer, model, samples_per_prompt, max_new_tokens=32, prompts=None):
    """Metrics of a model against the base, on held-out prompts with a fixed seed."""
    from data import VALIDATION_PROMPTS
    from evaluate import evaluate_model
    from sentiment import load_judge

    return evaluate_model(
        model,
        tokenizer,
        prompts or VALIDATION_PROMPTS,
        base,
        samples_per_prompt,
        max_new_tokens,
        judge=load_judge(),
    )


def measure_all(args):
    """Lines of the table: a header, the base, one line for each student."""
    from engine.policy import load_model
    from sentiment import load_sentiment_model

    folders = sorted(Path(args.models).iterdir(), key=lambda folder: normal(folder.name))
    if not folders:
        raise GraderError(f"'{args.models}' holds no folders of students")
    load_sentiment_model(args.sentiment_model)
    base, tokenizer = load_model(args.base)
    table = [["student", "status", *COLUMNS]]
    for name, folder in (("(base model)", None), *((path.name, path) for path in folders)):
        try:
            model = load_weights(base, weights_of(folder)) if folder else base
        except GraderError as error:
            table.append([name, str(error), *[""] * len(COLUMNS)])
            continue
        metrics = measure(base, tokenizer, model, args.num_samples, args.max_new_tokens)["metrics"]
        figures = {column: f"{metrics[column]:.4g}" for column in COLUMNS}
        table.append([name, "measured", *figures.values()])
        print("  ".join([name, *(f"{column} {text}" for column, text in figures.items())]))
    return table


def weights_of(folder):
    """model.safetensors of a hand-in: in the folder, or the only one below it."""
    direct = folder / "model.safetensors"
    below = sorted(folder.rglob("final/model.safetensors")) or sorted(
        folder.rglob("model.safetensors")
    )
    return direct if direct.exists() or len(below) != 1 else below[0]


def main(argv=None):
    parser = OneLineParser(
        prog="trained_models", description="Measure trained models that students hand in."
    )
    add = parser.add_argument
    add("models", metavar="MODELS", help="a folder with one folder for each student")
    add("--base", default=str(ROOT / "tiny" / "gpt2"), help="the model that training started from")
    add("--sentiment_model", default=str(ROOT / "tiny" / "sentiment"), help="scores the texts")
    add("--out", default="checkpoints.csv", metavar="CSV", help="default: %(default)s")
    add("--num_samples", type=int, default=4, help="completions per prompt (%(default)s)")
    add("--max_new_tokens", type=int, default=32, help="longest completion (%(default)s)")
    args = parser.parse_args(argv)
    from instructor.grading.gradebook import write_csv

    quiet_libraries()
    try:
        table = measure_all(args)
        write_csv(args.out, table)
    except (UserError, OSError) as error:
        sys.exit(f"trained_models: {error}")
    print(f"Wrote {args.out}: {len(table) - 2} models and their base")


if __name__ == "__main__":
    main()
