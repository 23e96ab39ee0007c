"""From the student's functions to the one reward that TRL calls.

    score (sentiment, stars or word count) → shaping → negation → minus KL penalty

Negation turns the score around and never the penalty. What student code returns is checked on
every call, because a wrong length or a NaN would otherwise train a model on nonsense in silence.
"""

import ast
import contextlib
import importlib.util
import math
import numbers
import re
import signal
import traceback
from pathlib import Path

import torch

from models import UserError, compute_log_probs, pad_left, pad_right, reference_model
from sentiment import get_hackable_scores, get_sentiment_scores, get_star_probs

KL_NAMES = {  # the flag's word: formula and standard name, shown wherever the flag is
    "forward": "KL(policy‖ref), the reverse KL: mode-seeking",
    "backward": "KL(ref‖policy), the forward KL: mass-covering",
}
MAX_LOG_RATIO = math.log(10)  # log r is cut here before exp(); a cut value is biased low


def load_rewards(use_solution=False):
    """The student's `rewards.py` as a module, or `rewards_solution.py`.

    Raises:
        UserError: the file is missing or cannot be imported; names the file and the line.
    """
    path = Path(__file__).parent / ("rewards_solution.py" if use_solution else "rewards.py")
    if not path.exists():
        raise UserError(f"There is no {path.name} beside train.py.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"{path.name} cannot be imported: {describe_error(error, path)}") from error
    return module


def describe_error(error, path):
    """One line: the error, and the last line of `path` that it passed through."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).name == Path(path).name]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    where = f" ({Path(path).name}, line {line})" if line else ""
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {message}{where}"


TIME_LIMIT = 120  # seconds for one call of a student's function


class _TooSlow(BaseException):
    """Beyond `except Exception`, so that the code that loops cannot swallow it."""


@contextlib.contextmanager
def time_limit(seconds):
    """Interrupt Python code that runs longer; where there is no alarm clock, wait."""

    def ring(number, frame):
        raise _TooSlow

    try:
        before = signal.signal(signal.SIGALRM, ring)
    except (AttributeError, ValueError):  # Windows; not the main thread
        yield
        return
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)  # again each second, should it be caught
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def call_student(function, *args, **kwargs):
    """Call a function of the student's; an error becomes one line with file and line number."""
    try:
        with time_limit(TIME_LIMIT):
            return function(*args, **kwargs)
    except NotImplementedError as error:
        path = Path(function.__code__.co_filename)
        line = traceback.extract_tb(error.__traceback__)[-1].lineno
        raise UserError(f"{error} in {path.name}, line {line}, then run this again.") from error
    except UserError:
        raise
    except _TooSlow as error:
        where = describe_error(error, function.__code__.co_filename).partition(": ")[2]
        raise UserError(
            f"{function.__name__} took longer than {TIME_LIMIT} seconds{where}: an endless loop?"
        ) from error
    except Exception as error:
        path = function.__code__.co_filename
        raise UserError(f"{function.__name__} failed: {describe_error(error, path)}") from error


def check_rewards(values, completions, name, device="cpu"):
    """The values that student code returned, as a float32 CPU tensor of shape (N,).

    Args:
        values: what came back: a list, tuple, numpy array or tensor of N finite real numbers.
        completions: the N texts it was about, to name the one that caused trouble.
        name: the function's name.
        device: where a tensor may lie besides the CPU.

    Raises:
        UserError: naming the function, the index and the completion.
    """
    if values is None:
        raise UserError(f"{name} returned None: is a `return` missing?")
    if isinstance(values, torch.Tensor):
        if values.device.type not in ("cpu", torch.device(device).type):
            raise UserError(f"{name} returned a tensor on {values.device}; expected {device}.")
        values = values.detach().cpu()
    if hasattr(values, "tolist"):
        values = values.tolist()
    if not isinstance(values, (list, tuple)):
        raise UserError(
            f"{name} returned {type(values).__name__}; "
            f"expected a list of {len(completions)} numbers."
        )
    if len(values) != len(completions):
        raise UserError(
            f"{name} returned {len(values)} values for {len(completions)} completions; "
            "return exactly one for each."
        )
    values = [v.item() if getattr(v, "ndim", None) == 0 else v for v in values]
    for i, value in enumerate(values):
        if not isinstance(value, numbers.Real) or not math.isfinite(value):
            raise UserError(
                f"{name} returned {value!r:.60} at index {i}; expected a finite number. "
                f"The completion was {completions[i]!r:.80}."
            )
    return torch.tensor([float(v) for v in values])


def _linear(rewards, completions, prompts, scores):
    return call_student(rewards.sentiment_reward, completions, prompts=prompts)


def _exponential(rewards, completions, prompts, scores):
    return call_student(rewards.shaped_reward_exponential, completions, prompts=prompts)


def _shaped(rewards, completions, prompts, scores):
    scores = scores if scores is not None else get_sentiment_scores(completions)
    return call_student(rewards.shaped_reward, scores, completions, prompts)


def _custom(rewards, completions, prompts, scores):
    return call_student(rewards.my_custom_reward, completions, prompts=prompts)


def _five_stars(rewards, completions, prompts, scores):
    return (get_star_probs(completions)[:, 4] >= 0.8).float()


# --reward_shaping: (the function that computes it, the name to blame for what it returns)
SHAPINGS = {
    "linear": (_linear, "sentiment_reward"),
    "exponential": (_exponential, "shaped_reward_exponential"),
    "shaped": (_shaped, "shaped_reward"),
    "five_stars": (_five_stars, "five_stars"),
    "custom": (_custom, "my_custom_reward"),
}


def kl_values(policy_log_probs, ref_log_probs, mask):
    """Low-variance estimates of both KL values, to look at; never to subtract from a reward.

    With r = p/q, per token and summed over each completion: r − 1 − log r estimates
    KL(policy‖ref), and r · log r − (r − 1) estimates KL(ref‖policy); both are ≥ 0 and, but for
    the cut at log r = log 10, unbiased under samples of the policy (Schulman 2020).

    Args:
        policy_log_probs, ref_log_probs: (B, T) float32, nats.
        mask: (B, T) boolean.

    Returns:
        dict with `forward` and `backward`, (B,) tensors in nats, and `clipped`, the share of
        tokens whose log r was cut, a float.
    """
    log_ratio = ref_log_probs - policy_log_probs
    clipped = (log_ratio > MAX_LOG_RATIO) & mask
    log_r = torch.where(mask, log_ratio.clamp(max=MAX_LOG_RATIO), 0.0)
    r_minus_1 = log_r.expm1()
    return {
        "forward": (r_minus_1 - log_r).sum(-1),
        "backward": ((r_minus_1 + 1) * log_r - r_minus_1).sum(-1),
        "clipped": (clipped.sum() / mask.sum().clamp(min=1)).item(),
    }


def policy_and_ref_log_probs(
    policy,
    ref_model,
    tokenizer,
    prompt_ids,
    completion_ids,
    temperature=1.0,
    amp_dtype=None,
    ref_prompt_ids=None,
    sampled_log_probs=None,
):
    """Per-token log-probabilities of sampled completions under the policy and the reference.

    Both models read the same ids in the same numeric type, so that equal models give equal
    numbers. With `sampled_log_probs` the policy is not asked again, and equal models give numbers
    within 1e-4 of each other.

    Args:
        policy: the model that sampled.
        ref_model: the frozen reference; None for a LoRA policy, whose adapter is switched off.
        prompt_ids, completion_ids: lists of B lists of token ids.
        temperature: of the sampling.
        amp_dtype: autocast type of the training run, or None.
        ref_prompt_ids: what the reference reads in place of `prompt_ids`, if it is not the same.
        sampled_log_probs: lists of B lists, the policy's, as `models.generate` returns them.

    Returns:
        (policy log-probs, reference log-probs, mask), each (B, T).
    """
    padding, device = tokenizer.pad_token_id, policy.device
    completions, completion_mask = pad_right(completion_ids, padding, device)

    def score(model, prompt_ids):
        prompts, prompt_mask = pad_left(prompt_ids, padding, device)
        ids = torch.cat([prompts, completions], dim=1)  # (B, P + T)
        mask = torch.cat([prompt_mask, completion_mask], dim=1)
        return compute_log_probs(model, ids, mask, completions.shape[1], temperature)

    autocast = torch.autocast(device.type, dtype=amp_dtype, enabled=amp_dtype is not None)
    with torch.no_grad(), autocast:
        if sampled_log_probs is None:
            policy_log_probs = score(policy, prompt_ids)
        else:
            policy_log_probs = torch.zeros(completions.shape, device=device)
            policy_log_probs[completion_mask.bool()] = torch.tensor(
                [value for row in sampled_log_probs for value in row], device=device
            )
        with reference_model(policy, ref_model) as reference:
            ref_log_probs = score(reference, ref_prompt_ids or prompt_ids)
    return policy_log_probs, ref_log_probs, completion_mask.bool()


def make_reward_function(
    rewards,
    reward_shaping="linear",
    kl_type="none",
    kl_coef=0.1,
    hackable_reward=False,
    negate_reward=False,
    log_probs=None,
):
    """Compose the one reward function that TRL calls.

    Args:
        rewards: module with the student's functions (`load_rewards`).
        reward_shaping: a key of SHAPINGS.
        kl_type: "none", "forward" or "backward".
        kl_coef: strength of the KL penalty, reward units per nat.
        hackable_reward: score by the share of positive words instead of sentiment.
        negate_reward: turn the shaped score around.
        log_probs: callable(prompts, completion_ids, sampled_log_probs) -> (policy, ref, mask),
            needed unless kl_type is "none".

    Returns:
        callable(prompts, completions, completion_ids, **kwargs) -> list of N floats. Through
        TRL's `log_metric` it reports the mean score, the penalty, both KL values and the share
        of clipped tokens.

    Raises:
        UserError: a combination that means nothing.
    """
    if hackable_reward and reward_shaping not in ("linear", "shaped"):
        raise UserError(
            f"--hackable_reward counts words and --reward_shaping {reward_shaping} scores "
            "sentiment: choose one, or linear or shaped with --hackable_reward."
        )
    shape, name = SHAPINGS[reward_shaping]
    penalty_function = getattr(rewards, f"kl_penalty_{kl_type}", None)

    def culprit(completions, prompts, scores):
        """The first completion that fails by itself, or None."""
        for i, text in enumerate(completions):
            try:
                shape(rewards, [text], [prompts[i]], None if scores is None else [scores[i]])
            except UserError:
                return text
        return None

    def kl_penalty(prompts, completions, completion_ids, sampled_log_probs, log_metric):
        policy_log_probs, ref_log_probs, mask = log_probs(
            prompts, completion_ids, sampled_log_probs
        )
        values = kl_values(policy_log_probs, ref_log_probs, mask)
        penalty = check_rewards(
            call_student(penalty_function, policy_log_probs, ref_log_probs, mask, kl_coef=kl_coef),
            completions,
            penalty_function.__name__,
            mask.device,
        )
        log_metric("kl_penalty", penalty.mean().item())
        log_metric("kl_policy_ref", values["forward"].mean().item())
        log_metric("kl_ref_policy", values["backward"].mean().item())
        log_metric("kl_clipped_share", values["clipped"])
        return penalty

    def reward(
        prompts,
        completions,
        completion_ids,
        log_metric=lambda name, value: None,
        sampled_log_probs=None,  # of our own rollout
        **kwargs,
    ):
        scores = get_hackable_scores(completions) if hackable_reward else None
        if hackable_reward and reward_shaping == "linear":
            shaped = torch.tensor(scores)
        else:
            try:
                values = shape(rewards, completions, prompts, scores)
            except UserError as error:
                if not str(error).startswith(f"{name} failed"):
                    raise  # an endless loop, or no solution yet: once is enough
                if (text := culprit(completions, prompts, scores)) is None:
                    raise
                raise UserError(f"{error}. The completion was {text!r:.80}.") from error
            shaped = check_rewards(values, completions, name)
        log_metric("score", shaped.mean().item())
        total = -shaped if negate_reward else shaped
        if kl_type != "none":
            total = total - kl_penalty(
                prompts, completions, completion_ids, sampled_log_probs, log_metric
            )
        return total.tolist()

    return reward


def check_exercises(rewards, reward_shaping="linear", kl_type="none", kl_coef=0.1, **options):
    """Call what a run will need on a small batch, before any model is loaded into training.

    Raises:
        UserError: an exercise is not implemented, or returns what no run could use.
    """
    torch.manual_seed(0)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    policy, ref = -torch.rand(2, 3), -torch.rand(2, 3)
    reward = make_reward_function(
        rewards,
        reward_shaping,
        kl_type,
        kl_coef,
        log_probs=lambda *_: (policy, ref, mask),
        **options,
    )
    reward(["This movie was", "The plot"], [" great fun.", " dull"], [[1, 2, 3], [1, 2]])


def exercises(path):
    """The exercises of a rewards file in order: {function name: label} such as "Exercise 3b"."""
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    labels = {f.name: re.match(r"[^:,]+", ast.get_docstring(f) or "") for f in functions}
    return {name: match.group() for name, match in labels.items() if match}


def to_do(path):
    """The exercises of a rewards file that still raise NotImplementedError: {name: label}."""
    source, labels = Path(path).read_text(encoding="utf-8"), exercises(path)
    found = {}
    for node in ast.parse(source).body:
        label = labels.get(getattr(node, "name", ""))
        text = ast.get_source_segment(source, node)
        if label and re.search(rf"NotImplementedError\([\"']{label}:", text):
            found[node.name] = label
    return found


def print_checklist(path):
    """Say which exercises of a rewards file are done."""
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    lines = {node.name: node.lineno for node in tree.body if isinstance(node, ast.FunctionDef)}
    left = to_do(path)
    for name, label in exercises(path).items():
        state = "to do" if name in left else "done"
        print(f"{state:5}  {label:12}  {name} (line {lines[name]})")
    print("\nWhether what is done is right: python -m pytest --student")
