"""Fine-tune GPT-2 with GRPO so that it writes positive movie reviews.

    python train.py --preset tiny      # bundled models: a CPU, no network, two minutes
    python train.py                    # GPT-2, for a GPU

Options → prompts → models → reward → TRL's GRPOTrainer → OUTPUT_DIR/final.
"""

import argparse
import contextlib
import dataclasses
import difflib
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent

PRESETS = {
    "tiny": {
        "model_name": str(ROOT / "tiny" / "gpt2"),
        "sentiment_model": str(ROOT / "tiny" / "sentiment"),
        "max_steps": 60,
        "max_completion_length": 32,
        "learning_rate": 1e-4,
        "eval_steps": 15,
    },
    "quick": {"max_steps": 100, "max_completion_length": 32, "learning_rate": 2e-5},
    "medium": {"max_steps": 300, "max_completion_length": 48, "learning_rate": 1e-5},
}
GENERATORS = ("own", "trl", "vllm")
SHAPINGS = ("linear", "exponential", "shaped", "five_stars", "custom", "none")


def option(default, help, choices=None, minimum=None):
    """One option: the flag, the keyword of train() and the row of the README's table."""
    metadata = {"help": help, "choices": choices, "minimum": minimum}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass
class Options:
    """Every option with its type, default and meaning. `None`: the preset decides."""

    preset: str = option("medium", "settings to start from", tuple(PRESETS))
    model_name: str = option("gpt2", "policy and reference: Hub name or folder")
    sentiment_model: str = option(
        "nlptown/bert-base-multilingual-uncased-sentiment", "reward model with five star labels"
    )
    output_dir: str = option("./outputs", "where the run is written; an earlier run moves aside")
    reward_shaping: str = option("linear", "what becomes of the score (none = linear)", SHAPINGS)
    kl_type: str = option("none", "your KL penalty", ("none", "forward", "backward"))
    kl_coef: float = option(0.1, "strength of your KL penalty, reward per nat", minimum=0)
    beta: float = option(0.0, "strength of TRL's own KL term, in the loss", minimum=0)
    hackable_reward: bool = option(False, "score by counting positive words: made to be hacked")
    negate_reward: bool = option(False, "train for negative reviews; the KL penalty stays")
    use_solution: bool = option(False, "take the functions of rewards_solution.py")
    use_peft: bool = option(False, "train a LoRA adapter instead of all weights")
    max_steps: int = option(300, "optimizer steps", minimum=1)
    batch_size: int = option(64, "completions per step", minimum=2)
    num_generations: int = option(8, "completions per prompt: the group", minimum=2)
    max_completion_length: int = option(48, "most tokens per completion", minimum=1)
    learning_rate: float = option(1e-5, "AdamW's peak learning rate", minimum=0)
    temperature: float = option(1.0, "of sampling, log-probs and validation", minimum=0.01)
    seed: int = option(0, "of everything random", minimum=0)
    eval_steps: int = option(25, "steps between validations", minimum=1)
    save_steps: int = option(50, "steps between checkpoints; the last two are kept", minimum=1)
    generation: str = option(
        "own", "who samples; vllm needs a server of `trl vllm-serve`", GENERATORS
    )
    prompts: str | None = option(None, "file of training prompts, one per line or JSONL")
    config: str | None = option(None, "YAML file of options; flags win over it")
    resume: bool = option(False, "go on with the run in OUTPUT_DIR, with its options")
    wandb: bool = option(False, "log to Weights & Biases (WANDB_MODE=offline works)")
    check: bool = option(False, "look at machine, packages, models and exercises, then stop")
    debug: bool = option(False, "show the traceback of an error")


FIELDS = {field.name: field for field in dataclasses.fields(Options)}


class OptionError(ValueError):
    """An option that cannot be used. The message says which values can."""


def resolve_options(given):
    """Options from the explicitly given ones: those win over the config file, that over the
    preset, that over the defaults.

    Raises:
        OptionError: an unknown name, a wrong type, an illegal value or combination.
    """
    if given.get("config") is not None:
        given = {**read_config(given["config"]), **given}
    given = {name: check_option(name, value) for name, value in given.items()}
    if given.get("resume"):
        given = {**recorded_options(given), **given}
    options = Options(**{**PRESETS[given.get("preset", "medium")], **given})
    if options.reward_shaping == "none":
        options.reward_shaping = "linear"
    batch, group = options.batch_size, options.num_generations
    if batch % group:
        legal = [n for n in range(2, batch + 1) if batch % n == 0]
        raise OptionError(
            f"--num_generations {group} does not divide --batch_size {batch}; "
            f"legal for this batch: {', '.join(map(str, legal))}."
        )
    return options


MAY_CHANGE = {"output_dir", "config", "resume", "wandb", "check", "debug", "max_steps"}


def recorded_options(given):
    """The options that the run in OUTPUT_DIR began with.

    Raises:
        OptionError: there is no run, or `given` contradicts it.
    """
    folder = Path(given.get("output_dir", FIELDS["output_dir"].default))
    try:
        recorded = json.loads((folder / "run.json").read_text(encoding="utf-8"))["options"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OptionError(f"There is no run to resume in {folder}.") from error
    for name, value in given.items():
        if name not in MAY_CHANGE and recorded.get(name) != value:
            raise OptionError(
                f"The run in {folder} began with {name} {recorded.get(name)}, not {value}. "
                f"--resume keeps its options: leave --{name} out."
            )
    return {name: value for name, value in recorded.items() if name not in MAY_CHANGE} | {
        "max_steps": recorded["max_steps"]
    }


def check_option(name, value):
    """`value` in the type of option `name`."""
    if name not in FIELDS:
        close = difflib.get_close_matches(name, FIELDS, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise OptionError(f"There is no option '{name}'.{hint}")
    field = FIELDS[name]
    kind = type(field.default) if field.default is not None else str
    if kind is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            value = float(value)  # YAML reads 5e-4 as a text
        except ValueError:
            pass
    if not isinstance(value, kind) and not (value is None and field.default is None):
        raise OptionError(f"{name} must be of type {kind.__name__}, not {value!r}.")
    choices, minimum = field.metadata["choices"], field.metadata["minimum"]
    if choices and value not in choices:
        raise OptionError(f"{name} must be one of {', '.join(choices)}, not {value!r}.")
    if minimum is not None and not (math.isfinite(value) and value >= minimum):
        raise OptionError(f"{name} must be at least {minimum}, not {value!r}.")
    return value


def read_config(path):
    """The options of a YAML file."""
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise OptionError(f"Cannot read the config file {path}: {reason}") from error
    if not isinstance(values, dict):
        raise OptionError(f"The config file {path} must hold lines like `max_steps: 100`.")
    return values


class OneLineParser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog}: {message} (--help lists the options)\n")


def parse_arguments(argv=None):
    """The explicitly given options of a command line, as a dict."""
    parser = OneLineParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    for name, field in FIELDS.items():
        kind = type(field.default) if field.default is not None else str
        text = field.metadata["help"]
        if kind is bool:
            arguments = {"action": "store_true"}
        else:
            arguments = {"type": kind, "choices": field.metadata["choices"]}
            text += f" (default: {field.default})" if field.default is not None else ""
        parser.add_argument(f"--{name}", default=argparse.SUPPRESS, help=text, **arguments)
    return vars(parser.parse_args(argv))


def prepare_output(options):
    """Make OUTPUT_DIR, moving an earlier run aside; returns the checkpoint to resume from."""
    from checkpoints import newest_good
    from models import UserError

    folder = Path(options.output_dir)
    try:
        if options.resume:
            checkpoint, problems = newest_good(folder)
            for name, problem in problems.items():
                print(f"{name} is not used: {problem}.")
            print(f"Going on from {checkpoint.name if checkpoint else 'the start'}.")
            return str(checkpoint) if checkpoint else None
        if (folder / "run.json").exists():
            number = 1
            while (aside := folder.with_name(f"{folder.name}.{number}")).exists():
                number += 1
            folder.rename(aside)
            print(f"The earlier run in {folder} is now {aside}.")
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"Cannot write to {folder}: {error.strerror}. Choose another --output_dir."
        ) from error


def check_prompt_lengths(prompts, tokenizer, model, options):
    """Every prompt and its completion must fit into the model's context."""
    from models import UserError, context_length

    lengths = list(map(len, tokenizer(prompts)["input_ids"]))
    tokens = max(lengths)
    longest = prompts[lengths.index(tokens)]
    limit = context_length(model)
    if tokens + options.max_completion_length > limit:
        raise UserError(
            f"The prompt '{longest[:40]}…' has {tokens} tokens; with --max_completion_length "
            f"{options.max_completion_length} it exceeds the model's context of {limit}."
        )


def mixed_precision(device):
    """(GRPOConfig arguments, autocast type). Master weights stay float32 everywhere."""
    import torch

    if device.type != "cuda":
        return {"bf16": False, "fp16": False}, None  # TRL's default is bf16, on a CPU too
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return {"bf16": True, "fp16": False}, torch.bfloat16
    return {"bf16": False, "fp16": True}, torch.float16  # with loss scaling, for a T4


def require_whole_weights():
    """Refuse a launch that shards weights: the first process validates alone.

    Raises:
        OptionError: FSDP, or DeepSpeed's ZeRO stage 3.
    """
    fsdp = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if fsdp or os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "3":
        raise OptionError(
            f"{'FSDP' if fsdp else 'ZeRO stage 3'} shards the weights, and validation needs them "
            "whole. launch/zero2.yaml shards the rest; --use_peft needs still less."
        )


def make_config(options, device):
    """TRL's configuration of a run."""
    from accelerate import PartialState
    from trl import GRPOConfig

    precision, _ = mixed_precision(device)
    world = PartialState().num_processes
    if options.batch_size % world:
        raise OptionError(
            f"--batch_size {options.batch_size} does not divide by {world} processes."
        )
    return GRPOConfig(
        output_dir=options.output_dir,
        max_steps=options.max_steps,
        per_device_train_batch_size=options.batch_size // world,
        num_generations=options.num_generations,
        max_completion_length=options.max_completion_length,
        temperature=options.temperature,
        beta=options.beta,
        use_vllm=options.generation == "vllm",
        vllm_mode="server",
        learning_rate=options.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=5,
        max_grad_norm=1.0,
        disable_dropout=True,  # with dropout the policy is not the reference at step 0
        gradient_checkpointing=False,  # trades time for memory that these sizes do not need
        ddp_find_unused_parameters=False,  # there are none, and DDP would warn of the search
        seed=options.seed,
        shuffle_dataset=False,  # `data.arrange` has done it
        use_cpu=device.type == "cpu",
        dataloader_pin_memory=device.type == "cuda",
        logging_steps=1,
        disable_tqdm=True,
        save_steps=options.save_steps,
        save_total_limit=2,  # the one before stays until the newest is sealed
        report_to="wandb" if options.wandb else "none",
        run_name=Path(options.output_dir).name,
        **precision,
    )


def add_lora(model):
    """The model with a LoRA adapter on every linear layer of its blocks (PEFT)."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=16,
        lora_alpha=32,
        target_modules="all-linear",
        fan_in_fan_out=model.config.model_type == "gpt2",  # its Conv1D weights are transposed
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def save_final(model, tokenizer, output_dir):
    """Write OUTPUT_DIR/final whole or not at all. A LoRA adapter is merged into its base."""
    import shutil

    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    final, temporary = Path(output_dir) / "final", Path(output_dir) / "final.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    return final


def git_commit():
    """The commit of this copy, or None where there is no git or no repository."""
    command = ["git", "rev-parse", "HEAD"]
    try:
        git = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return git.stdout.strip() or None


def manifest(options, device):
    """What another person needs to repeat the run."""
    from importlib.metadata import version

    from accelerate import PartialState

    packages = ("torch", "transformers", "trl", "datasets", "accelerate", "peft")
    return {
        "status": "running",
        "options": dataclasses.asdict(options),
        "versions": {"python": sys.version.split()[0], **{p: version(p) for p in packages}},
        "git_commit": git_commit(),
        "device": str(device),
        "cpu_count": os.cpu_count(),
        "num_processes": PartialState().num_processes,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


@dataclasses.dataclass
class Parts:
    """What a run is made of."""

    dataset: object  # prompts to train on
    rewards: object  # module with the student's functions
    policy: object
    ref_model: object  # frozen copy of the policy; None: the policy without its LoRA adapter
    tokenizer: object


REWARD_OPTIONS = ("reward_shaping", "kl_type", "kl_coef", "hackable_reward", "negate_reward")


def load_parts(options, device):
    """Load what the run needs and try it out, before anything is written.

    Raises:
        UserError: prompts, models or exercises that the run cannot use.
    """
    import copy

    import data
    import models
    import reward_utils
    from sentiment import load_sentiment_model

    dataset = data.get_train_dataset(options.prompts)
    rewards = reward_utils.load_rewards(options.use_solution)
    load_sentiment_model(options.sentiment_model, device)
    reward_utils.check_exercises(rewards, **reward_options(options))
    policy, tokenizer = models.load_model(options.model_name, device)
    prompts = [*dataset["prompt"], *data.VALIDATION_PROMPTS]
    check_prompt_lengths(prompts, tokenizer, policy, options)
    if options.use_peft:
        return Parts(dataset, rewards, add_lora(policy), None, tokenizer)
    ref_model = copy.deepcopy(policy).requires_grad_(False)
    return Parts(dataset, rewards, policy, ref_model, tokenizer)


def reward_options(options):
    return {name: getattr(options, name) for name in REWARD_OPTIONS}


def make_trainer(options, parts, device, callbacks):
    """TRL's trainer with this project's rollout and reward."""
    from transformers import PrinterCallback
    from trl import GRPOTrainer

    from data import arrange
    from models import generate
    from reward_utils import make_reward_function, policy_and_ref_log_probs

    tokenizer, (_, amp_dtype) = parts.tokenizer, mixed_precision(device)
    prompts_per_step = options.batch_size // options.num_generations

    def rollout(prompts, trainer):
        prompt_ids = tokenizer(prompts)["input_ids"]
        length = options.max_completion_length
        part = (trainer.accelerator.process_index, trainer.accelerator.num_processes)
        # Seeded by the step: TRL draws from the global state as often as a process has rows.
        seed = (options.seed + 1) * 1_000_003 + trainer.state.global_step
        completion_ids, log_probs = generate(
            trainer.model, tokenizer, prompt_ids, length, options.temperature, seed, part
        )
        sampled = {"prompt_ids": prompt_ids, "completion_ids": completion_ids, "logprobs": None}
        return {**sampled, "sampled_log_probs": log_probs}  # what TRL does not know, rewards get

    def log_probs(prompts, completion_ids, sampled_log_probs):
        return policy_and_ref_log_probs(
            trainer.model,
            parts.ref_model,
            tokenizer,
            tokenizer(prompts)["input_ids"],
            completion_ids,
            options.temperature,
            # Both in the precision of the rollout, or both in that of the training pass.
            amp_dtype if sampled_log_probs is None else None,
            sampled_log_probs=sampled_log_probs,
        )

    trainer = GRPOTrainer(
        model=parts.policy,
        args=make_config(options, device),
        reward_funcs=make_reward_function(
            parts.rewards, **reward_options(options), log_probs=log_probs
        ),
        train_dataset=arrange(parts.dataset, options.max_steps * prompts_per_step, options.seed),
        processing_class=tokenizer,
        rollout_func=rollout if options.generation == "own" else None,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)  # a dict per step
    return trainer


def make_validation(options, parts, device):
    """callable() -> metrics and samples of the policy as it is, on the held-out prompts."""
    from data import VALIDATION_PROMPTS
    from evaluate import evaluate_model

    def validate():
        return evaluate_model(
            parts.policy,
            parts.tokenizer,
            VALIDATION_PROMPTS,
            parts.ref_model,
            samples_per_prompt=2,  # a validation costs less than two steps
            max_new_tokens=options.max_completion_length,
            temperature=options.temperature,
            batch_size=options.batch_size,
            amp_dtype=mixed_precision(device)[1],
        )

    return validate


def train(**given):
    """Run a training. Takes the options of the command line by the same names.

    Returns:
        TRL's trainer, trained. With `check`, None.

    Raises:
        OptionError, UserError: in one line, what to change.
    """
    options = resolve_options(given)
    started = time.perf_counter()
    import monitor

    console = monitor.make_console()
    if options.check:
        import preflight

        if not preflight.run(options, console):
            raise OptionError("not ready: see the crosses above.")
        return None
    monitor.quiet_libraries()
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list
    from transformers import set_seed

    from checkpoints import Safeguard, Stopped
    from models import UserError, best_device, tune_cpu

    require_whole_weights()
    tune_cpu()
    device = best_device()
    state = PartialState(cpu=device.type == "cpu")
    main = state.is_main_process
    console.quiet = not main
    set_seed(options.seed)
    parts = load_parts(options, device)
    (checkpoint,) = broadcast_object_list([prepare_output(options) if main else None])
    start_step = int(checkpoint.rsplit("-", 1)[1]) if checkpoint else 0
    run, run_file = manifest(options, device), Path(options.output_dir) / "run.json"
    guard, callbacks = Safeguard(console), []
    if main:  # of several processes one shows, validates and writes
        monitor.write_json(run_file, run)
        describe_run(options, parts.policy, device, console)
        watch = monitor.Monitor(
            make_validation(options, parts, device),
            options.output_dir,
            options.eval_steps,
            console,
            start_step,
            log=start_wandb(options, console) if options.wandb else None,
        )
        callbacks.append(watch)
    trainer = make_trainer(options, parts, device, [*callbacks, guard])
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
        if guard.received:
            raise Stopped(guard.received, trainer.state.global_step)
    except BaseException as error:
        with contextlib.suppress(OSError):
            if main:
                monitor.write_json(run_file, {**run, "status": "stopped"})
        reason = explain(error, options)
        if reason is None:
            raise
        step = trainer.state.global_step + 1
        raise UserError(f"At step {step}: {reason}{kept(options)}") from error
    finally:
        if main:
            watch.stop()
        guard.restore()
    if not main:
        return trainer
    final = save_final(trainer.model, parts.tokenizer, options.output_dir)
    run |= {
        "status": "finished",
        "before": watch.first,
        "after": watch.last,
        "seconds": round(time.perf_counter() - started, 1),
        "validation_seconds": round(watch.validation_seconds, 1),
    }
    monitor.write_json(run_file, run)
    summarise_run(options, run, final, console)
    return trainer


def kept(options):
    """What is left of a run that failed, as the end of a message."""
    from checkpoints import newest_good

    checkpoint, _ = newest_good(options.output_dir)
    return f" {checkpoint.name} is kept: afterwards --resume goes on." if checkpoint else ""


def explain(error, options):
    """What a failure in mid-run means and what to do, or None where only the error itself says."""
    import errno

    import torch

    from models import UserError

    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error):
        fewer = max(options.batch_size // 2, options.num_generations)
        return (
            f"out of memory. Try --batch_size {fewer}, a smaller --max_completion_length, or "
            "--use_peft; --check estimates what is needed."
        )
    signs = ("No space left", "unexpected pos")  # of safetensors, of torch.save
    if getattr(error, "errno", None) == errno.ENOSPC or any(sign in str(error) for sign in signs):
        return f"the disk of {options.output_dir} is full. Free some space."
    return None


def start_wandb(options, console):
    """Start a Weights & Biases run with the options as its config; returns its log function.

    Where the server cannot be reached, the run is kept on the disk.
    """
    import wandb

    settings = {
        "project": "grpo-sentiment",
        "name": Path(options.output_dir).name,
        "config": dataclasses.asdict(options),
    }
    try:
        wandb.init(**settings, settings=wandb.Settings(init_timeout=30))
    except wandb.errors.Error as error:
        reason = str(error).splitlines()[0][:100]
        wandb.teardown()
        offline = wandb.init(**settings, mode="offline")
        console.print(f"Weights & Biases: {reason}. The run is kept offline; later:")
        console.print(f"  wandb sync {Path(offline.dir).parent}", soft_wrap=True, highlight=False)
    return wandb.log


def describe_run(options, model, device, console):
    """What is about to run, in three lines."""
    from models import has_fast_rollout
    from reward_utils import KL_NAMES

    reward = "share of positive words" if options.hackable_reward else "sentiment"
    reward = f"{'minus ' if options.negate_reward else ''}{options.reward_shaping} {reward}"
    if options.kl_type != "none":
        reward += f" − {options.kl_coef} × penalty for {KL_NAMES[options.kl_type]}"
    weights = sum(p.numel() for p in model.parameters() if p.requires_grad)
    console.print(f"model   {short_path(options.model_name)}, {weights / 1e6:.1f} M weights train")
    console.print(f"reward  {reward}", highlight=False)
    if options.generation == "own" and not has_fast_rollout(model):
        console.print("rollout by the model's own generate, more slowly: no positions or no cache")
    console.print(
        f"steps   {options.max_steps} × {options.batch_size} completions "
        f"({options.batch_size // options.num_generations} prompts × {options.num_generations}), "
        f"on {device}\n",
        highlight=False,
    )


def summarise_run(options, run, final, console):
    """Before → after, where the model lies, what to run next."""
    from metrics import METRICS

    console.print("\nbefore → after, on held-out prompts", style="bold")
    for name, metric in METRICS.items():
        if name in run["after"]:
            before, after = (metric.form.format(run[when][name]) for when in ("before", "after"))
            console.print(f"  {metric.title:16} {before:>8} → {after}", highlight=False)
    console.print(f"\n{run['seconds']:.0f} s. The model is in {final}. Compare it with its base:")
    command = f"python evaluate.py compare {short_path(options.model_name)} {short_path(final)}"
    console.print(f"  {command}", style="bold", soft_wrap=True, highlight=False)


def short_path(path):
    """A path inside this folder without the folder; anything else as it is."""
    try:
        return str(Path(path).resolve().relative_to(Path.cwd())) if Path(path).exists() else path
    except ValueError:
        return str(path)


def main(argv=None):
    given = parse_arguments(argv)
    try:
        train(**given)
    except KeyboardInterrupt:
        sys.exit("\ntrain.py: interrupted; --resume goes on from the last checkpoint.")
    except Exception as error:
        from checkpoints import Stopped
        from models import UserError

        if isinstance(error, Stopped):
            command = (
                f"python train.py --resume --output_dir {given.get('output_dir', './outputs')}"
            )
            print(f"train.py: {error}, with a checkpoint. {command} goes on.", file=sys.stderr)
            sys.exit(128 + error.number)
        if given.get("debug"):
            raise
        if os.environ.get("RANK", "0") != "0":
            sys.exit(1)  # of several processes the first one says it
        if isinstance(error, (OptionError, UserError)):
            sys.exit(f"train.py: {error}")
        sys.exit(
            f"train.py: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            " (--debug shows where)"
        )


if __name__ == "__main__":
    main()
