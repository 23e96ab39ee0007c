"""What each exercise must do. `pytest` asks the functions in process, a grader from outside.

A case is a function `case(ask, rng)`. `ask(**arguments)` calls the function under test and returns
its answer as a (N,) float64 tensor; the case returns None if all is well, or a `Finding`. Cases
judge numbers and never code, so loops or vectors, lists or tensors, numpy or torch all pass, and
so does every KL penalty that pulls the policy back, not only the one of the solution.
"""

import functools
import math
import random
from dataclasses import dataclass

import torch

from kl_lab import exact_gradient
from reward_utils import check_rewards, describe_error
from sentiment import get_sentiment_scores

PROMPTS = ("This movie was", "The plot", "I watched this because", "It is", "My friends and I")
WORDS = (
    "film story actor scene music plot good bad great terrible boring wonderful slow funny never "
    "always it the a and was is of not I loved hated again unforgettable disappointing"
).split()


def write_texts(rng, count):
    """Completions of two to fourteen words. Another seed, other texts: nobody can learn them."""
    texts = [rng.choices(WORDS, k=rng.randint(2, 14)) for _ in range(count)]
    return [f" {' '.join(words)}." for words in texts]


@dataclass(frozen=True)
class Finding:
    """Why an answer is wrong."""

    expected: str
    cause: str


class Wrong(Exception):
    """An answer that no case can use: it has the wrong form, or the function raised."""


class Ask:
    """Calls one function and keeps the last call for the report.

    Args:
        function: the function under test.
        models: (ref_model, tokenizer), handed to `compute_ref_log_probs`.
    """

    def __init__(self, function, models):
        self.function, self.models = function, models
        self.arguments = self.answer = None

    def __call__(self, **arguments):
        self.arguments, self.answer = arguments, None
        if self.function.__name__ == "compute_ref_log_probs":
            arguments = dict(zip(("ref_model", "tokenizer"), self.models), **arguments)
        try:
            self.answer = self.function(**arguments)
        except (NotImplementedError, Wrong):
            raise
        except Exception as error:
            path = self.function.__code__.co_filename
            raise Wrong(f"it raised {describe_error(error, path)}") from error
        rows = next(v for k, v in arguments.items() if k in ("completions", "policy_log_probs"))
        shape = tuple(getattr(self.answer, "shape", ()))
        if len(shape) == 2 and shape == tuple(getattr(rows, "shape", ())):
            raise Wrong("it returned one number per token; sum them over each completion")
        try:
            names = rows if isinstance(rows[0], str) else [f"row {i}" for i in range(len(rows))]
            return check_rewards(self.answer, names, self.function.__name__).double()
        except Exception as error:
            raise Wrong(str(error)) from error


def show(value):
    """An argument or answer, short enough to read."""
    if isinstance(value, torch.Tensor) or hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        shown = ", ".join(show(v) for v in value[:6])
        return f"[{shown}{', …' if len(value) > 6 else ''}]"
    return repr(value)


def report(case, ask, rng=None):
    """Run one case: None if it holds, else the text a tutor would say."""
    try:
        finding = case(ask, rng or random.Random(0))
    except Wrong as wrong:
        finding = Finding("", str(wrong))
    if finding is None:
        return None
    lines = [f"{ask.function.__name__}: {case.__doc__.splitlines()[0]}"]
    lines += [f"  passed in    {name} = {show(value)}" for name, value in ask.arguments.items()]
    lines += [f"  came back    {show(ask.answer)}"] if ask.answer is not None else []
    lines += [f"  expected     {finding.expected}"] if finding.expected else []
    return "\n".join([*lines, f"  usual cause  {finding.cause}"])


def close(got, want, tolerance=1e-4):
    return torch.allclose(got, torch.as_tensor(want, dtype=torch.float64), atol=tolerance, rtol=0)


def compare(got, want, meaning, causes, tolerance=1e-4):
    """None if `got` equals `want`; else a Finding whose cause is the first of `causes`, pairs of
    (explanation, the values that this mistake gives), that explains the answer."""
    if close(got, want, tolerance):
        return None
    explained = (text for text, values in causes if close(got, values, tolerance))
    return Finding(f"{show(torch.as_tensor(want))}: {meaning}", next(explained, "the formula"))


# Exercise 1 and 2a: functions of the score.


def equals_the_score(ask, rng):
    """the reward of a text is its sentiment score."""
    texts = write_texts(rng, 3)
    want = torch.tensor(get_sentiment_scores(texts))
    got = ask(completions=texts)
    return compare(got, want, "get_sentiment_scores", [("the sign", -want)], 1e-5)


def is_exponential_in_the_score(ask, rng):
    """the reward is exp(score / temperature) − 1."""
    texts = [*write_texts(rng, 3), ""]
    scores = torch.tensor(get_sentiment_scores(texts), dtype=torch.float64)
    for temperature in (None, 0.5, 2.0):
        tau = temperature or 1.0
        got = ask(completions=texts, **({"temperature": temperature} if temperature else {}))
        causes = [
            ("the temperature: it is ignored", scores.exp() - 1),
            ("the − 1: the worst text must earn 0", (scores / tau).exp()),
            ("the temperature: divide the score by it", (scores * tau).exp() - 1),
            ("the order: divide inside exp(), not outside", (scores.exp() - 1) / tau),
            ("the exponential: this is linear, which GRPO cannot tell from no shaping", scores),
            ("the sign in exp(): better texts must earn more", (-scores / tau).exp() - 1),
        ]
        want = (scores / tau).exp() - 1
        finding = compare(got, want, f"scores {show(scores)}, temperature {tau}", causes, 1e-5)
        if finding:
            return finding
    return None


# Exercise 2b and the bonus: open-ended rewards.

PLAIN = " a quiet story about two people who meet again in a small town by the sea."
TEXTS = (
    PLAIN,
    " great great great great great great great great great great great great great great.",
    " good.",
    " I laughed, I cried, and when the lights went on nobody wanted to leave the cinema at all.",
)


def gives_a_number_for_each_text(ask, rng):
    """one finite number for each text, the empty one included."""
    texts = ["", " ", " fine.", *write_texts(rng, 1)]
    if ask.function.__name__ == "shaped_reward":
        ask(scores=[0.1, 0.2, 0.5, 0.9], completions=texts)
        ask(scores=[0.5], completions=[""], prompts=["This movie was"])
    else:
        ask(completions=texts)
        ask(completions=[""])


def pays_for_sentiment(ask, rng):
    """of two texts of equal quality, the one with the better score earns more."""
    scores = [0.1 + 0.2 * i + rng.uniform(-0.05, 0.05) for i in range(5)]
    got = ask(scores=scores, completions=[PLAIN] * 5, prompts=["It is"] * 5)
    if (got.diff() > 0).all():
        return None
    cause = "the score: it does not enter" if (got == got[0]).all() else "the sign of the score"
    return Finding("numbers that rise with the score", cause)


def does_not_pay_for_repetition(ask, rng):
    """of two texts with equal scores, the repetitive one earns no more."""
    word = rng.choice(["great", "wonderful", "excellent"])
    for copies in (len(PLAIN.split()), 40):
        repetitive = " " + " ".join([word] * copies) + "."
        got = ask(scores=[0.9, 0.9], completions=[PLAIN, repetitive])
        if got[1] > got[0] + 1e-9:
            return Finding("second ≤ first", "what grows with repetition: the length, perhaps")
    return None


def teaches_more_than_the_score(ask, rng):
    """GRPO must be able to tell it from the plain score."""
    scores = torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=torch.float64)
    got = ask(scores=scores.tolist(), completions=list(TEXTS), prompts=["It is"] * 4)
    z = [(x - x.mean()) / (x.std() + 1e-12) for x in (got, scores)]
    if not close(*z):
        return None
    return Finding(
        "advantages other than those of the score",
        "the shape: this is scale · score + shift, which group normalisation undoes; "
        "let the text matter, or bend the curve",
    )


# Exercise 3a: log-probabilities.


def token_ids(tokenizer, text):
    return tokenizer(text)["input_ids"] if text else []


def logits_token_by_token(model, prompt_ids, completion_ids, shift=0):
    """(C, V) logits that predict each completion token, one forward pass each: slow and plain.

    `shift=1` reads one position too late, to recognise that mistake.
    """
    return _logits(model, tuple(prompt_ids), tuple(completion_ids), shift)


@functools.lru_cache(maxsize=64)  # a grader asks about the same texts again and again
def _logits(model, prompt_ids, completion_ids, shift):
    ids, rows = prompt_ids + completion_ids, []
    for i in range(len(prompt_ids), len(ids)):
        with torch.no_grad():
            rows.append(model(torch.tensor([ids[: i + shift]])).logits[0, -1].double())
    return torch.stack(rows)


def picked(table, completion_ids):
    return table[range(len(completion_ids)), completion_ids]  # (C,)


def sums_the_completion(ask, rng):
    """the log-probability of a text is the sum over its completion tokens."""
    model, tokenizer = ask.models
    prompts, completions = rng.sample(PROMPTS, 3), write_texts(rng, 3)
    tokens, late, whole, raw, probs = [], [], [], [], []
    for prompt, completion in zip(prompts, completions):
        start, rest = token_ids(tokenizer, prompt), token_ids(tokenizer, completion)
        logits = logits_token_by_token(model, start, rest)
        tokens.append(picked(logits.log_softmax(-1), rest))
        raw.append(picked(logits, rest).sum())
        probs.append(picked(logits.softmax(-1), rest).sum())
        late.append(picked(logits_token_by_token(model, start, rest, 1).log_softmax(-1), rest))
        ids = start + rest
        every = logits_token_by_token(model, ids[:1], ids[1:])
        whole.append(picked(every.log_softmax(-1), ids[1:]).sum())
    total = torch.stack([row.sum() for row in tokens])
    causes = [
        ("the sign: a log-probability is never positive", -total),
        ("the sum: this is the mean over tokens", [row.mean() for row in tokens]),
        ("the shift: the logits at position t predict token t + 1", [row.sum() for row in late]),
        ("the first token: the last prompt token predicts it", [row[1:].sum() for row in tokens]),
        ("the last token: it counts too", [row[:-1].sum() for row in tokens]),
        ("the prompt: only completion tokens count", whole),
        ("the base: natural logarithms, nats", total / math.log(2)),
        ("the logarithm: this is the probability", total.exp()),
        ("the logarithm: these are summed probabilities", probs),
        ("log_softmax: logits are not log-probabilities yet", raw),
    ]
    got = ask(completions=completions, prompts=prompts)
    return compare(got, total, "Σ_t log P(token_t | all before it), in nats", causes, 2e-3)


def joins_ids_not_texts(ask, rng):
    """prompt and completion are tokenized apart, as the sampled ids were."""
    prompts, completions = ["The act", "I like this mov"], ["ing was good", "ie a lot"]
    model, tokenizer = ask.models
    want = []
    for prompt, completion in zip(prompts, completions):
        start, rest = token_ids(tokenizer, prompt), token_ids(tokenizer, completion)
        table = logits_token_by_token(model, start, rest).log_softmax(-1)
        want.append(picked(table, rest).sum().item())
    got = ask(completions=completions, prompts=prompts)
    if close(got, want, 2e-3):
        return None
    cause = "the border: tokenized together, tokens merge across it; join the lists of ids"
    return Finding(f"{show(want)}: Σ log P over tokenizer(completion)", cause)


def an_empty_completion_is_certain(ask, rng):
    """an empty completion has probability 1, so log-probability 0."""
    got = ask(completions=["", " good."], prompts=["It is", "It is"])
    return None if abs(got[0]) < 1e-6 else Finding("0 for the first", "the empty completion")


# Exercises 3b and 3c: penalties. A penalty is a number without gradient. What it does to the
# policy is judged where expectations are exact: a policy over a few tokens, all of them listed.


def random_log_probs(rng, rows, tokens):
    values = [[-4 * rng.random() - 0.05 for _ in range(tokens)] for _ in range(rows)]
    return torch.tensor(values)


def costs_nothing_where_the_models_agree(ask, rng):
    """policy and reference agree, so there is nothing to pay."""
    same = random_log_probs(rng, 2, 3)
    got = ask(policy_log_probs=same, ref_log_probs=same.clone(), mask=torch.ones(2, 3).bool())
    if close(got, [0.0, 0.0], 1e-6):
        return None
    return Finding("[0, 0]", "both models must enter: compare them, token by token")


def ignores_padding(ask, rng):
    """what stands at padded positions does not matter."""
    q, p = random_log_probs(rng, 2, 4), random_log_probs(rng, 2, 4)
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    want = ask(policy_log_probs=q, ref_log_probs=p, mask=mask, kl_coef=1.0)
    for padding in (-30.0, 0.0):
        got = ask(
            policy_log_probs=torch.where(mask, q, padding),
            ref_log_probs=torch.where(mask, p, padding / 3 - 1),
            mask=mask,
            kl_coef=1.0,
        )
        if not close(got, want, 1e-5):
            return Finding(f"{show(want)}, as with other padding", "the mask: apply it before sum")
    return None


def sums_over_tokens(ask, rng):
    """a completion of two halves costs what the halves cost."""
    q, p = random_log_probs(rng, 2, 4), random_log_probs(rng, 2, 4)
    mask = torch.tensor([[True] * 4, [True, True, True, False]])
    halves = [
        ask(policy_log_probs=q[:, s], ref_log_probs=p[:, s], mask=mask[:, s], kl_coef=1.0)
        for s in (slice(0, 2), slice(2, 4))
    ]
    want = halves[0] + halves[1]
    got = ask(policy_log_probs=q, ref_log_probs=p, mask=mask, kl_coef=1.0)
    if close(got, want, 1e-4):
        return None
    mean = close(got, want / 2) or close(got[0], want[0] / 2)
    cause = "the sum: this is a mean, which makes long texts cheap" if mean else "the sum"
    return Finding(f"{show(want)}: both halves together", cause)


def grows_with_kl_coef(ask, rng):
    """twice the coefficient, twice the penalty; the default is 0.1."""
    arguments = dict(
        policy_log_probs=random_log_probs(rng, 2, 3),
        ref_log_probs=random_log_probs(rng, 2, 3),
        mask=torch.ones(2, 3).bool(),
    )
    one = ask(**arguments, kl_coef=1.0)
    for expected, more in ((one / 10, {}), (2 * one, {"kl_coef": 2.0}), (0 * one, {"kl_coef": 0})):
        got = ask(**arguments, **more)
        if not close(got, expected, 1e-5):
            return Finding(show(expected), "kl_coef: multiply by it, once, outside exp()")
    return None


def toy_policies(rng, spread, count=6, tokens=8):
    """(log q, log p) pairs, (2·count, tokens) each: a reference p, and policies q on either side
    of it at the same distance."""
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    p = torch.randn(count, tokens, generator=generator, dtype=torch.float64)
    step = spread * torch.randn(count, tokens, generator=generator, dtype=torch.float64)
    q = torch.cat([p + step, p - step]).log_softmax(-1)
    return q, torch.cat([p, p]).log_softmax(-1)


def correlation(a, b, weights):
    """Of the columns of a and b, (R, V), under the probabilities `weights`, (R, V)."""
    a, b = (x - (weights * x).sum(-1, keepdim=True) for x in (a, b))
    covariance = (weights * a * b).sum(-1)
    scale = (weights * a * a).sum(-1) * (weights * b * b).sum(-1)
    return covariance / scale.sqrt().clamp(min=1e-30)


def cost_of_each_token(ask, q, p):
    """The penalty of every token of toy policies: (R, V)."""
    mask = torch.ones(q.numel(), 1).bool()
    arguments = dict(policy_log_probs=q.reshape(-1, 1).float(), mask=mask, kl_coef=1.0)
    return ask(**arguments, ref_log_probs=p.reshape(-1, 1).float()).view(q.shape)


def known_mistakes(q, p):
    """(what to say, the costs that this mistake gives)."""
    log_r = p - q
    r = log_r.exp()
    value = "value and penalty: this estimates the divergence, yet as a number to subtract it "
    return [
        ("the sign: positive where the policy likes the token more than the reference", log_r),
        ("the sign: positive where the policy likes the token more than the reference", r - 1),
        ("the ratio: it is upside down", 1 - 1 / r),
        ("the ratio: it is upside down", 1 / r - 1),
        (value + "does not pull; read the docstring again", log_r**2 / 2),
        (value + "does not pull; read the docstring again", r - 1 - log_r),
        (value + "pushes the policy away; read the docstring again", r * log_r),
        (value + "pushes the policy away; read the docstring again", r * log_r - (r - 1)),
        ("the size: without its sign, it punishes a token for being too rare as well", log_r.abs()),
    ]


def pulls_the_policy_back(ask, rng):
    """subtracted from the reward, the penalty pulls the policy back to the reference.

    The natural gradient changes KL(policy‖ref) at the rate −Cov_q[c, log q − log p]. For every c
    that rises with log q − log p the covariance is positive (Chebyshev), whatever its form.
    """
    for spread in (0.1, 0.5, 1.0):
        q, p = toy_policies(rng, spread)
        cost = cost_of_each_token(ask, q, p)
        pull = correlation(cost, q - p, q.exp())
        if (pull > 0.3).all():
            continue
        explained = (
            text
            for text, wrong in known_mistakes(q, p)
            if (correlation(cost, wrong, q.exp()) > 0.999).all()
        )
        away = (pull < -0.3).all()
        return Finding(
            "dearer, the more the policy prefers a token over the reference "
            f"(correlation with log q − log p above 0.3; it is {pull.min():.2f} at worst)",
            next(explained, "the sign" if away else "which tokens become dearer"),
        )
    return None


def belongs_to_its_divergence(ask, rng):
    """it holds the policy by its own divergence, not by the other one."""
    # One token that the reference hardly knows, two that the policy has half given up.
    q = torch.tensor([[0.1, 0.8, 0.05, 0.05]], dtype=torch.float64).log()
    p = torch.tensor([[0.0015, 0.6595, 0.136, 0.203]], dtype=torch.float64).log()
    cost = cost_of_each_token(ask, q, p)
    pulls = {}  # how closely the cost follows the exact gradient of each divergence
    for kind in ("forward", "backward"):
        exact = exact_gradient(kind, q[0], p[0]) / q.exp()  # (1, V): of a softmax, q · (c − mean)
        pulls[f"kl_penalty_{kind}"] = correlation(cost, exact, q.exp()).item()
    own = pulls.pop(ask.function.__name__)
    (other,) = pulls.values()
    if other < 0.999 or own > 0.99:
        return None
    return Finding(
        "a penalty for its own divergence",
        "forward and backward: this is the penalty of the other one",
    )


def stays_finite(ask, rng):
    """a finite number even where one model finds the text impossible."""
    arguments = dict(mask=torch.ones(2, 1).bool(), kl_coef=1.0)
    try:
        ask(
            policy_log_probs=torch.tensor([[-150.0], [-0.1]]),
            ref_log_probs=torch.tensor([[-0.1], [-150.0]]),
            **arguments,
        )
    except Wrong:
        return Finding("finite numbers", "exp() overflows: clamp log r from above, at log 10 say")


def works_on_paper(ask, rng):
    """two plain lists, one log-probability per completion, give the same as tensors."""
    q, p = random_log_probs(rng, 3, 1), random_log_probs(rng, 3, 1)
    want = ask(policy_log_probs=q, ref_log_probs=p, mask=torch.ones(3, 1).bool(), kl_coef=0.5)
    got = ask(
        policy_log_probs=q[:, 0].tolist(),
        ref_log_probs=p[:, 0].tolist(),
        mask=None,
        kl_coef=0.5,
    )
    if close(got, want, 1e-5):
        return None
    return Finding(show(want), "mask=None: lists of one number per completion, nothing to sum")


PENALTY_CASES = (
    costs_nothing_where_the_models_agree,
    pulls_the_policy_back,
    belongs_to_its_divergence,
    sums_over_tokens,
    ignores_padding,
    grows_with_kl_coef,
    stays_finite,
    works_on_paper,
)
CASES = {  # function -> (exercise, its cases)
    "sentiment_reward": ("1", (equals_the_score,)),
    "shaped_reward_exponential": ("2a", (is_exponential_in_the_score,)),
    "shaped_reward": (
        "2b",
        (
            gives_a_number_for_each_text,
            pays_for_sentiment,
            does_not_pay_for_repetition,
            teaches_more_than_the_score,
        ),
    ),
    "compute_ref_log_probs": (
        "3a",
        (sums_the_completion, joins_ids_not_texts, an_empty_completion_is_certain),
    ),
    "kl_penalty_forward": ("3b", PENALTY_CASES),
    "kl_penalty_backward": ("3c", PENALTY_CASES),
    "my_custom_reward": ("bonus", (gives_a_number_for_each_text,)),
}
