"""A finished run of made-up figures, for what reads runs."""

import json

from engine.options import PRESETS

EVIL = "</script><b>&\u2028\x00\x07"  # what a model may write, and HTML must escape
MODELS = {name: PRESETS["tiny"][name] for name in ("model_name", "sentiment_model")}


def write_run(folder, steps=(0, 15, 30), samples=3, explore=None, **options):
    """Write the files of a run.

    Args:
        folder: of the run; it does not exist yet.
        steps: of its validations.
        samples: of each validation, each to a prompt of its own.
        explore: callable(step) -> rows of explore.jsonl; None leaves the file out.
        options: those of the run that are not the default.

    Returns:
        folder
    """
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"options": MODELS | options}))
    validations, completions, explored = [], [], []
    for step in steps:
        validations.append(
            {
                "step": step,
                "phase": "validation",
                "sentiment": 0.5 + step / 100,
                "positive_share": 0.5,
                "kl": step / 3,
                "perplexity": 20.0,
                "entropy": 3.0 - step / 100,
                "repetition_3": 0.0,
                "length": 30.0,
            }
        )
        completions += [
            {
                "step": step,
                "prompt": f"It is {i}",
                "completion": f" {EVIL}{step}.{i}",
                "sentiment": (i * 7 % samples) / samples,
                "kl": float(i),
                "kl_parts": [i / 8 + part / 100 for part in range(8)],
            }
            for i in range(samples)
        ]
        explored += explore(step) if explore else []
    write_rows(folder / "metrics.jsonl", validations)
    write_rows(folder / "completions.jsonl", completions)
    if explore:
        write_rows(folder / "explore.jsonl", explored)
    return folder


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
