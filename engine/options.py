"""Every option of a training run: type, default, meaning, presets."""

import argparse
import contextlib
import dataclasses
import difflib
import json
import math
import os
import shlex
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.common import (
    MANIFEST,
    ROOT,
    UserError,
    first_line,
    portable,
    sha256,
    short_path,
    usable,
)

PRESETS = {
    "tiny": {
        "model_name": str(ROOT / "tiny" / "gpt2"),
        "sentiment_model": str(ROOT / "tiny" / "sentiment"),
        "max_steps": 60,
        "max_completion_length": 32,
        "learning_rate": 1e-4,
        "eval_steps": 15,
        "save_steps": 50,
    },
    "quick": {
        "max_steps": 100,
        "max_completion_length": 32,
        "learning_rate": 2e-5,
        "save_steps": 50,
    },
    "medium": {"max_steps": 300, "max_completion_length": 48, "learning_rate": 1e-5},
}
KL_TYPES = ("none", "forward", "backward")
NLPTOWN = "nlptown/bert-base-multilingual-uncased-sentiment"
PROJECT = "grpo-sentiment"  # the name that runs share in a tracker
TRACKERS = ("none", "wandb", "trackio", "tensorboard")
GENERATORS = ("own", "trl")
CREDITS = ("completion", "prefix")
SCHEDULES = ("constant_with_warmup", "linear", "cosine")
LOSS_TYPES = ("grpo", "dapo", "dr_grpo", "bnpo")
SCALES = ("group", "batch", "none")
REWARD_SHAPINGS = ("linear", "exponential", "shaped", "five_stars", "custom", "none")


def option(default, help, choices=None, minimum=None):
    """One option: the flag, the keyword of train() and the row of the table in the docs."""
    metadata = {"help": help, "choices": choices, "minimum": minimum}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass
class Options:
    """Every option with its type, default and meaning."""

    preset: str = option("medium", "the settings to start from", tuple(PRESETS))
    model_name: str = option("gpt2", "policy and reference model: a Hub name or a folder")
    sentiment_model: str = option(
        NLPTOWN,
        "the model that scores the texts; its labels must be five stars, or shades of good and bad",
    )
    output_dir: str = option(
        "outputs/run", "folder of the run; an earlier run there is moved aside, not overwritten"
    )
    rewards: str | None = option(
        None, "file with your reward functions; without it, rewards.py beside train.py"
    )
    reward_shaping: str = option(
        "linear", "how the score is shaped into the reward; none means linear", REWARD_SHAPINGS
    )
    shaping_temperature: float = option(
        1.0,
        "temperature of the exponential shaping; the lower, the more the best texts stand out",
        minimum=0.05,
    )
    kl_type: str = option("none", "which of your KL penalties to use", KL_TYPES)
    kl_coef: float = option(0.1, "strength of your KL penalty: reward per nat", minimum=0)
    kl_target: float | None = option(
        None, "KL, in nats, that the run should end near: adapts kl_coef at each step", minimum=0.01
    )
    beta: float = option(0.0, "strength of TRL's own KL term, which is part of the loss", minimum=0)
    hackable_reward: bool = option(
        False, "score a text by its share of positive words, which is easy to exploit"
    )
    negate_reward: bool = option(False, "train for negative reviews; the KL penalty stays as it is")
    credit: str = option(
        "completion",
        "what gets an advantage of its own: a completion, as in GRPO, or each part of it, by what "
        "it added to the reward",
        CREDITS,
    )
    loss_type: str = option(
        "dapo",
        "mean of the loss: over all tokens (dapo, bnpo), over texts of each one's mean (grpo), "
        "or over as many tokens as there may be (dr_grpo)",
        LOSS_TYPES,
    )
    scale_rewards: str = option(
        "group", "whose standard deviation divides the advantages, if any", SCALES
    )
    own_grpo: bool = option(
        False, "compute advantages and loss with your two functions of exercise 4"
    )
    use_solution: bool = option(False, "use rewards_solution.py instead of rewards.py")
    use_peft: bool = option(
        False,
        "train a small LoRA adapter instead of all weights; GPT-2 then wants a higher "
        "--learning_rate, such as 2e-4",
    )
    max_steps: int = option(300, "number of training steps", minimum=1)
    batch_size: int = option(64, "completions per step", minimum=2)
    num_generations: int = option(8, "completions per prompt: the size of a group", minimum=2)
    max_completion_length: int = option(48, "longest completion, in tokens", minimum=1)
    learning_rate: float = option(1e-5, "learning rate of AdamW after the warm-up", minimum=0)
    lr_scheduler_type: str = option(
        "constant_with_warmup", "how the learning rate goes on after the warm-up", SCHEDULES
    )
    temperature: float = option(
        1.0, "temperature of sampling, in training and validation", minimum=0.01
    )
    seed: int = option(0, "seed of all random numbers", minimum=0)
    eval_steps: int = option(25, "number of steps between two validations", minimum=1)
    save_steps: int = option(
        100, "number of steps between two checkpoints; the last two are kept", minimum=1
    )
    generation: str = option(
        "own",
        "what samples the texts: the loop of this project, or that of TRL",
        GENERATORS,
    )
    process_timeout: int = option(
        600, "of several processes: seconds to wait for one that is silent", minimum=1
    )
    prompts: str | None = option(
        None, "file of training prompts: one per line, or JSON lines or CSV with a `prompt`"
    )
    config: str | None = option(None, "YAML file with options; flags on the command line win")
    resume: bool = option(False, "continue the run in OUTPUT_DIR, with the options it began with")
    report_to: str = option(
        "none", "also send the figures to a tracker; trackio and tensorboard stay local", TRACKERS
    )
    wandb: bool = option(False, "short for --report_to wandb; WANDB_MODE=offline works")
    check: bool = option(
        False, "only check the machine, the packages, the models and your exercises"
    )
    debug: bool = option(False, "show the full traceback of an error")


FIELDS = {field.name: field for field in dataclasses.fields(Options)}
MAY_CHANGE = {
    *("output_dir", "config", "resume", "report_to", "wandb", "check", "debug", "max_steps"),
    "process_timeout",
}
# Options that name models and files. What counts for a resumed run is what is in them, not where.
FILES = ("model_name", "sentiment_model", "rewards", "prompts")
MAY_BE_MENDED = ("rewards", "prompts")
LARGEST = 2**32 - 1  # integer: numpy takes no larger seed, and nothing here needs a larger number


def resolve_options(given: dict[str, Any]) -> Options:
    """Options from the explicitly given ones: those win over the config file, that over the
    preset, that over the defaults.

    Raises:
        UserError: an unknown name, a wrong type, an illegal value or combination.
    """
    lonely = "kl_coef" in given and "kl_type" not in given
    if given.get("config") is not None:
        given = {**read_config(given["config"]), **given}
    given = {name: check_option(name, value) for name, value in given.items()}
    if given.get("resume"):
        given = {**recorded_options(given), **given}
    preset = str(given.get("preset", "medium"))
    options = Options(**{**PRESETS[preset], **given})
    if options.reward_shaping == "none":
        options.reward_shaping = "linear"
    if options.wandb and options.report_to not in ("none", "wandb"):
        raise UserError("--wandb is short for --report_to wandb: give only one of them.")
    options.report_to = "wandb" if options.wandb else options.report_to
    if options.rewards and options.use_solution:
        raise UserError("--rewards and --use_solution name two files: give only one of them.")
    if options.kl_target is not None and options.kl_type == "none":
        raise UserError("--kl_target controls your KL penalty: add --kl_type forward or backward.")
    if options.kl_type == "none" and lonely and not options.resume:
        raise UserError("--kl_coef is that of your KL penalty: add --kl_type forward or backward.")
    if options.kl_target is not None and options.kl_coef == 0:
        raise UserError("--kl_target multiplies --kl_coef at each step: start above 0.")
    _require_one_algorithm(options)
    batch = options.batch_size
    if batch % options.num_generations:
        legal = [n for n in range(2, batch + 1) if batch % n == 0]
        raise UserError(
            f"--num_generations {options.num_generations} does not divide --batch_size {batch}; "
            f"legal for this batch: {', '.join(map(str, legal))}."
        )
    return options


def _require_one_algorithm(options: Options) -> None:
    """Refuse an option that what computes the advantages, or the loss, would not heed."""
    if options.credit == "prefix" and options.scale_rewards != "group":
        raise UserError("--credit prefix scales the advantages itself: leave --scale_rewards out.")
    if options.own_grpo:
        for name in ("credit", "loss_type", "scale_rewards", "beta"):
            if getattr(options, name) != FIELDS[name].default:
                raise UserError(f"--own_grpo is your algorithm, without --{name}: leave one out.")


def recorded_options(given):
    """The options that the run in OUTPUT_DIR began with.

    Raises:
        UserError: there is no run, or `given` or the files of today contradict it.
    """
    folder = Path(given.get("output_dir", FIELDS["output_dir"].default))
    try:
        manifest = read_manifest(folder)
    except UserError as error:
        raise UserError(f"There is no run to resume in {folder}.") from error
    recorded = {name: check_option(name, manifest["options"][name]) for name in FIELDS}
    for name, value in given.items():
        if name not in {*MAY_CHANGE, *FILES} and recorded[name] != value:
            raise UserError(_another(folder, name, recorded[name], value))
    recorded = {name: value for name, value in recorded.items() if name not in MAY_CHANGE} | {
        "max_steps": recorded["max_steps"]
    }
    _require_same_files(folder, manifest, recorded, given)
    return recorded


def _another(folder, name, was, value):
    return (
        f"The run in {folder} began with {name} {was}, not {value}. "
        f"--resume keeps its options: leave --{name} out."
    )


def _require_same_files(folder, manifest, recorded, given):
    """Refuse to go on with other models, prompts or rewards than those of the run so far.

    What has moved may be named anew, if the same is in it. A file of rewards or prompts that has
    changed is taken where the user names it: to mend it may be why the run goes on.
    """
    named = given.keys() | ({"rewards"} if given.get("use_solution") else set())
    options = Options(**recorded | {name: given[name] for name in FILES if name in given})
    files, files_now = files_of(Options(**recorded)), files_of(options)
    sums, sums_now = last_sums(manifest), sums_of(options)
    for name in FILES:
        was, value = files[name], files_now[name]
        gone = was is not None and os.path.isabs(was) and not os.path.exists(was)
        if gone and name not in named:
            raise UserError(f"{was} is no more: say where it is now with --{name}.")
        if sums.get(name) is None or sums_now[name] is None:  # an older version did not record it
            if not gone and portable(was or "") != portable(value or ""):
                raise UserError(_another(folder, name, was, value))
        elif sums[name] != sums_now[name] and not (name in named and name in MAY_BE_MENDED):
            raise UserError(_changed(folder, name, value, options))


def _changed(folder, name, value, options):
    """What to say of a model or a file that is not as it was when a run began."""
    changed = f"{value} is not what it was when the run in {folder} began. "
    if name not in MAY_BE_MENDED:
        return f"{changed}Name the model of then with --{name}, or start a new run."
    how = f"--{name} {shlex.quote(str(short_path(value)))}"
    if name == "rewards" and options.use_solution:
        how = "--use_solution"
    return f"{changed}Put it back, or start a new run; --resume {how} goes on with it as it is."


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The contents of a run's run.json, with every option that there is today, and the paths of
    `to_record` as they are here.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = Path(folder) / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        options = {name: field.default for name, field in FIELDS.items()} | manifest["options"]
        files = {name: options[name] and usable(options[name]) for name in FILES}
        return {**manifest, "options": options | files}
    except OSError as error:
        if not Path(folder).exists():
            raise UserError(f"There is no folder '{folder}'.") from error
        raise UserError(
            f"'{folder}' is not the output folder of a run: it has no run.json."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is damaged ({type(error).__name__}: {first_line(error)})."
        ) from error


def to_record(options: Options) -> dict[str, Any]:
    """The options as run.json keeps them: where this project may move, and a run with it."""
    values = dataclasses.asdict(options)
    return values | {name: values[name] and portable(values[name]) for name in FILES}


def rewards_file(use_solution: bool = False, path: str | None = None) -> Path:
    """The path of `rewards.py`, or of `rewards_solution.py`; `path` itself where one is given."""
    if path:
        return Path(path)
    return ROOT / ("rewards_solution.py" if use_solution else "rewards.py")


def files_of(options: Options) -> dict[str, str | None]:
    """What the options of FILES stand for; a rewards file is always one."""
    files = {name: getattr(options, name) for name in FILES}
    return files | {"rewards": str(rewards_file(options.use_solution, options.rewards))}


def sums_of(options: Options, names: Sequence[str] = FILES) -> dict[str, str | None]:
    """{option: SHA-256} of the models and files of a run; None where nothing of it is on this disk.

    Of a model, it is that of its configuration and all its weights; of a rewards file, without what
    that imports.
    """
    files = files_of(options)
    return {name: files[name] and _sum_of(files[name]) for name in names}


def _sum_of(name):
    """The SHA-256 of a file, or of a model in a folder or in the cache of the Hub."""
    path = Path(name)
    with contextlib.suppress(OSError):
        if path.is_file():
            return sha256(path)
        if not path.is_dir():
            path = _in_cache(name)
        files = sorted([*path.glob("*.safetensors"), *path.glob("config.json")])
        return sha256("".join(f"{p.name} {sha256(p)}\n" for p in files).encode()) if files else None


def _in_cache(name):
    """The folder of a model in the cache of the Hub.

    Raises:
        FileNotFoundError: it is not there.
    """
    from huggingface_hub import try_to_load_from_cache

    with contextlib.suppress(ValueError):  # what can be no name of the Hub
        if isinstance(file := try_to_load_from_cache(name, "config.json"), str):
            return Path(file).parent
    raise FileNotFoundError(name)


def last_sums(manifest: dict[str, Any]) -> dict[str, str | None]:
    """The `sums_of` of a run as it went on last; none, of one of an older version."""
    return manifest.get("sha256", {}) | manifest.get("sha256_resumed", {})


def check_option(name: str, value: Any) -> Any:
    """`value` in the type of option `name`.

    Raises:
        UserError: there is no such option, or the value is not legal for it.
    """
    if name not in FIELDS:
        close = difflib.get_close_matches(name, FIELDS, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise UserError(f"There is no option '{name}'.{hint}")
    field = FIELDS[name]
    kind = type_of(field)
    if kind is float:
        value = _as_float(value)
    if value is None and field.default is None:
        return None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UserError(f"{name} must be of type {kind.__name__}, not {value!r}.")
    _require_legal(name, value)
    return value


def _require_legal(name: str, value: Any) -> None:
    choices = FIELDS[name].metadata["choices"]
    minimum = FIELDS[name].metadata["minimum"]
    if choices and value not in choices:
        raise UserError(f"{name} must be one of {', '.join(choices)}, not {value!r}.")
    if minimum is not None and not minimum <= value < math.inf:
        raise UserError(f"{name} must be at least {minimum}, not {value!r}.")
    if isinstance(value, int) and value > LARGEST:
        raise UserError(f"{name} must be at most {LARGEST}.")


def _as_float(value: Any) -> Any:
    """An integer or a text as a float, if it is one: YAML reads 5e-4 as a text."""
    if isinstance(value, (int, str)) and not isinstance(value, bool):
        with contextlib.suppress(ValueError):
            return float(value)
    return value


def type_of(field) -> type:
    """The type of an option's value, None left aside."""
    return (typing.get_args(field.type) or (field.type,))[0]


def read_config(path):
    """The options of a YAML file.

    Raises:
        UserError: the file cannot be read, or holds no options.
    """
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"Cannot read the config file {path}: {first_line(error)}") from error
    if not isinstance(values, dict):
        raise UserError(f"The config file {path} must hold lines like `max_steps: 100`.")
    for name in values:
        if not isinstance(name, str):  # `on` and `off`, dates, numbers
            raise UserError(f"The config file {path} has a line whose name YAML reads as {name!r}.")
    return values


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line, and whose help names no file that students lack."""

    def add_argument(self, *names, **arguments):
        if "--use_solution" in names and not rewards_file(use_solution=True).is_file():
            arguments["help"] = argparse.SUPPRESS
        return super().add_argument(*names, **arguments)

    def error(self, message):
        self.exit(2, f"{self.prog}: {message} (--help lists the options)\n")


def parse_arguments(description, argv=None):
    """The explicitly given options of a command line, as a dict."""
    parser = OneLineParser(description=description, allow_abbrev=False)
    for name, field in FIELDS.items():
        text = field.metadata["help"]
        if type_of(field) is bool:
            arguments: dict[str, Any] = {"action": "store_true"}
        else:
            arguments = {"type": type_of(field), "choices": field.metadata["choices"]}
            text += f" (default: {field.default})" if field.default is not None else ""
        parser.add_argument(f"--{name}", default=argparse.SUPPRESS, help=text, **arguments)
    return vars(parser.parse_args(argv))


def at_least(minimum, kind):
    """A type for argparse: a finite number that is not below `minimum`."""

    def parse(text):
        value = kind(text)
        if not minimum <= value < math.inf:
            raise argparse.ArgumentTypeError(f"{text} is not {minimum} or more")
        if kind is int and value > LARGEST:
            raise argparse.ArgumentTypeError(f"{text} is more than {LARGEST}")
        return value

    parse.__name__ = kind.__name__  # argparse names it where the text is no number at all
    return parse
