"""The share of low-scoring texts that models still write: where two KL penalties should differ.

    python benchmarks/low_texts.py outputs/forward/final outputs/backward/final

draws the 16 completions to each of 64 held-out prompts that `evaluate.py compare` draws, and counts
those with a sentiment below 0.2.
"""

from starting import make_parser, one_line_errors

from engine.options import PRESETS

LOW = 0.2


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("models", nargs="+", help="of --preset tiny")
    args = parser.parse_args(argv)
    from data import VALIDATION_PROMPTS
    from engine.model.loading import load_model
    from evaluate import evaluate_model
    from sentiment import load_sentiment_model

    tiny = PRESETS["tiny"]
    with one_line_errors(parser.prog):
        load_sentiment_model(tiny["sentiment_model"])
        reference, _ = load_model(tiny["model_name"])
        length = tiny["max_completion_length"]
        for name in args.models:
            models = *load_model(name), VALIDATION_PROMPTS, reference
            found = evaluate_model(*models, max_new_tokens=length)
            scores = [sample["sentiment"] for sample in found["samples"]]
            low = sum(score < LOW for score in scores)
            print(f"{name}: {low} of {len(scores)}, {low / len(scores):.2%}")


if __name__ == "__main__":
    main()
