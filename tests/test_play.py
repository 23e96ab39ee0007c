"""play.py: what it computes and writes; and, where Gradio is there, the page."""

import copy
import html
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import urllib.request

import pytest
import torch
from made_up_run import write_run

import play
from engine.common import ROOT
from engine.measuring.runs import run_settings
from engine.options import PRESETS
from engine.pages.play_page import page_of, sample_html

TINY = PRESETS["tiny"]


@pytest.fixture
def tuned(policy):
    """The bundled GPT-2 with other weights: a policy that has moved."""
    model = copy.deepcopy(policy[0])
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in model.transformer.h[-1].parameters():
            weights += 0.05 * torch.randn(weights.shape, generator=generator)
    return model


@torch.no_grad()
def test_every_tint_is_log_q_minus_log_p(classifier, policy, tuned):
    base, tokenizer = policy
    policies = play.Policies({"base": base, "tuned": tuned}, base, tokenizer)
    sampling = {"max_new_tokens": 6, "temperature": 0.7, "seed": 1}
    results = play.write(policies, "The film", 2, **sampling)
    for title, model in policies.models.items():
        assert len(results[title]) == 2
        for sample in results[title]:
            tints = [float(d) for d in re.findall(r"--d:([-\d.]+)", sample_html(sample))]
            assert len(tints) == len(sample["ids"])
            prompt = tokenizer("The film")["input_ids"]
            read = torch.tensor([prompt + sample["ids"]])  # one text alone, no padding
            q, p = (
                (net(read).logits[0, len(prompt) - 1 : -1] / 0.7).log_softmax(-1)
                for net in (model, base)
            )
            want = (q - p)[range(len(tints)), sample["ids"]].tolist()
            assert tints == pytest.approx(want, abs=1e-4)
            assert sum(tints) == pytest.approx(sample["kl"], abs=1e-3)


def test_a_page_escapes_what_models_and_people_write():
    token = {"text": " <b>", "q": -1.0, "p": -3.0}
    sample = {"prompt": "<i>", "sentiment": 0.9375, "kl": 2.0, "tokens": [token]}
    page = page_of({"<u>": [sample]}, seed=7)
    assert not re.search(r"<[ibu]>", page) and "&lt;u&gt;" in page and "Seed 7" in page
    assert html.escape("<i>") in page and "sentiment 0.938 · KL nats 2.00" in page


def test_models_of_the_page(tmp_path):
    models, reference, _ = play.load_policies([TINY["model_name"]])
    assert list(models.values()) == [reference] and "reference: " in [*models][0]
    run = write_run(tmp_path / "run")
    shutil.copytree(TINY["model_name"], run / "final")
    models, reference, _ = play.load_policies([str(run), TINY["model_name"]])
    base, first, second = models
    assert base.startswith("base: ") and models[base] is reference
    assert (first, second) == (str(run), TINY["model_name"])


def test_without_gradio_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="pip install -r requirements-play.txt"):
        play.main(["tiny/gpt2"])


@pytest.mark.slow
def test_the_page_answers_and_tells_what_is_wrong():
    pytest.importorskip("gradio")
    name = TINY["model_name"]
    (function,) = play.build([name], run_settings(name)).fns.values()
    assert "Seed 3" in function.fn("The film &", 0.7, 4, 2, 3)
    for prompt, message in (("  \n", "The prompt is empty"), ("long " * 200, "has 201 tokens")):
        answer = function.fn(prompt, 1.0, 4, 1, None)
        assert answer.startswith('<p role="alert">') and message in answer


@pytest.mark.slow
def test_the_page_is_served_to_this_machine():
    """By a process of its own; what it loads at the start is from there too."""
    pytest.importorskip("gradio")
    command = [sys.executable, "play.py", "tiny/gpt2", "--no_browser"]
    own = {name: value for name, value in os.environ.items() if not name.startswith("GRADIO_")}
    with subprocess.Popen(command, cwd=ROOT, env=own, stdout=subprocess.PIPE, text=True) as process:
        try:
            address = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline()).group()
            with urllib.request.urlopen(address) as page:
                text = page.read().decode()
        finally:
            process.terminate()
    assert "This movie was" in text
    loaded = re.findall(r'<(?:script|link)[^>]+(?:src|href)="([^"]+)"', text)
    assert loaded and not [url for url in loaded if url.startswith(("http", "//"))]
