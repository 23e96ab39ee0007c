"""The tests of the tests: wrong solutions are caught and told why, right ones pass."""

import re

import pytest
import torch

from cases import CASES, example_report
from engine.common import ROOT, UserError
from engine.course.student import load_rewards
from instructor.proof.bodies import penalty
from instructor.proof.mutants import module_with, reports, reports_of, without_proof
from instructor.proof.right import FILES, FORBIDDEN, VALID
from instructor.proof.wrong import WRONG


def bodies(table):
    return [
        pytest.param(function, body, id=f"{function}-{name}")
        for function, named in table.items()
        for name, body in named.items()
    ]


@pytest.mark.parametrize("function, body", bodies(WRONG))
def test_a_wrong_solution_is_caught_and_told_why(classifier, policy, function, body):
    texts = reports(function, body, policy)
    assert texts
    for text in texts.values():
        assert text.startswith(function) and re.search("\n  (usual cause|happened   )  ", text)
        assert "the formula" not in text  # the cause is named


@pytest.mark.parametrize("function, body", bodies(VALID))
def test_every_valid_solution_passes(classifier, policy, function, body):
    assert reports(function, body, policy) == {}
    assert example_report(module_with(function, body), function) is None


def test_each_case_is_needed(classifier, policy):
    """Each has a wrong solution that no other catches; but for those that only explain."""
    assert without_proof(policy) == []


@pytest.mark.parametrize("title", FILES)
def test_a_whole_file_of_another_form_is_right(classifier, policy, tmp_path, title):
    source = FILES[title]((ROOT / "rewards_solution.py").read_text(encoding="utf-8"))
    path = tmp_path / "rewards.py"
    path.write_text(source, encoding="utf-8", newline="")
    assert source.encode() != (ROOT / "rewards_solution.py").read_bytes()
    rewards = load_rewards(path, fenced=True)
    for function in CASES:
        assert reports_of(rewards, function, policy) == {}
        assert example_report(rewards, function) is None


def test_a_file_whose_2a_takes_no_prompts_hears_that_training_passes_them(classifier, tmp_path):
    source = (ROOT / "rewards_solution.py").read_text(encoding="utf-8")
    path = tmp_path / "rewards.py"
    path.write_text(source.replace("temperature=1.0, **kwargs)", "temperature=1.0)"), "utf-8")
    texts = reports_of(load_rewards(path, fenced=True), "shaped_reward_exponential", None)
    (text,) = texts.values()
    assert "training passes the prompts too" in text
    assert "got an unexpected keyword argument 'prompts'" in text.splitlines()[-1]


SLOW = {"torch.compile": [pytest.mark.slow]}


@pytest.mark.parametrize(
    "title", [pytest.param(title, marks=SLOW.get(title, [])) for title in FORBIDDEN]
)
def test_what_the_grader_will_refuse_is_said_before(tmp_path, title):
    (tmp_path / "my_helpers.py").write_text("mean = 1\n")
    (tmp_path / "my_words.txt").write_text("good\n")
    code, words = FORBIDDEN[title]
    path = tmp_path / "rewards.py"
    path.write_text(f"import math\n{code}\n")
    with pytest.raises(UserError) as error:
        load_rewards(path, fenced=True)
    assert words in str(error.value) and "\n" not in str(error.value)
    assert re.search(r"\(rewards\.py, line \d+\)", str(error.value))


PAGE = (ROOT / "instructor" / "proof" / "trained_penalties.md").read_text(encoding="utf-8")
ROW = r"^\| .+? \| `(.+?)` \| (\S+) \| \S+ \| (\S+) \| (\S+) \| (holds|does not hold).* \|$"
TRAINED = {cost: row for cost, *row in re.findall(ROW, PAGE, re.MULTILINE)}
SOLUTIONS = {"q - p", "1 - r"}  # of 3b, and of 3c, which 3b refuses


@pytest.mark.parametrize("cost", sorted(TRAINED.keys() - SOLUTIONS))
def test_the_cases_agree_with_what_a_penalty_trains_to(cost):
    """Each stands in the list of its verdict, whose penalties the cases catch or pass above."""
    table = VALID if TRAINED[cost][-1] == "holds" else WRONG
    assert penalty(cost) in table["kl_penalty_forward"].values()


def holds(figures):
    """Whether KL, length and perplexity of a trained model are those of a penalty that holds."""
    kl, length, perplexity = map(float, figures)
    exact_kl, exact_length, exact_perplexity = map(float, TRAINED["q - p"][:3])
    return (
        kl <= 2 * exact_kl
        and length >= 0.9 * exact_length
        and perplexity <= 1.25 * exact_perplexity
    )


def test_the_verdicts_of_the_page_follow_its_rule():
    assert len(TRAINED) == 18 and len(ON_TOYS) == 27
    for *figures, verdict in TRAINED.values():
        assert verdict == ("holds" if holds(figures) else "does not hold")
    for _, *figures, verdict in ON_TOYS.values():
        assert verdict == "wrong" or holds(figures)


ROW = r"^\| .+? \| `(.+?)` \| (\S+) \| \S+ \| (\S+) \| (\S+) \| (\S+) \| (right|wrong): "
ON_TOYS = {cost: row for cost, *row in re.findall(ROW, PAGE, re.MULTILINE)}
SPOILT = {"(q - p) / 2": "half", "(q - p) / math.log(2)": "in bits", "(q - p) * 2": "twice"}
SPOILT["torch.where((q - p).abs() < 2, q - p, 0.0)"] = "outliers dropped"


@pytest.mark.parametrize("cost", sorted(ON_TOYS))
def test_what_sixty_steps_do_not_decide_stands_in_its_list(cost):
    *_, verdict = ON_TOYS[cost]
    table = (VALID if verdict == "right" else WRONG)["kl_penalty_forward"]
    assert penalty(cost) in table.values() or SPOILT[cost] in table


@pytest.mark.parametrize("title", ["elu", "cut at -0.1"])
def test_what_a_penalty_does_on_exact_toys(title):
    (cost,) = re.findall(rf"^\| {title} \| `(.+?)`", PAGE, re.M)
    generator = torch.Generator().manual_seed(0)
    p = (2 * torch.randn(4, 8, generator=generator, dtype=torch.float64)).log_softmax(-1)
    reward = 0.1 * torch.rand(4, 8, generator=generator, dtype=torch.float64)
    code = compile(cost, "the page", "eval")
    logits = p
    for _ in range(2500):
        q = logits.log_softmax(-1)
        net = reward - 0.1 * eval(code, {"torch": torch, "q": q, "p": p})
        logits = logits + 2 * q.exp() * (net - (q.exp() * net).sum(-1, keepdim=True))
    q = logits.log_softmax(-1)
    optimum = (p + reward / 0.1).log_softmax(-1)
    kl, best = ((x.exp() * (x - p)).sum(-1) for x in (q, optimum))
    assert (kl / best).mean().item() == pytest.approx(float(ON_TOYS[cost][0]), abs=0.01)
