"""Runs as `train.py` leaves them in their folders: what they measured, and how they sampled."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypedDict

from engine.common import MANIFEST, UserError, read_jsonl
from engine.measuring.metrics import Estimate, by_prompt, mean_of
from engine.measuring.optimum import Base, Optimum, settings_of
from engine.options import FIELDS, NLPTOWN, Options, files_of, read_manifest


class Run(TypedDict):
    """A run, from the files in its folder."""

    name: str
    folder: Path
    manifest: dict[str, Any]  # its run.json, with every option that there is today
    validations: list[dict]  # figures, by step
    completions: list[dict]  # every sample of every validation
    explore: list[dict]  # rows of explore.jsonl, which older runs do not have


def read_run(folder: str | Path) -> Run:
    """The run in a folder, or in the parent of its `final`.

    Raises:
        UserError: the folder holds no run, or one without a validation.
    """
    folder = Path(folder)
    folder = folder.parent if folder.name == "final" else folder
    manifest = read_manifest(folder)
    explore = folder / "explore.jsonl"
    try:
        run = Run(
            name=folder.name,
            folder=folder,
            manifest=manifest,
            validations=read_jsonl(folder / "metrics.jsonl", phase="validation"),
            completions=read_jsonl(folder / "completions.jsonl"),
            explore=read_jsonl(explore) if explore.exists() else [],
        )
        if not all("step" in row for row in [*run["validations"], *run["completions"]]):
            raise ValueError
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(
            f"The run in '{folder}' cannot be read ({type(error).__name__} in metrics.jsonl, "
            "completions.jsonl or explore.jsonl)."
        ) from error
    if not run["validations"]:
        raise UserError(f"The run in '{folder}' has no validation yet.")
    return run


def read_runs(folders: Iterable[str | Path]) -> list[Run]:
    """The runs in several folders; of an equal name, each is named by its path as given."""
    runs = [read_run(folder) for folder in folders]
    names = [run["name"] for run in runs]
    for run in runs:
        if names.count(run["name"]) > 1:
            run["name"] = str(run["folder"])
    return runs


def changed_rewards(manifest: dict[str, Any]) -> str:
    """The name of the rewards file of a run, if what the run called in it is another today; an
    empty string if not, and for a run of an older version, which did not record it."""
    from engine.course.checklist import code_sum  # loads torch, for which --help need not wait

    options = Options(**{name: manifest["options"][name] for name in FIELDS})
    path, then = Path(str(files_of(options)["rewards"])), manifest.get("rewards_code")
    if then is None or not path.is_file():
        return ""
    try:
        same = code_sum(path, manifest["rewards_called"]) == then
    except SyntaxError:  # it is being written
        same = False
    return "" if same else path.name


def base_of(run: Run) -> Base:
    """What a run started from: runs with equal bases have one optimum."""
    return Base(*(run["manifest"]["options"][name] for name in Base._fields))


def model_of(name: str) -> str:
    """A run's folder as the folder of its model; any other name as it is."""
    return str(Path(name) / "final") if (Path(name) / "final").is_dir() else name


def base_name(model: str) -> str | None:
    """The name of the model that the run of OUTPUT_DIR/final started from; None for any other.

    Raises:
        UserError: the run's run.json is damaged.
    """
    folder = Path(model).resolve().parent
    known = (folder / MANIFEST).exists()
    return read_manifest(folder)["options"]["model_name"] if known else None


def run_settings(*model_names: str) -> dict[str, Any]:
    """How the run that made one of the models, OUTPUT_DIR/final, sampled and scored.

    The first name that is part of a run counts; otherwise the defaults, with the sentiment model
    that lies beside a bundled model.

    Returns:
        dict with `sentiment_model`, `max_new_tokens` and `temperature`.

    Raises:
        UserError: the run's run.json is damaged.
    """
    folders = [Path(name).resolve().parent for name in model_names]
    runs = [folder for folder in folders if (folder / MANIFEST).exists()]
    options = read_manifest(runs[0])["options"] if runs else {}
    neighbours = [folder / "sentiment" for folder in folders if (folder / "sentiment").is_dir()]
    return {
        "sentiment_model": options.get("sentiment_model", str([*neighbours, NLPTOWN][0])),
        "max_new_tokens": options.get("max_completion_length", 48),
        "temperature": options.get("temperature", 1.0),
    }


def asked_kl_coef(options: dict[str, Any]) -> float | None:
    """The kl_coef of a run that was asked for the highest sentiment − kl_coef · KL(policy‖ref).

    None for a run that was asked for something else: another reward or divergence, or a KL.
    """
    sentiment = options["reward_shaping"] == "linear" and not options["hackable_reward"]
    alone = not options["negate_reward"] and not options["beta"] and options["kl_target"] is None
    if options["kl_type"] == "forward" and sentiment and alone:
        return options["kl_coef"] or None
    return None


def paid_by(run: Run, optima: Iterable[Optimum]) -> dict[str, Estimate | None]:
    """What a run's last validation paid its nats for, as `Optimum.paid` tells it.

    Returns:
        Without figures, {}, where none of the optima is that of the run's base and prompts.
    """
    last = run["validations"][-1]["step"]
    samples = [row for row in run["completions"] if row["step"] == last]
    options = run["manifest"]["options"]
    for optimum in optima:
        same_base = optimum.base == settings_of(*base_of(run))
        if same_base and set(optimum.scores) == {row["prompt"] for row in samples}:
            return optimum.paid(samples, asked_kl_coef(options))
    return {}


def sentiment_at(run: Run, step: int) -> Estimate | None:
    """The mean sentiment of a validation with its 95 % interval over prompts, from its samples."""
    samples = [row for row in run["completions"] if row["step"] == step]
    groups = list(by_prompt(samples).values())
    return mean_of("sentiment").estimate(groups) if groups else None
