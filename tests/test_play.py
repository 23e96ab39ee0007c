"""play.py: what it computes and writes; and, where Gradio and a browser are there, the page."""

import html
import importlib.util
import re
import shutil
import subprocess
import sys

import pytest
import torch

import play
from engine.common import ROOT, UserError
from engine.options import PRESETS
from engine.pages.play_page import figures_html, page_of, sample_html

TINY = PRESETS["tiny"]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture
def tuned(policy):
    """The bundled GPT-2 with other weights: a policy that has moved."""
    import copy

    model = copy.deepcopy(policy[0])
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in model.transformer.h[-1].parameters():
            weights += 0.05 * torch.randn(weights.shape, generator=generator)
    return model


def test_every_tint_is_log_q_minus_log_p(classifier, policy, tuned):
    base, tokenizer = policy
    models = {"base": base, "tuned": tuned}
    results = play.write(models, base, tokenizer, "The film", 0.7, 6, 2, 3, seed=1)
    for title, model in models.items():
        assert [len(group) for group in results[title]] == [3, 3]
        for group in results[title]:
            best = group[0]
            tints = [float(d) for d in re.findall(r"--d:([-\d.]+)", sample_html(group))]
            assert len(tints) == len(best["ids"])
            read = tokenizer("The film")["input_ids"]
            for token, tint in zip(best["ids"], tints):  # one pass for each token, no padding
                q, p = (
                    (net(torch.tensor([read])).logits[0, -1] / 0.7).log_softmax(0)[token].item()
                    for net in (model, base)
                )
                assert tint == pytest.approx(q - p, abs=1e-4)
                read.append(token)
            assert sum(tints) == pytest.approx(best["kl"], abs=1e-3)


def test_the_best_of_each_group_comes_first(classifier, policy):
    base, tokenizer = policy
    (groups,) = play.write({"b": base}, base, tokenizer, "It", 1.0, 4, 2, 4, seed=0).values()
    for group in groups:
        scores = [row["sentiment"] for row in group]
        assert scores == sorted(scores, reverse=True) and len(scores) == 4
        for row in group:
            assert sum(row["stars"]) == pytest.approx(1, abs=1e-5)
            mean = sum(i * share for i, share in enumerate(row["stars"]))
            assert mean / 4 == pytest.approx(row["sentiment"], abs=1e-5)


@pytest.mark.parametrize(
    "prompt, message", [("  \n", "The prompt is empty"), ("long " * 200, "has 201 tokens")]
)
def test_a_prompt_that_cannot_be_completed_is_one_line(classifier, policy, prompt, message):
    base, tokenizer = policy
    with pytest.raises(UserError, match=message) as error:
        play.write({"b": base}, base, tokenizer, prompt, 1.0, 4, 1, 1, seed=0)
    assert "\n" not in str(error.value)


def a_sample(**more):
    stars = [0.0, 0.0, 0.0, 0.25, 0.75]
    token = {"text": " <b>", "q": -1.0, "p": -3.0, "q_top": [], "p_top": []}
    sample = {"prompt": "<i>", "completion": " <b>", "sentiment": 0.9375, "kl": 2.0}
    return sample | {"stars": stars, "tokens": [token], **more}


def test_a_page_escapes_what_models_and_people_write():
    page = page_of({"<u>": [[a_sample(), a_sample(sentiment=0.1)]]}, seed=7)
    assert not re.search(r"<[ibu]>", page) and "&lt;u&gt;" in page and "Seed 7" in page
    assert page.count(html.escape("<i>")) == 2 and "the other 1" in page


def test_stars_are_drawn_and_told():
    shown = figures_html(a_sample())
    assert "★★★★★" in shown and 'aria-label="4.8 of 5 stars"' in shown
    assert "4★\u00a025% · 5★\u00a075%" in shown and "sentiment 0.938 · KL nats 2.00" in shown


def test_one_sample_folds_nothing_away():
    assert "<details>" not in sample_html([a_sample()])


def test_seeds():
    assert play.seed_of(" 12 ") == 12 and 0 <= play.seed_of("") < 10**6
    for text in ("-1", "a", "1.5"):
        with pytest.raises(UserError, match="whole number"):
            play.seed_of(text)


def test_models_of_the_page(tmp_path):
    policies, reference, _ = play.load_policies([TINY["model_name"]])
    assert list(policies.values()) == [reference] and "reference: " in [*policies][0]
    run = tmp_path / "run"
    shutil.copytree(TINY["model_name"], run / "final")
    (run / "run.json").write_text(f'{{"options": {{"model_name": "{TINY["model_name"]}"}}}}')
    policies, reference, _ = play.load_policies([str(run), TINY["model_name"]])
    base, first, second = policies
    assert base.startswith("base: ") and policies[base] is reference
    assert (first, second) == (str(run), TINY["model_name"])


def test_without_gradio_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="pip install -r requirements-play.txt"):
        play.main(["tiny/gpt2"])


def test_requirements_name_one_exact_version():
    lines = (ROOT / "requirements-play.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == ["gradio==6.31.0"]


@pytest.fixture
def address():
    """The page, served by a process of its own."""
    pytest.importorskip("gradio")
    command = [sys.executable, "play.py", "tiny/gpt2", "--no_browser"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        yield re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline()).group()
        process.terminate()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
@pytest.mark.parametrize("width, scheme", [(1280, "light"), (390, "dark")])
def test_the_page_in_a_browser(address, width, scheme):
    """By keyboard alone; nothing is wider than the window; no request leaves the machine."""
    sync_playwright = pytest.importorskip("playwright.sync_api").sync_playwright
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        page.wait_for_function("document.activeElement.value == 'This movie was'")
        page.keyboard.type(" great &")
        page.keyboard.press("Enter")
        page.wait_for_selector(".policies .tokens", timeout=60_000)
        assert page.locator(".prompt").first.inner_text() == "This movie was great &"
        assert page.locator(".sample").count() == 3
        page.locator(".tokens .token").first.focus()
        assert page.evaluate("document.activeElement.className") == "token"
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        dark = "document.body.classList.contains('dark')"
        assert page.evaluate(dark) == (scheme == "dark")
        page.get_by_label("prompt").fill(" ")
        page.keyboard.press("Enter")
        page.wait_for_selector("[role=alert]")
        assert asked and all(url.startswith((address, "data:", "blob:")) for url in asked)
