"""What BatchTrainer overrides, against what TRL would do."""

import contextlib
import copy
import inspect
from types import SimpleNamespace

import pytest
import torch
from transformers import Trainer
from trl import GRPOTrainer

from engine.model.loading import add_lora, prepare
from engine.model.scoring import Models
from engine.options import resolve_options
from engine.training.trainer import BatchTrainer

OWN = {"rollout", "reward", "make_batch", "_credited", "_spread", "whole_weights", "trained_model"}
OVERRIDDEN = {
    "__init__",
    "create_model_card",
    "_compute_loss",
    "_generate_and_score_completions",
    "_get_per_token_logps_and_entropies",
    "_tokenize_prompts",
}


def test_what_is_overridden_is_there_and_nothing_else_is():
    """Red where TRL or transformers rename, add or drop a method or one of its parameters."""
    methods = {name for name, value in vars(BatchTrainer).items() if inspect.isfunction(value)}
    assert methods == OWN | OVERRIDDEN
    assert not any(hasattr(GRPOTrainer, name) for name in OWN)
    assert all(hasattr(GRPOTrainer, name) for name in OVERRIDDEN)
    scored = inspect.signature(GRPOTrainer._generate_and_score_completions).parameters
    assert list(scored) == ["self", "inputs"]
    assert list(inspect.signature(GRPOTrainer._compute_loss).parameters) == [
        *("self", "model", "inputs")
    ]
    asked = inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters
    assert list(asked)[:5] == ["self", "model", "input_ids", "attention_mask", "logits_to_keep"]
    assert "create_model_card" in inspect.getsource(GRPOTrainer._save_checkpoint)


def test_no_attribute_of_the_trainer_collides_with_one_of_the_library():
    """The subclass keeps these; nothing in TRL's or transformers' trainer has such a name."""
    source = inspect.getsource(GRPOTrainer) + inspect.getsource(Trainer)
    for name in (
        "options",
        "models",
        "prompt_ids",
        "functions",
        "sharded",
        "kl_control",
        "loss_dtype",
        "batch",
    ):
        assert f"self.{name} " not in source and f"self.{name}." not in source


def bare_trainer(model, **options):
    """A BatchTrainer without a run: what its log-probabilities need."""
    trainer = BatchTrainer.__new__(BatchTrainer)
    trainer.options = resolve_options(options)
    trainer.models = Models(model, None, None)
    trainer.ref_model = None
    trainer.loss_dtype = None
    trainer.args = SimpleNamespace(report_to=[])
    trainer.state = SimpleNamespace(global_step=0)
    trainer.accelerator = SimpleNamespace(
        unwrap_model=lambda model: model,
        autocast=contextlib.nullcontext,
        is_main_process=True,
    )
    return trainer


def asked_both_ways(trainer, model, ids, mask):
    """((log-probs, entropy), gradients) of four tokens, by TRL and by the subclass."""
    answers = []
    for kind in (GRPOTrainer, BatchTrainer):
        model.zero_grad()
        log_probs, entropy, _ = kind._get_per_token_logps_and_entropies(
            trainer, model, ids, mask, 4, compute_entropy=True
        )
        (log_probs * torch.arange(16.0).view(4, 4)).sum().backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.requires_grad]
        answers.append([log_probs, entropy, *gradients])
    return answers


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 1.3])
def test_the_loss_gets_what_trl_would_compute(small_gpt2, lora, temperature):
    """Log-probabilities, entropies and every gradient, with padding on both sides, where two texts
    begin alike and two are the same."""
    from trl.trainer.utils import add_fused_lm_head

    ids = torch.tensor(
        [
            [0, 0, 3, 1, 4, 1, 5],
            [2, 7, 1, 8, 2, 0, 0],
            [3, 1, 4, 2, 8, 0, 0],
            [2, 7, 1, 8, 2, 0, 0],
        ]
    )
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1], *[[1, 1, 1, 1, 1, 0, 0]] * 3])
    base = copy.deepcopy(small_gpt2)
    prepare(base)
    model = add_lora(base) if lora else base
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    add_fused_lm_head(base, temperature=temperature, outputs=("log_probs", "entropy"))
    trainer = bare_trainer(model, temperature=temperature)
    by_trl, by_us = asked_both_ways(trainer, model, ids, mask)
    assert len(by_trl) > 10
    for want, got in zip(by_trl, by_us, strict=True):
        most = max(1.0, want.abs().max().item())
        torch.testing.assert_close(got, want, atol=5e-6 * most, rtol=0)


@pytest.mark.parametrize("case", ["another architecture", "autocast", "the reference of --beta"])
def test_where_it_cannot_compute_the_same_trl_does(small_gpt2, small_bloom, monkeypatch, case):
    model = small_bloom if case == "another architecture" else small_gpt2
    trainer = bare_trainer(model)
    if case == "autocast":
        trainer.loss_dtype = torch.bfloat16
    if case == "the reference of --beta":
        trainer.ref_model = model
    by_trl = []

    def trls(self, model, *args, **kwargs):
        by_trl.append(model)
        assert torch.is_autocast_enabled("cpu") == (case == "autocast")

    monkeypatch.setattr(GRPOTrainer, "_get_per_token_logps_and_entropies", trls)
    ids = torch.tensor([[3, 1, 4]])
    trainer._get_per_token_logps_and_entropies(model, ids, torch.ones_like(ids), 1)
    assert by_trl == [model]


def test_a_wrapper_of_several_processes_sees_the_pass_and_its_gradients(small_gpt2):
    """As under DistributedDataParallel, which shares the gradients of what goes through it."""

    class Wrapper(torch.nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module
            self.passes = 0

        def forward(self, *args, **kwargs):
            self.passes += 1
            return self.module(*args, **kwargs)

    wrapper = Wrapper(small_gpt2)
    trainer = bare_trainer(small_gpt2)
    trainer.accelerator.unwrap_model = lambda model: getattr(model, "module", model)
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    asked = (ids, torch.ones_like(ids), 3)
    got, _, _ = trainer._get_per_token_logps_and_entropies(wrapper, *asked)
    want, _, _ = trainer._get_per_token_logps_and_entropies(small_gpt2, *asked)
    assert wrapper.passes == 1 and got.equal(want)
    assert small_gpt2(ids).logits.shape == (1, 5, 11)  # its own forward is there again


@pytest.fixture
def grpo_run(tmp_path, classifier, monkeypatch):
    """Two small steps with some options; the trainer."""
    import data
    import train

    monkeypatch.setattr(data, "VALIDATION_PROMPTS", data.VALIDATION_PROMPTS[:2])

    def run(name, **options):
        return train.train(
            preset="tiny",
            max_steps=2,
            eval_steps=2,
            batch_size=8,
            num_generations=4,
            max_completion_length=8,
            output_dir=str(tmp_path / name),
            **options,
        )

    return run


def test_own_grpo_is_the_run_of_trl(grpo_run, solution):
    """With the functions of the solution: loss and gradient of each step, and the weights."""
    solved = {"use_solution": True} if "solution" in solution.__name__ else {}
    (
        solution.group_advantages(torch.zeros(2), 2),
        solution.policy_loss(  # or skip: to do
            *torch.zeros(2, 1, 1), torch.zeros(1), torch.ones(1, 1).bool()
        ),
    )
    one, other = grpo_run("trl", **solved), grpo_run("own", own_grpo=True, **solved)
    for kind in ("loss", "grad_norm", "reward", "entropy"):
        steps = [
            [row[kind] for row in trainer.state.log_history if kind in row]
            for trainer in (one, other)
        ]
        assert len(steps[0]) == 2 and steps[1] == pytest.approx(steps[0], abs=1e-5)
    for a, b in zip(one.model.parameters(), other.model.parameters()):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=0)


WRONG_GRPO = {  # what policy_loss returns -> the line that ends the run before it begins
    "0.5": "policy_loss returned 0.5; expected a tensor of one number",
    "-log_probs": "shape (2, 3); expected one number for the whole batch",
    "torch.tensor(1.0)": "without a gradient",
    "log_probs.sum() * float('nan')": "policy_loss returned nan; expected a finite number",
}


@pytest.mark.parametrize("returned", WRONG_GRPO)
def test_a_loss_that_no_step_can_use_is_one_line(tmp_path, returned):
    from engine.common import UserError
    from engine.course.student import load_rewards
    from reward_utils import check_exercises

    path = tmp_path / "rewards.py"
    path.write_text(
        "import torch\n"
        "def sentiment_reward(completions, **kwargs): return [0.0, 1.0]\n"
        "def group_advantages(rewards, group_size): return rewards - rewards.mean()\n"
        "def policy_loss(log_probs, old_log_probs, advantages, mask, epsilon=0.2):\n"
        f"    return {returned}\n"
    )
    options = resolve_options({"own_grpo": True})
    with pytest.raises(UserError) as error:
        check_exercises(load_rewards(path), options)
    assert WRONG_GRPO[returned] in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "given",
    [
        {"own_grpo": True, "beta": 0.1},
        {"own_grpo": True, "credit": "prefix"},
        {"own_grpo": True, "loss_type": "grpo"},
        {"credit": "prefix", "scale_rewards": "none"},
    ],
)
def test_an_option_that_would_not_be_heeded_is_refused(given):
    from engine.common import UserError

    with pytest.raises(UserError, match="leave"):
        resolve_options(given)


@pytest.mark.parametrize("kind", ["grpo", "dr_grpo"])
def test_loss_type_and_scale_reach_trl(grpo_run, kind):
    trainer = grpo_run(kind, loss_type=kind, scale_rewards="none")
    assert trainer.loss_type == kind and trainer.scale_rewards == "none"
    rewards = trainer.batch.reward.view(-1, 4)
    want = (rewards - rewards.mean(1, keepdim=True)).flatten()
    torch.testing.assert_close(trainer.batch.advantages, want, atol=1e-6, rtol=0)
