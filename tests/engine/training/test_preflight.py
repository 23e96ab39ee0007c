import pytest

from engine.common import UserError
from engine.model.processes import Process
from engine.options import resolve_options
from engine.training import preflight
from reward_utils import functions_called


def test_processes_share_batches_and_with_credit_whole_groups(monkeypatch):
    monkeypatch.setattr(preflight, "this_process", lambda: Process(0, 2))
    given = {"batch_size": 24, "num_generations": 8}
    preflight.require_possible(resolve_options(given))
    with pytest.raises(UserError, match="needs whole groups of 8 .* a multiple of 16"):
        preflight.require_possible(resolve_options(given | {"credit": "prefix"}))
    given = {"batch_size": 32, "num_generations": 8, "credit": "prefix"}
    preflight.require_possible(resolve_options(given))
    with pytest.raises(UserError, match="--batch_size 9 does not divide by 2 processes"):
        preflight.require_possible(resolve_options({"batch_size": 9, "num_generations": 3}))


def test_packages_are_compared_with_their_pins(monkeypatch):
    assert preflight.check_packages() == (preflight.GOOD, "all as pinned")
    real = preflight.importlib.metadata.version
    versions = {"trl": "0.1.0", "torch": "2.13.0+cu130"}
    monkeypatch.setattr(
        preflight.importlib.metadata, "version", lambda name: versions.get(name) or real(name)
    )
    mark, text = preflight.check_packages()
    assert mark == preflight.DOUBTFUL and text.startswith("trl 0.1.0, not ") and "torch" not in text

    def gone(name):
        if name == "peft":
            raise preflight.importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(preflight.importlib.metadata, "version", gone)
    assert preflight.check_packages() == (
        preflight.BAD,
        "missing: peft; pip install -r requirements.txt",
    )


def gpt2_config(**sizes):
    from transformers import GPT2Config

    return GPT2Config(**sizes)


def test_weights_are_counted_from_a_configuration(policy, classifier):
    for model in (policy[0], classifier[0]):
        weights = sum(p.numel() for p in model.parameters())
        assert preflight.weights_of(model.config) == pytest.approx(weights, rel=0.02)
    assert preflight.weights_of(gpt2_config()) == pytest.approx(124.4e6, rel=0.01)


def test_memory_is_near_what_was_measured(policy, classifier):
    """Peaks of three runs on a CPU, log-probabilities by TRL, with the bundled sentiment model."""
    scorer = classifier[0].config
    tiny = resolve_options({"preset": "tiny"})
    quick = resolve_options({"preset": "quick"})
    lora = resolve_options({"preset": "medium", "use_peft": True})
    measured = ((tiny, policy[0].config, 2.1e9), (quick, gpt2_config(), 8.3e9))
    for options, config, peak in (*measured, (lora, gpt2_config(), 9.0e9)):
        need = preflight.memory_of_a_step(options, config, scorer, gpu=False)
        assert need == pytest.approx(peak, rel=1 / 3)


def nlptown():
    from transformers import BertConfig

    return BertConfig(vocab_size=105879)


QUICK, MEDIUM = {"preset": "quick"}, {"preset": "medium"}
RESERVED = {  # GiB at most on an H200 (docs/gpu.md): options, size of the sentiment model
    "tiny": ({"preset": "tiny"}, False, 0.5),
    "quick": (QUICK, False, 3.6),
    "medium": (MEDIUM, False, 3.7),
    "nlptown": (MEDIUM, True, 4.9),
    "LoRA": (MEDIUM | {"use_peft": True}, False, 2.8),
    "beta": (MEDIUM | {"beta": 0.1}, False, 4.8),
}


@pytest.mark.parametrize("case", RESERVED)
def test_memory_of_a_gpu_is_near_what_was_measured(policy, classifier, case):
    given, large, peak = RESERVED[case]
    config = policy[0].config if case == "tiny" else gpt2_config()
    scorer = nlptown() if large else classifier[0].config
    need = preflight.memory_of_a_step(resolve_options(given), config, scorer, gpu=True)
    assert need == pytest.approx(peak * 2**30, rel=0.3)


def test_too_little_memory_or_disk_is_a_cross(policy, classifier, monkeypatch, tmp_path):
    options = resolve_options({"preset": "tiny", "output_dir": str(tmp_path / "a" / "b")})
    configs = policy[0].config, classifier[0].config
    for free, mark in ((1e8, preflight.BAD), (1.7e9, preflight.DOUBTFUL), (9e9, preflight.GOOD)):
        monkeypatch.setattr(preflight, "free_memory", lambda free=free: (free, False))
        assert preflight.check_memory(options, *configs)[0] == mark
    assert preflight.check_disk(options, configs[0])[0] == preflight.GOOD
    usage = preflight.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: usage._replace(free=10**6))
    mark, text = preflight.check_disk(options, configs[0])
    assert mark == preflight.BAD and "choose another --output_dir" in text


def test_a_function_that_is_gone_is_a_cross(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def sentiment_reward(completions, **kwargs):\n    return []\n")
    state, said = preflight.check_student(file, {"sentiment_reward", "kl_penalty_backward"})
    assert state == preflight.BAD
    assert said == "mine.py has no function kl_penalty_backward, which this run calls"
    assert preflight.check_student(file, {"sentiment_reward"})[0] == preflight.GOOD
    five_stars = resolve_options({"reward_shaping": "five_stars"})
    assert functions_called(five_stars) == set()  # of no exercise
    hacked = resolve_options({"hackable_reward": True, "kl_type": "forward"})
    assert functions_called(hacked) == {"kl_penalty_forward"}
