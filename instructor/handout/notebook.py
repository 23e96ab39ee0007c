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
#
# **Afterwards you can** write rewards and say what they ask for; tell which changes of a reward GRPO
# sees and which not; read log-probabilities from a model; say why a good *estimate* of a divergence
# can be a harmful *penalty*; and judge a trained policy by more than its reward.
#
# **To open this notebook:** `pip install -r requirements-notebook.txt`, then
# `jupyter lab exercise.ipynb`. VS Code with its Jupyter extension needs `requirements.txt` alone. On
# Colab the first two cells fetch the rest, in a minute or two, and a T4 trains faster than the times
# below say (a guess: we have not measured it).
#
# **Your code** goes into `rewards.py`, nowhere else. Save it and run a cell again: the cells load the
# file anew. On Colab it is in the folder that the second cell names, a double-click in the list of
# files at the left opens it; download it before you leave, for Colab forgets it.
#
# **Hand in** `rewards.py` and `answers.md`, with your answers to the questions of `rewards.py` and of
# the analysis below.
#
# **Core, about three hours of yours:** exercises 1, 3b and 4, the runs `none`, `forward`, `weak`,
# `strong` and `hacked`, and questions 2 and 3 of the analysis. **Optional, one to two hours more:**
# exercises 2, 3a and 3c, the other runs and questions, a closer look at KL, and the bonus. The
# headings say *core* or *optional*. (Estimates. If you take this as a course, ask what counts there.)
#
# All cells together take {time} of computing; each heading says how much of it is its own. (Bundled
# models, no GPU, no network; measured on {hardware}.) Cells whose exercise is still to do say
# *Not yet* and go on.
#
# **Hints** open one after the other below each exercise, or by `python rewards.py --hint 3b`.
# %%
REPO = ""  # where to fetch the exercise if it is not beside this notebook: a repository or a zip

# %% [hidden]
# @title The files of the exercise: beside this notebook, or fetched from REPO
import importlib.metadata
import os
import subprocess
import sys
import tomllib
import urllib.request
import zipfile
from pathlib import Path

# This code is written for these versions. Of all other packages any will do: Colab keeps its torch,
# which fits its GPU and takes minutes to replace.
EXACT = ("transformers", "trl", "datasets", "accelerate", "peft")


class Stop(Exception):
    """Ends "Run all" with one line in the place of a traceback."""

    def _render_traceback_(self):
        return [str(self)]


def fetch(folder):
    """Clone REPO, or unpack it if it is a zip."""
    try:
        if REPO.endswith(".zip"):
            archive, _ = urllib.request.urlretrieve(REPO)
            zipfile.ZipFile(archive).extractall(folder)
        else:
            command = ["git", "clone", "--quiet", "--depth", "1", REPO, str(folder)]
            subprocess.run(command, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        raise Stop(f"Cannot fetch {REPO}: {error.stderr.strip()}") from error
    except (OSError, zipfile.BadZipFile) as error:
        raise Stop(f"Cannot fetch {REPO}: {error}") from error


def missing():
    """The packages that pyproject.toml asks for and that are not installed."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    for package in project["dependencies"]:
        name, _, version = package.partition("==")
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found = None
        if found is None or (name in EXACT and found != version):
            yield package


if not Path("train.py").exists():
    if not REPO:
        raise Stop(
            "Put this notebook into the folder of the exercise, beside train.py, or write "
            'the address of that folder\'s repository or zip between the quotes of REPO = "".'
        )
    folder = Path(Path(REPO).name.removesuffix(".git").removesuffix(".zip"))
    if not folder.exists():
        fetch(folder)
    os.chdir(min(folder.rglob("train.py"), key=lambda path: len(path.parts)).parent)
    sys.path.insert(0, os.getcwd())
    if packages := list(missing()):
        print(f"Installing {', '.join(packages)} …")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", *packages]
        done = subprocess.run(pip, capture_output=True, text=True)
        if done.returncode:
            raise Stop(f"pip failed: {done.stderr.strip()}")
    print(f"The exercise is in {os.getcwd()}")
elif packages := list(missing()):
    print(f"Not here: {', '.join(packages)}. Run: pip install -r requirements.txt")

# %%
PRESET = "tiny"  # or "quick": GPT-2 itself and a large sentiment model; wants a GPU and network
STEPS = 24  # training steps of a run that names none; None: as many as the preset says
REWARDS = None  # None: your rewards.py; or the name of another file

# %%
import inspect
import math
import warnings
from contextlib import contextmanager

warnings.filterwarnings("ignore", message="IProgress not found")
from engine.common import UserError, quiet_libraries, short_path

quiet_libraries()

import matplotlib.pyplot as plt
import torch

import kl_lab
from engine.course.student import Called, is_to_do, load_rewards, rewards_file
from engine.model.loading import load_model
from engine.options import PRESETS
from grpo_from_scratch import WORDS, Held, train_toy
from sentiment import get_sentiment_scores, get_star_probs, load_sentiment_model

MODEL = PRESETS[PRESET]["model_name"]
LENGTH = PRESETS[PRESET]["max_completion_length"]
load_sentiment_model(PRESETS[PRESET]["sentiment_model"])


@contextmanager
def exercise():
    """What is still to do prints a line instead of stopping the notebook."""
    try:
        yield
    except (NotImplementedError, UserError) as todo:
        if isinstance(todo, NotImplementedError) and not is_to_do(todo):
            raise  # torch has errors of this kind too
        print(f"Not yet: {todo}")


def mine():
    """Your rewards.py, as it is saved now."""
    return load_rewards(rewards_file(path=REWARDS))


gpu = torch.cuda.is_available()
device = torch.cuda.get_device_name() if gpu else f"{os.cpu_count()} CPU cores, no GPU"
print(f"policy {short_path(MODEL)}, on {device}")

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
# ## Exercise 1: the sentiment as reward (core)
#
# The first reward is written already, so that you can train at once. It is one line of `rewards.py`.
# Answer its question in `answers.md`; the cell is a place to try things out.
#
# {hints 1}
# %%
with exercise():
    print(inspect.getsource(mine().sentiment_reward))
    for completion in (" great fun from start to end.", " a dull and endless mess."):
        alone, together = mine().sentiment_reward([completion, "The worst film was" + completion])
        print(f"{alone:.3f} alone, {together:.3f} after a negative prompt: {completion}")

# %% [markdown]
# ## Exercise 2: shaping (optional)
#
# GRPO only sees how a completion compares with its group. Advantages do not change if every reward
# is multiplied by two or raised by three: *linear* shaping does nothing. (Unless a penalty is
# subtracted, as in exercise 3: then twice the reward is half the penalty.) A bent curve does
# something. The exponential
#
# $$\text{reward} = \exp(\text{score} / \tau) - 1$$
#
# spreads the best completions apart and presses the bad ones together; the lower the temperature
# $\tau$, the stronger the effect.
#
# **Exercise 2a**: write `shaped_reward_exponential` in `rewards.py`.
# `python -m pytest --student -m exercise2a` tests it, and the cell shows what it pays for the texts
# above.
#
# {hints 2a}
# %%
with exercise():
    for temperature in (1.0, 0.1):
        shaped = mine().shaped_reward_exponential(texts, temperature=temperature)
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
    "exp(score / 0.1) − 1": lambda s: (s / 0.1).exp() - 1,
}
for marker, (name, shape) in zip("ox^vs", shapes.items()):
    style = dict(marker=marker, linestyle="--" if marker == "x" else "-")
    curve = shape(scores) - shape(scores).min()
    curves.plot(scores, curve / curve.max(), label=name, markevery=10, **style)
    rewards = shape(group)
    advantages.plot(group, (rewards - rewards.mean()) / rewards.std(), label=name, **style)
curves.set(xlabel="sentiment score", ylabel="reward, scaled to [0, 1]", title="Reward of a score")
advantages.set(xlabel="sentiment score", ylabel="(reward − mean) / standard deviation")
advantages.set(title="Advantage in a group of eight completions")
curves.legend()
advantages.legend()
plt.show()

# %% [markdown]
# The two straight lines are one line after normalisation. At $\tau = 1$ the curve is so straight that the advantages are nearly those of the score: in groups of eight texts of the bundled base model they correlate at 0.995. The correlation is 0.93 at $\tau = 0.25$, where the best three of these eight completions have nearly all of the positive advantage, and 0.81 at $\tau = 0.1$.
#
# **Exercise 2b** is open: in `rewards.py`, write a `shaped_reward` of your own that also looks at
# the text. `python -m pytest --student -m exercise2b` tells you what any sensible one fulfils.
#
# {hints 2b}
# %%
with exercise():
    shaped = mine().shaped_reward([0.9, 0.9], [texts[0], texts[-1]])
    print([round(float(reward), 3) for reward in shaped], "for a review and for an empty cheer")

# %% [markdown]
# ## Exercise 3: staying close to the reference
#
# Nothing in the reward says that the text should remain a review. The KL penalty does: it compares
# the policy $q$ with the *reference* $p$, the frozen model that training started from. The *KL
# divergence* is their distance: how much likelier, on average and as a logarithm, the policy finds its
# own texts than the reference does. For that we need log-probabilities. The logarithms are natural
# ones, and their unit is the *nat*: one nat less is a probability $e$ ≈ 2.7 times smaller.
#
# The model reads tokens $1 \dots t$ and predicts token $t + 1$, so the logits at position $t$ belong
# to the *next* token.
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
# ### Exercise 3a: the same for completions (optional)
#
# Write `compute_ref_log_probs` in `rewards.py` (`python -m pytest --student -m exercise3a`).
#
# {hints 3a}
# %%
with exercise():
    completions = [" great fun and I loved it.", " the the the the the the the."]
    prompts = ["This movie was"] * 2
    function = mine().compute_ref_log_probs
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
# The flags' names are those of this exercise; the literature uses the words the other way round, so
# trust the formula. In short runs the two differ little; *A closer look at KL*, after the training,
# says where they part.
#
# ### An estimate is not a penalty
#
# The samples come from $q$. With $r = p(x)/q(x)$, several numbers per token estimate one of the
# divergences by their mean, and it is well studied which of them does it best. It is tempting to
# subtract the best one from the reward. But a reward is a plain number $c(x)$: subtracting it moves the
# policy along $-E_q[c \cdot \nabla \log q]$, and that is not the gradient of $E_q[c]$, because $c$
# itself depends on $q$ and its gradient is lost.
#
# The picture has four such numbers. On the right are tokens that the policy likes more than the
# reference does, on the left those that it likes less. Your own functions appear in it, dashed, when
# you run the cell again.
# %%
own = {}
with exercise():
    own = kl_lab.own_penalties(mine())
kl_lab.costs(own)

# %% [markdown]
# Look at $r \log r$. Around 0, where policy and reference nearly agree, the cost *falls* as the
# policy comes to like a token more than the reference does. Subtracted from the reward, it pays the
# policy for leaving. Then look at k3, near agreement the best estimate of $KL(q‖p)$: flat at 0, so
# that it hardly pulls at all. A penalty has to *rise* through 0, and none of these four does.
#
# ### Exercise 3b: a penalty for $KL(q‖p)$ (core)
#
# `kl_penalty_forward`: find the number that pulls with the exact gradient of $KL(q‖p)$. The docstring
# in `rewards.py` says how to derive it. `python -m pytest --student -m exercise3b` tests it.
#
# {hints 3b}
#
# ### Exercise 3c: a penalty for $KL(p‖q)$ (optional)
#
# `kl_penalty_backward`: the same for the other divergence.
#
# {hints 3c}

# %% [markdown]
# ## Exercise 4: GRPO itself (core)
#
# A reward is not yet a step. What turns eight rewards into a step of the policy is GRPO, and it is
# short:
#
# ```
#            the policy         exercises 1 to 3         4a              4b
# prompt ──→ 8 completions ──→ 8 rewards        ──→ 8 advantages ──→ one loss ──→ a step
#                              score − penalty       within the group   and its gradient
# ```
#
# ### Exercise 4a: advantages (core)
#
# `group_advantages`: how much better than its group each completion did.
#
# {hints 4a}
# %%
with exercise():
    rewards = torch.tensor([0.1, 0.5, 0.9, 0.90, 0.91, 0.92, 0.4, 0.4, 0.4])
    advantages = torch.as_tensor(Called(mine()).group_advantages(rewards, 3))
    for group, values in zip(rewards.view(-1, 3).tolist(), advantages.view(-1, 3).tolist()):
        print("rewards", [f"{x:.2f}" for x in group], "advantages", [f"{x:+.2f}" for x in values])

# %% [markdown]
# ### Exercise 4b: the loss (core)
#
# `policy_loss`: the clipped loss of a batch. The cell draws yours for a single token against its
# ratio $\rho$. A flat piece has no gradient: there the token is no longer pushed. On which side, and for which
# advantage?
#
# {hints 4b}
# %%
with exercise():
    loss = Called(mine()).policy_loss
    ratios = torch.linspace(0.5, 1.5, 101)
    one = torch.ones(1, 1).bool()
    for advantage in (1.0, -1.0):
        told = (torch.zeros(1, 1), torch.tensor([advantage]), one)
        losses = [float(loss(ratio.log().view(1, 1), *told)) for ratio in ratios]
        plt.plot(
            ratios, losses, "-" if advantage > 0 else "--", label=f"advantage {advantage:+.0f}"
        )
    plt.axvspan(0.8, 1.2, alpha=0.1, label="inside 1 ± ε")
    plt.xlabel("ratio: how likely the token is now, compared with when it was sampled")
    plt.ylabel("loss")
    plt.legend()
    plt.show()

# %% [markdown]
# With these two functions `grpo_from_scratch.py` trains a policy over six words. Without a penalty it
# ends with the best-paid word alone. With one it ends near $q \propto p \cdot \exp(\text{reward} / c)$,
# where $c$ is the coefficient.
#
# `--own_grpo` trains GPT-2 with them: `python train.py --preset tiny --own_grpo`, or below
# `run("own", own_grpo=True)`. If they are right, this is TRL's run again.
# %%
with exercise():
    paths = {kl_coef: train_toy(Called(mine()), Held(kl_coef=kl_coef)) for kl_coef in (0.0, 0.3)}
    panels = plt.subplots(1, 2, figsize=(11, 3.5), sharey=True, layout="constrained")[1]
    for panel, (kl_coef, path) in zip(panels, paths.items()):
        for marker, word, shares in zip("os^vPX", WORDS, path.T):
            panel.plot(shares, marker=marker, markevery=10, label=word)
        title = f"KL penalty of strength {kl_coef}" if kl_coef else "No penalty"
        panel.set(xlabel="step", title=title)
        panel.legend(title="word")
    panels[0].set(ylabel="probability of a word")
    plt.show()
