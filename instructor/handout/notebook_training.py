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
plt.legend()
plt.show()
print(f"positive: {(scores > 0.5).float().mean():.0%}, standard deviation {scores.std():.2f}")


# %% [markdown]
# ## Training
#
# `train` takes the options of the command line. Each run below samples 64 completions per step,
# 8 for each of 8 prompts. Watch the validation rows: sentiment is what you pay for, KL and reference
# perplexity are the price. 24 steps are enough to see both: without a penalty, sentiment is near its
# maximum by then.
# %%
from engine.common import read_jsonl
from engine.measuring.optimum import settings_of
from engine.measuring.runs import base_of, read_run
from engine.pages import report
from train import train


def run(name, **options):
    """Train with your rewards.py; the run is then in outputs/notebook/NAME."""
    with exercise():
        if STEPS:
            options |= {"max_steps": STEPS, "eval_steps": max(1, STEPS // 3)}
        train(
            preset=PRESET,
            output_dir=f"outputs/notebook/{name}",
            use_solution=USE_SOLUTION,
            **options,
        )


def folder_of(name):
    """The folder of a run that has been trained."""
    folder = Path("outputs/notebook", name)
    if not (folder / "final").exists():
        raise UserError(f"there is no run '{name}'; its cell under Training says why.")
    return folder


run("none")

# %%
run("exponential", reward_shaping="exponential", shaping_temperature=0.1)

# %%
run("forward", kl_type="forward")

# %%
run("backward", kl_type="backward")

# %% [markdown]
# ### Your runs in one picture
#
# Every line is one run, every point one of its validations.
# %%
runs = []
for name in ("none", "exponential", "forward", "backward"):
    with exercise():
        runs.append(read_run(folder_of(name)))
if runs:
    display(report.plot_curves(runs))

# %% [markdown]
# The same validations, sentiment against KL. The black line is the best that *any* policy can do
# from this base model. How it is known without training: `engine/measuring/optimum.py`.
# %%
with exercise():
    if not runs:
        raise UserError("there is no trained run to draw.")
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
# More to try, one line each: `run("shaped", reward_shaping="shaped")`,
# `run("hacked", hackable_reward=True)`, `run("negative", negate_reward=True)`,
# `run("stars", reward_shaping="five_stars")`, `run("beta", beta=0.1)`, `run("strong",
# kl_type="forward", kl_coef=1.0)`. Put the names into the two cells of pictures. `beta=0.1` and
# `kl_coef=0.1` are not equally strong: docs/options.md has the exchange rate.
#
# ## Comparing
#
# A mean sentiment is easy to fool. Every figure here is measured on the same prompts with the same
# seed for both models, from token ids.
# %%
results = {}
with exercise():
    comparison = evaluate.compare_models(
        MODEL, folder_of("none") / "final", num_samples=4, max_new_tokens=LENGTH
    )
    results["base"] = comparison["base"]["metrics"]
    results["none"] = comparison["trained"]["metrics"]
    evaluate.print_comparison_samples(comparison)
    evaluate.plot_comparison(comparison)
    plt.show()

# %%
for name in ("exponential", "forward", "backward"):
    with exercise():
        policy, _ = load_model(folder_of(name) / "final")
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
with exercise():
    trained, _ = load_model(folder_of("none") / "final")
    models = {"base": base_model, "trained": trained}
    settings = {"score": mine().sentiment_reward, "samples_per_prompt": 2, "max_new_tokens": LENGTH}
    evaluate.print_prefixes(evaluate.compare_prefixes(models, tokenizer, prefixes, **settings))

# %% [markdown]
# ## Analysis
#
# Write your answers into `answers.md`, under *Analysis 1* to *Analysis 5*.
#
# 1. **Reward.** Which shaping learned fastest? Which gave the best texts? Were these the same? Why
#    do the runs with and without exponential shaping agree so well, even at $\tau = 0.1$?
# 2. **Price.** Look at sentiment against KL of your runs. What does the unregularised run buy with its
#    last nats? What happens to both at `kl_coef` 1.0, and at 0.01?
# 3. **Collapse.** Read twenty samples of each run. Which ones repeat themselves, within a text or
#    between texts, and which column of the tables shows it?
# 4. **Two divergences.** How do the runs with `forward` and `backward` differ in their texts? Which
#    texts would tell their optima apart, and what would a run need to show it?
# 5. **Prompting.** What can a prefix not do that training can, and the other way round?

# %% [markdown]
# ## Bonus
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
