"""TRL's GRPOTrainer as its documentation shows it, with the options of train.py.

    python benchmarks/stock.py --preset tiny --max_steps 10 --kl_type forward

The other side of speed.py: same models, prompts, batch, lengths and seed, but TRL's own generation,
a reward function that scores with the same sentiment model and, with --kl_type, the log-probability
of each token under policy and reference in two plain forward passes. TRL's log of each step goes to
OUTPUT_DIR/metrics.jsonl, as with train.py.
"""

import copy
from pathlib import Path

from starting import one_line_errors

from engine.common import append_jsonl
from engine.options import Options, parse_arguments, resolve_options


def log_prob_of_texts(model, ids, mask, length):
    """Log-probability of the last `length` tokens of each row, in one plain forward pass, (B,)."""
    import torch

    with torch.no_grad():
        logits = model(ids, attention_mask=mask).logits[:, -length - 1 : -1]
    tokens = logits.log_softmax(-1).gather(-1, ids[:, -length:, None])[..., 0]
    return (tokens * mask[:, -length:]).sum(-1)


def make_reward(options: Options, model, tokenizer):
    """The reward function: the sentiment, minus the KL penalty if the options ask for one."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    from sentiment import get_sentiment_scores

    reference = copy.deepcopy(model).eval().requires_grad_(False)

    def reward(prompts, completions, completion_ids, **kwargs):
        scores = torch.tensor(get_sentiment_scores(completions))
        if options.kl_type == "none":
            return scores.tolist()
        left = tokenizer(prompts, return_tensors="pt", padding=True).to(model.device)
        texts = [torch.tensor(ids, device=model.device) for ids in completion_ids]
        right = pad_sequence(texts, batch_first=True, padding_value=tokenizer.pad_token_id)
        right_mask = pad_sequence([torch.ones_like(text) for text in texts], batch_first=True)
        ids = torch.cat([left["input_ids"], right], 1)
        mask = torch.cat([left["attention_mask"], right_mask], 1)
        policy, ref = (log_prob_of_texts(m, ids, mask, right.shape[1]) for m in (model, reference))
        return (scores - options.kl_coef * (policy - ref).cpu()).tolist()

    return reward


def train(options: Options) -> list[dict]:
    """Train; returns TRL's log of each step."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.trainer.grpo_trainer import GRPOTrainer

    from data import get_train_dataset
    from engine.model.devices import best_device, mixed_precision
    from engine.training.trainer import make_config
    from sentiment import load_sentiment_model

    device = best_device()
    load_sentiment_model(options.sentiment_model, device)
    own = {"trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(options.model_name, padding_side="left", **own)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(options.model_name, dtype=torch.float32, **own)
    model = model.to(device)
    trainer = GRPOTrainer(
        model=model,
        # The settings of train.py, in the precision that TRL would choose.
        args=make_config(options, device, bf16=mixed_precision(device).loss == torch.bfloat16),
        reward_funcs=make_reward(options, model, tokenizer),
        train_dataset=get_train_dataset(options.prompts),
        processing_class=tokenizer,
    )
    trainer.train()
    return [row for row in trainer.state.log_history if "step_time" in row]


def main(argv=None):
    given = parse_arguments(str(__doc__).split("\n")[0], argv)
    with one_line_errors("stock.py"):
        options = resolve_options(given)
        folder = Path(options.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        append_jsonl(folder / "metrics.jsonl", train(options))


if __name__ == "__main__":
    main()
