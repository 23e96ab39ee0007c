"""Fine-tune GPT-2 with GRPO so that it writes positive movie reviews.

    python train.py --preset tiny      # bundled models: a CPU, no network, a minute or two
    python train.py                    # GPT-2, for a GPU

Options → parts (prompts, models, your rewards) → trainer → training → OUTPUT_DIR/final.
"""

import os
import sys
import time
from dataclasses import dataclass
from typing import Any

from engine.common import UserError, end_with, make_console, quiet_libraries
from engine.options import Options, parse_arguments, resolve_options


def train(**given):
    """Run a training. Takes the options of the command line by the same names.

    Returns:
        TRL's trainer, trained. With `check`, None.

    Raises:
        UserError: in one line, what to change.
    """
    options = resolve_options(given)
    console = make_console()
    if options.check:
        return check(options, console)
    started = time.perf_counter()
    quiet_libraries()
    from transformers import set_seed

    from engine.measuring.tables import describe_prompts, describe_run, summarise_run
    from engine.model.devices import best_device, tune_device
    from engine.model.processes import join
    from engine.training.checkpoints import Safeguard
    from engine.training.preflight import require_possible
    from engine.training.run_folder import Manifest, guarded, prepare, save_final
    from reward_utils import describe_reward, functions_called

    tune_device()
    device = best_device()
    process = join(device, options.process_timeout)
    console.quiet = not process.is_first  # all processes train and validate; one shows and writes
    require_possible(options)
    set_seed(options.seed)
    parts = load_parts(options, device)
    checkpoint, release = prepare(options)
    reward = describe_reward(options)
    manifest = Manifest(
        options,
        device=str(device),
        reward=reward,
        train_prompts=len(parts.dataset),
        rewards_called=sorted(functions_called(options)),
        rewards_code=parts.code,
    )
    describe_prompts(options.prompts, parts.dataset["prompt"], console)
    describe_run(options, parts.models.policy, device=device, reward=reward, console=console)

    trainer = make_trainer(options, parts)
    monitor = make_monitor(trainer, console, checkpoint)
    safeguard = Safeguard(console)
    trainer.add_callback(monitor)
    trainer.add_callback(safeguard)
    with guarded(trainer, manifest, on_exit=[monitor.stop, safeguard.restore, release]):
        trainer.train(resume_from_checkpoint=checkpoint)
        model = trainer.trained_model()
        seconds = round(time.perf_counter() - started, 1)
        manifest.values |= monitor.results() | {"seconds": seconds}
        if process.is_first:
            final = save_final(model, parts.models.tokenizer, manifest.values)
        manifest.write(status="finished")
    if process.is_first:
        summarise_run(options, manifest.values, final=final, console=console)
    return trainer


def check(options, console):
    """Look at what the run would need, and say so: `--check`.

    Raises:
        UserError: something is missing.
    """
    from data import train_prompts
    from engine.course.student import rewards_file
    from engine.training import preflight
    from reward_utils import functions_called

    ready = preflight.run(
        options,
        console,
        read_prompts=lambda: train_prompts(options.prompts),
        rewards=rewards_file(options.use_solution, options.rewards),
        needed=functions_called(options),
    )
    if not ready:
        raise UserError("not ready: see the crosses above.")


@dataclass
class Parts:
    """What a run is made of."""

    dataset: Any  # of Hugging Face: prompts to train on
    prompt_ids: dict[str, list[int]]  # prompt -> its token ids, of the validation too
    rewards: Any  # module with the student's functions
    code: str  # `code_sum` of what the run uses of it
    models: Any  # `engine.model.scoring.Models`


def load_parts(options: Options, device) -> Parts:
    """Load what the run needs and try it out, before anything is written.

    Raises:
        UserError: prompts, models or exercises that the run cannot use.
    """
    import data
    from engine.course.checklist import code_sum
    from engine.course.student import load_rewards, rewards_file
    from engine.model.loading import load_models
    from engine.model.sampling import Sampling, require_same_scores
    from engine.model.texts import tokenize_prompts
    from reward_utils import check_exercises, functions_called
    from sentiment import load_sentiment_model

    dataset = data.get_train_dataset(options.prompts)
    path = rewards_file(options.use_solution, options.rewards)
    rewards, code = load_rewards(path), code_sum(path, functions_called(options))
    load_sentiment_model(options.sentiment_model, device)
    check_exercises(rewards, options)
    models = load_models(options.model_name, device, use_peft=options.use_peft)
    prompts = list(dict.fromkeys([*dataset["prompt"], *data.VALIDATION_PROMPTS]))
    sampling = Sampling(options.max_completion_length, options.temperature)
    prompt_ids = tokenize_prompts(
        prompts, models.tokenizer, models.policy, max_new_tokens=sampling.max_new_tokens
    )
    require_same_scores(models, prompt_ids, sampling)
    return Parts(
        dataset=dataset,
        prompt_ids=dict(zip(prompts, prompt_ids)),
        rewards=rewards,
        code=code,
        models=models,
    )


def make_trainer(options: Options, parts: Parts):
    """The trainer of a run."""
    from data import arrange
    from engine.training.trainer import BatchTrainer
    from reward_utils import step_functions

    prompts = options.max_steps * options.batch_size // options.num_generations
    return BatchTrainer(
        options,
        parts.models,
        parts.prompt_ids,
        dataset=arrange(parts.dataset, prompts, options.seed),
        functions=step_functions(parts.rewards, options),
    )


def make_monitor(trainer, console, checkpoint):
    """The callback that validates, and in the first process shows and records the run."""
    from data import VALIDATION_PROMPTS
    from engine.model.processes import from_first, this_process
    from engine.training.monitor import Monitor, Validations
    from engine.training.trackers import start_tracker
    from evaluate import evaluate_model

    options = trainer.options
    models = trainer.models

    def validate():
        return evaluate_model(
            models.policy,
            models.tokenizer,
            VALIDATION_PROMPTS,
            ref_model=models.ref,
            samples_per_prompt=2,  # a validation costs less than two steps
            max_new_tokens=options.max_completion_length,
            temperature=options.temperature,
            batch_size=options.batch_size,
            amp_dtype=models.amp_dtype,
            process=this_process(),
        )

    if not this_process().is_first:
        return Validations(validate, trainer, validated=from_first(None))
    start_tracker(options, console)
    start_step = int(checkpoint.rsplit("-", 1)[1]) if checkpoint else 0
    monitor = Monitor(validate, trainer, console=console, start_step=start_step)
    from_first(monitor.validated)  # to the others
    return monitor


def main(argv=None):
    given = parse_arguments(str(__doc__).split("\n")[0], argv)
    try:
        train(**given)
    except KeyboardInterrupt:
        sys.exit("\ntrain.py: interrupted; --resume continues from the last checkpoint.")
    except Exception as error:
        from engine.training.checkpoints import Stopped

        if isinstance(error, Stopped):
            print(f"train.py: {error}", file=sys.stderr)
            sys.exit(128 + error.number)
        if os.environ.get("LOCAL_RANK", "0") != "0" and not given.get("debug"):
            sys.exit(1)  # of several processes the first one says it
        end_with(error, "train.py", debug=given.get("debug", False))


if __name__ == "__main__":
    main()
