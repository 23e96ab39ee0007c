# %% [markdown]
# ## Before training
#
# What does the base model write, and how is its sentiment spread?
# %%
import evaluate
from data import TRAIN_PROMPTS, VALIDATION_PROMPTS
from evaluate import generate_completions

sample_prompts = VALIDATION_PROMPTS[:5]
completions = generate_completions(base_model, tokenizer, sample_prompts, max_new_tokens=LENGTH)
for prompt, text, score in zip(sample_prompts, completions, get_sentiment_scores(completions)):
    print(f"{score:.2f}  {prompt} |{text}")

# %%
completions = generate_completions(base_model, tokenizer, TRAIN_PROMPTS * 4, max_new_tokens=LENGTH)
scores = torch.tensor(get_sentiment_scores(completions))
plt.figure(figsize=(7, 3))
plt.hist(scores.numpy(), bins=20, range=(0, 1), label=f"{len(scores)} completions")
plt.axvline(scores.mean(), color="black", linestyle="--", label=f"mean {scores.mean():.2f}")
plt.gca().set(xlabel="sentiment score", ylabel="completions", title="The base model")
plt.legend(loc="upper center")  # between the two heaps
plt.show()
print(f"positive: {(scores > 0.5).float().mean():.0%}, standard deviation {scores.std():.2f}")


# %% [markdown]
# ## Training
#
# `train` takes the options of the command line. Each run below samples 64 completions per step,
# 8 for each of 8 prompts. Watch the validation rows: sentiment is what you pay for, KL and reference
# perplexity are the price. (*Reference perplexity*: how surprising the model before training finds
# the text. 23: at each token it is as unsure as among 23 equally likely ones.) 24 steps are enough to
# see both: without a penalty, sentiment is near its maximum by then.
#
# Where all rewards of a group are equal, all its advantages are 0, and it teaches nothing (but the KL
# term of `--beta`, which stands beside them, goes on pulling). A line of the log says so if it happens
# to a quarter of the groups.
# %%
from engine.common import read_jsonl
from engine.measuring.optimum import settings_of
from engine.measuring.runs import base_of, read_run
from engine.measuring.samples import print_samples, samples_of_run
from engine.pages import report
from train import train


def run(name, steps=None, **options):
    """Train with your rewards.py; the run is then in outputs/notebook/NAME."""
    with exercise():
        if steps := steps or STEPS:
            options |= {"max_steps": steps, "eval_steps": max(1, steps // 3)}
        train(
            preset=PRESET,
            output_dir=f"outputs/notebook/{name}",
            rewards=REWARDS,
            **options,
        )


def folder_of(name):
    """The folder of a run that has been trained."""
    folder = Path("outputs/notebook", name)
    if not (folder / "final").exists():
        raise UserError(f"there is no run '{name}'; its cell under Training says why.")
    return folder


def my_runs():
    """All finished runs of this notebook, the oldest first; none that was trained again (NAME.1)."""
    finals = sorted(
        Path("outputs/notebook").glob("*/final"), key=lambda final: final.stat().st_mtime
    )
    folders = [final.parent for final in finals]
    found = [read_run(f) for f in folders if not f.suffix or f.with_suffix("") not in folders]
    found = [one for one in found if one["manifest"]["options"]["preset"] == PRESET]
    if not found:
        raise UserError("there is no finished run; the cells under Training say why.")
    return found


# %% [markdown]
# ### Without a penalty, and with yours (core)
# %%
run("none")

# %%
run("forward", kl_type="forward")

# %% [markdown]
# Two more are for question 2 of the analysis; write them into a new cell:
# `run("weak", kl_type="forward", kl_coef=0.01)` and `run("strong", kl_type="forward", kl_coef=0.3)`.

# %% [markdown]
# ### With exercises 2a and 3c (optional)
# %%
run("exponential", reward_shaping="exponential", shaping_temperature=0.1)

# %%
run("backward", kl_type="backward")

# %% [markdown]
# ### Your runs in one picture
#
# Every line is one run, every point one of its validations. The cells below take all runs that you
# have trained so far; after another one, run them again.
# %%
with exercise():
    runs = my_runs()
    display(report.plot_curves(runs))

# %% [markdown]
# The same validations, sentiment against KL. The black line is the best that *any* policy can do
# from this base model. How it is known without training: `engine/measuring/optimum.py`.
# %%
with exercise():
    runs = my_runs()
    base = settings_of(*base_of(runs[0]))
    optimum = evaluate.optimum_of(base, folders=[run["folder"] for run in runs])
    display(report.plot_frontier(runs, [("", optimum)]))

# %% [markdown]
# ### Why is the loss near 0, and the ratio 1?
#
# Everybody asks this who looks at the log of such a run. Each batch is used for one gradient step, so the policy that is trained is still the one that sampled: the ratio $q/q_{old}$ is 1 for every token and nothing is ever clipped. The loss is then minus the mean advantage, and the advantages of a group add up to 0; what is left comes from texts of unequal length. So the *value* of the loss says nothing about learning. Its *gradient* is another matter: $-A \cdot \nabla \log q$ does not add up to 0. Watch the reward, not the loss. The picture shows it on your first run.
# %%
with exercise():
    log = read_jsonl(folder_of("none") / "metrics.jsonl", phase="train")
    plt.figure(figsize=(8, 3.5))
    for name, title in {
        "reward": "reward, mean of the batch",
        "grad_norm": "grad_norm: length of the gradient",
        "loss": "loss",
        "clip_ratio/region_mean": "clip_ratio: share of clipped tokens",
    }.items():
        dashes = "--" if name.startswith("clip") else "-"
        plt.plot([row["step"] for row in log], [row[name] for row in log], dashes, label=title)
    plt.gca().set(xlabel="step", ylabel="value", title="The run 'none' in the log of TRL")
    plt.legend(loc="upper left", bbox_to_anchor=(1, 1))
    plt.show()

# %% [markdown]
# **Nearly all texts are cut.** In the bundled setting 94.5 % of the base model's completions reach 32 tokens without an end (the column `finished` in the table of a run); 5.5 % end by themselves. TRL's `mask_truncated_completions=True` takes cut texts out of the loss, which helps where a cut answer is a wrong one. Here it would leave three or four of 64 completions to learn from in each step, and those are the unusually short ones. So this exercise leaves it off.
#
# More to try: `run("longer", steps=60)`, `run("own", own_grpo=True)`, `run("beta", beta=0.1)`,
# `run("shaped", reward_shaping="shaped")`,
# `run("negative", negate_reward=True)`, `run("stars", reward_shaping="five_stars")`. `beta=0.1` and
# `kl_coef=0.1` are not equally strong: docs/options.md has the exchange rate.

# %% [markdown]
# ## Collapse (core)
#
# Now a reward that can be cheated: the share of positive words in the text. Before you run the cell,
# write down the text that would earn the most. To get there takes longer, so this run has 60 steps.
# %%
run("hacked", hackable_reward=True, steps=60)

# %% [markdown]
# Ten of its samples. Change the name for those of another run.
# %%
with exercise():
    print_samples(samples_of_run(folder_of("hacked"), count=10))

# %% [markdown]
# ## Comparing (core)
#
# A mean sentiment is easy to fool. So there is a second opinion: the *judge* scores a text as the
# sentiment model does, from 0 to 1, but is another model that no policy is trained on; and what is no
# text gets 0.5 from it. Every figure is measured on the same prompts with the same seed for all
# models, from token ids.
# %%
samples = {}
with exercise():
    comparison = evaluate.compare_models(
        MODEL, folder_of("none") / "final", num_samples=4, max_new_tokens=LENGTH
    )
    samples = {"base": comparison["base"]["samples"], "none": comparison["trained"]["samples"]}
    evaluate.print_comparison_samples(comparison)
    evaluate.plot_comparison(comparison)
    plt.show()

# %% [markdown]
# All your runs. *Repeated n-grams* looks inside each text: the share of runs of n tokens that the text
# has used before. *Distinct 2-grams* puts all texts together: the share of pairs of neighbouring
# tokens that differ. *Self-BLEU* says how like the other texts a text is, from 0 to 1.
# %%
from engine.measuring.metrics import METRICS, add_self_bleu, summarise
from sentiment import load_judge


def figures(samples):
    """The metrics of a sample, with two that compare its texts with each other."""
    add_self_bleu(samples)
    return summarise(samples) | {"distinct_2": METRICS["distinct_2"].kind.value(samples)}


settings = {"max_new_tokens": LENGTH, "judge": load_judge()}
with exercise():
    for trained in my_runs():
        if trained["name"] != "none":  # the cell above has its samples
            policy, _ = load_model(trained["folder"] / "final")
            samples[trained["name"]] = evaluate.evaluate_model(
                policy, tokenizer, VALIDATION_PROMPTS, base_model, 4, **settings
            )["samples"]
    evaluate.print_metrics({name: figures(found) for name, found in samples.items()})

# %% [markdown]
# ## Could you just have asked? (optional)
#
# A prefix costs no training. Does it do what reinforcement learning did? Do the two add up? Try
# prefixes of your own. KL is measured from the base model without the prefix for both of them.
# %%
prefixes = ["Positive review: ", "I loved it! "]
with exercise():
    trained, _ = load_model(folder_of("none") / "final")
    models = {"base": base_model, "trained": trained}
    settings = {"score": mine().sentiment_reward, "samples_per_prompt": 2, "max_new_tokens": LENGTH}
    evaluate.print_prefixes(evaluate.compare_prefixes(models, tokenizer, prefixes, **settings))

# %% [markdown]
# ## Analysis
#
# Write your answers into `answers.md`, under *Analysis 1* to *Analysis 5*. Questions 2 and 3 are core,
# the others optional.
#
# 1. **Reward.** Which shaping learned fastest? Which gave the best texts? Were these the same? Why
#    do the runs with and without exponential shaping agree so well, even at $\tau = 0.1$?
# 2. **Price.** Look at sentiment against KL of your runs. What does the unregularised run buy with its
#    last nats? Train with `kl_coef` 0.3 and 0.01: what happens to sentiment and KL?
# 3. **Collapse.** Which run repeats itself within a text? Which begin to repeat themselves from text to
#    text? Name the rows of the table that show the one and the other, and give two samples of each.
#    Does the sentiment notice? Does the judge?
# 4. **Two divergences.** How do the runs with `forward` and `backward` differ in their texts? Which
#    texts would tell their optima apart, and what would a run need to show it?
# 5. **Prompting.** What can a prefix not do that training can, and the other way round?

# %% [markdown]
# ## A closer look at KL (optional)
#
# The lab works on eight tokens, where every mean is an exact sum. The table says how well each number
# estimates a divergence, and what it does when it is subtracted from the reward.
# %%
own = {}
with exercise():
    own = kl_lab.own_penalties(mine())
kl_lab.penalties(own)

# %% [markdown]
# Near agreement k3 is the best estimate of $KL(q‖p)$ (far away k1 varies less). As a penalty it is too
# weak, and in the end it loses the policy.
#
# ### The same number in another place
#
# TRL's own `--beta` does not subtract its number from the reward. It adds k3 to the loss and
# differentiates it, times the ratio $q/q_{old}$. That is why k3 is right there and wrong here: look
# which pale band each line follows. `python kl_lab.py texts` and `beta` go on to whole texts.
# %%
kl_lab.places(own)

# %% [markdown]
# ### Where the two divergences part
#
# $KL(q‖p)$ is called *mode-seeking*, $KL(p‖q)$ *mass-covering*: fitting a family of distributions to
# a $p$ that is not in it, the one picks a mode and the other covers all. A reward with a penalty is
# another task. Take texts of one token. Both optima keep the reference's odds between those of equal
# reward, so neither settles on one of them. They differ in the *tail*. A token whose reward is
# $\Delta$ below the best keeps $\exp(-\Delta/c)$ of its odds with the first, $c$ being the
# coefficient; with the second its share is about $c \cdot p/\Delta$. Of three tokens with
# $p$ = 0.5, 0.3, 0.2 and rewards 0.1, 0.9, 0.9, the bad one keeps
#
# | $c$ | `forward` | `backward` | `backward` with $\log r$ clamped at $\log 10$ |
# |---|---|---|---|
# | 0.1 | 0.0003 | 0.059 | 0.059 |
# | 0.05 | 0.0000001 | 0.030 | 0 |
# | 0.01 | 0 | 0.006 | 0 |
#
# The last column shows what a clamp does. In a long text the shares of its tokens multiply, and of a
# bad text far less is left: [docs/kl.md](docs/kl.md#what-the-optimum-keeps) has figures. These are
# statements about optima; runs of sixty steps do not show them.
#
# ### Why do your functions get log-probabilities and not texts?
#
# You may meet this exercise with `kl_penalty_forward(completions, prompts, ref_model, tokenizer,
# kl_coef)`, which returns `kl_coef * log_prob` of each text under the reference as a bonus, and with
# a backward version that returns `-kl_coef * exp(-log_prob)`. Both know $p$ alone. But a divergence
# compares two models: without $\log q$, the first pays for the text that the reference finds
# likeliest, which is short and dull, even where the policy *is* the reference already. The second
# is about $-e^{100}$ for a usual completion. A text alone does not tell $\log q$: it can be cut
# into tokens in several ways, and only the sampler knows which it drew. So `train.py` measures
# both models on the very tokens that were sampled, once, and your functions get the two tables
# and a mask, `(policy_log_probs, ref_log_probs, mask, kl_coef)`. What needs the reference and texts
# is exercise 3a.

# %% [markdown]
# ## Bonus (optional)
#
# - **A reward of your own.** Combine sentiment with length, endings, a topic. First write down what
#   you expect. `my_custom_reward` in `rewards.py` is trained with
#   `run("custom", reward_shaping="custom")`.
# - **Sampling temperature.** Generate from a trained model at temperatures 0.5, 1 and 1.5: which
#   figures move, and in which direction?
# - **A larger model.** `python train.py --model_name gpt2-medium --preset quick` on a GPU: does more
#   model buy more sentiment at the same KL?
#
# {hints bonus}
# %%
with exercise():
    print([round(float(reward), 2) for reward in mine().my_custom_reward(texts)])

# %%
with exercise():
    trained, _ = load_model(folder_of("none") / "final")
    for temperature in (0.5, 1.0, 1.5):
        text = generate_completions(trained, tokenizer, ["The film"], LENGTH, temperature)[0]
        print(f"{temperature}: The film{text}")

# %% [markdown]
# ## What to take along
#
# - The reward is the specification. The policy will satisfy it to the letter.
# - GRPO sees rewards only relative to their group: without a penalty, scale and shift are invisible,
#   and a group of equal rewards teaches nothing.
# - A KL penalty buys text quality with reward. What counts is the force it exerts, not how well it
#   estimates the divergence.
# - Never judge a policy by the number it was trained on alone.
#
# Read on: [GRPO, in the DeepSeekMath paper](https://arxiv.org/abs/2402.03300) ·
# [Approximating KL divergence, Schulman](http://joschu.net/blog/kl-approx.html) ·
# [gradients of KL penalties, Tang & Munos](https://arxiv.org/abs/2506.09477) ·
# [fine-tuning from preferences, Ziegler et al.](https://arxiv.org/abs/1909.08593) ·
# [TRL](https://huggingface.co/docs/trl)
