"""Training and validation prompts: openings of movie reviews that do not say yet how they end."""

import csv
import io
import json
import re
from pathlib import Path

from engine.common import UserError

LIKE_JSON = re.compile(r"""\{|\[\s*(["{\[]|$)""")  # an object, or a list; not [INST]

TRAIN_PROMPTS = [
    "This movie was",
    "This movie is",
    "This film was",
    "This film is",
    "The acting was",
    "The acting in this film",
    "The story was",
    "The story is",
    "The plot of this movie",
    "The plot was",
    "The director",
    "The script was",
    "The script is",
    "The characters were",
    "The characters are",
    "The main character is",
    "The ending was",
    "The ending of this film",
    "The music in this movie",
    "The whole cast",
    "The first half of the movie",
    "The performances were",
    "The dialogue was",
    "The scenes in this film",
    "The special effects",
    "The lead actor",
    "The best thing about this movie",
    "The worst thing about this film",
    "I watched this movie",
    "I watched this film and",
    "I watched this yesterday and",
    "I saw this movie",
    "I saw this film when",
    "I thought this movie",
    "I thought the acting",
    "I think this film",
    "I found this movie",
    "I found the story",
    "I have seen this movie",
    "I just saw this film",
    "I was expecting this movie to be",
    "I rented this movie and",
    "I would say this film",
    "I went to see this film",
    "It was a movie that",
    "It is a film that",
    "My wife and I watched this film",
    "My friends said this movie",
    "Overall, I think this movie",
    "Overall, the film",
    "When I saw this movie",
    "When the movie started",
    "After watching this film",
    "After the first scene",
    "As a movie, this",
    "In this film, the actors",
    "If you watch this movie",
    "A film like this",
    "Watching this movie was",
    "Watching this film, I",
    "For a movie like this",
    "From the first scene, this film",
    "Everything about this movie",
    "What I thought of this film:",
]

VALIDATION_PROMPTS = [
    "This movie has",
    "This movie made me",
    "This film has",
    "This film made me",
    "This is a movie that",
    "This is a film that",
    "This was a movie",
    "The acting is",
    "The acting in this movie",
    "The acting by the lead",
    "The story of this film",
    "The story in this movie",
    "The plot is",
    "The plot of this film was",
    "The direction was",
    "The director of this movie",
    "The script for this film",
    "The writing is",
    "The characters in this movie",
    "The characters in the film were",
    "The main actor was",
    "The actors in this film",
    "The actress",
    "The ending is",
    "The ending of the movie was",
    "The music was",
    "The cast of this film",
    "The second half of the film",
    "The opening scene",
    "The last scene of the movie",
    "The performances in this film",
    "The dialogue in this movie",
    "The camera work was",
    "The effects were",
    "The lead actress was",
    "The thing about this movie is",
    "I watched it with my family and",
    "I watched this movie last night and",
    "I watched this because",
    "I saw this film on TV and",
    "I saw it at the theater and",
    "I thought the film was",
    "I thought the story",
    "I think the movie",
    "I found this film to be",
    "I found the characters",
    "I have watched this film",
    "I just watched this movie and",
    "I was told that this film was",
    "I rented this film because",
    "I must say this movie",
    "I went into this movie",
    "It was one of those films that",
    "It is the kind of movie that",
    "My family watched this movie and",
    "My first thought after the film was",
    "Overall, this film",
    "Overall, the acting",
    "When I watched this film",
    "After seeing this movie, I",
    "In my opinion, this movie",
    "If you like this kind of film",
    "Watching the actors in this movie",
    "Everything in this film",
]


def get_train_dataset(prompts_file=None):
    """`datasets.Dataset` with one column, `prompt`: TRAIN_PROMPTS, or those of `prompts_file`."""
    return _dataset(train_prompts(prompts_file))


def train_prompts(prompts_file: str | Path | None = None) -> list[str]:
    """The same as a list."""
    return read_prompts(prompts_file) if prompts_file else TRAIN_PROMPTS


def arrange(dataset, count: int, seed: int):
    """The first `count` prompts of a training: the dataset over and over, each time shuffled anew.

    One arrangement for the whole run, so that a run that resumes knows where it was. TRL's sampler
    would shuffle the second epoch of a resumed run as it did the first.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    order = []
    while len(order) < count:
        order += torch.randperm(len(dataset), generator=generator).tolist()
    return dataset.select(order[:count])


def get_validation_dataset():
    """`datasets.Dataset` with one column, `prompt`: VALIDATION_PROMPTS, never trained on."""
    return _dataset(VALIDATION_PROMPTS)


def _dataset(prompts):
    from datasets import Dataset  # a second of import time that --help need not pay

    return Dataset.from_dict({"prompt": list(prompts)})


def read_prompts(path: str | Path) -> list[str]:
    """Prompts of a file in UTF-8, whose content says what it is:

    - CSV, where the first line names a column `prompt`: commas, semicolons or tabs between columns;
    - JSON lines, where a line begins like JSON: on each line an object with a `prompt`;
    - otherwise text: a prompt on each line.

    Byte-order marks and the line ends of any system are no part of a prompt; blank lines are
    skipped. Raises UserError, naming file and line, for what cannot be read.
    """
    path = Path(path)
    text = _text_of(path)
    # Not splitlines(): a JSON text may hold U+2028 and its like, which Python takes for line ends.
    lines = [(i, line.strip()) for i, line in enumerate(io.StringIO(text, newline=None), 1)]
    lines = [(i, line) for i, line in lines if line]
    if not lines:
        raise UserError(f"The prompts file {path} holds no prompt. Write one per line.")
    name = path.suffix.lower()
    delimiter = _delimiter(lines[0][1])
    if delimiter is not None:
        found = _of_csv(text, delimiter, path)
    elif name in (".json", ".jsonl", ".ndjson") or any(LIKE_JSON.match(line) for _, line in lines):
        found = [(i, _of_json(line, f"{path}:{i}")) for i, line in lines]
    elif name in (".csv", ".tsv"):
        raise UserError(f"{path}:1: expected a header with a column `prompt`.")
    else:
        return [line for _, line in lines]
    for i, prompt in found:
        if not isinstance(prompt, str) or not prompt.strip():
            raise UserError(f"{path}:{i}: `prompt` must be a text that is not empty.")
    if not found:
        raise UserError(f"The prompts file {path} holds no prompt below its header.")
    return [prompt.strip() for _, prompt in found]


def _text_of(path):
    try:
        return path.read_bytes().decode("utf-8").replace("\ufeff", "")
    except OSError as error:
        raise UserError(f"Cannot read the prompts file {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        line = 1 + error.object[: error.start].count(b"\n")
        raise UserError(f"{path}:{line}: not UTF-8 text. Save the file as UTF-8.") from error


def _delimiter(header):
    """What stands between the columns of a CSV file whose header names `prompt`; else None."""
    return next((d for d in ",;\t" if "prompt" in _names(header.split(d))), None)


def _names(cells):
    return [cell.strip(' \t"').lower() for cell in cells]


def _of_csv(text, delimiter, path):
    """[(line, prompt)] below the header."""
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    found = []
    names = []
    line = 1  # a row may have several
    try:
        for row in rows:
            if not any(cell.strip() for cell in row):
                pass
            elif not names:
                names = _names(row)
            elif len(row) == len(names):
                found.append((line, row[names.index("prompt")]))
            else:
                raise csv.Error(
                    f"{len(row)} columns, and {len(names)} in the header; a text that holds "
                    f"{delimiter!r} stands in quotes"
                )
            line = rows.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}:{line}: {error}.") from error
    return found


def _of_json(line, where):
    try:
        return json.loads(line)["prompt"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f'{where}: expected a JSON object like {{"prompt": "…"}}.') from error
