"""What the programs print: tables of figures, the verdict of a comparison, a run in short."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from engine.common import command_line, make_console, short_path
from engine.measuring.metrics import METRICS, Estimate, Sample, by_prompt, is_clear
from engine.measuring.optimum import Optimum
from engine.model.architecture import has_fast_rollout

Result = dict[str, Any]  # of `evaluate.evaluate_model`
Estimates = dict[str, dict[str, Estimate]]  # of `metrics.compare_samples`

# Columns of the validation table in the terminal: 80 characters. Their titles and forms are
# those of METRICS.
VALIDATION = {
    "positive_share": 9,
    "kl": 8,
    "perplexity": 9,
    "length": 7,
    "finished": 9,
    "repetition_3": 9,
    "positive_words": 11,
}

# What is better higher; in a run with --negate_reward, lower.
ASKED_FOR = ("sentiment", "judge", "positive_share", "win_rate")
TARGET_MARGIN = 0.15  # of a --kl_target; the texts of four steps tell 2 nats to within a tenth
TOO_LITTLE = "One prompt is too little for a verdict. Give at least two."


def validation_header() -> str:
    """The titles over `validation_row`."""
    titles = (METRICS[name].column.rjust(width) for name, width in VALIDATION.items())
    return " step    sentiment" + "".join(titles)


def validation_row(step: int, metrics: dict[str, float]) -> str:
    """One line of the validation table."""
    form = METRICS["sentiment"].form.format
    cells = (METRICS[name].form.format(metrics[name]).rjust(w) for name, w in VALIDATION.items())
    spread = f"{form(metrics['sentiment'])} ±{metrics['sentiment_sd']:.2f}"
    return f"{step:5d}{spread:>13}" + "".join(cells)


def describe_prompts(file, prompts, console):
    """How many prompts a file of the user holds, if there is one; validation has its own."""
    if file is None:
        return
    again = len(prompts) - len(set(prompts))
    repeated = f", {again} of them repeated" if again else ""
    text = f"prompts {len(prompts)} of {short_path(file)}{repeated}; "
    text += "validation and its samples stay on the built-in movie prompts"
    console.print(text, soft_wrap=True, highlight=False, markup=False)


def describe_run(options, model, device, reward, console):
    """What is about to run, in three lines; `reward` describes the reward."""
    weights = sum(p.numel() for p in model.parameters() if p.requires_grad)
    name = short_path(options.model_name)
    console.print(f"model   {name}, {weights / 1e6:.1f} million weights are trained")
    console.print(f"reward  {reward}", highlight=False)
    if options.generation == "own" and not has_fast_rollout(model):
        console.print("rollout by the model's own generate, which is slower: it takes no positions")
    prompts = options.batch_size // options.num_generations
    console.print(
        f"steps   {options.max_steps} × {options.batch_size} completions "
        f"({prompts} prompts × {options.num_generations}), on {device}\n",
        highlight=False,
    )


def summarise_run(options, run, final, console):
    """Before → after, where the model lies, what to run next."""
    console.print("\nbefore → after, on held-out prompts", style="bold")
    for name, metric in METRICS.items():
        if name in run["before"] and name in run["after"]:  # an older version lacks some
            before, after = (metric.form.format(run[when][name]) for when in ("before", "after"))
            console.print(f"  {metric.title:18} {before:>8} → {after}", highlight=False)
    if options.kl_target is not None and run["kl_coef"] is not None:
        change = f"{options.kl_coef:.3g} → {run['kl_coef']:.3g}"
        line = (
            f"  {'kl_coef':18} {change}: the last steps had {run['kl_held']:.2f} nats, "
            f"the target is {options.kl_target:g}"
        )
        console.print(line, highlight=False)
        for line in target_remarks(options, kl=run["kl_held"], rate=run["rate"]):
            console.print(line, style="yellow", highlight=False)
    if options.kl_type == "forward" and (run["kl_penalty"] or 0) < 0 and run["after"]["kl"] > 2:
        console.print(
            f"  The penalty of the last step was {run['kl_penalty']:.2f}: below 0, it pays for "
            "moving away. Is its sign right? python -m pytest --student -m exercise3b",
            style="yellow",
            highlight=False,
        )
    console.print(f"\n{run['seconds']:.0f} s. The model is in {final}. Compare it with its base:")
    models = [short_path(path) for path in (options.model_name, final)]
    command = command_line("evaluate.py", "compare", *models)
    console.print(f"  {command}", style="bold", soft_wrap=True, highlight=False)


def target_remarks(options, kl, rate) -> list[str]:
    """What there is to say about a run with a --kl_target.

    Args:
        options: of the run.
        kl: nats, over its last steps.
        rate: what the controller has made of the learning rate, as a factor.
    """
    remarks = []
    target = f"The target of {options.kl_target:g} nats was not"
    if rate < 0.5:
        remarks.append(
            f"The learning rate was lowered to {rate:.0%} of {options.learning_rate:g}: a policy"
            " that comes too fast goes beyond its target, and unlearns on the way back."
        )
    if kl > (1 + TARGET_MARGIN) * options.kl_target:
        remarks.append(f"{target} held: {kl:.1f} in the last steps. Lower --learning_rate.")
    elif kl < (1 - TARGET_MARGIN) * options.kl_target:
        remarks.append(
            f"{target} reached: {kl:.1f} in the last steps. Give more --max_steps, or a higher"
            " --learning_rate."
        )
    return remarks


def print_metrics(results: dict[str, dict[str, float]]) -> None:
    """A table of metrics: {column title: metrics}."""
    table = Table("metric", box=None, pad_edge=False)
    for title in results:
        table.add_column(escape(title), justify="right")
    for name, metric in METRICS.items():
        if all(name in metrics for metrics in results.values()):
            values = [metric.form.format(metrics[name]) for metrics in results.values()]
            table.add_row(metric.title, *values)
    make_console().print(table)


def print_prefixes(results: dict[str, Result]) -> None:
    """The table of `evaluate.compare_prefixes`."""
    shown = ("sentiment", "positive_share", "kl", "perplexity", "length")
    table = Table("policy", box=None, pad_edge=False)
    rewarded = all("reward" in result["metrics"] for result in results.values())
    for title in ["reward"] * rewarded + [METRICS[name].column for name in shown]:
        table.add_column(title, justify="right", no_wrap=True)
    for title, result in results.items():
        metrics = result["metrics"]
        cells = [METRICS["sentiment"].form.format(metrics["reward"])] if rewarded else []
        cells += [METRICS[name].form.format(metrics[name]) for name in shown]
        table.add_row(escape(title), *cells)
    make_console().print(table)


def print_estimates(estimates: Estimates, negated: bool = False) -> None:
    """The table of a comparison: both models, and their difference with its 95 % interval.

    Args:
        estimates: of `compare_samples`.
        negated: whether the trained model was asked for bad reviews.
    """
    table = Table("metric", "base", "trained", "difference", "95 % interval", "", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, metric in METRICS.items():
        base, trained, change = (estimates[k][name] for k in ("base", "trained", "difference"))
        signed = metric.form.replace("{:", "{:+").format
        ends = "one prompt only"
        if change["low"] is not None:
            ends = f"{signed(change['low'])} … {signed(change['high'])}"
        better = -metric.better if negated and name in ASKED_FOR else metric.better
        direction = better * change["mean"] if is_clear(change) else 0
        mark = "[green]▲ better[/]" if direction > 0 else "[red]▼ worse[/]" if direction < 0 else ""
        table.add_row(
            metric.title,
            metric.form.format(base["mean"]),
            metric.form.format(trained["mean"]),
            signed(change["mean"]),
            ends,
            mark,
        )
    make_console().print(table)


def print_optimum(optimum: Optimum) -> None:
    """The best possible policy and best-of-n, a row for each n, at equal KL."""
    table = Table("KL (nats)", "best possible", "best of n", "n", box=None, pad_edge=False)
    for column in table.columns:
        column.justify = "right"
    for point in optimum.best_of_n():
        best = optimum.sentiment_at(point["kl"])
        shown = "beyond the estimate" if best is None else f"{best:.3f}"
        table.add_row(f"{point['kl']:.2f}", shown, f"{point['sentiment']:.3f}", f"{point['n']}")
    console = make_console()
    console.print(table)
    console.print(
        f"mean sentiment of {len(optimum.scores)} prompts, {optimum.table.shape[1]} samples each; "
        f"the estimate is trusted up to {optimum.limit:.1f} nats"
    )


def print_best_of(found: dict[str, dict[int, float]]) -> None:
    """What choosing still gains: {"base", "trained"} of `optimum.best_of_samples`."""
    rows = ", ".join(
        f"of {n} {found['base'][n]:.3f} and {found['trained'][n]:.3f}"
        for n in found["base"]
        if n > 1
    )
    if rows:
        text = f"\nthe best sample by sentiment, base and trained: {rows}"
        make_console().print(text, highlight=False)


def print_nats(estimates: Estimates, optimum: Optimum, kl_coef: float | None = None) -> None:
    """What the policy paid its nats for, and how far it is from what it was asked for.

    Args:
        estimates: with `nats`, of `Optimum.paid`.
        optimum: of the base model.
        kl_coef: of what it was asked for, the highest sentiment − kl_coef · KL; None: not known.
    """
    kl, sentiment = (estimates["trained"][name]["mean"] for name in ("kl", "sentiment"))
    nats: Mapping[str, Estimate | None] = estimates["nats"]
    if nats["needed"] and nats["sideways"]:
        text = (
            f"{kl:z.2f} nats paid: {interval(nats['needed'])} needed for a sentiment of "
            f"{sentiment:.3f}, {interval(nats['sideways'])} sideways"
        )
    else:
        text = (
            f"{kl:z.2f} nats paid. How many a sentiment of {sentiment:.3f} needs is not known: "
            f"{optimum.table.shape[1]} samples of each prompt tell up to {optimum.limit:.1f} nats"
        )
    if nats["overpayment"]:
        text += f"; {interval(nats['overpayment'], 'z.1f')} times the least"
    console = make_console()
    console.print(f"\n{text}", highlight=False)
    if nats["to_optimum"]:
        console.print(
            f"{interval(nats['to_optimum'])} nats away from what it was asked for: the highest "
            f"sentiment − {kl_coef:g} · KL",
            highlight=False,
        )


def interval(estimate: Estimate, form: str = "z.2f") -> str:
    """An estimate and its interval as text.

    >>> interval({"mean": 1.0, "low": 0.9, "high": None}, ".1f")
    '1.0 (0.9 … ?)'
    """
    ends = [estimate["low"], estimate["high"]]
    if ends == [None, None]:
        return f"{estimate['mean']:{form}}"
    low, high = ("?" if end is None else f"{end:{form}}" for end in ends)
    return f"{estimate['mean']:{form}} ({low} … {high})"


def verdict(estimates: Estimates, negated: bool = False) -> str:
    """One sentence about what `compare_models` found: was the reward earned, or only its number?

    Args:
        estimates: of `compare_samples`.
        negated: whether the trained model was asked for bad reviews.
    """
    proxy = estimates["difference"]["sentiment"]
    judge = estimates["difference"]["judge"]
    if proxy["low"] is None:
        return TOO_LITTLE
    if not is_clear(proxy):
        return "The reward model sees no clear difference."
    sign = -1 if negated else 1
    text = f"The sentiment {'rose' if proxy['mean'] > 0 else 'fell'} by {abs(proxy['mean']):.2f}"
    if sign * proxy["mean"] < 0:
        against = ", though bad reviews were asked for" if negated else ""
        return f"{text}{against}; the judge says {judge['mean']:+z.2f}."
    text = text.replace("The", "As asked, the") if negated else text
    if costs := costs_of(estimates, negated):
        return f"{text}, but {'; '.join(costs)}. Do not trust the reward alone."
    kl = estimates["trained"]["kl"]["mean"]
    return f"{text} and the judge by {sign * judge['mean']:z.2f}, at {kl:z.1f} nats."


def prompting_verdict(results: dict[str, Result]) -> str:
    """One sentence about what `compare_prefixes` found: could one just have asked?

    Args:
        results: {title: result}, titles such as "base", "base + 'Wow! '", "trained".
    """
    figures = {title: result["metrics"] for title, result in results.items()}
    asked = [title for title in results if title.startswith("base + ")]
    best = max(asked, key=lambda title: figures[title]["sentiment"])
    prefix = best.removeprefix("base + ")
    if len(by_prompt(results["base"]["samples"])) < 2:
        return TOO_LITTLE
    reached = "{sentiment:.3f} at {kl:z.1f} nats".format
    if _change(results, "base", best) <= 0:
        text = f"No prefix clearly raises the sentiment of {figures['base']['sentiment']:.3f}"
    else:
        text = f"The best prefix, {prefix}, reaches a sentiment of {reached(**figures[best])}"
    if "trained" not in results:
        return f"{text}."
    text += f"; the trained model reaches {reached(**figures['trained'])}"
    combined = f"trained + {prefix}"
    text += f", and {reached(**figures[combined])} with the prefix"
    changes = {alone: _change(results, alone, combined) for alone in ("trained", best)}
    if min(changes.values()) > 0:
        return f"{text}: the two add up."
    if min(changes.values()) < 0:
        return f"{text}: the two do not add up."
    unclear = "the trained model" if changes["trained"] == 0 else "the prefix"
    return (
        f"{text}. That is no clear difference from {unclear} alone: whether the two add up, these "
        "samples do not say."
    )


def _change(results, before, after):
    """Where the sentiment went from one result to another: +1, −1, or 0 if that is not clear."""
    groups = [[*by_prompt(results[title]["samples"]).values()] for title in (before, after)]
    change = METRICS["sentiment"].kind.compare(*groups).difference
    return (1 if change["mean"] > 0 else -1) if is_clear(change) else 0


def costs_of(estimates: Estimates, negated: bool = False) -> list[str]:
    """What a change of the sentiment was paid with, in words; an empty list if with nothing large.

    Args:
        estimates: of `compare_samples`.
        negated: whether the sentiment was to fall.
    """
    base, trained, difference = (estimates[key] for key in ("base", "trained", "difference"))
    costs = []
    judge = difference["judge"]
    if (judge["high"] >= 0) if negated else (judge["low"] <= 0):
        costs.append(f"the judge did not follow ({difference['judge']['mean']:+z.2f})")
    ratio = trained["perplexity"]["mean"] / base["perplexity"]["mean"]
    if ratio > 2:
        costs.append(f"the reference finds the text {ratio:.1f} times as surprising")
    if difference["repetition_3"]["low"] > 0.02:
        shares = (f"{side['repetition_3']['mean']:.1%}" for side in (base, trained))
        costs.append(f"repeated 3-grams rose from {' to '.join(shares)}")
    if difference["distinct_2"]["mean"] < -0.2 * base["distinct_2"]["mean"]:
        costs.append("the completions resemble each other more")
    length = trained["length"]["mean"] / base["length"]["mean"]
    if length < 0.6:
        costs.append(f"the texts shrank to {length:.0%} of their length")
    return costs


def print_pairs(pairs: Iterable[tuple[Sample, Sample]]) -> None:
    """The trained model's best, median and worst completion by the judge, each beside the base
    model's to the same prompt: a choice that flatters nobody.

    Args:
        pairs: (base sample, trained sample), each with a `judge` score.
    """
    console = make_console()
    pairs = sorted(pairs, key=lambda pair: pair[1]["judge"])
    for title, i in (("best", -1), ("median", len(pairs) // 2), ("worst", 0)):
        base, trained = pairs[i]
        heading = f"\n{title} of the trained model, by the judge: {base['prompt']} …"
        console.print(heading, style="bold", markup=False)
        for name, sample in (("base", base), ("trained", trained)):
            text = " ".join(sample["completion"].split())
            scores = f"sentiment {sample['sentiment']:.2f}, judge {sample['judge']:.2f}"
            console.print(f"  {name:8}{scores}  {text}", markup=False, highlight=False)
