# %% [markdown]
# # Teach GPT-2 to like movies
#
# You will fine-tune a language model with **GRPO** (Group Relative Policy Optimization) until it
# writes positive movie reviews, and find out what the reward really asked for. The loop is short:
#
# 1. sample several completions for each prompt: a *group*;
# 2. score each completion with a number: the *reward*;
# 3. subtract the group's mean and divide by its standard deviation: the *advantage*;
# 4. make tokens of completions with positive advantage more likely, the others less.
#
# Steps 1, 3 and 4 are the same for every task. Step 2 is yours: it decides what the model learns.
# You will write rewards, read log-probabilities, find out why a good *estimate* of a divergence can
# be a harmful *penalty*, and judge a trained policy by more than its reward. Everything runs on the
# two small models in `tiny/`, without GPU or network, in a few minutes. With a GPU and network, set
# `PRESET = "quick"` for GPT-2 itself.
# %%
PRESET = "tiny"  # or "quick": GPT-2 and a large sentiment model, on a GPU
STEPS = 40  # training steps of each run below; None: as many as the preset says
USE_SOLUTION = False  # your rewards.py

# %%
import math
import warnings
from contextlib import contextmanager

warnings.filterwarnings("ignore", message="IProgress not found")
from engine.common import UserError, quiet_libraries, read_jsonl, short_path

quiet_libraries()

import matplotlib.pyplot as plt
import torch

import evaluate
import kl_lab
from data import TRAIN_PROMPTS, VALIDATION_PROMPTS
from engine.options import PRESETS
from engine.policy import load_model
from engine.student import load_rewards, rewards_file
from evaluate import generate_completions
from grpo_from_scratch import group_advantages, train_toy
from sentiment import get_sentiment_scores, get_star_probs, load_sentiment_model
from train import train

MODEL = PRESETS[PRESET]["model_name"]
LENGTH = PRESETS[PRESET]["max_completion_length"]
load_sentiment_model(PRESETS[PRESET]["sentiment_model"])


@contextmanager
def exercise():
    """What is still to do prints a line instead of stopping the notebook."""
    try:
        yield
    except (NotImplementedError, UserError) as todo:
        print(f"Not yet: {todo}")


print(f"policy {short_path(MODEL)}, on {'a GPU' if torch.cuda.is_available() else 'the CPU'}")

# %% [markdown]
# ## The sentiment model
#
# It reads a text and gives a probability to each of one to five stars. The score is the expected
# number of stars, moved to [0, 1]: `(E[stars] − 1) / 4`. It is a *model* of what a reader thinks.
# Wherever it errs, the policy will find out before you do: look for texts that it gets wrong.
# %%
texts = [
    "This movie was absolutely fantastic! I loved every moment.",
    "A terrible film, and a waste of two hours.",
    "It was okay, nothing special but not bad either.",
    "The film was released in 1994 and is set in Paris.",
    "The acting was superb and the story was compelling.",
    "Boring and predictable. I almost fell asleep.",
    "wonderful wonderful wonderful wonderful",
]
for text, stars, score in zip(texts, get_star_probs(texts), get_sentiment_scores(texts)):
    bars = " ".join(f"{probability:.2f}" for probability in stars.tolist())
    print(f"{score:.2f}   stars 1 to 5: {bars}   {text}")


# %% [markdown]
# ## Exercise 1: the sentiment as reward
#
# Give each completion its sentiment score. One line; `get_sentiment_scores` does the work.
# %%
def sentiment_reward(completions, **kwargs):
    # BEGIN SOLUTION 1
    return get_sentiment_scores(completions)
    # END SOLUTION


with exercise():
    rewards = sentiment_reward([" great fun from start to end.", " a dull and endless mess."])
    print([round(reward, 3) for reward in rewards])
    assert len(rewards) == 2 and rewards[0] > 0.5 > rewards[1]
    print("Right.")


# %% [markdown]
# ## Exercise 2: shaping
#
# GRPO only sees how a completion compares with its group. Advantages do not change if every reward
# is multiplied by two or raised by three: *linear* shaping does nothing. A bent curve does
# something. The exponential
#
# $$\text{reward} = \exp(\text{score} / \tau) - 1$$
#
# spreads the best completions apart and presses the bad ones together; the lower the temperature
# $\tau$, the stronger the effect.
# %%
def shaped_reward_exponential(completions, temperature=1.0, **kwargs):
    # BEGIN SOLUTION 2a
    return [math.exp(score / temperature) - 1 for score in get_sentiment_scores(completions)]
    # END SOLUTION


with exercise():
    for temperature in (1.0, 0.25):
        shaped = shaped_reward_exponential(texts, temperature=temperature)
        print(temperature, [round(float(reward), 2) for reward in shaped])

# %%
scores = torch.linspace(0, 1, 101)
curves, advantages = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")[1]
group = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0])
shapes = {
    "score": lambda s: s,
    "2 · score + 3": lambda s: 2 * s + 3,
    "exp(score) − 1": lambda s: s.exp() - 1,
    "exp(score / 0.25) − 1": lambda s: (s / 0.25).exp() - 1,
}
for i, (name, shape) in enumerate(shapes.items()):
    curve = shape(scores) - shape(scores).min()
    curves.plot(scores, curve / curve.max(), label=name, linestyle="--" if i == 1 else "-")
    style = dict(marker="x", linestyle="--") if i == 1 else dict(marker="o")
    advantages.plot(group, group_advantages(shape(group), len(group)), label=name, **style)
curves.set(xlabel="sentiment score", ylabel="reward, scaled to [0, 1]", title="What you pay")
advantages.set(xlabel="score of a completion", ylabel="advantage", title="What GRPO sees of it")
advantages.legend()
plt.show()

# %% [markdown]
# The two straight lines are one line after normalisation. With $\tau = 0.25$ only the very best completion of the group counts.
#
# **Exercise 2b** is open: in `rewards.py`, write a `shaped_reward` of your own that also looks at
# the text. `pytest --student -m exercise2b` tells you what any sensible one fulfils.
# %%
with exercise():
    my_rewards = load_rewards(rewards_file(USE_SOLUTION))
    shaped = my_rewards.shaped_reward([0.9, 0.9], [texts[0], texts[-1]])
    print([round(float(reward), 3) for reward in shaped], "for a review and for an empty cheer")

# %% [markdown]
# ## Exercise 3: staying close to the reference
#
# Nothing in the reward says that the text should remain a review. The KL penalty does: it compares
# the policy $q$ with the frozen model $p$ that training started from. For that we need
# log-probabilities. The model reads tokens $1 \dots t$ and predicts token $t + 1$, so the logits at
# position $t$ belong to the *next* token.
# %%
base_model, tokenizer = load_model(MODEL)
ids = tokenizer("This movie was great fun and I loved it.", return_tensors="pt")["input_ids"]
ids = ids.to(base_model.device)
with torch.no_grad():
    log_probs = base_model(ids).logits.float().log_softmax(-1)  # (1, L, V)
total = 0.0
for t in range(ids.shape[1] - 1):
    token = ids[0, t + 1]
    log_prob = log_probs[0, t, token].item()
    total += log_prob
    print(f"{tokenizer.decode(token):>10}  P = {math.exp(log_prob):.4f}   log P = {log_prob:6.2f}")
print(f"the sum, log P of everything after the first token: {total:.2f} nats")

# %% [markdown]
# **Exercise 3a**, `compute_ref_log_probs` in `rewards.py`, does this for completions. Solve it there
# (`pytest --student -m exercise3a`), then come back.
# %%
with exercise():
    completions = [" great fun and I loved it.", " the the the the the the the."]
    prompts = ["This movie was"] * 2
    function = load_rewards(rewards_file(USE_SOLUTION)).compute_ref_log_probs
    for text, value in zip(completions, function(completions, prompts, base_model, tokenizer)):
        print(f"{float(value):8.2f} nats  {text}")

# %% [markdown]
# ### Two divergences
#
# | `--kl_type` | formula | standard name | punishes |
# |---|---|---|---|
# | `forward` | $KL(q‖p) = E_q[\log q - \log p]$ | *reverse* or exclusive KL | text that the reference would not write |
# | `backward` | $KL(p‖q) = E_p[\log p - \log q]$, for each next token of the policy's own text | *forward* or inclusive KL | giving up tokens that the reference would write |
#
# The flags' names are those of this exercise; the literature uses the words the other way round, so trust the formula. The first is called *mode-seeking*: its optimum may settle on one kind of text, as long as the reference writes it too. The second is called *mass-covering*: its optimum keeps a little of everything. These are statements about optima; runs of sixty steps do not show them.
#
# ### An estimate is not a penalty
#
# The samples come from $q$. With $r = p(x)/q(x)$, several numbers per token have one of the divergences as their mean, and their bias and variance are well studied. It is tempting to take the best of them and to subtract it from the reward. But a reward is a plain number $c(x)$: the policy moves along $-E_q[c \cdot \nabla \log q]$, and that is not the gradient of $E_q[c]$, because $c$ itself depends on $q$ and its gradient is lost. The lab makes this visible on eight tokens, where every mean is an exact sum. Your own two functions appear in it as soon as they exist.
# %%
own = {}
with exercise():
    own = kl_lab.own_penalties(load_rewards(rewards_file(USE_SOLUTION)))
kl_lab.penalties(own)

# %% [markdown]
# Look at $r \log r$ in the left picture. Around 0, where policy and reference nearly agree, the cost *falls* as the policy comes to like a token more than the reference does. Subtracted from the reward, it pays the policy for leaving. Then look at k3, the best estimate of $KL(q‖p)$: flat at 0, so that it hardly pulls at all. A penalty has to *rise* through 0.
#
# **Exercises 3b and 3c**: find, for each divergence, the number that pulls with its exact gradient.
# The docstrings in `rewards.py` say how to derive it.
#
# ### The same number in another place
#
# TRL's own `--beta` does not subtract its number from the reward. It adds k3 to the loss and differentiates it, times the ratio $q/q_{old}$. That is why k3 is right there and wrong here: look which pale band each line follows. `python kl_lab.py texts` and `beta` go on to whole texts.
# %%
kl_lab.places(own)

# %% [markdown]
# ## GRPO in thirty lines
#
# `grpo_from_scratch.py` holds the whole algorithm for a policy over six words. Read it: the two functions at its top are all the mathematics that TRL applies to GPT-2 below (a test compares them). Without a penalty the policy ends with the best-paid word alone. With one, it ends near $q \propto p \cdot \exp(\text{reward} / c)$, where $c$ is the coefficient.
# %%
figure, panels = plt.subplots(1, 2, figsize=(11, 3.5), sharey=True, layout="constrained")
for panel, kl_coef in zip(panels, (0.0, 0.3)):
    panel.plot(train_toy(kl_coef=kl_coef))
    panel.set(xlabel="step", title=f"kl_coef {kl_coef}")
panels[0].set(ylabel="probability of each word")
panels[1].legend(["awful", "boring", "fine", "good", "great", "superb"])
plt.show()

# %% [markdown]
# ## Before training
#
# What does the base model write, and how is its sentiment spread?
# %%
sample_prompts = VALIDATION_PROMPTS[:5]
completions = generate_completions(base_model, tokenizer, sample_prompts, max_new_tokens=LENGTH)
for prompt, text, score in zip(sample_prompts, completions, get_sentiment_scores(completions)):
    print(f"{score:.2f}  {prompt} |{text}")

# %%
completions = generate_completions(base_model, tokenizer, TRAIN_PROMPTS * 4, max_new_tokens=LENGTH)
scores = torch.tensor(get_sentiment_scores(completions))
plt.figure(figsize=(7, 3))
plt.hist(scores.numpy(), bins=20, range=(0, 1))
plt.axvline(scores.mean(), color="black", linestyle="--", label=f"mean {scores.mean():.2f}")
plt.gca().set(xlabel="sentiment score", ylabel="completions")
plt.legend()
plt.show()
print(f"positive: {(scores > 0.5).float().mean():.0%}, standard deviation {scores.std():.2f}")


# %% [markdown]
# ## Training
#
# `train` takes the options of the command line. Each run below samples 64 completions per step,
# 8 for each of 8 prompts. Watch the validation rows: sentiment is what you pay for, KL and reference
# perplexity are the price.
# %%
def run(name, **options):
    with exercise():
        steps = {"max_steps": STEPS} if STEPS else {}
        output_dir = f"outputs/notebook/{name}"
        train(preset=PRESET, output_dir=output_dir, use_solution=USE_SOLUTION, **steps, **options)


run("none")

# %%
run("forward", kl_type="forward")

# %%
run("backward", kl_type="backward")

# %% [markdown]
# ### Why is the loss near 0, and the ratio 1?
#
# Everybody asks this who looks at the log of such a run. Each batch is used for one gradient step, so the policy that is trained is still the one that sampled: the ratio $q/q_{old}$ is 1 for every token and nothing is ever clipped. The loss is then minus the mean advantage, and the advantages of a group add up to 0; what is left comes from texts of unequal length. So the *value* of the loss says nothing about learning. Its *gradient* is another matter: $-A \cdot \nabla \log q$ does not add up to 0. Watch the reward, not the loss. (`grad_norm`: length of the gradient; `clip_ratio`: share clipped.)
# %%
with exercise():
    log = read_jsonl("outputs/notebook/none/metrics.jsonl", phase="train")
    panels = plt.subplots(1, 4, figsize=(14, 3), layout="constrained")[1]
    for panel, name in zip(panels, ("loss", "grad_norm", "clip_ratio/region_mean", "reward")):
        panel.plot([row["step"] for row in log], [row[name] for row in log], label=name)
        panel.set(xlabel="step", title=name, ylim=(-1.2, 1.2))
        panel.legend()
    plt.show()

# %% [markdown]
# **Nearly all texts are cut.** In the bundled setting 94.5 % of the base model's completions reach 32 tokens without an end (the column `finished` in the table of a run); 5.5 % end by themselves. TRL's `mask_truncated_completions=True` takes cut texts out of the loss, which helps where a cut answer is a wrong one. Here it would leave three or four of 64 completions to learn from in each step, and those are the unusually short ones. So this exercise leaves it off.
#
# More to try, one line each: `run("exponential", reward_shaping="exponential")`,
# `run("hacked", hackable_reward=True)`, `run("negative", negate_reward=True)`,
# `run("stars", reward_shaping="five_stars")`, `run("beta", beta=0.1)`, `run("strong",
# kl_type="forward", kl_coef=1.0)`. `beta=0.1` and `kl_coef=0.1` are not equally strong: reward and
# penalty are added before GRPO divides by the group's standard deviation, while beta acts beside
# advantages that have been divided already.
#
# ## Comparing
#
# A mean sentiment is easy to fool. Every figure here is measured on the same prompts with the same
# seed for both models, from token ids.
# %%
comparison = evaluate.compare_models(
    MODEL, "outputs/notebook/none/final", num_samples=4, max_new_tokens=LENGTH
)
evaluate.print_comparison_samples(comparison)
evaluate.plot_comparison(comparison)
plt.show()

# %%
results = {"base": comparison["base"]["metrics"]}
for name in ("none", "forward", "backward"):
    with exercise():
        policy, _ = load_model(f"outputs/notebook/{name}/final")
        results[name] = evaluate.evaluate_model(
            policy, tokenizer, VALIDATION_PROMPTS, base_model, 4, max_new_tokens=LENGTH
        )["metrics"]
evaluate.print_metrics(results)

# %% [markdown]
# ## Could you just have asked?
#
# A prefix costs no training. Does it do what reinforcement learning did? Do the two add up? Try
# prefixes of your own. KL is measured from the base model without the prefix for both of them.
# %%
prefixes = ["Positive review: ", "I loved it! "]
trained, _ = load_model("outputs/notebook/none/final")
models = {"base": base_model, "trained": trained}
settings = {"score": sentiment_reward, "samples_per_prompt": 2, "max_new_tokens": LENGTH}
with exercise():
    results = evaluate.compare_prefixes(models, tokenizer, prefixes, **settings)
    evaluate.print_prefixes(results)

# %% [markdown]
# ## Analysis
#
# 1. **Reward.** Which shaping learned fastest? Which gave the best texts? Were these the same?
# 2. **Price.** Plot sentiment against KL for your runs. What does the unregularised run buy with its
#    last nats? What happens to both at `kl_coef` 1.0, and at 0.01?
# 3. **Collapse.** Read twenty samples of each run. Which ones repeat themselves, within a text or
#    between texts, and which column of the tables shows it?
# 4. **Two divergences.** How do the runs with `forward` and `backward` differ in their texts? Is it
#    what mode-seeking and mass-covering make you expect? How could the difference become larger?
# 5. **Prompting.** What can a prefix not do that training can, and the other way round?

# %% [markdown]
# *Double-click and write your answers here.*
#
# 1. **Reward**
# 2. **Price**
# 3. **Collapse**
# 4. **Two divergences**
# 5. **Prompting**


# %% [markdown]
# ## Bonus
#
# - **A reward of your own.** Combine sentiment with length, endings, a topic. First write down what
#   you expect. `my_custom_reward` in `rewards.py` is trained with `reward_shaping="custom"`.
# - **Sampling temperature.** Generate from a trained model at temperatures 0.5, 1 and 1.5: which
#   figures move, and in which direction?
# - **A larger model.** `python train.py --model_name gpt2-medium --preset quick` on a GPU: does more
#   model buy more sentiment at the same KL?
# %%
def my_custom_reward(completions, **kwargs):
    # BEGIN SOLUTION bonus
    scores = get_sentiment_scores(completions)
    lengths = [len(text.split()) for text in completions]
    return [score - 0.02 * abs(length - 20) for score, length in zip(scores, lengths)]
    # END SOLUTION


with exercise():
    print([round(float(reward), 2) for reward in my_custom_reward(texts)])

# %%
for temperature in (0.5, 1.0, 1.5):
    text = generate_completions(trained, tokenizer, ["The film"], LENGTH, temperature)[0]
    print(f"{temperature}: The film{text}")

# %% [markdown]
# ## What to take along
#
# - The reward is the specification. The policy will satisfy it to the letter.
# - GRPO sees rewards only relative to their group: scale and shift are invisible, and a group of
#   equal rewards teaches nothing.
# - A KL penalty buys text quality with reward. What counts is the force it exerts, not how well it
#   estimates the divergence.
# - Never judge a policy by the number it was trained on alone.
#
# Read on: [GRPO, in the DeepSeekMath paper](https://arxiv.org/abs/2402.03300) ·
# [Approximating KL divergence, Schulman](http://joschu.net/blog/kl-approx.html) ·
# [gradients of KL penalties, Tang & Munos](https://arxiv.org/abs/2506.09477) ·
# [fine-tuning from preferences, Ziegler et al.](https://arxiv.org/abs/1909.08593) ·
# [TRL](https://huggingface.co/docs/trl)
