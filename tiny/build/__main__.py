"""Build the small models in `tiny/` from the public IMDb and SST-5 corpora.

    python -m tiny.build gpt2 --corpus DIR        # language model
    python -m tiny.build sentiment --corpus DIR   # five-star classifier
    python -m tiny.build judge --corpus DIR       # second opinion, for evaluation

DIR holds gzipped JSON lines: `imdb-train` (text, rating), `imdb-unsupervised` (text), and
`sst5-train` and `sst5-dev` (text, stars, sentence). The texts come from the Large Movie Review
Dataset (Maas et al. 2011) and the Stanford Sentiment Treebank (Socher et al. 2013). Neither is
part of this repository; only the models trained on them are.

At this size the data decides whether a language model writes good English. A model of a few
million parameters that is trained on whole reviews invents words that do not exist. The same model
writes real words if two things are done: the training ends with sentences made of common words
only, and each of these words is one token.
"""

import sys
from pathlib import Path

from engine.common import ROOT, UserError
from engine.options import OneLineParser, at_least


def make_parser():
    """The options of the command line."""
    parser = OneLineParser(
        prog="tiny.build", description="Build the small models in tiny/ from public corpora."
    )
    parser.add_argument("model", choices=["gpt2", "sentiment", "judge"], help="the model to build")
    parser.add_argument("--corpus", required=True, help="folder with the .jsonl.gz files")
    parser.add_argument("--out", type=Path, help="folder for the model (default: tiny/MODEL)")
    count = at_least(1, int)
    tokens = at_least(0, int)

    option = parser.add_argument_group("only for sentiment").add_argument
    option("--segments", type=count, default=300_000, help="texts that the teachers label")
    option("--teachers", type=count, default=4, help="number of teachers, one process each")

    option = parser.add_argument_group("only for gpt2").add_argument
    option("--tokens_all", type=tokens, default=32_000_000, help="tokens of whole reviews")
    option(
        "--tokens_simple", type=count, default=16_000_000, help="then tokens of simple sentences"
    )
    return parser


def build(args):
    """Build one model. torch takes seconds to load: only now, so that --help answers at once."""
    out = args.out or ROOT / "tiny" / args.model
    if args.model == "gpt2":
        from tiny.build.language_model import build_gpt2

        build_gpt2(args.corpus, out, args.tokens_all, args.tokens_simple)
    elif args.model == "judge":
        from tiny.build.judge import build_judge

        build_judge(args.corpus, out)
    else:
        from tiny.build.classifier import build_sentiment

        build_sentiment(args.corpus, out, args.segments, args.teachers)


def main():
    args = make_parser().parse_args()
    try:
        build(args)
    except FileNotFoundError as error:
        sys.exit(f"tiny.build: {error.filename} is missing; --corpus takes the folder with it.")
    except UserError as error:
        sys.exit(f"tiny.build: {error}")


if __name__ == "__main__":
    main()
