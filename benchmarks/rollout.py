"""How fast completions can be sampled: what `models.generate` was chosen from.

    python benchmarks/rollout.py                   # bundled model, 64 x 32 tokens
    python benchmarks/rollout.py --model FOLDER

Every way samples from the unrestricted distribution of the policy. They take turns, so that a
machine whose speed drifts slows all; ratios are taken turn by turn. The first call of each, which
compiles where there is something to compile, is shown apart.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def ways(model, tokenizer, prompt_ids, length):
    """{name: callable() that samples one batch}; the first is ours."""
    import torch
    from transformers import DynamicCache, GenerationConfig, StaticCache

    import models

    ids, mask = models.pad_left(prompt_ids, tokenizer.pad_token_id, model.device)
    settings = {
        "do_sample": True,
        "top_k": 0,
        "top_p": 1.0,
        "max_new_tokens": length,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }

    def transformers(**more):
        return lambda: model.generate(input_ids=ids, attention_mask=mask, **settings, **more)

    def continuous():
        return model.generate_batch(prompt_ids, generation_config=GenerationConfig(**settings))

    @torch.no_grad()
    def loop(forward, cache, multinomial=False):
        """Like `models.generate`, with the cache and the draw to choose; it keeps nothing."""
        tokens, seen = ids, mask
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        for _ in range(length):
            logits = forward(
                input_ids=tokens,
                attention_mask=seen,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
            probs = logits.double().softmax(-1)
            if multinomial:
                tokens = probs.multinomial(1)
            else:
                cdf = probs.cumsum(-1)
                uniform = torch.rand(len(cdf), 1, dtype=cdf.dtype, device=cdf.device)
                tokens = torch.searchsorted(cdf, uniform * cdf[:, -1:]).clamp(max=cdf.shape[1] - 1)
            seen = torch.cat([seen, seen.new_ones(len(seen), 1)], dim=1)
            positions = positions[:, -1:] + 1

    def dynamic():
        return DynamicCache(config=model.config)

    def static():
        return StaticCache(config=model.config, max_cache_len=ids.shape[1] + length)

    compiled = torch.compile(model, dynamic=True)
    return {
        "models.generate": lambda: models.generate(model, tokenizer, prompt_ids, length),
        "the loop, static cache": lambda: loop(model, static()),
        "the loop, static cache, compiled": lambda: loop(compiled, static()),
        "the loop, torch.multinomial": lambda: loop(model, dynamic(), multinomial=True),
        "transformers generate": transformers(),
        "transformers generate, static cache": transformers(cache_implementation="static"),
        "transformers continuous batching": continuous,
    }


def seconds(way):
    import torch

    started = time.perf_counter()
    way()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def measure(args):
    """{way: {"first": seconds, "turns": [seconds], "error": text or None}}"""
    import data
    import models
    from monitor import quiet_libraries

    quiet_libraries()
    models.tune_cpu()
    model, tokenizer = models.load_model(args.model)
    prompts = [prompt for prompt in data.TRAIN_PROMPTS[: args.batch_size // 8] for _ in range(8)]
    results, running = {}, {}
    for name, way in ways(model, tokenizer, tokenizer(prompts)["input_ids"], args.length).items():
        try:
            results[name] = {"first": seconds(way), "turns": [], "error": None}
            running[name] = way
        except Exception as error:  # a way that this machine or this model cannot go
            results[name] = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    for _ in range(args.turns):
        for name, way in running.items():
            results[name]["turns"].append(seconds(way))
    return results


def show(results):
    from rich.table import Table

    from monitor import make_console

    ours = results["models.generate"]["turns"]
    table = Table("sampled by", "median, s", "ours ×", "first call, s", box=None)
    for name, result in results.items():
        if result["error"]:
            table.add_row(name, "-", "-", result["error"][:40])
            continue
        ratio = statistics.median(t / o for t, o in zip(result["turns"], ours))
        median = statistics.median(result["turns"])
        table.add_row(name, f"{median:.3f}", f"{ratio:.2f}", f"{result['first']:.1f}")
    make_console().print(table)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--model", default=str(ROOT / "tiny" / "gpt2"), help="folder or Hub name")
    add("--batch_size", type=int, default=64, help="completions")
    add("--length", type=int, default=32, help="tokens per completion")
    add("--turns", type=int, default=7)
    add("--json", metavar="FILE", help="write every figure")
    args = parser.parse_args()
    results = measure(args)
    show(results)
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
