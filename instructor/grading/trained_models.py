"""Measure trained models that students hand in, from their weights alone.

    python -m instructor.grading.trained_models MODELS --out checkpoints.csv

MODELS holds one folder for each student. Only the tensors of its `model.safetensors` are read, into
the architecture of the base model: no configuration and no code that was handed in ever runs.
"""

import copy
import json
import math
import os
import stat
import struct
import sys
from pathlib import Path

from engine.common import ROOT, UserError, quiet_libraries
from engine.options import OneLineParser
from instructor.grading.submission import GraderError, Rejected, normal
from instructor.grading.text import one_line

COLUMNS = ("sentiment", "judge", "kl", "perplexity", "repetition_3", "length")
TYPES = ("F16", "BF16", "F32")  # of the numbers that are read
HEADER_LIMIT = 1 << 20  # bytes of a safetensors file besides its numbers
MODELS_LIMIT, DEPTH_LIMIT, FOLDERS_LIMIT = 5, 4, 1000  # of one student
MODEL_FILE = "model.safetensors"


def load_weights(base, folder, path):
    """A copy of the base model with the tensors of the safetensors file FOLDER/PATH.

    Whoever could change the file must have ended: it is read as a whole, and then judged.

    Raises:
        Rejected: the file is missing, too large, damaged, or of another model.
    """
    wanted = base.state_dict()
    limit = HEADER_LIMIT + 8 * sum(tensor.numel() for tensor in wanted.values())
    tensors = read_tensors(read_file(folder, path, limit))
    check_tensors(tensors, wanted)
    model = copy.deepcopy(base)
    model.load_state_dict({name: x.float() for name, x in tensors.items()}, strict=False)
    model.tie_weights()
    check_predictions(model)
    return model


def read_file(folder, path, limit):
    """The bytes of the regular file FOLDER/PATH. No link is followed, nor where `folder` is one.

    Raises:
        Rejected: it is missing, a link, below a link, or larger than `limit` bytes.
    """
    *parents, name = Path(path).parts
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    fds = []
    try:
        fds.append(os.open(folder, flags | os.O_DIRECTORY))
        for parent in parents:
            fds.append(os.open(parent, flags | os.O_DIRECTORY, dir_fd=fds[-1]))
        fds.append(os.open(name, flags, dir_fd=fds[-1]))
        state = os.fstat(fds[-1])
        if not stat.S_ISREG(state.st_mode):
            raise Rejected(f"{name} is no regular file")
        if state.st_size > limit:
            raise Rejected(f"{name} is larger than the base model's would be")
        with open(fds[-1], "rb", closefd=False) as file:
            return file.read(limit)
    except OSError as error:
        why = "a regular file, below no link; pickles are not opened"
        raise Rejected(f"no {name} ({why})") from error
    finally:
        for fd in fds:
            os.close(fd)


def read_tensors(data):
    """{name: tensor} of the bytes of a safetensors file.

    Raises:
        Rejected: it is damaged, or holds numbers of another type than TYPES.
    """
    from safetensors.torch import load

    try:
        (length,) = struct.unpack_from("<Q", data)
        if length > HEADER_LIMIT:
            raise ValueError(f"a header of {length} bytes")
        header = json.loads(data[8 : 8 + length])
        types = {str(entry["dtype"]) for k, entry in header.items() if k != "__metadata__"}
        if other := types - set(TYPES):
            kinds = ", ".join(TYPES)
            raise Rejected(f"holds numbers of type {one_line(min(other))[:20]}; read are {kinds}")
        return load(data)
    except Rejected:
        raise
    except Exception as error:  # a stranger's header: a dozen ways to be no header
        raise Rejected(f"{MODEL_FILE} cannot be read: {one_line(error)[:200]}") from error


def check_tensors(tensors, wanted):
    """Compare tensors with those of the base model.

    Raises:
        Rejected: other names or shapes, or values that are not finite.
    """
    import torch

    tied = {"lm_head.weight"}  # GPT-2's output layer is its embedding; it is stored once
    missing, more = set(wanted) - set(tensors) - tied, set(tensors) - set(wanted)
    if missing or more:
        name = one_line(min(missing | more))[:100]
        raise Rejected(f"other tensors than the base model's: {name}")
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise Rejected(f"{name} has the shape {tuple(tensor.shape)}, not the base's")
        if not torch.isfinite(tensor).all():
            raise Rejected(f"{name} holds values that are not finite")


def check_predictions(model):
    """A model of huge weights computes what is no number, and would be given figures.

    Raises:
        Rejected: its logits for a few tokens are not finite.
    """
    import torch

    with torch.no_grad():
        logits = model(torch.arange(8)[None]).logits  # (1, 8, V)
    if not torch.isfinite(logits).all():
        raise Rejected("its predictions are not finite")


def measure(base, tokenizer, model, samples_per_prompt, max_new_tokens=32, prompts=None):
    """Metrics of a model against the base, on held-out prompts with a fixed seed.

    Raises:
        Rejected: it writes no texts that can be measured, or a figure is not finite.
    """
    from data import VALIDATION_PROMPTS
    from evaluate import evaluate_model
    from sentiment import load_judge

    prompts = prompts or VALIDATION_PROMPTS
    sizes = samples_per_prompt, max_new_tokens
    try:
        measured = evaluate_model(model, tokenizer, prompts, base, *sizes, judge=load_judge())
    except (RuntimeError, ValueError, ArithmeticError, LookupError) as error:
        raise Rejected(f"its texts cannot be measured ({type(error).__name__})") from error
    if wrong := [name for name in COLUMNS if not math.isfinite(measured["metrics"][name])]:
        raise Rejected(f"its {wrong[0]} is not finite")
    return measured


def measure_all(args):
    """Lines of the table: a header, the base, one line for each model of each student."""
    from engine.model.loading import load_model
    from sentiment import load_sentiment_model

    folders = sorted(Path(args.models).iterdir(), key=lambda folder: normal(folder.name))
    if not folders:
        raise GraderError(f"'{args.models}' holds no folders of students")
    load_sentiment_model(args.sentiment_model)
    base, tokenizer = load_model(args.base)

    def figures(model):
        metrics = measure(base, tokenizer, model, args.num_samples, args.max_new_tokens)["metrics"]
        return [f"{metrics[column]:.4g}" for column in COLUMNS]

    table = [["student", "model", "status", *COLUMNS], ["(base model)", "", "measured"]]
    table[1] += figures(base)
    for folder in folders:
        for path in models_of(folder):
            try:
                row = ["measured", *figures(load_weights(base, folder, path))]
            except Exception as error:  # one bad model is one row, whatever is bad about it
                said = str(error) if isinstance(error, Rejected) else type(error).__name__
                row = [said, *[""] * len(COLUMNS)]
            table.append([one_line(folder.name), one_line(Path(path).parent), *row])
            print("  ".join(cell for cell in table[-1] if cell))
    return table


def models_of(folder):
    """Paths, below a student's folder, of the models in it; one that is missing if there is none.

    Of a run only `final` counts, not its checkpoints, where there is one. No link is followed.
    """
    found, folders, seen = [], [Path()], 0
    while folders and seen < FOLDERS_LIMIT:
        inside = folders.pop()
        seen += 1
        try:
            entries = sorted(os.scandir(folder / inside), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            if entry.name == MODEL_FILE:
                found.append(inside / entry.name)
            elif len(inside.parts) < DEPTH_LIMIT and entry.is_dir(follow_symlinks=False):
                folders.append(inside / entry.name)
    final = [path for path in found if path.parent.name == "final"]
    return sorted(final or found)[:MODELS_LIMIT] or [Path(MODEL_FILE)]


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
    measured = sum(row[2] == "measured" for row in table[2:])
    print(f"Wrote {args.out}: {measured} models of {len(table) - 2}, and their base")


if __name__ == "__main__":
    main()
