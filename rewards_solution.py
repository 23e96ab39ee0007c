"""Reward functions, KL penalties, and GRPO itself.

GRPO samples a group of completions for each prompt, scores each completion with one number, and
makes those above their group's mean more likely. What you write here decides what it learns.

Log-probabilities are natural logarithms (nats), taken per token: log q(token | all before it)
for the policy q that is being trained, log p for the frozen reference model p.
"""

import math

import torch

from sentiment import get_sentiment_scores


def sentiment_reward(completions, **kwargs):
    """Exercise 1, worked example: the sentiment of each completion.

    Args:
        completions: list of N strings, without their prompts.

    Returns:
        List of N floats in [0, 1]: (E[stars] − 1) / 4. Higher is more positive.

    >>> good, bad = sentiment_reward([" a wonderful film.", " a terrible film."])
    >>> good > 0.5 > bad
    True

    Question: the score looks at the completion alone. What could the policy learn if it looked
    at prompt and completion together?
    """
    return get_sentiment_scores(completions)


def shaped_reward_exponential(completions, temperature=1.0, **kwargs):
    """Exercise 2a: exponential shaping, exp(score / temperature) − 1.

    Args:
        completions: list of N strings.
        temperature: τ > 0; the lower, the more the best completions stand out.

    Returns:
        List of N floats in [0, exp(1/τ) − 1]; 0 for the worst score. A score of 0.5 gives
        exp(0.5) − 1 = 0.6487 at τ = 1.

    >>> (score,) = sentiment_reward([" a fine film."])
    >>> (reward,) = shaped_reward_exponential([" a fine film."], temperature=0.5)
    >>> bool(abs(float(reward) - (math.exp(2 * score) - 1)) < 1e-5)
    True

    Source: Shao et al. 2024, arXiv 2402.03300, for the normalisation that decides its effect.

    Question: GRPO subtracts the group's mean and divides by its standard deviation. Why does
    2 · score + 3 teach exactly what score teaches, as long as no KL penalty is subtracted, and why
    does this function not? Why is there hardly a difference to see at τ = 1?
    """
    # BEGIN SOLUTION 2a
    scores = get_sentiment_scores(completions)
    return [math.exp(score / temperature) - 1 for score in scores]
    # END SOLUTION


def shaped_reward(scores, completions, prompts=None):
    """Exercise 2b: a reward of your own design, from the score and the text.

    The sentiment score alone is blind to length and repetition; a reward that sees them can say
    that "great great great" is no review.

    Args:
        scores: list of N floats in [0, 1], one per completion.
        completions: list of N strings.
        prompts: list of N strings, or None.

    Returns:
        List of N finite floats. Of two texts of equal quality, the one with the better score
        must earn more; of two with equal scores, the repetitive one must not earn more.

    >>> review, cheer = shaped_reward([0.9, 0.9], [" a good film with a fine cast.", " good" * 7])
    >>> bool(review >= cheer)
    True

    Question: which text that nobody wants to read would earn the most from your reward?
    """
    # BEGIN SOLUTION 2b
    rewards = []
    for score, text in zip(scores, completions):
        words = text.lower().split()
        distinct = len(set(words)) / len(words) if words else 0.0
        length = min(len(words) / 12, 1.0)  # no more to gain beyond a dozen words
        rewards.append(score * distinct * length)
    return rewards
    # END SOLUTION


def compute_ref_log_probs(completions, prompts, ref_model, tokenizer):
    """Exercise 3a: the log-probability of each completion under the reference model.

    log P_ref(completion | prompt) = Σ_t log p(token_t | prompt, token_1 … token_{t−1})

    The logits at position t − 1 predict the token at position t, so the first completion token
    is predicted at the last prompt token.

    Args:
        completions: list of N strings.
        prompts: list of N strings.
        ref_model: causal language model; `ref_model(ids).logits` is (1, L, V).
        tokenizer: its tokenizer; `tokenizer(text)["input_ids"]` is a list of ids. Tokenize
            prompt and completion apart and join the ids: together, tokens could merge across
            the border.

    Returns:
        List of N floats ≤ 0, in nats; 0.0 for an empty completion.

    A model to which all 256 bytes are equally likely gives three of them 3 · log(1/256):

    >>> from types import SimpleNamespace
    >>> class Uniform:
    ...     device = "cpu"
    ...
    ...     def __call__(self, input_ids, **options):
    ...         return SimpleNamespace(logits=torch.zeros(*input_ids.shape, 256))
    >>> tokenize = lambda text: {"input_ids": list(text.encode())}
    >>> (log_prob,) = compute_ref_log_probs(["abc"], ["It is "], Uniform(), tokenize)
    >>> round(float(log_prob), 4)
    -16.6355

    Question: a completion of 40 tokens has a lower log-probability than its first 20 tokens.
    Is it worse text?
    """
    # BEGIN SOLUTION 3a
    sums = []
    for completion, prompt in zip(completions, prompts):
        prompt_ids = tokenizer(prompt)["input_ids"]
        completion_ids = tokenizer(completion)["input_ids"] if completion else []
        ids = torch.tensor([prompt_ids + completion_ids], device=ref_model.device)  # (1, P + C)
        with torch.no_grad():
            log_probs = ref_model(ids).logits.float().log_softmax(-1)  # (1, P + C, V)
        predicted = log_probs[0, len(prompt_ids) - 1 : -1]  # (C, V)
        targets = ids[0, len(prompt_ids) :, None]  # (C, 1)
        sums.append(predicted.gather(-1, targets).sum().item())
    return sums
    # END SOLUTION


def kl_penalty_forward(policy_log_probs, ref_log_probs, mask, kl_coef=0.1):
    """Exercise 3b: the penalty that holds the policy by KL(policy‖ref) = E_q[log q − log p].

    Standard name: reverse or exclusive KL. It punishes the policy for text that the reference
    would not write. (`--kl_type forward`)

    A reward is a plain number: no gradient flows through it. Subtracting c(x) from it moves the
    policy along −E_q[c · ∇ log q]. For this to be the gradient of the divergence, c need not be
    the best estimate of its value. It must pull back: positive where the policy likes the token
    more than the reference does, negative where less. Summed over a text, the right number pulls
    with the gradient of the divergence of whole texts.

    Args:
        policy_log_probs: (B, T) float32 tensor, log q of each sampled token.
        ref_log_probs: the same shape, log p of the same tokens.
        mask: (B, T) boolean, True for real completion tokens.
        kl_coef: the strength; reward units per nat. Reward and penalty are added before GRPO
            divides by the group's standard deviation, so a `--beta` of the same size is another
            strength (docs/options.md).

    Returns:
        (B,) tensor, SUBTRACTED from the reward: kl_coef times the sum over a completion's real
        tokens. 0 where policy and reference agree.

    >>> q, p = torch.tensor([[-1.0, 0.0], [-2.0, -4.0]]), torch.tensor([[-3.0, -9.0], [-2.0, -4.0]])
    >>> mask = torch.tensor([[True, False], [True, True]])
    >>> too_likely, agreed = kl_penalty_forward(q, p, mask, kl_coef=0.5)
    >>> float(too_likely) > 0, float(agreed) == 0
    (True, True)

    Source: Tang & Munos 2025, arXiv 2506.09477, on estimates and their gradients.

    Question: one completion can have a negative penalty. What would go wrong if you cut it
    off at zero?
    """
    # BEGIN SOLUTION 3b
    per_token = policy_log_probs - ref_log_probs  # k1 = −log r, with r = p/q
    return kl_coef * torch.where(mask, per_token, 0.0).sum(-1)
    # END SOLUTION


def kl_penalty_backward(policy_log_probs, ref_log_probs, mask, kl_coef=0.1):
    """Exercise 3c: the penalty that holds the policy by KL(ref‖policy) = E_p[log p − log q].

    Standard name: forward or inclusive KL. It punishes the policy for giving up tokens that the
    reference would write. (`--kl_type backward`)

    Here it is the divergence of the next token, summed along the text that the policy itself has
    written; that of whole texts would need the reference's texts, or the product of all ratios,
    whose variance grows exponentially with the length.

    The samples come from q, not from p, so the divergence is written with the ratio r = p/q as
    E_q[r · log r]. Tempting, and wrong as a penalty: as a detached number r · log r pushes the
    policy away. For a divergence E_q[f(r)], the number that pulls with its exact gradient is
    f(r) − r · f′(r). Work it out for f(r) = r · log r.

    Args, Returns: as for `kl_penalty_forward`. Keep exp() from overflowing: clamp log r from
    above, at log 1000 say. A low limit is felt: where the reward differs by much, the penalty then
    lets go of the low-scoring texts altogether.

    >>> q, p = torch.tensor([[-1.0], [-2.0]]), torch.tensor([[-1.0], [-2.7]])
    >>> agreed, too_likely = kl_penalty_backward(q, p, torch.tensor([[True], [True]]), kl_coef=0.5)
    >>> float(agreed) == 0, float(too_likely) > 0
    (True, True)

    Source: the same; Schulman 2020, "Approximating KL divergence", for estimates of the value.

    Question: this penalty never exceeds kl_coef per token, however far the policy goes. What
    then keeps a policy from giving all its probability to one text?
    """
    # BEGIN SOLUTION 3c
    ratio = (ref_log_probs - policy_log_probs).clamp(max=math.log(1000)).exp()
    per_token = 1 - ratio  # f(r) − r · f′(r) = r · log r − r · (log r + 1), up to a constant
    return kl_coef * torch.where(mask, per_token, 0.0).sum(-1)
    # END SOLUTION


def group_advantages(rewards, group_size):
    """Exercise 4a: how much better than its group each completion did.

    A = (reward − mean of its group) / (standard deviation of its group + 1e-4)

    Args:
        rewards: (B,) float32 tensor; each run of `group_size` entries answers one prompt.
        group_size: G ≥ 2, completions per prompt.

    Returns:
        (B,) tensor. The deviation is that of a sample, with G − 1 below the sum, as `torch.std`
        has it.

    >>> [round(float(a), 2) for a in group_advantages(torch.tensor([1.0, 3.0, 5.0, 5.0]), 2)]
    [-0.71, 0.71, 0.0, 0.0]

    Source: Shao et al. 2024, arXiv 2402.03300.

    Question: one group earned 0.1, 0.5 and 0.9, another 0.90, 0.91 and 0.92. Which of them moves
    the policy more? What does that say for a reward whose last decimals are noise?
    """
    # BEGIN SOLUTION 4a
    groups = rewards.view(-1, group_size)  # (B / G, G)
    centred = groups - groups.mean(-1, keepdim=True)
    return (centred / (groups.std(-1, keepdim=True) + 1e-4)).flatten()
    # END SOLUTION


def policy_loss(log_probs, old_log_probs, advantages, mask, epsilon=0.2):
    """Exercise 4b: the loss of GRPO, a mean over all real tokens of the batch.

    loss = −mean of min(ρ · A, clip(ρ, 1 − ε, 1 + ε) · A)

    The ratio ρ says how likely a token is now, compared with when it was sampled; A is the
    advantage of its completion. On the first step after sampling every ρ is 1: the value says
    nothing then. The loss is there for its gradient, −A · ∇ log q.

    Args:
        log_probs: (B, T) float32 tensor, log q of each sampled token under the policy that is
            being trained. The gradient flows through it.
        old_log_probs: (B, T), the same of the policy that sampled; no gradient.
        advantages: (B,), one for each completion.
        mask: (B, T) boolean, True for real completion tokens.
        epsilon: ε; beyond a ratio of 1 ± ε a token has nothing more to gain.

    Returns:
        Tensor of one number.

    >>> old, now = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.75, 0.5]]).log()
    >>> loss = policy_loss(now, old, torch.tensor([1.0]), torch.ones(1, 2).bool())
    >>> round(float(loss), 4)
    -1.1

    Source: Schulman et al. 2017, arXiv 1707.06347, for the clip; Yu et al. 2025, arXiv 2503.14476,
    for the mean.

    Question: `train.py` takes one step with each batch of texts. What does the clip do then? And
    why is there a minimum around it, where the clipped term alone would be shorter?
    """
    # BEGIN SOLUTION 4b
    ratio = (log_probs - old_log_probs).exp()  # (B, T)
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon)
    gain = torch.minimum(ratio * advantages[:, None], clipped * advantages[:, None])
    return -(gain * mask).sum() / mask.sum()
    # END SOLUTION


def my_custom_reward(completions, **kwargs):
    """Bonus: any reward you like, from the text alone.

    Ideas: sentiment and length together; a genre; sentences that end; no adjective twice.
    Train on it with `--reward_shaping custom`.

    Args:
        completions: list of N strings.

    Returns:
        List of N finite floats.

    >>> len(my_custom_reward([" fine.", ""]))
    2

    Question: write down what you expect the policy to do before you train. Did it?
    """
    # BEGIN SOLUTION bonus
    scores = get_sentiment_scores(completions)
    ends = [text.rstrip().endswith((".", "!", "?")) for text in completions]
    return [score + 0.2 * end for score, end in zip(scores, ends)]
    # END SOLUTION


if __name__ == "__main__":
    from engine.course.checklist import main

    main(__file__)
