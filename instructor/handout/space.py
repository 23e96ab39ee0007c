"""Write play.py and trained models as the folder of a Hugging Face Space.

    python -m instructor.handout.space OUT_DIR outputs/run outputs/other

Push the folder to a Space of your own. There a README.md says what runs, and requirements.txt what
is installed; a Space reads both in its root. It needs no account to be tried here:

    cd OUT_DIR && GRADIO_SERVER_NAME=0.0.0.0 GRADIO_SERVER_PORT=7860 python app.py

Source: "Spaces Configuration Reference" and "Handling Spaces Dependencies" of the Hub's manual.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

from engine.common import ROOT, UserError
from engine.options import OneLineParser

FILES = (
    *("play.py", "evaluate.py", "sentiment.py", "data.py", "LICENSE"),
    *("engine/**/*.py", "engine/pages/page/*", "tiny/gpt2/*", "tiny/sentiment/*"),
)
OF_A_RUN = ("run.json", "README.md", "final")
PAGE = """---
title: Teach GPT-2 to like movies
emoji: 🎬
colorFrom: yellow
colorTo: blue
sdk: gradio
sdk_version: {gradio}
python_version: "3.12"
app_file: app.py
suggested_hardware: cpu-basic
license: mit
short_description: A prompt, and what GPT-2 makes of it after GRPO
---

Type the beginning of a movie review, and read what GPT-2 makes of it before and after GRPO. Tokens
are tinted by log q − log p: how much more likely the trained model finds them than the base model.
"""
APP = """import play

if __name__ == "__main__":
    play.main({names})
"""
CPU_TORCH = "--extra-index-url https://download.pytorch.org/whl/cpu\n"


def write_space(out_dir, runs):
    """Write the folder.

    Args:
        out_dir: it must not exist yet.
        runs: output folders of train.py; equal last names get a number.

    Raises:
        UserError: something is in the way, or one of the runs has no model.
    """
    out_dir = Path(out_dir).absolute()
    if out_dir.exists():
        raise UserError(f"{out_dir} exists. Give another name, or remove it first.")
    for run in runs:
        if not (Path(run) / "final").is_dir():
            raise UserError(f"{run} has no folder 'final': name finished runs of train.py.")
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out_dir.parent, prefix=".space-") as temporary:
        folder = Path(temporary) / out_dir.name
        for path in {path for pattern in FILES for path in ROOT.glob(pattern) if path.is_file()}:
            copy(path, folder / path.relative_to(ROOT))
        names = [copy_run(Path(run), folder) for run in runs]
        text = (ROOT / "requirements-play.txt").read_text(encoding="utf-8")
        (gradio,) = (line[8:] for line in text.splitlines() if line.startswith("gradio=="))
        written = {
            "README.md": PAGE.format(gradio=gradio),
            "app.py": APP.format(names=json.dumps([*names, "--no_browser"])),
            "requirements.txt": CPU_TORCH + text,
        }
        for name, content in written.items():
            (folder / name).write_text(content, encoding="utf-8", newline="\n")
        folder.replace(out_dir)


def copy_run(run, folder):
    """What play.py reads of a run; returns its new name below `folder`."""
    name, number = f"runs/{run.resolve().name}", 1
    while (folder / name).exists():
        number += 1
        name = f"runs/{run.resolve().name}-{number}"
    for source in filter(Path.exists, (run / part for part in OF_A_RUN)):
        for path in source.rglob("*") if source.is_dir() else [source]:
            if path.is_file():
                copy(path, folder / name / path.relative_to(run))
    return name


def copy(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def main(argv=None):
    parser = OneLineParser(
        prog="space", description="Write play.py and trained models as a Hugging Face Space."
    )
    parser.add_argument("out_dir", metavar="OUT_DIR", help="folder to write")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="output folders of train.py")
    args = parser.parse_args(argv)
    try:
        write_space(args.out_dir, args.runs)
    except (UserError, OSError) as error:
        sys.exit(f"space: {error}")
    print(f"Wrote {args.out_dir}; try it: cd {args.out_dir} && python app.py")


if __name__ == "__main__":
    main()
