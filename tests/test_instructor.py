"""The instructor's side: the solution by hand, the tests of the tests. Not handed out."""

import doctest
import json
import math
import shutil

import nbformat
import pytest
import torch

import grpo_from_scratch
import kl_lab
import metrics
import report
import reward_utils
import rewards_solution
import sentiment
from instructor import make_notebook, mutants, release
from instructor.make_rewards import student_text

Q = torch.tensor([[-1.0, -2.0, -0.5], [-3.0, -1.0, -9.0]])
P = torch.tensor([[-1.5, -1.0, -0.5], [-1.0, -4.0, -1.0]])
MASK = torch.tensor([[True, True, True], [True, True, False]])


def test_forward_penalty_by_hand():
    # q − p: (0.5 − 1.0 + 0.0) and (−2.0 + 3.0), the last token of the second row is padding
    got = rewards_solution.kl_penalty_forward(Q, P, MASK, kl_coef=0.1)
    assert got.tolist() == pytest.approx([-0.05, 0.1], abs=1e-6)
    got = rewards_solution.kl_penalty_forward([-1.0, -2.0], [-3.0, -1.5], None, 0.1)
    assert got.tolist() == pytest.approx([0.2, -0.05], abs=1e-6)


def test_backward_penalty_by_hand():
    # 1 − r, r = exp(p − q) cut at 10: (1 − e^−0.5) + (1 − e) + 0 and (1 − e²) + (1 − e^−3)
    got = rewards_solution.kl_penalty_backward(Q, P, MASK, kl_coef=0.1)
    want = [0.1 * (0.3934693403 - 1.7182818285), 0.1 * (-6.3890560989 + 0.9502129316)]
    assert got.tolist() == pytest.approx(want, abs=1e-5)
    got = rewards_solution.kl_penalty_backward([-20.0], [-1.0], None, kl_coef=1.0)
    assert got.tolist() == pytest.approx([-9.0], abs=1e-4)  # r is cut at 10


@pytest.mark.parametrize("name", ["forward", "backward"])
def test_penalties_are_the_exact_gradient(name):
    """Σ_x q(x) c(x) ∇log q(x) against the gradient of the divergence by autograd."""
    torch.manual_seed(0)
    logits = (0.5 * torch.randn(8, dtype=torch.float64)).requires_grad_()
    p = (0.5 * torch.randn(8, dtype=torch.float64)).log_softmax(0)
    q = logits.log_softmax(0)
    mask = torch.ones(8, 1, dtype=torch.bool)
    penalty = getattr(rewards_solution, f"kl_penalty_{name}")
    cost = penalty(q.detach().float()[:, None], p.float()[:, None], mask, kl_coef=1.0)
    got = torch.autograd.grad((q.exp().detach() * cost * q).sum(), logits)[0]
    q = logits.log_softmax(0)
    forward, backward = (q.exp() * (q - p)).sum(), (p.exp() * (p - q)).sum()
    want = torch.autograd.grad(forward if name == "forward" else backward, logits)[0]
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


def test_exponential_shaping_by_hand(monkeypatch):
    monkeypatch.setattr(rewards_solution, "get_sentiment_scores", lambda texts: [0.0, 0.5, 1.0])
    shaped = rewards_solution.shaped_reward_exponential(["", "", ""])
    assert shaped == pytest.approx([math.exp(s) - 1 for s in (0.0, 0.5, 1.0)], abs=1e-9)
    shaped = rewards_solution.shaped_reward_exponential(["", "", ""], temperature=0.5)
    assert shaped == pytest.approx([0.0, 1.7182818285, 6.3890560989], abs=1e-9)  # exp(2 s) − 1


def test_docstring_examples(classifier):
    for module in (rewards_solution, sentiment, kl_lab, grpo_from_scratch, metrics, report):
        result = doctest.testmod(module)
        assert result.attempted > 0 and result.failed == 0


def test_student_file_is_generated_from_the_solution():
    solution = (mutants.ROOT / "rewards_solution.py").read_text(encoding="utf-8")
    student = (mutants.ROOT / "rewards.py").read_text(encoding="utf-8")
    assert student == student_text(solution)
    assert student.count("raise NotImplementedError") == 6
    assert "SOLUTION" not in student


def test_the_checklist_of_the_solution_is_all_done(capsys):
    reward_utils.print_checklist(mutants.ROOT / "rewards_solution.py")
    lines = capsys.readouterr().out.splitlines()[:7]
    assert all(line.startswith("done ") for line in lines)


def bodies(table):
    return [
        pytest.param(function, body, id=f"{function}-{name}")
        for function, named in table.items()
        for name, body in named.items()
    ]


@pytest.mark.parametrize("function, body", bodies(mutants.WRONG))
def test_a_wrong_solution_is_caught_and_told_why(classifier, policy, function, body):
    texts = mutants.reports(function, body, policy)
    assert texts
    for text in texts.values():
        assert text.startswith(function) and "usual cause" in text
        assert "the formula" not in text  # the cause is named


@pytest.mark.parametrize("function, body", bodies(mutants.VALID))
def test_every_valid_solution_passes(classifier, policy, function, body):
    assert mutants.reports(function, body, policy) == {}


def test_a_leak_is_found(tmp_path):
    (tmp_path / "notes.txt").write_text("I think it is\n    per_token = q - p  # simple\n")
    (tmp_path / "book.ipynb").write_text(
        json.dumps({"cells": [{"source": ["per_token = 1 ", "- ratio"], "outputs": []}]})
    )
    (tmp_path / "fine.py").write_text("scores = get_sentiment_scores(completions)\n")
    assert sorted(release.find_leaks(tmp_path)) == [
        ("book.ipynb", "per_token = 1 - ratio"),
        ("notes.txt", "per_token = q - p"),
    ]


def test_release_refuses_to_overwrite(tmp_path):
    (tmp_path / "out.zip").write_text("")
    with pytest.raises(SystemExit, match="out.zip exists. Give another name"):
        release.main([str(tmp_path / "out")])
    assert list(tmp_path.iterdir()) == [tmp_path / "out.zip"]


def test_a_leak_stops_the_release(tmp_path, monkeypatch):
    monkeypatch.setattr(release, "WITHHELD", set())
    with pytest.raises(SystemExit, match="Lines of the solution stand in the copy"):
        release.main([str(tmp_path / "out")])
    assert list(tmp_path.iterdir()) == []


def test_student_readme_names_only_what_students_get():
    files = release.released_files()
    readme = (mutants.ROOT / "README.md").read_text(encoding="utf-8")
    text = release.student_readme(readme, files)
    assert text.startswith("# Teach GPT-2 to like movies: your copy")
    tree = text.split("## Files")[1].split("```")[1]
    assert "rewards_solution.py" not in tree and "instructor" not in tree
    assert "rewards.py" in tree and "tiny/" in tree


@pytest.mark.slow
def test_a_released_copy_is_red_at_the_exercises_and_green_when_they_are_solved(tmp_path):
    release.main([str(tmp_path / "copy")])
    assert (tmp_path / "copy.zip").stat().st_size < 25e6
    names = {p.relative_to(tmp_path / "copy").as_posix() for p in (tmp_path / "copy").rglob("*")}
    assert not any("solution" in name or "instructor" in name for name in names)
    solution = mutants.ROOT / "rewards_solution.py"
    shutil.copyfile(solution, tmp_path / "copy" / "rewards.py")
    assert release.run_tests(tmp_path / "copy") == (set(), [])


def test_the_notebook_is_generated_and_has_no_outputs():
    book = nbformat.read(mutants.ROOT / "exercise.ipynb", as_version=4)
    assert book == make_notebook.notebook()
    assert all(not cell.outputs for cell in book.cells if cell.cell_type == "code")


@pytest.mark.slow
@pytest.mark.parametrize("solved", [True, False])
def test_the_notebook_runs_from_top_to_bottom(tmp_path, solved):
    folder = tmp_path / "copy"
    shutil.copytree(
        mutants.ROOT, folder, ignore=shutil.ignore_patterns(".*", "outputs*", "__pycache__")
    )
    book = make_notebook.notebook(solution=solved)
    for cell in book.cells:
        cell.source = cell.source.replace("STEPS = 40", "STEPS = 2")
    make_notebook.execute(book, folder)
    text = "".join(o.text for c in book.cells for o in c.get("outputs", ()) if "text" in o)
    assert ("Not yet: Exercise 3b: implement kl_penalty_forward" in text) is not solved
    assert ("kl_penalty_forward │" in text) is solved
    pictures = [
        o for c in book.cells for o in c.get("outputs", ()) if "image/png" in o.get("data", ())
    ]
    assert len(pictures) == 5
