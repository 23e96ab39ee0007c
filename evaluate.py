"""Measure a policy on held-out prompts, and a trained policy against its base model.

    python evaluate.py evaluate MODEL
    python evaluate.py compare BASE TRAINED
    python evaluate.py prompting BASE TRAINED --prefix "Positive review: "
    python evaluate.py curves RUN… | frontier RUN… | report RUN…
    python evaluate.py optimum BASE
    python evaluate.py samples RUN
    python evaluate.py try MODEL "This movie was"

A mean sentiment alone can be hacked, so it never stands alone: KL and ref. perplexity say
how far the policy has gone, repetition and length say how it got there. Every figure comes from
the sampled token ids; base and trained model answer the same prompts with the same seed.

torch is imported inside the functions, so that `--help` need not wait for it.
"""

import contextlib
import math
import statistics
import sys
from pathlib import Path
from typing import Any

from data import VALIDATION_PROMPTS, read_prompts
from engine.common import (
    MANIFEST,
    UserError,
    end_with,
    make_console,
    progress,
    quiet_libraries,
    usable,
    write_json,
)
from engine.measuring import tables
from engine.measuring.optimum import (
    OPTIMUM,
    SAMPLES,
    Optimum,
    best_of_samples,
    known_optimum,
    sample_optimum,
    settings_of,
)
from engine.measuring.runs import (
    asked_kl_coef,
    base_name,
    base_of,
    changed_rewards,
    model_of,
    read_runs,
    run_settings,
)
from engine.measuring.tables import print_metrics, print_prefixes
from engine.model.devices import tune_device
from engine.model.loading import load_model, load_pretrained
from engine.options import OneLineParser, at_least, read_manifest
from engine.pages.report import (
    optimum_titles,
    plot_comparison,
    plot_curves,
    plot_frontier,
    save_figure,
)

BATCH_SIZE = 64  # of the commands; functions take it as `batch_size`
PARTS = 8  # of a text, whose KL is told apart
PREFIXES = ("Positive review: ", "I loved it! ", "This is the best film ever made. ")


def generate_completions(
    model, tokenizer, prompts, max_new_tokens=48, temperature=1.0, seed=0
) -> list[str]:
    """One sampled completion per prompt, as text without the prompt."""
    from engine.model.sampling import Sampling, generate_batches
    from engine.model.texts import decode_completions, tokenize_prompts

    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
    ids = generate_batches(model, tokenizer, prompts, sampling=sampling)
    return decode_completions(model, tokenizer, tokenize_prompts(prompts, tokenizer, model), ids)


def evaluate_model(
    model, tokenizer, prompts, ref_model=None, samples_per_prompt=16, **settings
) -> dict[str, Any]:
    """Sample from a policy and measure it.

    Args:
        model, tokenizer: the policy.
        prompts: list of P strings.
        ref_model: the frozen reference; None for a LoRA policy, whose adapter is switched off.
        samples_per_prompt: S completions for each prompt.
        settings: `max_new_tokens` (48), `temperature` (1.0), `seed` (0) and `batch_size` (64) of
            the sampling; `amp_dtype`, `prefix`, `judge`, `tick` and `process`, which
            `engine.measuring.samples.Measuring` explains.

    Returns:
        dict with `metrics`, what `metrics.summarise` makes of the samples, and `samples`, a list
        of P·S dicts in the order of the prompts: `prompt`, `completion`, `ids`, `sentiment`,
        `positive_words`, `kl` and `ref_nll` (nats, summed over the completion's tokens), `kl_parts`
        (the KL of each of PARTS parts of max_new_tokens / PARTS tokens, rounded up), `length`,
        `repetition_3`, `repetition_4`, `finished`, and `judge` where there is one.

    Raises:
        UserError: a prompt and its completion exceed the model's context.
    """
    from engine.measuring.metrics import summarise
    from engine.measuring.samples import Measuring, describe_samples
    from engine.model.processes import gather, own_rows
    from engine.model.sampling import generate_batches
    from engine.model.scoring import Models
    from engine.model.texts import tokenize_prompts

    measuring = Measuring(**settings)
    repeated = [prompt for prompt in prompts for _ in range(samples_per_prompt)]
    prefixed = [measuring.prefix + prompt for prompt in repeated]
    rows = own_rows(len(repeated), measuring.process)
    ids = generate_batches(
        model, tokenizer, prefixed, sampling=measuring, rows=rows, tick=measuring.tick
    )
    own = slice(rows.start, rows.stop)
    models = Models(model, ref_model, tokenizer, measuring.amp_dtype)
    read = tokenize_prompts(prefixed[own], tokenizer, model)
    samples = describe_samples(models, repeated[own], read, completion_ids=ids)
    _add_scores(samples, measuring.judge)
    _add_log_probs(samples, models, read, measuring=measuring)
    samples = gather(samples, measuring.process)
    return {"metrics": summarise(samples), "samples": samples}


def _add_scores(samples, judge):
    """Add `sentiment` and `positive_words`, and `judge` where there is one."""
    from sentiment import get_hackable_scores, get_sentiment_scores

    texts = [sample["completion"] for sample in samples]
    columns = {
        "sentiment": get_sentiment_scores(texts),
        "positive_words": get_hackable_scores(texts),
    }
    if judge is not None:
        columns["judge"] = judge(texts)
    for name, values in columns.items():
        for sample, value in zip(samples, values):
            sample[name] = value


def _add_log_probs(samples, models, read, measuring):
    """Add `kl`, `kl_parts` and `ref_nll`; `read`: the prompts as the policy read them, in ids."""
    from torch.nn.functional import pad

    from engine.model.scoring import policy_and_ref_log_probs
    from engine.model.texts import tokenize_prompts

    for start in range(0, len(samples), measuring.batch_size):
        rows = slice(start, start + measuring.batch_size)
        batch = samples[rows]
        ref_prompts = [sample["prompt"] for sample in batch]
        ids = {
            "prompt_ids": read[rows],
            "completion_ids": [sample["ids"] for sample in batch],
            "ref_prompt_ids": tokenize_prompts(ref_prompts, models.tokenizer, models.policy),
        }
        policy, ref, mask = policy_and_ref_log_probs(
            models, **ids, temperature=measuring.temperature
        )
        kl = (policy - ref) * mask
        width = math.ceil(measuring.max_new_tokens / PARTS)
        by_part = pad(kl, (0, PARTS * width - kl.shape[1])).unflatten(1, (PARTS, width)).sum(-1)
        by_part = [[round(nats, 4) for nats in row] for row in by_part.tolist()]
        kl = kl.sum(-1).tolist()
        if measuring.temperature != 1:  # perplexity is that of the reference itself
            ref = policy_and_ref_log_probs(models, **ids, temperature=1.0).ref
        ref_nll = (-ref * mask).sum(-1).tolist()
        for sample, kl_i, parts_i, nll_i in zip(batch, kl, by_part, ref_nll):
            sample |= {"kl": kl_i, "kl_parts": parts_i, "ref_nll": nll_i}
        measuring.tick()


def compare_models(
    base_model, trained_model, prompts=None, num_samples=16, **settings
) -> dict[str, Any]:
    """Measure a trained model and its base in one run, on the same prompts with the same seed.

    Args:
        base_model, trained_model: names or folders, as for `load_model`.
        prompts: list of strings; VALIDATION_PROMPTS by default.
        num_samples: completions per prompt.
        settings: `max_new_tokens`, `temperature`, `seed`, `batch_size`, `judge`, `tick` of
            `evaluate_model`; the judge is that of `load_judge()` by default.

    Returns:
        dict with `base` and `trained`, each as `evaluate_model` returns it, and `estimates`, every
        metric of both and of their difference with its interval, from `metrics.compare_samples`.

    Raises:
        UserError: a model cannot be loaded, or the two do not share a vocabulary.
    """
    from engine.measuring.metrics import add_self_bleu, compare_samples
    from sentiment import load_judge

    prompts = prompts or VALIDATION_PROMPTS
    if "judge" not in settings:
        settings["judge"] = load_judge()
    base, tokenizer = load_model(base_model)
    trained = load_trained(trained_model, tokenizer, base_model)
    results = {}
    for name, model in (("base", base), ("trained", trained)):
        results[name] = evaluate_model(
            model,
            tokenizer,
            prompts,
            ref_model=base,
            samples_per_prompt=num_samples,
            **settings,
        )
        add_self_bleu(results[name]["samples"], tick=settings.get("tick", lambda: None))
    results["estimates"] = compare_samples(
        results["base"]["samples"], results["trained"]["samples"]
    )
    return results


def compare_prefixes(
    models, tokenizer, prefixes, prompts=None, score=None, **settings
) -> dict[str, tables.Result]:
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
                model,
                tokenizer,
                prompts or VALIDATION_PROMPTS,
                ref_model=base,
                prefix=prefix,
                **settings,
            )
            if score is not None:
                rewards = score([s["completion"] for s in result["samples"]])
                result["metrics"]["reward"] = statistics.fmean(rewards)
            results[f"{title} + {prefix!r}" if prefix else title] = result
    return results


def print_comparison_samples(comparison: dict[str, Any]) -> None:
    """The best, the median and the worst completion of `compare_models`, by the judge."""
    tables.print_pairs(zip(comparison["base"]["samples"], comparison["trained"]["samples"]))


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


def load_with_base(name):
    """A model, the base model that its run started from, and the tokenizer of both.

    Returns:
        (model, base, tokenizer); None for a base that is unknown or cannot be loaded.

    Raises:
        UserError: the model cannot be loaded, or does not share its base's vocabulary.
    """
    model, tokenizer = load_model(name)
    if (base := base_name(name)) is None:
        return model, None, tokenizer
    try:
        return model, load_trained(base, tokenizer, name), tokenizer
    except UserError as error:
        make_console().print(f"No KL, without the base model: {error}", highlight=False)
        return model, None, tokenizer


def optimum_of(base, prompts=None, folders=(), samples=None) -> Optimum:
    """The best that any policy can do from a base model: known already, or sampled now and kept.

    Args:
        base: of `engine.measuring.optimum.settings_of`.
        prompts: list of strings; VALIDATION_PROMPTS by default.
        folders: of runs that started from the base; a new sample is kept in the first, unless it is
            smaller than SAMPLES.
        samples: completions of each prompt, sampled anew; None takes what is known, if anything is.
    """
    from sentiment import get_sentiment_scores, load_sentiment_model

    prompts = list(dict.fromkeys(prompts or VALIDATION_PROMPTS))
    if samples is None and (known := known_optimum(base, prompts, folders)):
        return known
    samples = samples or SAMPLES
    model, tokenizer = load_model(usable(base.model_name))
    load_sentiment_model(usable(base.sentiment_model))
    sampled = sample_optimum(
        model, tokenizer, base, prompts=prompts, score=get_sentiment_scores, samples=samples
    )
    if folders and samples >= SAMPLES:
        with contextlib.suppress(OSError):  # somebody else's run: it may be read, and no more
            sampled.save(Path(folders[0]) / OPTIMUM)
    return sampled


def _evaluate(args):
    settings = _settings(args, args.model)
    prompts = _prompts(args)
    _load_sentiment_model(settings)
    model, tokenizer = load_model(args.model)
    with _bar(len(prompts) * args.num_samples) as settings["tick"]:
        result = evaluate_model(
            model,
            tokenizer,
            prompts,
            ref_model=model,
            samples_per_prompt=args.num_samples,
            **settings,
        )
    print_metrics({args.model: result["metrics"]})


def _compare(args):
    from sentiment import load_judge

    settings = _settings(args, args.trained, args.base)
    prompts = _prompts(args)
    base = _base(args, settings)
    _load_sentiment_model(settings)
    settings["judge"] = load_judge(args.judge)
    # Two policies, and half as many ticks for self-BLEU.
    with _bar(len(prompts) * args.num_samples, policies=3) as settings["tick"]:
        comparison = compare_models(
            args.base, args.trained, prompts, num_samples=args.num_samples, **settings
        )
    estimates = comparison["estimates"]
    run = Path(args.trained).absolute().parent  # of ".", too
    folders = [run] if (run / MANIFEST).exists() else []
    manifest = read_manifest(run) if folders else None
    negated = manifest is not None and manifest["options"]["negate_reward"]
    tables.print_estimates(estimates, negated)
    if manifest and (file := changed_rewards(manifest)):
        print(f"\n{file} has changed since {args.trained} was trained with it.")
    if args.optimum != 0:
        best = optimum_of(base, prompts, folders, samples=args.optimum)
        kl_coef = asked_kl_coef(manifest["options"]) if manifest else None
        estimates["nats"] = best.paid(comparison["trained"]["samples"], kl_coef)
        tables.print_nats(estimates, best, kl_coef)
    sides = ("base", "trained")
    estimates["best_of_n"] = {k: best_of_samples(comparison[k]["samples"]) for k in sides}
    tables.print_best_of(estimates["best_of_n"])
    print_comparison_samples(comparison)
    _print_verdict(tables.verdict(estimates, negated))
    if args.plot:
        save_figure(plot_comparison(comparison), args.plot)
    if args.json:
        write_json(args.json, estimates)


def _optimum(args):
    settings = _settings(args, args.base)
    prompts = _prompts(args)
    best = optimum_of(_base(args, settings), prompts, samples=args.num_samples)
    best.save(args.out)
    tables.print_optimum(best)
    print(f"Wrote {args.out}")


def _prompting(args):
    from engine.course.student import load_reward

    settings = _settings(args, args.trained, args.base)
    prompts = _prompts(args)
    _load_sentiment_model(settings)
    base, tokenizer = load_model(args.base)
    models = {"base": base}
    if args.trained:
        models["trained"] = load_trained(args.trained, tokenizer, args.base)
    score = load_reward(args.reward) if args.reward else None
    prefixes = args.prefix or PREFIXES
    settings["samples_per_prompt"] = args.num_samples
    policies = len(models) * (1 + len(prefixes))
    with _bar(len(prompts) * args.num_samples, policies) as settings["tick"]:
        results = compare_prefixes(
            models, tokenizer, prefixes, prompts=prompts, score=score, **settings
        )
    print_prefixes(results)
    _print_verdict(tables.prompting_verdict(results))


def _try(args):
    """Completions of a prompt that was typed, each with its sentiment and its KL."""
    from engine.measuring.samples import print_samples

    name = model_of(args.model)
    settings = _settings(args, name)
    if not args.prompt.strip():
        raise UserError("the prompt is empty. Type the beginning of a text.")
    model, base, tokenizer = load_with_base(name)
    _load_sentiment_model(settings)
    with _bar(args.num_samples) as settings["tick"]:
        result = evaluate_model(
            model,
            tokenizer,
            [args.prompt],
            ref_model=base or model,
            samples_per_prompt=args.num_samples,
            **settings,
        )
    print_samples(result["samples"], with_kl=base is not None)


def _samples(args):
    from engine.measuring.samples import print_samples, samples_of_run

    print_samples(samples_of_run(args.folder, args.step, args.num_samples))


def _curves(args):
    save_figure(plot_curves(read_runs(args.runs)), args.out)
    print(f"Wrote {args.out}")


def _frontier(args):
    runs = read_runs(args.runs)
    save_figure(plot_frontier(runs, _optima(runs)), args.out)
    print(f"Wrote {args.out}")


def _report(args):
    from engine.pages.run_page import write_page

    runs = read_runs(args.runs)
    write_page(runs, _optima(runs), args.out)
    print(f"Wrote {args.out}")


def _optima(runs):
    """(title, Optimum) of each base model that the runs started from."""
    optima = []
    for base, title in optimum_titles(runs).items():
        folders = [run["folder"] for run in runs if base_of(run) == base]
        optima.append((title, optimum_of(settings_of(*base), folders=folders)))
    return optima


def _settings(args, *models):
    """How to sample and score: as `args` say; the rest as in the run that made one of the models.

    Returns:
        dict with `sentiment_model`, `max_new_tokens`, `temperature`, and `seed` where there is one.

    Raises:
        UserError: one of the models is none; said before anything else is fetched.
    """
    from transformers import AutoConfig

    named = [model for model in models if model]
    settings = run_settings(*named)
    for model in named:
        load_pretrained(AutoConfig, model)
    given = {name: getattr(args, name, None) for name in (*settings, "seed")}
    return settings | {name: value for name, value in given.items() if value is not None}


def _prompts(args):
    return read_prompts(args.prompts) if args.prompts else VALIDATION_PROMPTS


def _base(args, settings):
    """What the optimum of these settings depends on."""
    return settings_of(
        args.base,
        settings["sentiment_model"],
        settings["max_new_tokens"],
        temperature=settings["temperature"],
    )


def _load_sentiment_model(settings):
    """Take the sentiment model out of the settings and load it; the rest is for the sampling."""
    from sentiment import load_sentiment_model

    load_sentiment_model(settings.pop("sentiment_model"))


def _bar(texts, policies=1):
    """A progress bar for the sampling and scoring of so many texts of each of the policies."""
    if not make_console().is_terminal:  # which shows no bar
        print(f"Sampling and scoring {texts} texts of each model …", file=sys.stderr)
    return progress("sampling and scoring", policies * 2 * math.ceil(texts / BATCH_SIZE))


def _print_verdict(sentence):
    make_console().print(f"\n{sentence}", style="bold", highlight=False)


def parse(argv=None):
    """The arguments, with the function of their command as `run`."""
    parser = OneLineParser(description=str(__doc__).split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name, run, help):
        added = commands.add_parser(name, help=help)
        added.add_argument(
            "--debug", action="store_true", help="show the full traceback of an error"
        )
        added.set_defaults(run=run)
        return added

    single = command("evaluate", _evaluate, "measure one model, as its own reference")
    single.add_argument("model", help="a Hub name or a folder")
    _add_settings(single)

    pair = command("compare", _compare, "measure a trained model against its base")
    pair.add_argument("base", help="the model that the training started from")
    pair.add_argument("trained", help="for example outputs/run/final")
    pair.add_argument("--plot", metavar="FILE.png", help="draw a histogram of both models")
    pair.add_argument("--json", metavar="FILE", help="write every estimate with its interval")
    pair.add_argument(
        "--optimum",
        type=at_least(0, int),
        metavar="N",
        help="samples of each prompt for the best possible policy; 0 leaves it out; "
        "default: what is known already, else 128",
    )
    pair.add_argument(
        "--judge", default="ngram", help="ngram, vader, or a classifier's name or folder"
    )
    _add_settings(pair)

    best = command("optimum", _optimum, "the best that any policy can do from a model")
    best.add_argument("base", help="an untrained model")
    best.add_argument("--out", default="optimum.json", help="default: %(default)s")
    _add_settings(best, num_samples=128, seed=False)  # each batch has its own seed

    prefixed = command("prompting", _prompting, "can a prefix do what training did?")
    prefixed.add_argument("base", help="the model that the training started from")
    prefixed.add_argument("trained", nargs="?", help="for example outputs/run/final")
    prefixed.add_argument(
        "--prefix", action="append", metavar="TEXT", help="put before each prompt; may be repeated"
    )
    prefixed.add_argument("--reward", help="also score with this function of rewards.py")
    _add_settings(prefixed)

    texts = command("samples", _samples, "print samples of a run, whole")
    texts.add_argument("folder", metavar="RUN", help="output folder of train.py")
    texts.add_argument("--step", type=int, help="of the validation; default: the last")
    texts.add_argument(
        "--num_samples", type=at_least(1, int), default=20, help="default: %(default)s"
    )

    typed = command("try", _try, "complete a prompt that you type")
    typed.add_argument("model", help="the folder of a run, or any model")
    typed.add_argument("prompt", help="the beginning of a text, in quotes")
    _add_settings(typed, num_samples=8, prompts=False)

    for name, run, file, help in (
        ("curves", _curves, "curves.png", "draw the learning curves of runs"),
        (
            "frontier",
            _frontier,
            "frontier.png",
            "draw sentiment against KL of runs, below the best possible policy",
        ),
        ("report", _report, "report.html", "write one HTML page about runs"),
    ):
        page = command(name, run, help)
        page.add_argument("runs", nargs="+", metavar="RUN", help="output folder of train.py")
        page.add_argument("--out", default=file, help="default: %(default)s")
    return parser.parse_args(argv)


def _add_settings(parser, num_samples=16, prompts=True, seed=True):
    """The options of every command that samples."""
    add = parser.add_argument
    add("--sentiment_model", help="default: that of the run, else nlptown's")
    add("--max_new_tokens", type=at_least(1, int), help="default: that of the run, else 48")
    add("--temperature", type=at_least(0.01, float), help="default: that of the run, else 1")
    if prompts:
        add("--prompts", help="file of prompts; the validation prompts by default")
    add("--num_samples", type=at_least(1, int), default=num_samples, help="completions per prompt")
    if seed:
        add("--seed", type=at_least(0, int), default=0, help="seed of the sampling")


def main(argv=None):
    args = parse(argv)
    quiet_libraries()
    tune_device()
    try:
        args.run(args)
    except KeyboardInterrupt:
        sys.exit("\nevaluate.py: interrupted; nothing was written.")
    except Exception as error:
        end_with(error, "evaluate.py", args.debug)


if __name__ == "__main__":
    main()
