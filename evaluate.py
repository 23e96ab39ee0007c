"""Measure a policy on held-out prompts, and a trained policy against its base model.

    python evaluate.py evaluate MODEL
    python evaluate.py compare BASE TRAINED
    python evaluate.py prompting BASE TRAINED --prefix "Positive review: "
    python evaluate.py curves RUN… | frontier RUN… | report RUN…

A mean sentiment alone can be hacked, so it never stands alone: KL and reference perplexity say
how far the policy has gone, repetition and length say how it got there. Every figure comes from
the sampled token ids; base and trained model answer the same prompts with the same seed.
"""

import argparse
import json
import math
import statistics
import sys
from pathlib import Path

from data import VALIDATION_PROMPTS, read_prompts
from metrics import METRICS, add_self_bleu, compare_samples, repetition, summarise
from models import UserError, generate, load_model, tune_cpu
from monitor import make_console, write_json
from reward_utils import call_student, check_rewards, load_rewards, policy_and_ref_log_probs
from sentiment import (
    NLPTOWN,
    get_hackable_scores,
    get_sentiment_scores,
    load_judge,
    load_sentiment_model,
)

PAGES = {
    "curves": "learning curves of runs",
    "frontier": "sentiment against KL of runs, with best-of-n sampling as baseline",
    "report": "one HTML page about runs",
}
BATCH_SIZE = 64
PREFIXES = ("Positive review: ", "I loved it! ", "This is the best film ever made. ")


def generate_completions(
    model, tokenizer, prompts, max_new_tokens=48, temperature=1.0, seed=0, batch_size=BATCH_SIZE
):
    """One sampled completion per prompt, as text without the prompt."""
    ids = _sample_ids(model, tokenizer, prompts, max_new_tokens, temperature, seed, batch_size)
    return tokenizer.batch_decode(ids, skip_special_tokens=True)


def _sample_ids(
    model, tokenizer, prompts, max_new_tokens, temperature, seed, batch_size, tick=lambda: None
):
    completion_ids = []
    for start in range(0, len(prompts), batch_size):
        prompt_ids = tokenizer(list(prompts[start : start + batch_size]))["input_ids"]
        completion_ids += generate(
            model, tokenizer, prompt_ids, max_new_tokens, temperature, seed=seed * 100_003 + start
        )[0]
        tick()
    return completion_ids


def evaluate_model(
    model,
    tokenizer,
    prompts,
    ref_model=None,
    samples_per_prompt=16,
    max_new_tokens=48,
    temperature=1.0,
    seed=0,
    batch_size=BATCH_SIZE,
    amp_dtype=None,
    prefix="",
    judge=None,
    tick=lambda: None,
):
    """Sample from a policy and measure it.

    Args:
        model, tokenizer: the policy.
        prompts: list of P strings.
        ref_model: the frozen reference; None for a LoRA policy, whose adapter is switched off.
        samples_per_prompt: S completions for each prompt.
        max_new_tokens, temperature, seed, batch_size: of the sampling.
        amp_dtype: autocast type for the log-probabilities, or None.
        prefix: text that the policy reads before each prompt, and the reference does not: the
            KL is then what the prefix (and any training) changed.
        judge: callable(completions) -> list of floats, a second opinion; see `load_judge`.
        tick: callable() for a progress bar, called twice for each batch.

    Returns:
        dict with `metrics`, what `metrics.summarise` makes of the samples, and `samples`, a list
        of P·S dicts in the order of the prompts: `prompt`, `completion`, `ids`, `sentiment`,
        `positive_words`, `kl` and `ref_nll` (nats, summed over the completion's tokens), `length`,
        `repetition_3`, `repetition_4`, `truncated`, and `judge` where there is one.
    """
    repeated = [prompt for prompt in prompts for _ in range(samples_per_prompt)]
    ref_prompt_ids = tokenizer(repeated)["input_ids"]
    prefixed = [prefix + prompt for prompt in repeated]
    prompt_ids = tokenizer(prefixed)["input_ids"]
    ids = _sample_ids(
        model, tokenizer, prefixed, max_new_tokens, temperature, seed, batch_size, tick
    )
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    scores, positive_words = get_sentiment_scores(texts), get_hackable_scores(texts)
    samples = []
    for start in range(0, len(ids), batch_size):
        rows = slice(start, start + batch_size)
        batch = (model, ref_model, tokenizer, prompt_ids[rows], ids[rows])
        rest = (amp_dtype, ref_prompt_ids[rows])
        policy, ref, mask = policy_and_ref_log_probs(*batch, temperature, *rest)
        kl = ((policy - ref) * mask).sum(-1).tolist()
        if temperature != 1:  # perplexity is that of the reference itself
            _, ref, _ = policy_and_ref_log_probs(*batch, 1.0, *rest)
        ref_nll = (-ref * mask).sum(-1).tolist()
        tick()
        for i, (kl_i, nll_i) in enumerate(zip(kl, ref_nll), start):
            samples.append(
                {
                    "prompt": repeated[i],
                    "completion": texts[i],
                    "ids": ids[i],
                    "sentiment": scores[i],
                    "positive_words": positive_words[i],
                    "kl": kl_i,
                    "ref_nll": nll_i,
                    "length": len(ids[i]),
                    "repetition_3": repetition(ids[i], 3),
                    "repetition_4": repetition(ids[i], 4),
                    "truncated": tokenizer.eos_token_id not in ids[i],
                }
            )
    if judge is not None:
        for sample, opinion in zip(samples, judge(texts)):
            sample["judge"] = opinion
    return {"metrics": summarise(samples), "samples": samples}


def compare_models(base_model, trained_model, prompts=None, num_samples=16, **settings):
    """Measure a trained model and its base in one run, on the same prompts with the same seed.

    Args:
        base_model, trained_model: names or folders, as for `load_model`.
        prompts: list of strings; VALIDATION_PROMPTS by default.
        num_samples: completions per prompt.
        settings: `max_new_tokens`, `temperature`, `seed`, `batch_size`, `judge` of
            `evaluate_model`; the judge is VADER by default.

    Returns:
        dict with `base` and `trained`, each as `evaluate_model` returns it, and `estimates`, every
        metric of both and of their difference with its interval, from `metrics.compare_samples`.

    Raises:
        UserError: a model cannot be loaded, or the two do not share a vocabulary.
    """
    prompts = prompts or VALIDATION_PROMPTS
    settings.setdefault("judge", load_judge())
    base, tokenizer = load_model(base_model)
    trained = load_trained(trained_model, tokenizer, base_model)
    results = {}
    for name, model in (("base", base), ("trained", trained)):
        results[name] = evaluate_model(model, tokenizer, prompts, base, num_samples, **settings)
        add_self_bleu(results[name]["samples"])
    results["estimates"] = compare_samples(
        results["base"]["samples"], results["trained"]["samples"]
    )
    return results


def verdict(estimates):
    """One sentence about what `compare_models` found: was the reward earned, or only its number?"""
    base, trained, difference = (estimates[key] for key in ("base", "trained", "difference"))
    proxy, judge = difference["sentiment"], difference["judge"]
    if proxy["low"] <= 0 <= proxy["high"]:
        return "The reward model sees no clear difference."
    if proxy["high"] < 0:
        return f"The sentiment fell by {-proxy['mean']:.2f}; the judge says {judge['mean']:+.2f}."
    costs = []
    if judge["low"] <= 0:
        costs.append(f"the judge did not follow ({judge['mean']:+.2f})")
    ratio = trained["perplexity"]["mean"] / base["perplexity"]["mean"]
    if ratio > 2:
        costs.append(f"the reference finds the text {ratio:.1f} times as surprising")
    if difference["repetition_3"]["low"] > 0.02:
        costs.append(f"repeated 3-grams rose by {difference['repetition_3']['mean']:.0%}")
    if difference["distinct_2"]["mean"] < -0.2 * base["distinct_2"]["mean"]:
        costs.append("the completions resemble each other more")
    length = trained["length"]["mean"] / base["length"]["mean"]
    if length < 0.6:
        costs.append(f"the texts shrank to {length:.0%} of their length")
    rose = f"The sentiment rose by {proxy['mean']:.2f}"
    if costs:
        return f"{rose}, but {'; '.join(costs)}. Do not trust the reward alone."
    return f"{rose} and the judge by {judge['mean']:.2f}, at {trained['kl']['mean']:.1f} nats."


def compare_prefixes(models, tokenizer, prefixes, prompts=None, score=None, **settings):
    """Can a prefix do what training did, and do the two add up?

    Args:
        models: {title: model}; the first is the base, the reference of them all, and reads no
            prefix there.
        tokenizer: of all of them.
        prefixes: list of strings such as "Positive review: "; each model also runs without.
        prompts: list of strings; VALIDATION_PROMPTS by default.
        score: callable(completions) -> list of floats, shown as `reward`; None leaves it out.
        settings: of `evaluate_model`.

    Returns:
        {title: result of `evaluate_model`}, titles such as "base" and "base + 'Wow! '". KL is
        measured from the base without a prefix.
    """
    base = next(iter(models.values()))
    results = {}
    for title, model in models.items():
        for prefix in ("", *prefixes):
            result = evaluate_model(
                model, tokenizer, prompts or VALIDATION_PROMPTS, base, prefix=prefix, **settings
            )
            if score is not None:
                rewards = score([s["completion"] for s in result["samples"]])
                result["metrics"]["reward"] = statistics.fmean(rewards)
            results[f"{title} + {prefix!r}" if prefix else title] = result
    return results


def print_prefixes(results):
    """The table of `compare_prefixes`."""
    from rich.markup import escape
    from rich.table import Table

    columns = {  # short titles: the first column needs the room
        "reward": ("reward", "{:.3f}"),
        "sentiment": ("sentiment", "{:.3f}"),
        "positive_share": ("positive", "{:.0%}"),
        "kl": ("KL", "{:.2f}"),
        "perplexity": ("ref. ppl", "{:.1f}"),
        "length": ("length", "{:.1f}"),
    }
    table = Table("policy", box=None, pad_edge=False)
    first = next(iter(results.values()))["metrics"]
    shown = {name: column for name, column in columns.items() if name in first}
    for title, _ in shown.values():
        table.add_column(title, justify="right", no_wrap=True)
    for title, result in results.items():
        figures = [form.format(result["metrics"][name]) for name, (_, form) in shown.items()]
        table.add_row(escape(title), *figures)
    make_console().print(table)


def print_comparison_samples(comparison):
    """The trained model's best, median and worst completion by the judge, each beside the base
    model's to the same prompt: a choice that flatters nobody."""
    console = make_console()
    pairs = list(zip(comparison["base"]["samples"], comparison["trained"]["samples"]))
    pairs.sort(key=lambda pair: pair[1]["judge"])
    for title, i in (("best", -1), ("median", len(pairs) // 2), ("worst", 0)):
        base, trained = pairs[i]
        console.print(
            f"\n{title} of the trained model, by the judge: {base['prompt']} …",
            style="bold",
            markup=False,
        )
        for name, sample in (("base", base), ("trained", trained)):
            text = " ".join(sample["completion"].split())
            scores = f"sentiment {sample['sentiment']:.2f}, judge {sample['judge']:.2f}"
            console.print(f"  {name:8}{scores}  {text}", markup=False, highlight=False)


def plot_comparison(comparison, path=None):
    """Histogram of the sentiment of both models' completions.

    Args:
        comparison: what `compare_models` returns.
        path: image file to write, under a temporary name first; None leaves the figure open.

    Returns:
        The matplotlib figure.
    """
    import matplotlib.pyplot as plt

    from report import save_figure

    figure, axes = plt.subplots(figsize=(7, 4))
    for name, color in (("base", "#7f8c8d"), ("trained", "#e67e22")):
        result = comparison[name]
        scores = [s["sentiment"] for s in result["samples"]]
        mean = result["metrics"]["sentiment"]
        label = f"{name}, mean {mean:.2f}"
        axes.hist(scores, bins=20, range=(0, 1), alpha=0.6, color=color, label=label)
        axes.axvline(mean, color=color, linestyle="--")
    axes.set(xlabel="sentiment score of a completion", ylabel="completions", xlim=(0, 1))
    axes.set_title(
        f"KL(policy‖ref) {comparison['trained']['metrics']['kl']:.1f} nats, reference perplexity "
        f"{comparison['base']['metrics']['perplexity']:.0f} → "
        f"{comparison['trained']['metrics']['perplexity']:.0f}",
        fontsize=10,
    )
    axes.legend()
    figure.tight_layout()
    if path is not None:
        save_figure(figure, path)
    return figure


def print_metrics(results):
    """A table of metrics: {column title: metrics}."""
    from rich.table import Table

    table = Table("metric", *results, box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, metric in METRICS.items():
        if all(name in metrics for metrics in results.values()):
            values = [metric.form.format(metrics[name]) for metrics in results.values()]
            table.add_row(metric.title, *values)
    make_console().print(table)


def print_estimates(estimates):
    """The table of a comparison: both models, and their difference with its 95 % interval."""
    from rich.table import Table

    table = Table("metric", "base", "trained", "difference", "95 % interval", "", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, metric in METRICS.items():
        base, trained, change = (estimates[k][name] for k in ("base", "trained", "difference"))
        form = metric.form
        signed = form.replace("{:", "{:+")
        clear = not change["low"] <= 0 <= change["high"]
        good = clear and metric.better * change["mean"] > 0
        bad = clear and metric.better * change["mean"] < 0
        table.add_row(
            metric.title,
            form.format(base["mean"]),
            form.format(trained["mean"]),
            signed.format(change["mean"]),
            f"{signed.format(change['low'])} … {signed.format(change['high'])}",
            "[green]▲ better[/]" if good else "[red]▼ worse[/]" if bad else "",
        )
    make_console().print(table)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    single = commands.add_parser("evaluate", help="measure one model, as its own reference")
    single.add_argument("model", help="a Hub name or a folder")
    pair = commands.add_parser("compare", help="measure a trained model against its base")
    pair.add_argument("base", help="the model that the training started from")
    pair.add_argument("trained", help="for example outputs/final")
    pair.add_argument("--plot", metavar="FILE.png", help="write a histogram of both models")
    pair.add_argument("--json", metavar="FILE", help="write every estimate with its interval")
    pair.add_argument("--judge", default="vader", help="vader, or a classifier's name or folder")
    prefixed = commands.add_parser("prompting", help="can a prefix do what training did?")
    prefixed.add_argument("base", help="the model that the training started from")
    prefixed.add_argument("trained", nargs="?", help="for example outputs/final")
    prefixed.add_argument(
        "--prefix", action="append", metavar="TEXT", help="before each prompt; repeat for more"
    )
    prefixed.add_argument("--reward", help="also score with this function of rewards.py")
    for name, help in PAGES.items():
        page = commands.add_parser(name, help=help)
        page.add_argument("runs", nargs="+", metavar="RUN", help="output folder of train.py")
        suffix = ".html" if name == "report" else ".png"
        page.add_argument("--out", default=name + suffix, help="default: %(default)s")
    for command in (single, pair, prefixed):
        command.add_argument("--sentiment_model", help="default: that of the run, else nlptown's")
        command.add_argument("--max_new_tokens", type=int, help="default: that of the run, else 48")
        command.add_argument("--temperature", type=float, help="default: that of the run, else 1")
        command.add_argument("--prompts", help="file of prompts; the validation prompts by default")
        command.add_argument("--num_samples", type=int, default=16, help="completions per prompt")
        command.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    tune_cpu()
    if args.command in PAGES:
        return _page(args)
    names = (getattr(args, name, None) for name in ("trained", "model", "base"))
    settings = run_settings(*filter(None, names))
    settings |= {k: v for k in settings if (v := getattr(args, k)) is not None}
    try:
        args.prompts = read_prompts(args.prompts) if args.prompts else VALIDATION_PROMPTS
        load_sentiment_model(settings.pop("sentiment_model"))
        {"evaluate": _evaluate, "compare": _compare, "prompting": _prompting}[args.command](
            args, {**settings, "seed": args.seed}
        )
    except (UserError, OSError) as error:
        sys.exit(f"evaluate.py: {error}")


def _page(args):
    import report

    try:
        runs = [report.read_run(folder) for folder in args.runs]
        if args.command == "curves":
            report.save_figure(report.plot_curves(runs), args.out)
        else:
            best = best_of_n_baseline(runs[0])
            if args.command == "frontier":
                report.save_figure(report.plot_frontier(runs, best), args.out)
            else:
                report.write_report(runs, best, args.out)
    except (UserError, OSError) as error:
        sys.exit(f"evaluate.py: {error}")
    print(f"Wrote {args.out}")


def best_of_n_baseline(run, num_samples=16):
    """`report.best_of_n` of the model that a run started from, sampled as in that run."""
    import report

    options = run["manifest"]["options"]
    load_sentiment_model(options["sentiment_model"])
    base, tokenizer = load_model(options["model_name"])
    prompts = [prompt for prompt in VALIDATION_PROMPTS for _ in range(num_samples)]
    length, temperature = options["max_completion_length"], options["temperature"]
    texts = generate_completions(base, tokenizer, prompts, length, temperature)
    scores = get_sentiment_scores(texts)
    return report.best_of_n([{"prompt": p, "sentiment": s} for p, s in zip(prompts, scores)])


def _evaluate(args, settings):
    model, tokenizer = load_model(args.model)
    result = evaluate_model(model, tokenizer, args.prompts, model, args.num_samples, **settings)
    print_metrics({args.model: result["metrics"]})


def _compare(args, settings):
    from rich.progress import Progress

    console, judge = make_console(), load_judge(args.judge)
    batches = 2 * math.ceil(len(args.prompts) * args.num_samples / BATCH_SIZE)  # two models
    bar = Progress(console=console, transient=True, disable=not console.is_terminal)
    with bar:
        task = bar.add_task("sampling and scoring", total=2 * batches)
        comparison = compare_models(
            args.base,
            args.trained,
            args.prompts,
            args.num_samples,
            judge=judge,
            tick=lambda: bar.advance(task),
            **settings,
        )
    print_estimates(comparison["estimates"])
    print_comparison_samples(comparison)
    console.print(f"\n{verdict(comparison['estimates'])}", style="bold", highlight=False)
    if args.plot:
        plot_comparison(comparison, args.plot)
    if args.json:
        write_json(args.json, comparison["estimates"])


def _prompting(args, settings):
    base, tokenizer = load_model(args.base)
    models = {"base": base}
    if args.trained:
        models["trained"] = load_trained(args.trained, tokenizer, args.base)
    score = load_reward(args.reward) if args.reward else None
    results = compare_prefixes(
        models,
        tokenizer,
        args.prefix or PREFIXES,
        args.prompts,
        score,
        samples_per_prompt=args.num_samples,
        **settings,
    )
    print_prefixes(results)


def load_trained(name, tokenizer, base_name):
    """The model `name`, checked to share the vocabulary of its base.

    Raises:
        UserError: it does not, or cannot be loaded.
    """
    model, own_tokenizer = load_model(name)
    if tokenizer.get_vocab() != own_tokenizer.get_vocab():
        raise UserError(
            f"'{base_name}' and '{name}' do not share a vocabulary, so no KL can be measured "
            "between them. Give the model that the training started from."
        )
    return model


def load_reward(name):
    """A function of rewards.py by its name, as callable(completions) -> list of checked floats."""
    rewards = load_rewards()
    function = getattr(rewards, name, None)
    if function is None:
        raise UserError(f"rewards.py has no function {name}.")

    def score(completions):
        return check_rewards(call_student(function, completions), completions, name).tolist()

    return score


def run_settings(*model_names):
    """How the run that made one of the models, OUTPUT_DIR/final, sampled and scored.

    The first name that is part of a run counts; otherwise the defaults, with the sentiment model
    that lies beside a bundled model.
    """
    folders = [Path(name).resolve().parent for name in model_names]
    manifests = [folder / "run.json" for folder in folders if (folder / "run.json").exists()]
    options = json.loads(manifests[0].read_text())["options"] if manifests else {}
    neighbours = [folder / "sentiment" for folder in folders if (folder / "sentiment").is_dir()]
    return {
        "sentiment_model": options.get("sentiment_model", str([*neighbours, NLPTOWN][0])),
        "max_new_tokens": options.get("max_completion_length", 48),
        "temperature": options.get("temperature", 1.0),
    }


if __name__ == "__main__":
    from monitor import quiet_libraries

    quiet_libraries()
    main()
