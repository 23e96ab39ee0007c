"""What a reward is worth: train the bundled model a few steps with it (`grade.py --train`)."""

from instructor.exercises import Wrong
from instructor.grading.process import Child
from instructor.grading.submission import Rejected
from instructor.grading.text import one_line
from instructor.grading.trained_models import load_weights, measure

LIMITS = {"cpu_seconds": 3600, "memory": 6 << 30, "file_size": 256 << 20}
BOUNDS = {"threads": 128, "files": 1000, "bytes": 1 << 30, "written": 4 << 30}
SECONDS = 1800.0  # for the whole training


def train_briefly(workshop, control, source, settings, models):
    """Train the bundled model for a few steps with a submission's reward; sentences about it.

    Args:
        workshop, control: where its process comes from.
        source: bytes of its rewards.py.
        settings: `train` of the rubric: options of train.py, `rise` and `nats`.
        models: (base, tokenizer) of this process.
    """
    base, tokenizer = models
    options = {"preset": "tiny", "eval_steps": 10**6, "save_steps": 10**6, **settings["options"]}
    try:
        with Child(workshop, control, source, SECONDS, bounds=BOUNDS, **LIMITS) as child:
            child.ask("load")
            child.ask("train", options=options)
            child.end()  # from here on nobody can change what it wrote
            trained = load_weights(base, child.folder, "run/final/model.safetensors")
        before, after = (measure(base, tokenizer, model, 2)["metrics"] for model in (base, trained))
    except (Wrong, Rejected, NotImplementedError) as error:
        return f"The training did not finish: {one_line(error)[:500]}"
    rise, nats = after["sentiment"] - before["sentiment"], after["kl"]
    told = f"sentiment {before['sentiment']:.2f} → {after['sentiment']:.2f}, KL {nats:.1f} nats"
    steps = settings["options"]["max_steps"]
    sentiment = "rose" if rise >= settings["rise"] else f"did not rise by {settings['rise']}"
    kl = "stayed" if nats <= settings["nats"] else f"passed {settings['nats']} nats"
    return f"After {steps} steps: {told}. Sentiment {sentiment}, KL {kl}."
