"""The model card of a run: README.md of OUTPUT_DIR and of the model in `final`.

Everything in it comes from the run's manifest and its last validation; nothing is claimed that was
not measured. The lines between `---` are what the Hugging Face Hub reads.
"""

import re
import shlex
from pathlib import Path
from typing import Any

import yaml

from engine.common import ROOT
from engine.measuring.metrics import METRICS
from engine.measuring.optimum import SETTINGS, known_optimum, settings_of
from engine.measuring.runs import asked_kl_coef
from engine.measuring.tables import interval
from engine.options import FIELDS, MAY_CHANGE, PRESETS, last_sums

HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
TEMPLATE = """\
{front_matter}
# {name}

`{base}`, fine-tuned with GRPO (Group Relative Policy Optimization, TRL) for the reward below:
{kind}, {max_steps} steps × {batch_size} completions of at most {length} tokens.

## Training

- **Base model:** `{base}`
- **Reward:** {reward}
- **Sentiment model:** `{scorer}`; it reads the completion alone, without its prompt
- **Prompts:** {train_prompts}, {prompts}. The completions were the model's own; there was no other
  text

To repeat it, in this project's folder, with the `{rewards_file}` whose SHA-256 is
`{rewards_sum}`{mended}:

```bash
{command}
```

| option | value | default |
|---|---|---|
{options}

## Before → after

{samples} completions to {held_out} prompts that were not trained on, at temperature {temperature};
one run, seed {seed}. `python evaluate.py compare` samples more and gives intervals.

| figure | before | after | meaning |
|---|---|---|---|
{figures}

Three of these completions, by sentiment:

{examples}

## How to load it

```python
from transformers import pipeline

generator = pipeline("text-generation", model="path/to/final")
settings = dict(do_sample=True, temperature={temperature}, top_k=0, top_p=1.0)
print(generator("This movie was", max_new_tokens={length}, **settings)[0]["generated_text"])
```

With `top_k=0` and `top_p=1.0` it samples as in training, from all tokens.

## Limits

- A program gave the reward, not a person. A text that earns much need not be good, true or even a
  sentence: look at the KL and at the perplexity under the base model beside the sentiment.
- What the model says about films, people and events is invented. It is made for study, not for
  reviews that anybody is to take for a person's opinion.
- Whatever the base model has learned from its data, this model has kept. It was measured on the
  prompts above only, in their language.

## Versions

{versions}
"""


def model_card(run, samples):
    """The card of a finished run as Markdown.

    Args:
        run: its manifest, with `before` and `after`.
        samples: of its last validation, dicts with `prompt`, `completion` and `sentiment`.
    """
    options = run["options"]
    loss = f"; in the loss, {options['beta']:g} × TRL's own KL term" if options["beta"] else ""
    lora = "a LoRA adapter, merged into its base"
    file = options["prompts"]
    return TEMPLATE.format(
        front_matter=front_matter(options["model_name"]),
        name=Path(options["output_dir"]).name,
        base=shown(options["model_name"]),
        kind=lora if options["use_peft"] else "all weights",
        max_steps=options["max_steps"],
        batch_size=options["batch_size"],
        length=options["max_completion_length"],
        reward=run["reward"] + loss,
        scorer=shown(options["sentiment_model"]),
        train_prompts=run["train_prompts"],
        prompts=f"of the file `{shown(file)}`"
        if file
        else "openings of film reviews, in `data.py`",
        rewards_file=shown(run["rewards_file"]),
        rewards_sum=last_sums(run)["rewards"],
        mended=mended(run),
        command=command(options),
        options=option_rows(options),
        samples=len(samples),
        held_out=len({sample["prompt"] for sample in samples}),
        temperature=options["temperature"],
        seed=options["seed"],
        figures=figure_rows(run) + nats_rows(options, samples),
        examples=examples(samples),
        versions=versions(run),
    )


def mended(run):
    """That a run went on with another rewards file than it began with, where it did."""
    began = run.get("sha256", {}).get("rewards")  # none in a run of an older version
    if began in (None, last_sums(run)["rewards"]):
        return ""
    return (
        f" (it began with another version, `{began}`, and was resumed with this one: one command "
        "does not repeat it)"
    )


def front_matter(base):
    """The YAML that the Hub reads. A local folder is no `base_model` there."""
    data: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    if is_hub_name(base):
        data["base_model"] = base
    data["tags"] = ["grpo", "trl"]
    return f"---\n{yaml.safe_dump(data, sort_keys=False)}---\n"


def is_hub_name(name):
    """Whether a model's name can only be one of the Hub.

    >>> is_hub_name("gpt2"), is_hub_name("/data/models/gpt2")
    (True, False)
    """
    return bool(HUB_NAME.fullmatch(name)) and not Path(name).exists()


def shown(value):
    """A value as others can use it: a path of this project from its folder, another's name only."""
    path = Path(str(value))
    if not path.is_absolute():
        return str(value)
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name


def changed(options, defaults):
    """{option: value} where it is another than in `defaults`, without those of one machine."""
    skipped = MAY_CHANGE - {"max_steps"}
    return {k: v for k, v in options.items() if k not in skipped and v != defaults[k]}


def command(options):
    """The command that repeats a run, but for its folder."""
    defaults = {name: field.default for name, field in FIELDS.items()} | PRESETS[options["preset"]]
    words = ["python", "train.py", "--preset", options["preset"]]
    for name, value in changed(options, defaults | {"preset": options["preset"]}).items():
        words += [f"--{name}"] if value is True else [f"--{name}", shown(value)]
    return shlex.join(words)


def option_rows(options):
    defaults = {name: field.default for name, field in FIELDS.items()}
    rows = [
        f"| `{name}` | {shown(value)} | {'–' if defaults[name] is None else defaults[name]} |"
        for name, value in changed(options, defaults).items()
    ]
    return "\n".join(rows or ["| none | | |"])


def figure_rows(run):
    before, after = run["before"], run["after"]
    return "\n".join(
        f"| {metric.title} | {metric.form.format(before[name])} | "
        f"{metric.form.format(after[name])} | {metric.meaning} |"
        for name, metric in METRICS.items()
        if name in before and name in after
    )


def nats_rows(options, samples):
    """What the nats were paid for, where the best possible policy is known already."""
    base = settings_of(*(options[name] for name in SETTINGS))
    prompts = {sample["prompt"] for sample in samples}
    optimum = known_optimum(base, prompts, [options["output_dir"]])
    nats = optimum.paid(samples, asked_kl_coef(options)) if optimum else {}
    rows = ""
    for name, title, meaning in (
        ("needed", "needed", "least KL at which any policy has this sentiment"),
        ("sideways", "sideways", "the rest of the KL, which bought no sentiment"),
        ("to_optimum", "from what was asked", "KL from the highest sentiment − kl_coef · KL"),
    ):
        if estimate := nats.get(name):
            rows += f"\n| {title} (nats) | – | {interval(estimate)} | {meaning}, 95 % interval |"
    return rows


def examples(samples):
    """The best, the median and the worst by sentiment, a choice that flatters nobody."""
    ranked = sorted(samples, key=lambda sample: sample["sentiment"])
    rows = []
    for title, i in (("best", -1), ("median", len(ranked) // 2), ("worst", 0)):
        text = " ".join((ranked[i]["prompt"] + ranked[i]["completion"]).split())
        rows.append(f"- {title}, {ranked[i]['sentiment']:.2f}: {escaped(text)}")
    return "\n".join(rows)


def escaped(text):
    r"""A text that Markdown shows as it is.

    >>> escaped("a *star* <b>")
    'a \\*star\\* \\<b\\>'
    """
    return re.sub(r"([\\`*_{}\[\]<>#|~$&])", r"\\\1", text)


def versions(run):
    packages = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    commit = f"`{run['git_commit']}`" if run["git_commit"] else "unknown"
    return (
        f"{packages}. Commit of this project: {commit}; what was changed after it is not recorded. "
        f"Trained on: {run['device']}."
    )
