import copy
import json
import math
import re
import shutil
import statistics

import pytest
import torch
from made_up_run import write_run
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer

import evaluate
import sentiment
from engine.common import ROOT
from engine.measuring.optimum import Optimum, settings_of
from engine.model.sampling import Sampling, generate_batches
from engine.options import PRESETS
from evaluate import evaluate_model

TINY = PRESETS["tiny"]


def test_a_model_against_itself_has_no_kl(classifier, policy):
    model, tokenizer = policy
    result = evaluate_model(
        model, tokenizer, ["It was", "The plot"], model, 3, max_new_tokens=6, batch_size=4
    )
    assert result["metrics"]["kl"] == 0
    samples = result["samples"]
    assert [s["prompt"] for s in samples] == ["It was"] * 3 + ["The plot"] * 3
    assert not any(s["completion"].startswith(s["prompt"]) for s in samples)


def test_the_kl_of_the_parts_of_a_text(classifier, policy):
    """Two tokens a part where at most eleven are sampled, against the tokens' own differences."""
    model, tokenizer = policy
    ref = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in ref.parameters():
            parameter += 0.05 * torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(1)
            )
    result = evaluate_model(model, tokenizer, ["It was", "The plot"], ref, 3, max_new_tokens=11)
    for sample in result["samples"]:
        prompt = tokenizer(sample["prompt"])["input_ids"]
        tokens = torch.tensor([prompt + sample["ids"]])
        places = range(len(sample["ids"]))
        q, p = (
            m(tokens).logits[0, len(prompt) - 1 : -1].log_softmax(-1)[places, sample["ids"]]
            for m in (model, ref)
        )
        nats = (q - p).tolist() + [0.0] * 16
        want = [nats[2 * i] + nats[2 * i + 1] for i in range(8)]
        assert sample["kl_parts"] == pytest.approx(want, abs=2e-4)  # four decimals are kept
        assert sum(sample["kl_parts"]) == pytest.approx(sample["kl"], abs=1e-3)
        assert sample["kl"] != 0


def test_perplexity_is_that_of_the_reference_itself(classifier, policy):
    """Against a loop over single texts, whatever the temperature of the sampling."""
    temperature = 0.7
    model, tokenizer = policy
    result = evaluate_model(
        model, tokenizer, ["It was"], model, 3, max_new_tokens=5, temperature=temperature
    )
    prompt = tokenizer("It was")["input_ids"]
    sampling = Sampling(max_new_tokens=5, temperature=temperature)
    rows = generate_batches(model, tokenizer, ["It was"] * 3, sampling)
    nll = 0.0
    for row in rows:
        with torch.no_grad():
            logits = model(torch.tensor([prompt + row])).logits[0, len(prompt) - 1 : -1]
        nll -= logits.double().log_softmax(-1)[range(len(row)), row].sum().item()
    want = math.exp(nll / sum(map(len, rows)))
    assert result["metrics"]["perplexity"] == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("count", [3, 5])  # five processes for four rows: one has none
def test_processes_measure_their_parts_of_the_rows(classifier, policy, monkeypatch, count):
    from engine.measuring import metrics
    from engine.model import processes

    model, tokenizer = policy
    settings = dict(samples_per_prompt=2, max_new_tokens=6, batch_size=3)
    arguments = (model, tokenizer, ["It was", "My friends and I"], model)
    whole = evaluate_model(*arguments, **settings)["samples"]
    shares = []
    monkeypatch.setattr(processes, "gather", lambda rows, process: shares.append(rows) or rows)
    monkeypatch.setattr(metrics, "summarise", lambda samples: {})
    for index in range(count):
        evaluate_model(*arguments, **settings, process=processes.Process(index, count))
    together = [sample for share in shares for sample in share]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    for sample, other in zip(whole, together, strict=True):
        for name, value in sample.items():
            if isinstance(value, float):
                value = pytest.approx(value, abs=1e-5, rel=1e-6)  # sums of tens of nats
            assert other[name] == value


class SixWords:
    """A tokenizer of six words, the last of which ends a text."""

    eos_token, eos_token_id, pad_token_id = "5", 5, 5

    def __call__(self, texts, add_special_tokens=True):
        return {"input_ids": [[int(word) for word in text.split()] for text in texts]}

    def batch_decode(self, rows, skip_special_tokens=True):
        return [" ".join(str(token) for token in row if token != 5) for row in rows]


def test_sequence_kl_against_every_text_of_a_toy(classifier):
    """Two random models over six tokens: at most two tokens make 5 · 6 + 1 texts, all counted."""
    temperature = 0.5
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=6, n_positions=8, n_embd=8, n_layer=1, n_head=2, initializer_range=2.0
    )
    policy, ref = (GPT2LMHeadModel(config).eval() for _ in range(2))

    def log_probs(model, text):
        with torch.no_grad():
            logits = model(torch.tensor([[0, *text]])).logits[0].double() / temperature
        return logits.log_softmax(-1)[range(len(text)), text].sum().item()

    texts = [(5,)] + [(a, b) for a in range(5) for b in range(6)]
    q = [log_probs(policy, text) for text in texts]
    ratio = {text: q_i - log_probs(ref, text) for text, q_i in zip(texts, q)}
    assert sum(map(math.exp, q)) == pytest.approx(1)
    exact = sum(math.exp(q_i) * ratio[text] for text, q_i in zip(texts, q))
    sampling = {"max_new_tokens": 2, "temperature": temperature, "batch_size": 1024}
    result = evaluate_model(policy, SixWords(), ["0"], ref, 1024, **sampling)
    for s in result["samples"]:
        assert s["kl"] == pytest.approx(ratio[tuple(s["ids"])], abs=1e-5)
    error = statistics.stdev(s["kl"] for s in result["samples"]) / 32
    assert exact > 0.1 and result["metrics"]["kl"] == pytest.approx(exact, abs=3 * error)


def test_completions_come_without_their_prompts(policy):
    model, tokenizer = policy
    texts = evaluate.generate_completions(model, tokenizer, ["The story was"] * 3, 6, seed=1)
    assert len(texts) == 3 and all(isinstance(t, str) and "The story was" not in t for t in texts)


def test_a_comparison_ticks_to_the_end_of_its_bar(classifier):
    ticks = []
    name = TINY["model_name"]
    settings = dict(max_new_tokens=1, batch_size=64, tick=lambda: ticks.append(1))
    evaluate.compare_models(name, name, ["It was", "The film"], 33, **settings)
    assert len(ticks) == 3 * 2 * 2  # as `_compare` announces: 66 samples are two batches


@pytest.fixture
def few(tmp_path):
    """The flag for a file of two prompts."""
    (tmp_path / "few.txt").write_text("It was\nThe plot\n")
    return f"--prompts={tmp_path / 'few.txt'}"


def test_compare_tells_what_was_paid(capsys, tmp_path, policy):
    """Against the known optimum beside the run: nothing is sampled anew, and the JSON has it."""
    model, tokenizer = policy
    moved = copy.deepcopy(model)
    with torch.no_grad():  # a policy that is not the base
        for parameter in moved.parameters():
            parameter += 0.01 * torch.randn(parameter.shape)
    run = write_run(tmp_path / "run", max_completion_length=4, kl_type="forward", kl_coef=0.5)
    moved.save_pretrained(run / "final")
    tokenizer.save_pretrained(run / "final")
    base = settings_of(TINY["model_name"], TINY["sentiment_model"], 4, 1.0)
    file = tmp_path / "e.json"

    def compared(scores):
        """The optimum where every prompt has these scores, and what a comparison says of it."""
        optimum = Optimum(base, dict.fromkeys(evaluate.VALIDATION_PROMPTS, scores), 0.0)
        optimum.save(run / "optimum.json")
        command = ["compare", TINY["model_name"], str(run / "final"), "--num_samples=1"]
        evaluate.main([*command, f"--json={file}"])
        return optimum, json.loads(file.read_text()), capsys.readouterr().out

    _, estimates, shown = compared([i / 1000 for i in range(100)])
    shown = " ".join(shown.split())
    assert "100 samples of each prompt tell up to 2.6 nats" in shown
    assert estimates["nats"]["needed"] is None and "times the least" not in shown
    optimum, estimates, shown = compared([round((i / 99) ** 3, 3) for i in range(100)])
    nats, trained = estimates["nats"], estimates["trained"]
    needed = optimum.needed_kl(trained["sentiment"]["mean"])
    assert nats["needed"]["mean"] == pytest.approx(needed, rel=1e-6)
    assert nats["sideways"]["mean"] == pytest.approx(trained["kl"]["mean"] - needed, rel=1e-6)
    assert nats["sideways"]["low"] < nats["sideways"]["mean"] < nats["sideways"]["high"]
    shown = " ".join(shown.split())
    assert f"{needed:.2f} (" in shown and f"; {trained['kl']['mean'] / needed:.1f} (" in shown
    assert f"{nats['to_optimum']['mean']:.2f} (" in shown
    assert "asked for: the highest sentiment − 0.5 · KL" in shown


def test_models_without_a_common_vocabulary_do_not_compare(tmp_path, classifier):
    vocabulary = {"<|endoftext|>": 0, "a": 1, "b": 2}
    GPT2Tokenizer(vocab=vocabulary, merges=[]).save_pretrained(tmp_path)
    config = GPT2Config(vocab_size=3, n_embd=8, n_layer=1, n_head=1, n_positions=8)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    with pytest.raises(evaluate.UserError, match="do not share a vocabulary"):
        evaluate.compare_models(TINY["model_name"], str(tmp_path))


def test_a_prefix_is_paid_for_in_nats(classifier, policy):
    model, tokenizer = policy
    prompts, prefix = ["This movie was", "The plot"], "I loved it! "
    results = evaluate.compare_prefixes(
        {"base": model},
        tokenizer,
        [prefix],
        prompts,
        score=lambda texts: [float(len(text)) for text in texts],
        samples_per_prompt=2,
        max_new_tokens=6,
    )
    assert list(results) == ["base", "base + 'I loved it! '"]
    assert results["base"]["metrics"]["kl"] == pytest.approx(0, abs=1e-5)
    samples = results["base + 'I loved it! '"]["samples"]
    sample = samples[3]
    assert sample["prompt"] == "The plot"
    # log P(completion | prefix and prompt) − log P(completion | prompt)
    prefixed = [prefix + p for p in prompts for _ in "ab"]
    ids = generate_batches(model, tokenizer, prefixed, Sampling(max_new_tokens=6))[3]
    want = 0.0
    for sign, prompt in ((1, prefix + "The plot"), (-1, "The plot")):
        read = tokenizer(prompt)["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([read + ids])).logits[0, len(read) - 1 : -1]
        want += sign * logits.log_softmax(-1)[range(len(ids)), ids].sum().item()
    assert sample["kl"] == pytest.approx(want, abs=1e-3)
    lengths = [len(s["completion"]) for s in samples]
    assert results["base + 'I loved it! '"]["metrics"]["reward"] == sum(lengths) / 4


def test_prompting_prints_a_row_for_each_prefix(capsys, few):
    evaluate.main(
        ["prompting", "tiny/gpt2", few, "--num_samples", "1", "--max_new_tokens", "4"]
        + ["--prefix", "Wow! ", "--prefix", "[b] ", "--reward", "sentiment_reward"]
    )
    out = capsys.readouterr().out
    assert "base + 'Wow! '" in out and "base + '[b] '" in out and "reward" in out
    assert "prefix" in out.split("\n\n")[1]  # the verdict
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--num_samples", "0"], "--num_samples: 0 is not 1 or more"),
        (["--temperature", "nan"], "--temperature: nan is not 0.01 or more"),
        (["--num_samples", "many"], "invalid int value: 'many'"),
        (["--seed", "-1"], "--seed: -1 is not 0 or more"),
    ],
)
def test_a_setting_that_means_nothing_is_one_line(capsys, arguments, message):
    with pytest.raises(SystemExit) as error:
        evaluate.main(["evaluate", TINY["model_name"], *arguments])
    said = capsys.readouterr().err
    assert error.value.code == 2 and message in said and said.count("\n") == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["evaluate", "no/such"], "Cannot fetch"),
        (["evaluate", TINY["model_name"], "--max_new_tokens=127"], "with 127 new ones it exceeds"),
        (["prompting", TINY["model_name"], "--reward=no_such"], "There is no function no_su"),
        (["try", TINY["model_name"], " "], "the prompt is empty"),
        (["try", TINY["model_name"], "long " * 200], "has 201 tokens; with 48 new ones"),
        (["compare", *[TINY["model_name"]] * 2, "--num_samples=1", "--json=no/such/file"], "no/su"),
    ],
)
def test_a_mistake_is_one_line(few, arguments, message):
    more = [] if arguments[0] == "try" else [few]
    sizes = ["--optimum=0", "--max_new_tokens=2"] if arguments[0] == "compare" else []
    sentiment = ["--sentiment_model", TINY["sentiment_model"]]
    with pytest.raises(SystemExit, match=f"^evaluate.py: .*{message}") as error:
        evaluate.main([*arguments, *more, *sizes, *sentiment])
    assert "\n" not in error.value.code


def test_compare_of_one_prompt_has_no_interval_and_no_verdict(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    (tmp_path / "p.txt").write_text("It was\n")
    out = tmp_path / "out"
    out.mkdir()
    name = TINY["model_name"]
    sizes = ["--num_samples=2", "--max_new_tokens=4", "--optimum=3"]
    files = [f"--plot={out / 'plot.png'}", f"--json={out / 'estimates.json'}"]
    evaluate.main(["compare", name, name, *sizes, f"--prompts={tmp_path / 'p.txt'}", *files])
    shown = capsys.readouterr().out
    assert "base" in shown and "trained" in shown and "ref. perplexity" in shown
    assert "one prompt only" in shown and "One prompt is too little for a verdict" in shown
    assert "nan" not in shown and "rose by" not in shown and "nats paid" in shown
    assert sorted(file.name for file in out.iterdir()) == ["estimates.json", "plot.png"]
    assert (out / "plot.png").read_bytes().startswith(b"\x89PNG")

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    estimates = json.loads((out / "estimates.json").read_text(), parse_constant=refuse)
    assert estimates["difference"]["sentiment"] == {"mean": 0.0, "low": None, "high": None}


def test_try_completes_a_prompt(capsys):
    arguments = ["--num_samples", "2", "--max_new_tokens", "3", "--seed", "1"]
    evaluate.main(["try", TINY["model_name"], "The story was", *arguments])
    header, *lines = capsys.readouterr().out.splitlines()
    assert header == "sentiment  prompt and completion" and len(lines) == 2


def test_a_run_that_can_only_be_read_has_an_optimum_all_the_same(tmp_path, monkeypatch):
    def denied(self, path):
        raise PermissionError(13, "Permission denied", str(path))

    sampled = Optimum(settings_of("a base", "stars", 3, 1.0), {"It is": [0.5]})
    monkeypatch.setattr(Optimum, "save", denied)
    monkeypatch.setattr(evaluate, "load_model", lambda name: (None, None))
    monkeypatch.setattr("sentiment.load_sentiment_model", lambda name: None)
    monkeypatch.setattr(evaluate, "sample_optimum", lambda *args, **kwargs: sampled)
    assert evaluate.optimum_of(sampled.base, ["It is"], folders=[tmp_path]) is sampled


@pytest.mark.parametrize(
    "arguments",
    [["report", "a\0b"], ["report", "x" * 300], ["evaluate", "a\0b"], ["curves", "/dev/null"]],
)
def test_an_odd_name_is_one_line(arguments):
    with pytest.raises(SystemExit, match="evaluate.py: ") as error:
        evaluate.main(arguments)
    assert "\n" not in error.value.code


@pytest.mark.parametrize(
    "arguments", [["evaluate"], ["compare", "tiny/gpt2"], ["prompting"], ["optimum"], ["try"]]
)
def test_a_folder_without_a_model_is_named_before_anything_is_fetched(arguments, tmp_path):
    """The reward model, by default that of the Hub, comes after it."""
    more = ["It was"] if arguments[0] == "try" else []
    with pytest.raises(SystemExit, match="evaluate.py: The folder '.*' holds no model"):
        evaluate.main([*arguments, str(tmp_path), *more])


def test_an_unknown_error_is_one_line_and_can_be_looked_into(monkeypatch):
    monkeypatch.setattr(evaluate, "read_runs", lambda folders: {}["step"])
    with pytest.raises(SystemExit, match=r"evaluate.py: KeyError: 'step' \(--debug shows where\)"):
        evaluate.main(["curves", "a run"])
    with pytest.raises(KeyError):
        evaluate.main(["curves", "a run", "--debug"])


def test_try_measures_the_kl_from_the_base_of_the_run(capsys, tmp_path):
    run = write_run(tmp_path / "run")
    shutil.copytree(TINY["model_name"], run / "final")
    arguments = ["try", str(run), "The story was", "--num_samples=2", "--max_new_tokens=3"]
    evaluate.main(arguments)
    header, *lines, note = capsys.readouterr().out.splitlines()
    assert header == "sentiment  KL nats  prompt and completion" and "the mean is the KL" in note
    assert all(abs(float(line.split()[1])) == 0 for line in lines)
    options = {"model_name": str(tmp_path / "gone")}
    (run / "run.json").write_text(json.dumps({"options": options}))
    evaluate.main([*arguments, "--sentiment_model", TINY["sentiment_model"]])
    shown = capsys.readouterr().out
    assert "No KL, without the base model" in shown and "KL nats" not in shown


@pytest.mark.parametrize(("negated", "named"), [(False, "run/final"), (True, ".")])
def test_compare_knows_what_a_run_was_asked_for(tmp_path, monkeypatch, negated, named):
    run = write_run(tmp_path / "run", negate_reward=negated)
    shutil.copytree(TINY["model_name"], run / "final")
    monkeypatch.chdir(run / "final" if named == "." else tmp_path)
    asked = []
    empty = {"samples": []}
    comparison = {"base": empty, "trained": empty, "estimates": {}}
    monkeypatch.setattr(evaluate, "compare_models", lambda *args, **settings: comparison)
    monkeypatch.setattr(evaluate, "best_of_samples", lambda samples: {})
    monkeypatch.setattr(evaluate, "print_comparison_samples", lambda comparison: None)
    for name in ("print_estimates", "verdict"):
        monkeypatch.setattr(evaluate.tables, name, lambda _, negated: asked.append(negated))
    evaluate.main(["compare", TINY["model_name"], named, "--optimum", "0"])
    assert asked == [negated, negated]


def test_another_judge_needs_no_table_of_the_bundled_one(policy, monkeypatch):
    monkeypatch.setattr(sentiment, "load_judge", lambda name=None: pytest.fail("it was loaded"))
    compared = evaluate.compare_models(
        *[TINY["model_name"]] * 2,
        ["The film"],
        num_samples=2,
        max_new_tokens=2,
        judge=lambda texts: [0.25] * len(texts),
    )
    assert compared["trained"]["metrics"]["judge"] == 0.25


def test_git_ignores_what_the_programs_write_beside_themselves_and_nothing_else():
    written = {
        evaluate.parse([command, "x"]).out
        for command in ("curves", "frontier", "report", "optimum")
    }
    lines = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    ignored = {line for line in lines if re.search(r"\.(png|svg|html|json)$", line)}
    pictures = {f"{lab}_*.png" for lab in ("kl_lab", "grpo_lab")}
    assert ignored == {f"/{name}" for name in written | pictures}
