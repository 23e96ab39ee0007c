"""Save a finished model."""

import copy
import tempfile
from pathlib import Path


def save_half(model, tokenizer, out):
    """Save float16 weights and the tokenizer: half the size; they are loaded as float32.

    The files are written to a temporary folder inside `out` and then renamed, so that each file
    of the model is always whole, also if this program is stopped.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".unfinished-") as folder:
        copy.deepcopy(model).half().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        for file in sorted(Path(folder).iterdir()):
            file.replace(out / file.name)
