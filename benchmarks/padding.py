"""What left padding does to GPT-2's log-probabilities in TRL's GRPO, which passes no positions.

    python benchmarks/padding.py tiny/gpt2      # without a name: gpt2, from the Hub

Stands alone, to be pasted into an issue. A hook notes what the loss of a step gives to the model.
GPT-2 then counts positions from the left edge, padding included, where generate() did not.
"""

import argparse
import tempfile

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
parser.add_argument("model", nargs="?", default="gpt2", help="a GPT-2: its name or folder")
name = parser.parse_args().model
model = AutoModelForCausalLM.from_pretrained(name, dtype="float32")
tokenizer = AutoTokenizer.from_pretrained(name)
tokenizer.pad_token = tokenizer.eos_token
calls = []
model.register_forward_pre_hook(lambda _, __, given: calls.append(given), with_kwargs=True)
prompts = ["The film", "It is hard to say what this story", "I watched it", "My whole family and I"]
data = Dataset.from_dict({"prompt": prompts})
size = {"per_device_train_batch_size": 8, "num_generations": 2, "max_completion_length": 32}
once = {"max_steps": 1, "learning_rate": 0.0, "save_strategy": "no", "report_to": "none"}
with tempfile.TemporaryDirectory() as folder:
    config = GRPOConfig(folder, use_cpu=True, bf16=False, seed=0, **size, **once)
    reward = lambda prompts, **_: [0.0] * len(prompts)  # noqa: E731
    GRPOTrainer(model, reward, config, data, processing_class=tokenizer).train()
loss = calls[-1]
print("positions in the loss:", loss.get("position_ids"))
ids, mask = loss["input_ids"], loss["attention_mask"]
start = max(len(tokenizer(prompt)["input_ids"]) for prompt in prompts)  # of the completions


def log_probs(**positions):
    logits = model.eval()(ids, attention_mask=mask, **positions).logits[:, start - 1 : -1]
    return logits.log_softmax(-1).gather(-1, ids[:, start:, None])[..., 0][mask[:, start:].bool()]


with torch.no_grad():
    apart = (log_probs() - log_probs(position_ids=(mask.cumsum(1) - 1).clamp(min=0))).abs()
print(f"{len(apart)} tokens: mean {apart.mean():.3f} nats, largest {apart.max():.2f} nats")
