"""TRL's GRPOTrainer with this project's rollout, rewards, credit and log-probabilities.

The one file that knows TRL's inside. `rollout_func`, `reward_funcs` and `callbacks` are public;
what TRL leaves no hook for is overridden here, as it was read in TRL 1.16.0. A test fails where a
later version has renamed it.
"""

import contextlib
import copy
import statistics
import tempfile
from pathlib import Path

import torch
from transformers import PrinterCallback
from trl.models.utils import _ForwardRedirection
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from engine.model.architecture import base_of, is_plain_gpt2
from engine.model.devices import mixed_precision
from engine.model.loading import prepare
from engine.model.output_layer import completion_log_probs
from engine.model.processes import is_sharded, this_process, whole_weights
from engine.model.sampling import Rows, Sampling, generate
from engine.model.scoring import Models, policy_and_ref_log_probs
from engine.model.texts import decode_completions
from engine.options import PROJECT, Options
from engine.training.batch import Batch, Functions
from engine.training.credit import cuts, prefix_advantages
from engine.training.kl_control import KLControl
from engine.training.monitor import Validations


class BatchTrainer(GRPOTrainer):
    """Trains a policy by the functions of a student's file.

    Args:
        options: of the run.
        models: policy, reference and tokenizer.
        prompt_ids: {prompt: its token ids}, of all prompts of the run.
        dataset: with a `prompt` column, in the order of the training.
        functions: rewards of a batch, and with --own_grpo its advantages and its loss.
    """

    def __init__(self, options: Options, models: Models, prompt_ids, dataset, functions: Functions):
        self.options = options
        self.models = models
        self.prompt_ids = prompt_ids
        self.functions = functions
        self.loss_dtype = mixed_precision(models.policy.device).loss
        self.sharded = is_sharded()
        self.kl_control = None
        if options.kl_target is not None:
            self.kl_control = KLControl(options.kl_target, options.kl_coef)
        with loadable_reference(models, needed=options.beta > 0):
            super().__init__(
                model=models.policy,
                args=make_config(options, models.policy.device),
                reward_funcs=self.reward,
                train_dataset=dataset,
                processing_class=models.tokenizer,
                rollout_func=self.rollout if options.generation == "own" else None,
                callbacks=[self.kl_control] if self.kl_control else None,
            )
        self.remove_callback(PrinterCallback)  # it prints a dict at every step
        if self.ref_model is not None:  # TRL has loaded its own, for --beta, by the model's name
            prepare(self.accelerator.unwrap_model(self.ref_model))

    def rollout(self, prompts, trainer):
        """TRL's rollout_func: a completion for each prompt of this process."""
        # Seeded by the step: TRL draws from the global state as often as a process has rows.
        seed = (self.options.seed + 1) * 1_000_003 + self.state.global_step
        process = this_process()
        prompt_ids = [self.prompt_ids[prompt] for prompt in prompts]
        sampled = generate(
            self.models.policy,
            self.models.tokenizer,
            prompt_ids,
            sampling=Sampling(
                self.options.max_completion_length,
                self.options.temperature,
                seed,
                prompt_width=max(map(len, self.prompt_ids.values())),
            ),
            rows=Rows(process.index * len(prompts), process.count * len(prompts)),
        )
        return {
            "prompt_ids": prompt_ids,
            "completion_ids": sampled.completion_ids,
            "logprobs": None,
            "sampled_log_probs": sampled.log_probs,  # TRL passes it on to `reward`
        }

    def reward(self, prompts, completions, completion_ids, log_metric, **columns):
        """TRL's reward function: makes the batch of this step."""
        texts = decode_completions(  # TRL reads them without their prompts
            self.models.policy,
            self.models.tokenizer,
            [self.prompt_ids[prompt] for prompt in prompts],
            completion_ids,
        )
        self.batch = self.make_batch(
            prompts, texts, completion_ids, columns.get("sampled_log_probs")
        )
        if self.kl_control:
            self.batch.figures["score_sd"] = self._spread(self.batch.shaped)
            self.batch.figures["penalty_sd"] = self._spread(self.batch.penalty)
        for name, value in self.batch.figures.items():
            log_metric(name, value)
        return self.batch.reward.tolist()

    def _tokenize_prompts(self, prompts):
        """For TRL's own generation: the same ids as everywhere here."""
        _, *images = super()._tokenize_prompts(prompts)
        return [self.prompt_ids[prompt] for prompt in prompts], *images

    def make_batch(self, prompts, completions, completion_ids, sampled_log_probs=None) -> Batch:
        """A batch of these texts with their rewards, as of this step; needs whole weights."""
        batch = Batch(
            prompts=prompts,
            prompt_ids=[self.prompt_ids[prompt] for prompt in prompts],
            completion_ids=completion_ids,
            completions=completions,
            kl_coef=self.kl_control.coef if self.kl_control else self.options.kl_coef,
        )
        if self.options.kl_type != "none":
            batch.log_probs = policy_and_ref_log_probs(
                self.models,
                batch.prompt_ids,
                completion_ids,
                temperature=self.options.temperature,
                sampled_log_probs=sampled_log_probs,
            )
        self.functions.reward(batch)
        return batch

    def _spread(self, values) -> float:
        """The standard deviation in a group, mean over the groups of this process."""
        groups = values.split(self.options.num_generations)
        spreads = [group.std().item() for group in groups if len(group) > 1]
        return statistics.fmean(spreads or [0.0])  # a process may have one text alone

    def _generate_and_score_completions(self, inputs):
        """The batch is complete here: its advantages, and whoever looks at it before it is learnt.

        TRL computes its loss from advantages of shape (B, T) too, for subclasses such as this.
        """
        with self.whole_weights():
            inputs = super()._generate_and_score_completions(inputs)
            if self.options.credit == "prefix":
                inputs["advantages"] = self._credited(inputs["completion_mask"])
            if self.options.own_grpo:
                size = self.options.num_generations
                advantages = self.functions.advantages(self.batch.reward, size)
                inputs["advantages"] = advantages.to(inputs["advantages"])
            self.batch.advantages = inputs["advantages"]
            for callback in self.callback_handler.callbacks:
                if isinstance(callback, Validations):
                    callback.on_batch(self.batch)
        return inputs

    def _credited(self, mask):
        """The advantages of `--credit prefix`, from the rewards of the texts cut short."""
        batches = []
        for count in cuts(self.batch.completion_ids):
            batches.append(self.batch.first_tokens(count, self.models))
            self.functions.reward(batches[-1])
        batches.append(self.batch)
        scores = torch.stack([batch.shaped for batch in batches], dim=1)
        penalties = torch.stack([batch.penalty for batch in batches], dim=1)
        return prefix_advantages(scores, penalties, mask, self.options.num_generations)

    def _compute_loss(self, model, inputs):
        """The loss; with --own_grpo the student's."""
        if not self.options.own_grpo:
            return super()._compute_loss(model, inputs)
        mask = inputs["completion_mask"]
        log_probs, entropies, _ = self._get_per_token_logps_and_entropies(
            model,
            torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1),
            torch.cat([inputs["prompt_mask"], mask], dim=1),
            mask.shape[1],
            compute_entropy=True,
        )
        # One step with each batch: the policy that sampled is this one.
        old = log_probs.detach()
        loss = self.functions.loss(log_probs, old, inputs["advantages"], mask.bool())
        self._metrics["train"]["entropy"].append(((entropies * mask).sum() / mask.sum()).item())
        return loss

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
    ):
        """Log-probabilities for the loss: those of `engine.model.output_layer` on a CPU.

        TRL has a kernel for GPUs; on a CPU it makes the logits of prompts and padding too, three
        times. Dropout does not act here.
        """
        policy = self.accelerator.unwrap_model(model)
        device = base_of(policy).device.type
        mixed = self.loss_dtype is not None
        if model is self.ref_model or mixed or device != "cpu" or not is_plain_gpt2(policy):
            with torch.autocast(device, dtype=self.loss_dtype, enabled=mixed):
                return super()._get_per_token_logps_and_entropies(
                    model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
                )

        def read():
            asked = attention_mask[:, -logits_to_keep:] != 0
            return completion_log_probs(
                policy,
                input_ids,
                attention_mask,
                asked=asked,
                temperature=self.options.temperature,
            )

        if model is policy:
            found = read()
        else:  # a wrapper of several processes sees what gradients to share in its own forward
            found = _ForwardRedirection()(model, policy, read)
        return found.log_probs, found.entropy, None

    def create_model_card(self, *args, **kwargs):
        """None with each checkpoint: TRL's template knows nothing of this run, `card.py` does."""

    def whole_weights(self):
        """Context in which every process holds all weights, where they are sharded."""
        return whole_weights(self.model) if self.sharded else contextlib.nullcontext()

    def trained_model(self):
        """The policy with all its weights. Where they are sharded, all processes ask, and only the
        first one gets it."""
        if not self.sharded:
            return self.model
        weights = self.accelerator.get_state_dict(self.model_wrapped)
        if not this_process().is_first:
            return None
        model = copy.deepcopy(self.models.ref)
        model.load_state_dict(weights)
        return model


@contextlib.contextmanager
def loadable_reference(models: Models, needed):
    """For --beta TRL loads a reference of its own, by the name in the policy's configuration. While
    this lasts, what it finds by it is the reference, of an adapter that was merged too."""
    config = models.policy.config
    named = config.name_or_path
    if not needed or models.ref is None or models.policy.name_or_path == named:
        yield
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        models.ref.save_pretrained(folder)
        config.name_or_path = folder
        yield
        config.name_or_path = named


def make_config(options: Options, device, bf16=False) -> GRPOConfig:
    """TRL's configuration of a run.

    Args:
        bf16: have accelerate run every pass of the policy in bfloat16, as TRL does by default. Here
            only its loss is, and `BatchTrainer` sees to that: a model that accelerate has wrapped
            would be read otherwise than its reference. float16 needs accelerate, which scales the
            gradient.
    """
    return GRPOConfig(
        output_dir=options.output_dir,
        max_steps=options.max_steps,
        per_device_train_batch_size=options.batch_size // this_process().count,
        num_generations=options.num_generations,
        max_completion_length=options.max_completion_length,
        temperature=options.temperature,
        loss_type=options.loss_type,
        scale_rewards=options.scale_rewards,
        beta=options.beta,
        learning_rate=options.learning_rate,
        lr_scheduler_type=options.lr_scheduler_type,
        warmup_steps=5,
        max_grad_norm=1.0,
        disable_dropout=True,  # with dropout the policy is not the reference at step 0
        activation_checkpointing=False,  # trades time for memory that these sizes do not need
        ddp_find_unused_parameters=False,  # there are none, and DDP would warn of the search
        seed=options.seed,
        shuffle_dataset=False,  # `data.arrange` has done it
        use_cpu=device.type == "cpu",
        dataloader_pin_memory=device.type == "cuda",
        logging_steps=1,
        disable_tqdm=True,
        save_steps=options.save_steps,
        report_to=options.report_to,
        project=PROJECT,
        run_name=Path(options.output_dir).name,
        bf16=bf16,  # or TRL would choose it, on a CPU too
        fp16=mixed_precision(device).loss == torch.float16,
    )
