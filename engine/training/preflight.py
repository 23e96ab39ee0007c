"""What could go wrong with a run, looked at before it starts: `python train.py --check`.

Reads configurations and sizes, never weights, so that it takes seconds for a large model too.
"""

import importlib.metadata
import os
import shutil
import sys
from pathlib import Path

from engine.common import ROOT, UserError
from engine.course.checklist import to_do
from engine.course.student import load_rewards, rewards_file
from engine.measuring.labels import labels_of, star_order
from engine.model.architecture import vocabulary_size
from engine.model.loading import add_lora, load_pretrained, load_tokenizer, require_tokens
from engine.model.processes import is_sharded, this_process
from engine.training.checkpoints import KEPT
from engine.training.run_folder import require_own
from engine.training.trackers import require_tracker

GOOD, DOUBTFUL, BAD = "[green]✓[/]", "[yellow]?[/]", "[red]✗[/]"
ADAM = 3  # copies of the weights in a checkpoint: the weights and two moments
PROGRAM = 0.8e9  # bytes of Python with torch, transformers and TRL before any model
WORK_SPACE = 0.25e9  # bytes on a GPU: of cuBLAS, the logits made at a time, gaps


def require_possible(options):
    """Refuse what no run can do, before any model is loaded.

    Raises:
        UserError: LoRA with sharded weights, a batch or an algorithm that the processes cannot
            share, or a tracker that is not installed.
    """
    batch = options.batch_size
    processes = this_process().count
    if batch % processes:
        raise UserError(f"--batch_size {batch} does not divide by {processes} processes.")
    if options.credit == "prefix" and batch // processes % options.num_generations:
        raise UserError(
            f"--credit prefix needs whole groups of {options.num_generations} in each of the "
            f"{processes} processes: make --batch_size a multiple of "
            f"{options.num_generations * processes}."
        )
    if options.own_grpo and processes > 1:
        raise UserError("--own_grpo takes the mean over its own batch: use one process.")
    if is_sharded() and options.use_peft:
        raise UserError(
            "--use_peft trains few weights, and this launch shards them: leave one of the two out."
        )
    require_tracker(options.report_to)


def check_python():
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < (3, 11):  # noqa: UP036 — to say so is the point
        return BAD, f"{version}; 3.11 to 3.14 is needed"
    if sys.version_info >= (3, 15):
        return DOUBTFUL, f"{version}: newer than what this was tried with, 3.11 to 3.14"
    return GOOD, version


def check_packages():
    """Installed versions against those that pyproject.toml asks for."""
    import tomllib  # Python 3.10 has none

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    missing, other = [], []
    for name, pin in (line.split("==") for line in project["dependencies"]):
        try:
            version = importlib.metadata.version(name).split("+")[0]  # torch 2.13.0+cpu
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if version != pin:
            other.append(f"{name} {version}, not {pin}")
    if missing:
        return BAD, f"missing: {', '.join(missing)}; pip install -r requirements.txt"
    if other:
        return DOUBTFUL, f"{'; '.join(other[:3])}: not the versions this was tried with"
    return GOOD, "all as pinned"


def check_device():
    import torch

    if torch.cuda.is_available():
        return GOOD, f"{torch.cuda.get_device_name()} (CUDA)"
    if torch.backends.mps.is_available():
        return GOOD, "Apple GPU (MPS)"
    return GOOD, f"CPU, threads of torch: {torch.get_num_threads()}"


def weights_of(config):
    """About how many weights a transformer has: embeddings, and 12 h² a layer."""
    places = getattr(config, "max_position_embeddings", 512)
    return (config.vocab_size + places) * config.hidden_size + weights_of_layers(config)


def weights_of_layers(config):
    hidden = config.hidden_size
    inner = getattr(config, "n_inner", None) or getattr(config, "intermediate_size", 4 * hidden)
    return config.num_hidden_layers * (4 * hidden**2 + 2 * hidden * inner)


def memory_of_a_step(options, config, classifier, gpu, prompt_tokens=12):
    """Bytes that a run needs at most: an estimate, of the memory of a GPU or of the machine.

    float32 weights, gradients and two Adam moments of the policy; weights of the reference, of
    TRL's own one with --beta, and of the sentiment model; and what `on_gpu` or `on_cpu` adds.
    """
    weights = weights_of(config)
    trained = 0.03 if options.use_peft else 1.0
    references = (not options.use_peft) * (1 + (options.beta > 0))
    models = (1 + 3 * trained + references) * weights + weights_of(classifier)
    tokens = options.batch_size * (options.max_completion_length + prompt_tokens)
    return 4 * models + (on_gpu if gpu else on_cpu)(options, config, tokens)


def on_gpu(options, config, tokens):
    """What a step keeps beside the models, for batches of so many tokens: bytes.

    Within a sixth of what PyTorch had reserved on an H200 (`docs/gpu.md`). Autocast's copy of the
    weights; what backward keeps, 34 bytes per token, layer and hidden unit in 16 bits (Korthikanti
    et al. 2022, arXiv 2205.05198); keys and values of the rollout, and with LoRA the weights that
    it has merged; work space.
    """
    units = tokens * config.num_hidden_layers * config.hidden_size
    merged = 4 * weights_of_layers(config) if options.use_peft else 0
    return 2 * weights_of(config) + 34 * units + 2 * 4 * units + merged + WORK_SPACE


def on_cpu(options, config, tokens):
    """The same, in the memory of the machine.

    Within a third of what we measured where TRL makes the log-probabilities. A GPT-2, where
    `engine.model.output_layer` does, takes about half.

    The program; what backward keeps: about 40 values per token, layer and hidden unit, and four
    copies of the completion's logits.
    """
    kept = 40 * tokens * config.num_hidden_layers * config.hidden_size
    logits = 4 * options.batch_size * options.max_completion_length * config.vocab_size
    return PROGRAM + 4 * (kept + logits)


def free_memory():
    """(bytes that a run could take, whether they are a GPU's): else they are the machine's."""
    import psutil
    import torch

    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0], True
    return psutil.virtual_memory().available, False


def gigabytes(size):
    return f"{size / 1e9:.1f} GB"


def check_memory(options, config, classifier):
    free, gpu = free_memory()
    need = memory_of_a_step(options, config, classifier, gpu)
    text = f"about {gigabytes(need)} needed, {gigabytes(free)} free"
    if need > free:
        return BAD, f"{text}; --use_peft, a smaller --batch_size or --max_completion_length"
    return (GOOD if need < 0.8 * free else DOUBTFUL), text


def check_disk(options, config):
    folder = Path(options.output_dir).absolute()
    try:
        require_own(folder)
    except UserError as error:
        return BAD, str(error)
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        return BAD, f"cannot write to {folder}; choose another --output_dir"
    size = 4 * weights_of(config)
    need = size if options.use_peft else size * (1 + ADAM * (KEPT + 1))
    free = shutil.disk_usage(folder).free
    text = f"about {gigabytes(need)} needed in {folder}, {gigabytes(free)} free"
    return (GOOD, text) if need < free else (BAD, f"{text}; choose another --output_dir")


def check_model(name, require):
    """(mark, text, configuration or None) of a model: a folder, in the cache, or on the Hub.

    Args:
        require: callable(configuration, tokenizer), which raises UserError where the run would.
    """
    from huggingface_hub import try_to_load_from_cache
    from transformers import AutoConfig

    short = name.removeprefix(f"{ROOT}/")
    adapter = (Path(name) / "adapter_config.json").exists()
    try:
        config = load_pretrained(AutoConfig, name)
        tokenizer = load_tokenizer(name)
        if adapter:  # the run gives its base an embedding for each of its tokens
            sizes = config.get_text_config()
            sizes.vocab_size = max(sizes.vocab_size, len(tokenizer))
        require(config, tokenizer)
    except UserError as error:
        return BAD, str(error), None
    if Path(name).is_dir():
        found = any(Path(name).glob("*.safetensors"))
        text = "an adapter, which the run merges into its base" if adapter else "a folder"
        text += "" if found else ", without a file of weights (*.safetensors)"
        return (GOOD if found else BAD), f"{short}: {text}", config
    files = ("model.safetensors", "model.safetensors.index.json")
    if any(isinstance(try_to_load_from_cache(name, file), str) for file in files):
        return GOOD, f"{short}: in the local cache", config
    return GOOD, f"{short}: on the Hub; the run will download it", config


def require_policy(options, config, tokenizer):
    """Refuse what the run would: a tokenizer, or an architecture that PEFT has no LoRA for."""
    import torch
    from transformers import AutoModelForCausalLM

    require_tokens(tokenizer, vocabulary_size(config), options.model_name)
    if options.use_peft:
        with torch.device("meta"):  # without weights
            add_lora(AutoModelForCausalLM.from_config(config, trust_remote_code=False))


def check_batch(options, prompts):
    groups = options.batch_size // options.num_generations
    passes = options.max_steps * groups / len(prompts)
    return GOOD, (
        f"{options.max_steps} steps × {groups} prompts × {options.num_generations} completions: "
        f"{passes:.1f} passes over {len(prompts)} prompts"
    )


def check_student(path, needed):
    """Whether the functions that this run calls are written."""
    try:
        rewards = load_rewards(path)
    except UserError as error:
        return BAD, str(error)
    gone = [name for name in sorted(needed) if getattr(rewards, name, None) is None]
    if gone:
        return BAD, f"{path.name} has no function {', '.join(gone)}, which this run calls"
    missing = [f"{label}: {name}" for name, label in to_do(path).items() if name in needed]
    if missing:
        other = "; or --use_solution" if rewards_file(use_solution=True).is_file() else ""
        return BAD, f"still to write in {path.name}: {', '.join(missing)}{other}"
    return GOOD, f"{path.name} has what this run calls"


def run(options, console, read_prompts, rewards, needed):
    """Print the table; True if nothing stands in the way.

    Args:
        options: of the run that is planned.
        read_prompts: callable() -> the training prompts; UserError where they cannot be read.
        rewards: path of the rewards file.
        needed: names of the functions in it that the run calls.
    """
    python = check_python()
    packages = [("packages", *check_packages())] if python[0] != BAD else []
    rows = [("python", *python), *packages, ("device", *check_device())]
    try:
        require_tracker(options.report_to)
    except UserError as error:
        rows.append(("tracker", BAD, str(error)))
    *model, config = check_model(
        options.model_name, lambda config, tokenizer: require_policy(options, config, tokenizer)
    )
    *scorer, classifier = check_model(
        options.sentiment_model,
        lambda config, _: star_order(labels_of(config), options.sentiment_model),
    )
    rows += [("model", *model), ("sentiment", *scorer)]
    if config and classifier:
        rows.append(("memory", *check_memory(options, config, classifier)))
    if config:
        rows.append(("disk", *check_disk(options, config)))
    try:
        rows.append(("batch", *check_batch(options, read_prompts())))
    except UserError as error:
        rows.append(("batch", BAD, str(error)))
    rows.append(("exercises", *check_student(rewards, needed)))
    for name, mark, text in rows:
        console.print(f"{mark} {name:10}", end="")
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    return not any(mark == BAD for _, mark, _ in rows)
