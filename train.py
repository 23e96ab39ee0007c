"""Fine-tune GPT-2 with GRPO so that it writes positive movie reviews.

    python train.py --preset tiny      # bundled models: a CPU, no network, two minutes
    python train.py                    # GPT-2, for a GPU

Options → prompts → models → reward → TRL's GRPOTrainer → OUTPUT_DIR/final.
"""

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.common import (
    MANIFEST,
    ROOT,
    UserError,
    first_line,
    make_console,
    short_path,
    write_json,
)
from engine.options import FIELDS, PRESETS, PROJECT, parse_arguments, resolve_options

__all__ = ["FIELDS", "PRESETS", "ROOT", "main", "short_path", "train"]
REWARD_OPTIONS = ("reward_shaping", "kl_type", "kl_coef", "hackable_reward", "negate_reward")


def train(**given):
    """Run a training. Takes the options of the command line by the same names.

    Returns:
        TRL's trainer, trained. With `check`, None.

    Raises:
        UserError: in one line, what to change.
    """
    options = resolve_options(given)
    started = time.perf_counter()
    console = make_console()
    if options.check:
        return check(options, console)
    from engine.training.trackers import load_trl

    load_trl(options.report_to)
    from transformers import set_seed

    from engine.measuring.tables import describe_run, summarise_run
    from engine.model.loading import best_device, tune_cpu
    from engine.model.processes import is_sharded, join, whole_model
    from engine.training.checkpoints import Safeguard
    from engine.training.preflight import require_possible
    from engine.training.run_folder import guarded, manifest, prepare_all, save_final
    from reward_utils import describe_reward

    tune_cpu()
    device = best_device()
    first = join(device, options.process_timeout).is_main_process
    console.quiet = not first  # all processes train and validate; one shows and writes
    require_possible(options)
    set_seed(options.seed)
    parts = load_parts(options, device)
    checkpoint, keeps = prepare_all(options)
    told = {"kl_target": options.kl_target, "credit": options.credit}
    reward = describe_reward(**reward_options(options), **told)
    run = manifest(options, device, reward=reward, train_prompts=len(parts.dataset))
    guard, run_file = Safeguard(console), Path(options.output_dir) / MANIFEST
    if keeps:
        write_json(run_file, run)
    if first:
        describe_run(options, parts.policy, device, reward, console)
    watch = make_monitor(options, parts, device, console, checkpoint, first)
    trainer = make_trainer(options, parts, device, [watch, guard], watch)
    watch.log = trainer.log  # to the tracker of --report_to
    trainer.args.save_on_each_node = keeps and not first  # on hosts that share no disk
    with guarded(trainer, options, run if keeps else None, [watch.stop, guard.restore]):
        trainer.train(resume_from_checkpoint=checkpoint)
        model = whole_model(trainer, parts.ref_model) if is_sharded() else trainer.model
        run |= {"status": "finished", **watch.results()}
        run["seconds"] = round(time.perf_counter() - started, 1)
        if first:
            final = save_final(model, parts.tokenizer, run)
        if keeps:
            write_json(run_file, run)
    if first:
        summarise_run(options, run, final, console)
    return trainer


def check(options, console):
    """Look at what the run would need, and say so: `--check`.

    Raises:
        UserError: something is missing.
    """
    from data import train_prompts
    from engine.training import preflight
    from reward_utils import functions_called

    rewards = rewards_path(options)
    needed = functions_called(options.reward_shaping, options.kl_type)
    if not preflight.run(options, console, lambda: train_prompts(options.prompts), rewards, needed):
        raise UserError("not ready: see the crosses above.")


def rewards_path(options):
    """The file whose functions the run calls."""
    from engine.course.student import rewards_file

    return Path(options.rewards) if options.rewards else rewards_file(options.use_solution)


@dataclass
class Parts:
    """What a run is made of."""

    dataset: Any  # prompts to train on
    prompt_ids: dict  # prompt -> its token ids
    rewards: Any  # module with the student's functions
    policy: Any
    ref_model: Any  # frozen copy of the policy; None: the policy without its LoRA adapter
    tokenizer: Any


def load_parts(options, device):
    """Load what the run needs and try it out, before anything is written.

    Raises:
        UserError: prompts, models or exercises that the run cannot use.
    """
    import copy

    import data
    from engine.course.student import load_rewards
    from engine.model.loading import add_lora, load_model, tokenize_prompts
    from reward_utils import check_exercises
    from sentiment import load_sentiment_model

    dataset = data.get_train_dataset(options.prompts)
    rewards = load_rewards(rewards_path(options))
    load_sentiment_model(options.sentiment_model, device)
    check_exercises(rewards, **reward_options(options))
    policy, tokenizer = load_model(options.model_name, device)
    prompts = [*dataset["prompt"], *data.VALIDATION_PROMPTS]
    prompt_ids = tokenize_prompts(prompts, tokenizer, policy, options.max_completion_length)
    if options.use_peft:
        return Parts(dataset, prompt_ids, rewards, add_lora(policy), None, tokenizer)
    ref_model = copy.deepcopy(policy).requires_grad_(False)
    return Parts(dataset, prompt_ids, rewards, policy, ref_model, tokenizer)


def reward_options(options):
    return {name: getattr(options, name) for name in REWARD_OPTIONS}


def make_log_probs(options, parts, device):
    """callable(prompts, completion_ids, sampled_log_probs) -> per-token log-probabilities of the
    policy as it is and of the reference, and their mask: what the KL penalty is computed from."""
    from engine.model.loading import mixed_precision
    from engine.model.scoring import policy_and_ref_log_probs

    _, amp_dtype = mixed_precision(device)

    def log_probs(prompts, completion_ids, sampled_log_probs):
        return policy_and_ref_log_probs(
            parts.policy,
            parts.ref_model,
            parts.tokenizer,
            [parts.prompt_ids[prompt] for prompt in prompts],
            completion_ids,
            options.temperature,
            amp_dtype,
            sampled_log_probs=sampled_log_probs,
        )

    return log_probs


def make_rollout(options, parts):
    """The function that TRL calls to sample a batch."""
    from engine.model.sampling import generate

    def rollout(prompts, trainer):
        # Seeded by the step: TRL draws from the global state as often as a process has rows.
        seed = (options.seed + 1) * 1_000_003 + trainer.state.global_step
        prompt_ids = [parts.prompt_ids[prompt] for prompt in prompts]
        index, count = trainer.accelerator.process_index, trainer.accelerator.num_processes
        place = (index * len(prompts), count * len(prompts))
        length = options.max_completion_length
        completion_ids, log_probs = generate(
            parts.policy, parts.tokenizer, prompt_ids, length, options.temperature, seed, place
        )
        sampled = {"prompt_ids": prompt_ids, "completion_ids": completion_ids, "logprobs": None}
        # TRL passes keys that it does not know to the reward function.
        return {**sampled, "sampled_log_probs": log_probs}

    return rollout


def make_config(options, device):
    """TRL's configuration of a run."""
    from accelerate import PartialState
    from trl import GRPOConfig

    from engine.model.loading import mixed_precision

    precision, _ = mixed_precision(device)
    return GRPOConfig(
        output_dir=options.output_dir,
        max_steps=options.max_steps,
        per_device_train_batch_size=options.batch_size // PartialState().num_processes,
        num_generations=options.num_generations,
        max_completion_length=options.max_completion_length,
        temperature=options.temperature,
        beta=options.beta,
        use_vllm=options.generation.startswith("vllm"),
        vllm_mode="colocate" if options.generation == "vllm_colocate" else "server",
        learning_rate=options.learning_rate,
        lr_scheduler_type=options.lr_scheduler_type,
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
        report_to=options.report_to,
        project=PROJECT,
        run_name=Path(options.output_dir).name,
        **precision,
    )


def make_trainer(options, parts, device, callbacks, watch=None):
    """TRL's trainer with this project's rollout and reward."""
    from transformers import PrinterCallback
    from trl import GRPOTrainer

    from data import arrange
    from engine.model.loading import prepare
    from engine.model.output_layer import use_for_loss
    from engine.model.processes import gather_where_needed, is_sharded
    from engine.training.credit import PrefixCredit, crediting
    from engine.training.kl_control import KLControl
    from reward_utils import make_reward_function

    kl_control = KLControl(options.kl_target, options.kl_coef) if options.kl_target else None
    prefix = options.credit == "prefix"
    credit = PrefixCredit(parts.tokenizer, options.num_generations) if prefix else None
    trainer_class = crediting(GRPOTrainer, credit) if credit else GRPOTrainer
    rest = {"log_probs": make_log_probs(options, parts, device), "kl_control": kl_control}
    reward = make_reward_function(parts.rewards, **reward_options(options), **rest, credit=credit)
    prompts = options.max_steps * options.batch_size // options.num_generations
    trainer = trainer_class(
        model=parts.policy,
        args=make_config(options, device),
        reward_funcs=watch.wrap(reward) if watch else reward,
        train_dataset=arrange(parts.dataset, prompts, options.seed),
        processing_class=parts.tokenizer,
        rollout_func=make_rollout(options, parts) if options.generation == "own" else None,
        callbacks=[*callbacks, kl_control] if kl_control else callbacks,
    )
    trainer.remove_callback(PrinterCallback)  # it prints a dict at every step
    trainer.create_model_card = lambda **_: None  # TRL's template knows nothing of this run
    if trainer.ref_model is not None:  # TRL has loaded its own, for --beta
        prepare(trainer.accelerator.unwrap_model(trainer.ref_model))
    if is_sharded():
        gather_where_needed(trainer, watch)
    else:
        use_for_loss(parts.policy, options.temperature)
    return trainer


def make_monitor(options, parts, device, console, checkpoint, first):
    """The callback that validates, and in the first process shows and records the run."""
    from data import VALIDATION_PROMPTS
    from engine.model.loading import mixed_precision
    from engine.model.processes import from_first, this_process
    from engine.training.explore import Explorer
    from engine.training.monitor import Monitor, Validations
    from engine.training.trackers import start_tracker
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
            process=this_process(),
        )

    if not first:
        return Validations(validate, options.eval_steps, from_first(None))
    start_tracker(options, console)
    start_step = int(checkpoint.rsplit("-", 1)[1]) if checkpoint else 0
    explorer = Explorer(options, parts.policy, parts.ref_model, parts.tokenizer)
    monitor = Monitor(validate, explorer, options, console, start_step)
    from_first(monitor.validated)  # to the others
    return monitor


def main(argv=None):
    given = parse_arguments(__doc__.split("\n")[0], argv)
    try:
        train(**given)
    except KeyboardInterrupt:
        sys.exit("\ntrain.py: interrupted; --resume continues from the last checkpoint.")
    except Exception as error:
        from engine.training.checkpoints import Stopped

        if isinstance(error, Stopped):
            folder = given.get("output_dir", FIELDS["output_dir"].default)
            command = f"python train.py --resume --output_dir {folder}"
            print(f"train.py: {error}, with a checkpoint. {command} continues.", file=sys.stderr)
            sys.exit(128 + error.number)
        if given.get("debug"):
            raise
        if os.environ.get("LOCAL_RANK", "0") != "0":
            sys.exit(1)  # of several processes the first one of each host says it
        if isinstance(error, UserError):
            sys.exit(f"train.py: {error}")
        sys.exit(f"train.py: {type(error).__name__}: {first_line(error)} (--debug shows where)")


if __name__ == "__main__":
    main()
