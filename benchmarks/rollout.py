"""How fast completions can be sampled: what `generate` in `engine/sampling.py` was chosen from.

    python benchmarks/rollout.py                   # bundled model, 64 x 32 tokens
    python benchmarks/rollout.py --model FOLDER

Every way samples from the unrestricted distribution of the policy. They take turns, so that a
machine whose speed changes slows all; ratios are taken turn by turn. The first call of each, which
compiles where there is something to compile, is shown apart.
"""

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.common import (  # noqa: E402
    ROOT,
    UserError,
    first_line,
    make_console,
    quiet_libraries,
    write_json,
)
from engine.options import OneLineParser, at_least  # noqa: E402

OURS = "generate of engine.sampling"


def ways(model, tokenizer, prompt_ids, length):
    """{name: callable() that samples one batch}; the first is ours."""
    import torch
    from transformers import DynamicCache, GenerationConfig, StaticCache

    from engine.sampling import generate
    from engine.scoring import pad

    ids, mask = pad(prompt_ids, tokenizer.pad_token_id, "left", model.device)
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

    def dynamic():
        return DynamicCache(config=model.config)

    def static():
        return StaticCache(config=model.config, max_cache_len=ids.shape[1] + length)

    compiled = torch.compile(model, dynamic=True)
    return {
        OURS: lambda: generate(model, tokenizer, prompt_ids, length),
        "the loop, static cache": lambda: loop(model, ids, mask, length, static()),
        "the loop, static cache, compiled": lambda: loop(compiled, ids, mask, length, static()),
        "the loop, torch.multinomial": lambda: loop(
            model, ids, mask, length, dynamic(), multinomial=True
        ),
        "transformers generate": transformers(),
        "transformers generate, static cache": transformers(cache_implementation="static"),
        "transformers continuous batching": continuous,
    }


def loop(forward, ids, mask, length, cache, multinomial=False):
    """Like `engine.sampling.generate`, with the cache and the draw to choose; it keeps nothing."""
    import torch

    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        for _ in range(length):
            logits = forward(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
            probs = logits.double().softmax(-1)
            if multinomial:
                ids = probs.multinomial(1)
            else:
                cdf = probs.cumsum(-1)
                uniform = torch.rand(len(cdf), 1, dtype=cdf.dtype, device=cdf.device)
                ids = torch.searchsorted(cdf, uniform * cdf[:, -1:]).clamp(max=cdf.shape[1] - 1)
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            positions = positions[:, -1:] + 1


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
    from engine.policy import load_model, tune_cpu

    tune_cpu()
    model, tokenizer = load_model(args.model)
    prompts = [data.TRAIN_PROMPTS[i // 8] for i in range(args.batch_size)]
    results, running = {}, {}
    for name, way in ways(model, tokenizer, tokenizer(prompts)["input_ids"], args.length).items():
        try:
            results[name] = {"first": seconds(way), "turns": [], "error": None}
            running[name] = way
        except Exception as error:  # this machine or this model cannot do it this way
            results[name] = {"error": f"{type(error).__name__}: {first_line(error)}"}
    for _ in range(args.turns):
        for name, way in running.items():
            results[name]["turns"].append(seconds(way))
    return results


def show(results):
    """Print the table: median seconds of each way, and how many times as long as ours."""
    from rich.table import Table

    ours = results[OURS]["turns"]
    table = Table("sampled by", "median, s", "ours ×", "first call, s", box=None)
    for name, result in results.items():
        if result["error"]:
            table.add_row(name, "-", "-", result["error"][:40])
            continue
        ratio = statistics.median(t / o for t, o in zip(result["turns"], ours))
        median = statistics.median(result["turns"])
        table.add_row(name, f"{median:.3f}", f"{ratio:.2f}", f"{result['first']:.1f}")
    make_console().print(table)


def main(argv=None):
    parser = OneLineParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    tiny = str(ROOT / "tiny" / "gpt2")
    add("--model", default=tiny, help="a folder or Hub name; default the bundled GPT-2")
    count = at_least(1, int)
    add("--batch_size", type=count, default=64, help="completions; default 64")
    add("--length", type=count, default=32, help="tokens per completion; default 32")
    add("--turns", type=count, default=7, help="calls of each way; default 7")
    add("--json", metavar="FILE", help="write every figure to this file")
    args = parser.parse_args(argv)
    quiet_libraries()
    try:
        results = measure(args)
        show(results)
        if args.json:
            write_json(args.json, results)
    except (UserError, OSError) as error:
        sys.exit(f"rollout.py: {error}")


if __name__ == "__main__":
    main()
