"""What a reward, or a model trained elsewhere, is worth: measured here, from weights alone.

    python instructor/training.py MODELS --out checkpoints.csv

grades trained models that students hand in, one folder each. Of a hand-in only the tensors of
`model.safetensors` are read, into the architecture of the base model: its configuration and code
never run. `grade.py --train` uses the same measurement after a short run in the sandbox.
"""

import argparse
import copy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from instructor import judge  # noqa: E402

COLUMNS = ("sentiment", "judge", "kl", "perplexity", "repetition_3", "length")
SIZE_LIMIT = 4 << 30


def load_weights(base, path):
    """A copy of the base model with the tensors of a safetensors file.

    Raises:
        judge.GraderError: the file is missing, too large, damaged, or of another model.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    if path.is_symlink() or not path.is_file():
        raise judge.GraderError("no model.safetensors (a regular file; pickles are not opened)")
    if path.stat().st_size > SIZE_LIMIT:
        raise judge.GraderError(f"model.safetensors is larger than {SIZE_LIMIT >> 30} GB")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise judge.GraderError(f"model.safetensors cannot be read: {error}") from error
    model = copy.deepcopy(base)
    wanted = model.state_dict()
    tied = {"lm_head.weight"}  # GPT-2's output layer is its embedding; it is stored once
    missing, more = set(wanted) - set(tensors) - tied, set(tensors) - set(wanted)
    if missing or more:
        raise judge.GraderError(f"other tensors than the base model's: {sorted(missing | more)[0]}")
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise judge.GraderError(f"{name} has the shape {tuple(tensor.shape)}, not the base's")
        if not torch.isfinite(tensor).all():
            raise judge.GraderError(f"{name} holds values that are not finite")
    model.load_state_dict({k: v.float() for k, v in tensors.items()}, strict=False)
    model.tie_weights()
    return model


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


def check(workshop, control, source, settings, models):
    """Train the bundled model for a few steps with a submission's reward; a sentence about it.

    Args:
        settings: `train` of the rubric: options of train.py, `rise` and `nats`.
        models: (base, tokenizer) of this process.
    """
    base, tokenizer = models
    options = {"preset": "tiny", "eval_steps": 10**6, "save_steps": 10**6, **settings["options"]}
    limits = {"cpu_seconds": 3600, "memory": 6 << 30, "file_size": 256 << 20}
    try:
        with judge.Child(workshop, control, source, 1800.0, **limits) as child:
            child.ask("load")
            child.ask("train", options=options)
            weights = child.folder / "run" / "final" / "model.safetensors"
            model = load_weights(base, weights)
    except (judge.Wrong, judge.GraderError, NotImplementedError) as error:
        return f"The training did not finish: {' '.join(str(error).split())[:500]}"
    before, after = (measure(base, tokenizer, m, 2)["metrics"] for m in (base, model))
    rise, nats = after["sentiment"] - before["sentiment"], after["kl"]
    told = f"sentiment {before['sentiment']:.2f} → {after['sentiment']:.2f}, KL {nats:.1f} nats"
    steps = settings["options"]["max_steps"]
    verdicts = ["rose" if rise >= settings["rise"] else f"did not rise by {settings['rise']}"]
    verdicts += ["stayed" if nats <= settings["nats"] else f"passed {settings['nats']} nats"]
    return f"After {steps} steps: {told}. Sentiment {verdicts[0]}, KL {verdicts[1]}."


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", help="a folder with one folder for each student")
    parser.add_argument("--base", default=str(ROOT / "tiny" / "gpt2"))
    parser.add_argument("--sentiment_model", default=str(ROOT / "tiny" / "sentiment"))
    parser.add_argument("--out", default="checkpoints.csv", help="default: %(default)s")
    parser.add_argument("--num_samples", type=int, default=4, help="completions per prompt")
    parser.add_argument("--max_new_tokens", type=int, default=32)
    args = parser.parse_args(argv)
    try:
        rows = grade_models(args)
    except (judge.GraderError, OSError) as error:
        sys.exit(f"training.py: {error}")
    from instructor import gradebook

    gradebook.write(args.out, gradebook.csv_text([[gradebook.cell(v) for v in r] for r in rows]))
    print(f"Wrote {args.out}: {len(rows) - 2} models and their base")


def grade_models(args):
    """Rows of the table: a header, the base, one row for each student."""
    from instructor.collect import normal
    from models import load_model
    from sentiment import load_sentiment_model

    load_sentiment_model(args.sentiment_model)
    base, tokenizer = load_model(args.base)
    folders = sorted((p for p in Path(args.models).iterdir()), key=lambda p: normal(p.name))
    if not folders:
        raise judge.GraderError(f"'{args.models}' holds no folders of students")
    rows = [["student", "status", *COLUMNS]]
    for name, path in (("(base model)", None), *((p.name, p) for p in folders)):
        try:
            model = load_weights(base, find(path)) if path else base
        except judge.GraderError as error:
            rows.append([name, str(error), *[""] * len(COLUMNS)])
            continue
        metrics = measure(base, tokenizer, model, args.num_samples, args.max_new_tokens)["metrics"]
        rows.append([name, "measured", *(f"{metrics[key]:.4g}" for key in COLUMNS)])
        print("  ".join(rows[-1][:1] + [f"{k} {v}" for k, v in zip(COLUMNS, rows[-1][2:])]))
    return rows


def find(folder):
    """model.safetensors of a hand-in: in the folder, or the only one below it."""
    direct = folder / "model.safetensors"
    below = sorted(folder.rglob("final/model.safetensors")) or sorted(
        folder.rglob("model.safetensors")
    )
    return direct if direct.exists() or len(below) != 1 else below[0]


if __name__ == "__main__":
    from monitor import quiet_libraries

    quiet_libraries()
    main()
