"""What a student reads: the first failure and its cause, no second cause that is none."""

import random

import pytest

from cases import CASES, CORE, Ask, example_report, examples, is_news, report
from instructor.grading.command import RUBRIC
from instructor.grading.feedback import feedback
from instructor.grading.journal import blank_result
from instructor.grading.points import read_rubric, score
from instructor.grading.submission import Submission
from instructor.proof.bodies import log_probs, penalty
from instructor.proof.mutants import module_with, reports
from instructor.proof.wrong import WRONG


def news_of(function, body, policy):
    """The texts that a student reads about one body, in order: {case: text}."""
    core = {case.__name__ for case in CORE.get(function, ())}
    news = {}
    failures = {}
    for case, text in reports(function, body, policy).items():
        if is_news(text, failures, core):
            news[case] = text
        failures[case] = text
    return news


SUM_OF_ALL = penalty("q - p", "kl_coef * cost.sum()")
CONSTANT = penalty("-(p - q).clamp(max=2).exp()")


def test_one_error_is_told_once(classifier, policy):
    news = news_of("kl_penalty_forward", SUM_OF_ALL, policy)
    assert list(news) == ["costs_nothing_where_the_models_agree"]
    (text,) = news.values()
    assert "returned one number for 2 completions; return one for each; .sum(-1) adds" in text
    assert len(text.splitlines()) < 10


@pytest.mark.parametrize(
    ("body", "came_back"),
    [("return 0.5", "0.5"), ("return -log_probs.sum()", "the loss, then its gradient: [")],
)
def test_what_came_back_of_a_loss_is_named_where_it_could_be_read(policy, body, came_back):
    (text, *_) = news_of("policy_loss", body, policy).values()
    assert f"\n  came back    {came_back}" in text


def test_what_follows_from_a_core_failure_is_not_told(classifier, policy):
    news = news_of("compute_ref_log_probs", log_probs(result="x.mean()"), policy)
    assert list(news) == ["sums_the_completion"]
    assert "the sum: this is the mean over tokens" in news["sums_the_completion"]
    news = news_of("kl_penalty_backward", penalty("r * log_r"), policy)
    assert list(news) == ["pulls_the_policy_back"]


def test_two_mistakes_are_two_texts(classifier, policy):
    news = news_of("kl_penalty_forward", penalty("q - p", "cost.sum(-1)", mask=False), policy)
    assert {"ignores_padding", "grows_with_kl_coef"} <= set(news)


def test_right_up_to_a_constant_says_so(classifier, policy):
    news = news_of("kl_penalty_backward", CONSTANT, policy)
    assert list(news) == ["costs_nothing_where_the_models_agree"]
    (text,) = news.values()
    assert "a constant: right but for -1 · kl_coef at every token" in text


@pytest.mark.parametrize("per_token", ["torch.ones_like(q)", "-p"])
def test_a_constant_is_not_blamed_where_nothing_is_right(classifier, policy, per_token):
    found = reports("kl_penalty_forward", penalty(per_token), policy)
    assert not any("a constant" in text for text in found.values())


@pytest.mark.parametrize(
    "result, cause",
    [
        ("x.mean()", "the sum: this is the mean over tokens"),
        ("-x.sum()", "the sign: a log-probability is never positive"),
    ],
)
def test_the_border_is_blamed_only_for_the_border(classifier, policy, result, cause):
    found = reports("compute_ref_log_probs", log_probs(result=result), policy)
    assert cause in found["joins_ids_not_texts"]
    together = log_probs(ids='tokenizer(prompt + completion)["input_ids"]')
    found = reports("compute_ref_log_probs", together, policy)
    assert list(found) == ["joins_ids_not_texts"] and "the border" in found["joins_ids_not_texts"]


@pytest.mark.parametrize(
    "body, cause",
    [
        (penalty("(q - p).exp() - (p - q).exp()"), "exp() overflows"),
        (penalty("1 - (p - q).exp()"), "exp() overflows"),
        (SUM_OF_ALL, "returned one number"),
        ("raise ValueError('mine')", "it raised ValueError: mine"),
        (penalty("(1 - (p - q).exp()) * p.exp() * 0"), "inf − inf, inf · 0 or 0 / 0"),
    ],
)
def test_overflow_is_blamed_only_for_overflow(classifier, policy, body, cause):
    text = reports("kl_penalty_forward", body, policy)["stays_finite"]
    assert cause in text.splitlines()[-1]
    assert ("overflows" in text) == ("overflows" in cause)


@pytest.mark.parametrize(
    "body, cause",
    [
        ("return [float(s > 0.5) for s in scores]", "the steps: different scores earn the same"),
        ("return [-s for s in scores]", "the sign of the score"),
        ("return [1.0 for s in scores]", "the score: it does not enter"),
        ("return [(s - 0.5) ** 2 for s in scores]", "the order: some better score earns less"),
    ],
)
def test_the_sign_is_blamed_only_for_the_sign(classifier, policy, body, cause):
    assert cause in reports("shaped_reward", body, policy)["pays_for_sentiment"]


CAUSES = [
    ("kl_penalty_backward", "difference cut at zero", "the cut: the negative half"),
    ("kl_penalty_backward", "1 - r cut at zero", "the cut: the negative half"),
    ("kl_penalty_backward", "cut at -0.1", "brings back only 0.1 · kl_coef"),
    ("kl_penalty_backward", "PPO's ratio, at least 0.9", "a token costs only 0.1 · kl_coef"),
    ("kl_penalty_backward", "sure tokens go free", "the probability: it weighs the difference"),
    ("kl_penalty_forward", "half", "the size: a nat costs 0.5 · kl_coef"),
    ("kl_penalty_forward", "a hundred times", "the size: a nat costs 100 · kl_coef"),
    ("kl_penalty_forward", "in bits", "the unit: nats, natural logarithms, not bits"),
    ("kl_penalty_forward", "divided by the batch's rows", "the batch: "),
    ("kl_penalty_forward", "only the first four tokens", "the sum: a text of 5 tokens costs"),
    ("kl_penalty_forward", "totals clamped at 10", "the sum: a text of "),
    ("kl_penalty_forward", "outliers cost one", "far from agreement: log q − log p = "),
    ("kl_penalty_backward", "in double, no clamp", "exp() overflows: clamp log r from above"),
    ("shaped_reward_exponential", "capped at 10", "the limits: cut off neither"),
    ("shaped_reward_exponential", "cuts the text", "the length: score the whole text"),
    ("shaped_reward_exponential", "scores the prompt too", "the prompt: score the completion"),
    ("shaped_reward_exponential", "anneals over the calls", "the memory: the same text earns"),
    ("shaped_reward_exponential", "no **kwargs", "unexpected keyword argument"),
    ("shaped_reward", "rank in the batch", "the group: the scores of other texts enter"),
    ("shaped_reward", "less a running mean", "the memory: the same texts earn something else"),
    ("shaped_reward", "two texts or nothing", "the single text: alone, its score does not count"),
    ("shaped_reward", "saturates at 0.95", "the steps: different scores earn the same"),
    ("shaped_reward", "brevity", "what grows with brevity"),
    ("shaped_reward", "exclamation marks", "what grows with exclamation marks"),
    ("compute_ref_log_probs", "the first such prompt", "the pairs: texts come again in other"),
    ("compute_ref_log_probs", "remembers the completion alone", "the pairs: texts come again"),
    ("compute_ref_log_probs", "completion cut at 48 tokens", "the length: the whole prompt counts"),
    ("compute_ref_log_probs", "blanks stripped", "the blanks: at the ends of a text they count"),
    ("compute_ref_log_probs", "padding found by id 0", "the end token: <|endoftext|> in a text"),
    ("compute_ref_log_probs", "zeros for an error", "the except: it turns an error into"),
]


@pytest.mark.parametrize("function, title, cause", CAUSES)
def test_the_first_thing_told_is_the_cause(classifier, policy, function, title, cause):
    first, *_ = news_of(function, WRONG[function][title], policy).values()
    assert cause in first.splitlines()[-1]


def test_an_example_that_fails_says_what_came(monkeypatch):
    text = example_report(
        module_with("kl_penalty_forward", "return [1.0, 2.0]"), "kl_penalty_forward"
    )
    assert "came back    (True, False)" in text and "expected     (True, True)" in text
    module = module_with("kl_penalty_forward", "raise ValueError('mine')")
    assert "it raised ValueError: mine" in example_report(module, "kl_penalty_forward")
    monkeypatch.setattr(examples, "SECONDS", 0.2)
    module = module_with("kl_penalty_forward", "while True:\n        kl_coef += 1")
    said = example_report(module, "kl_penalty_forward")
    assert "happened     it took longer than 0.2 seconds" in said and "endless loop?" in said
    with pytest.raises(NotImplementedError):
        todo = "raise NotImplementedError('Exercise 3b: implement it')"
        example_report(module_with("kl_penalty_forward", todo), "kl_penalty_forward")


def page_for(body, policy, **more):
    """The feedback page for the solution with another forward penalty."""
    rubric = read_rubric(RUBRIC)
    found = reports("kl_penalty_forward", body, policy)
    tests = [
        {"function": name, "case": case.__name__, "passed": True, "message": ""}
        for name, (_, cases) in CASES.items()
        for case in cases
    ]
    for test in tests:
        if test["function"] == "kl_penalty_forward" and test["case"] in found:
            test |= {"passed": False, "message": found[test["case"]]}
    result = blank_result(Submission("Ann", "p"), {"rubric": rubric, "seeds": [0]}, "x")
    result |= {"tests": tests, "points": score(tests, rubric), "score": 0.0, **more}
    return feedback(result, rubric)


def test_the_feedback_page_tells_it_once(classifier, policy):
    page = page_for(SUM_OF_ALL, policy)
    assert page.count("returned one number") == 1 and page.count("**failed**") >= 8
    assert "What failed without a word may follow from what is told." in page


def test_a_file_that_cannot_be_imported_is_told_once(classifier, policy):
    reason = "SyntaxError: invalid syntax (rewards.py, line 3)"
    page = page_for(SUM_OF_ALL, policy, status="import error", reason=reason)
    assert page.count(reason) == 1 and "**failed**" not in page and "mend this first" in page
    assert page.count("| ") > 4 and len(page.splitlines()) < 30  # the points of each exercise stay


def test_the_feedback_page_shows_no_inputs_that_the_code_printed(classifier, policy):
    page = page_for(SUM_OF_ALL, policy, output="hello\nhidden input 0.123", printed="hello")
    assert "hidden input" not in page and "hello" in page


def test_random_inputs_do_not_make_a_right_penalty_wrong(classifier, policy):
    """The new cases draw their inputs; two hundred seeds agree with one."""
    names = ("depends_on_the_difference_alone", "refunds_what_it_charges")
    cases = [case for case in CORE["kl_penalty_forward"] if case.__name__ in names]
    right, wrong = (
        module_with("kl_penalty_forward", penalty(cost)).kl_penalty_forward
        for cost in ("1 - r", "q.exp() * (q - p).clamp(min=0)")
    )
    for seed in range(200):
        for case in cases:
            assert report(case, Ask(right, policy), random.Random(seed)) is None
            assert report(case, Ask(wrong, policy), random.Random(seed))
