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

import math
import statistics
import sys
from pathlib import Path

from data import VALIDATION_PROMPTS, read_prompts
from engine.common import MANIFEST, UserError, make_console, progress, quiet_libraries, write_json
from engine.measuring import tables
from engine.measuring.optimum import find_optimum, settings_of
from engine.measuring.samples import describe_samples, print_samples, samples_of_run
from engine.measuring.tables import print_metrics, print_prefixes
from engine.model.devices import tune_cpu
from engine.model.loading import load_model
from engine.options import PAGES, parse_evaluation
from engine.pages.report import base_name, model_of, plot_comparison, run_settings

BATCH_SIZE = 64
PREFIXES = ("Positive review: ", "I loved it! ", "This is the best film ever made. ")


def generate_completions(
    model, tokenizer, prompts, max_new_tokens=48, temperature=1.0, seed=0, batch_size=BATCH_SIZE
):
    """One sampled completion per prompt, as text without the prompt."""
    from engine.model.sampling import Sampling, generate_batches

    ids = generate_batches(
        model, tokenizer, prompts, Sampling(max_new_tokens, temperature, seed, batch_size)
    )
    return tokenizer.batch_decode(ids, skip_special_tokens=True)


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
    process=(0, 1),
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
        judge: callable(completions) -> list of floats, a second opinion; see
            `sentiment.load_judge`.
        tick: callable() for a progress bar, called twice for each batch.
        process: (index, count) where several processes measure together: each samples and scores
            its part of the rows, and all get the result of all.

    Returns:
        dict with `metrics`, what `metrics.summarise` makes of the samples, and `samples`, a list
        of P·S dicts in the order of the prompts: `prompt`, `completion`, `ids`, `sentiment`,
        `positive_words`, `kl` and `ref_nll` (nats, summed over the completion's tokens), `length`,
        `repetition_3`, `repetition_4`, `finished`, and `judge` where there is one.

    Raises:
        UserError: a prompt and its completion exceed the model's context.
    """
    from engine.measuring.metrics import summarise
    from engine.model.processes import gather, own_rows
    from engine.model.sampling import generate_batches

    repeated = [prompt for prompt in prompts for _ in range(samples_per_prompt)]
    prefixed = [prefix + prompt for prompt in repeated]
    rows = own_rows(len(repeated), process)
    from engine.model.sampling import Sampling

    ids = generate_batches(
        model,
        tokenizer,
        prefixed,
        Sampling(max_new_tokens, temperature, seed, batch_size),
        rows,
        tick,
    )
    samples = describe_samples(repeated[rows.start : rows.stop], ids, tokenizer)
    _add_scores(samples, judge)
    prompt_ids = [
        tokenizer(texts)["input_ids"][rows.start : rows.stop] for texts in (prefixed, repeated)
    ]
    models = (model, ref_model, tokenizer)
    _add_log_probs(samples, models, prompt_ids, temperature, batch_size, amp_dtype, tick)
    samples = gather(samples, process)
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


def _add_log_probs(samples, models, prompt_ids, temperature, batch_size, amp_dtype, tick):
    """Add `kl` and `ref_nll`; `prompt_ids` are those of the policy and those of the reference."""
    from engine.model.scoring import policy_and_ref_log_probs

    policy_prompts, ref_prompts = prompt_ids
    for start in range(0, len(samples), batch_size):
        rows = slice(start, start + batch_size)
        ids = [sample["ids"] for sample in samples[rows]]
        from engine.model.scoring import Models

        batch = (Models(*models, amp_dtype), policy_prompts[rows], ids)
        rest = {"ref_prompt_ids": ref_prompts[rows]}
        policy, ref, mask = policy_and_ref_log_probs(*batch, temperature, **rest)
        kl = ((policy - ref) * mask).sum(-1).tolist()
        if temperature != 1:  # perplexity is that of the reference itself
            _, ref, _ = policy_and_ref_log_probs(*batch, 1.0, **rest)
        ref_nll = (-ref * mask).sum(-1).tolist()
        for sample, kl_i, nll_i in zip(samples[rows], kl, ref_nll):
            sample |= {"kl": kl_i, "ref_nll": nll_i}
        tick()


def compare_models(base_model, trained_model, prompts=None, num_samples=16, **settings):
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
    settings.setdefault("judge", load_judge())
    base, tokenizer = load_model(base_model)
    trained = load_trained(trained_model, tokenizer, base_model)
    results = {}
    for name, model in (("base", base), ("trained", trained)):
        results[name] = evaluate_model(model, tokenizer, prompts, base, num_samples, **settings)
        add_self_bleu(results[name]["samples"], tick=settings.get("tick", lambda: None))
    results["estimates"] = compare_samples(
        results["base"]["samples"], results["trained"]["samples"]
    )
    return results


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


def print_comparison_samples(comparison):
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


def optimum_of(settings, prompts=None, folders=(), samples=None):
    """The best that any policy can do from a base model: known already, or sampled now and kept.

    Args:
        settings: of `engine.measuring.optimum.settings_of`.
        prompts: list of strings; VALIDATION_PROMPTS by default.
        folders: of runs that started from the base; a new sample is kept in the first.
        samples: completions of each prompt, sampled anew; None takes what is known, if anything is.
    """
    from sentiment import get_sentiment_scores, load_sentiment_model

    def load_score(name):
        load_sentiment_model(name)
        return get_sentiment_scores

    return find_optimum(settings, prompts or VALIDATION_PROMPTS, load_score, folders, samples)


def main(argv=None):
    args = parse_evaluation(__doc__.split("\n")[0], argv)
    quiet_libraries()
    tune_cpu()
    try:
        if args.command == "samples":
            return print_samples(samples_of_run(args.run, args.step, args.num_samples))
        if args.command in PAGES:
            return _page(args)
        from sentiment import load_sentiment_model

        if args.command == "try":
            args.model = model_of(args.model)
        names = (getattr(args, name, None) for name in ("trained", "model", "base"))
        settings = run_settings(*filter(None, names))
        settings |= {k: v for k in settings if (v := getattr(args, k)) is not None}
        args.prompts = read_prompts(args.prompts) if args.prompts else VALIDATION_PROMPTS
        of_base = (getattr(args, "base", None), *settings.values())
        if args.command == "optimum":
            return _optimum(args, settings_of(*of_base))
        settings["seed"] = args.seed
        if args.command == "try":
            return _try(args, settings)
        load_sentiment_model(settings.pop("sentiment_model"))
        if args.command == "compare":
            return _compare(args, settings, settings_of(*of_base))
        {"evaluate": _evaluate, "prompting": _prompting}[args.command](args, settings)
    except (UserError, OSError) as error:
        sys.exit(f"evaluate.py: {error}")
    except KeyboardInterrupt:
        sys.exit("\nevaluate.py: interrupted; nothing was written.")


def _page(args):
    from engine.pages import report, run_page

    runs = [report.read_run(folder) for folder in args.runs]
    if args.command == "curves":
        report.save_figure(report.plot_curves(runs), args.out)
    else:
        optima = []
        for base, title in report.optimum_titles(runs).items():
            folders = [run["folder"] for run in runs if report.base_of(run) == base]
            optima.append((title, optimum_of(settings_of(*base), folders=folders)))
        if args.command == "frontier":
            report.save_figure(report.plot_frontier(runs, optima), args.out)
        else:
            run_page.write_page(runs, optima, args.out)
    print(f"Wrote {args.out}")


def _evaluate(args, settings):
    model, tokenizer = load_model(args.model)
    with _bar(args) as settings["tick"]:
        result = evaluate_model(model, tokenizer, args.prompts, model, args.num_samples, **settings)
    print_metrics({args.model: result["metrics"]})


def _bar(args, policies=1):
    """A progress bar for the sampling and scoring of so many policies."""
    texts = len(args.prompts) * args.num_samples
    if not make_console().is_terminal:  # which shows no bar
        print(f"Sampling and scoring {texts} texts of each model …", file=sys.stderr)
    return progress("sampling and scoring", policies * 2 * math.ceil(texts / BATCH_SIZE))


def _try(args, settings):
    """Completions of a prompt that was typed, each with its sentiment and its KL."""
    from sentiment import load_sentiment_model

    if not args.prompt.strip():
        raise UserError("the prompt is empty. Type the beginning of a text.")
    model, base, tokenizer = load_with_base(args.model)
    load_sentiment_model(settings.pop("sentiment_model"))
    args.prompts, count = [args.prompt], args.num_samples
    with _bar(args) as settings["tick"]:
        result = evaluate_model(model, tokenizer, args.prompts, base or model, count, **settings)
    print_samples(result["samples"], with_kl=base is not None)


def _optimum(args, settings):
    best = optimum_of(settings, args.prompts, samples=args.num_samples)
    best.save(args.out)
    tables.print_optimum(best)
    print(f"Wrote {args.out}")


def _compare(args, settings, of_base):
    from sentiment import load_judge

    console, judge = make_console(), load_judge(args.judge)
    models, prompts, samples = (args.base, args.trained), args.prompts, args.num_samples
    with _bar(args, 3) as tick:  # two policies, and half as many ticks for self-BLEU
        comparison = compare_models(*models, prompts, samples, judge=judge, tick=tick, **settings)
    estimates = comparison["estimates"]
    tables.print_estimates(estimates)
    if args.optimum != 0:
        run = Path(args.trained).parent
        kept = [run] if (run / MANIFEST).exists() else []
        best = optimum_of(of_base, args.prompts, kept, args.optimum)
        estimates["overpayment"] = best.overpayment(comparison["trained"]["samples"])
        tables.print_overpayment(estimates, best)
    print_comparison_samples(comparison)
    console.print(f"\n{tables.verdict(estimates)}", style="bold", highlight=False)
    if args.plot:
        plot_comparison(comparison, args.plot)
    if args.json:
        write_json(args.json, estimates)


def _prompting(args, settings):
    base, tokenizer = load_model(args.base)
    models = {"base": base}
    if args.trained:
        models["trained"] = load_trained(args.trained, tokenizer, args.base)
    from engine.course.student import load_reward

    score, prefixes = load_reward(args.reward) if args.reward else None, args.prefix or PREFIXES
    settings["samples_per_prompt"] = args.num_samples
    with _bar(args, len(models) * (1 + len(prefixes))) as settings["tick"]:
        results = compare_prefixes(models, tokenizer, prefixes, args.prompts, score, **settings)
    print_prefixes(results)
    verdict = tables.prompting_verdict(results)
    make_console().print(f"\n{verdict}", style="bold", highlight=False)


if __name__ == "__main__":
    main()
