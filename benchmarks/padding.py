"""What left padding does to GPT-2's log-probabilities where nobody passes positions.

    python benchmarks/padding.py                   # bundled model
    python benchmarks/padding.py --model FOLDER

TRL's loss pads prompts on the left and leaves the positions to the model. GPT-2 then counts them
from the left edge, padding included, so a short prompt beside a long one is read as if it began
later. `prepare` in `engine/model/loading.py` counts from the first real token. This program scores
the same completions both ways and prints how far apart they are, in nats a token.
"""

from starting import make_parser, one_line_errors

from engine.common import ROOT


def differences(model, plain, tokenizer, prompts, length=32):
    """|log p counted from the edge − log p counted from the first real token|, a value a token.

    Args:
        model: prepared by `engine.model.loading.load_model`.
        plain: the same weights as transformers loads them.
        tokenizer: of both.
        prompts: list of strings; their completions are sampled from `model`.
        length: tokens of a completion, at most.

    Returns:
        1-D float32 tensor in nats, one value for each real token.
    """
    import torch

    from engine.model.sampling import Sampling, generate
    from engine.model.scoring import pad

    prompt_ids = tokenizer(prompts)["input_ids"]
    completion_ids, _ = generate(model, tokenizer, prompt_ids, Sampling(max_new_tokens=length))
    left, left_mask = pad(prompt_ids, tokenizer.pad_token_id, "left")
    right, right_mask = pad(completion_ids, tokenizer.pad_token_id, "right")
    ids, mask = torch.cat([left, right], 1), torch.cat([left_mask, right_mask], 1)
    scored = []
    for scorer in (model, plain):
        with torch.no_grad():
            logits = scorer(input_ids=ids, attention_mask=mask).logits.float()
        log_probs = logits[:, left.shape[1] - 1 : -1].log_softmax(-1)
        scored.append(log_probs.gather(-1, right[..., None])[..., 0])
    return (scored[0] - scored[1]).abs()[right_mask.bool()]


def main(argv=None):
    parser = make_parser(__doc__)
    bundled = str(ROOT / "tiny" / "gpt2")
    parser.add_argument("--model", default=bundled, metavar="FOLDER", help="default tiny/gpt2")
    args = parser.parse_args(argv)
    with one_line_errors(parser.prog):
        import torch
        from transformers import AutoModelForCausalLM

        from data import VALIDATION_PROMPTS
        from engine.model.loading import load_model

        model, tokenizer = load_model(args.model, "cpu")
        own = {"trust_remote_code": False}
        plain = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, **own).eval()
        apart = differences(model, plain, tokenizer, list(VALIDATION_PROMPTS))
        print(f"{len(apart)} tokens of {len(VALIDATION_PROMPTS)} completions, nats a token:")
        print(f"mean {apart.mean():.3f}, largest {apart.max():.2f}")


if __name__ == "__main__":
    main()
