"""The copy that students get: nothing leaks, and it works."""

import json
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import yaml

from engine.common import ROOT
from engine.course.checklist import to_do
from instructor.handout import student_copy as handout
from instructor.handout.pages import dead_references, student_page
from instructor.handout.student_copy import find_leaks, main, run_tests

LOOKED_AT = ("*.py", "engine/**/*.py", "tests/**/*.py")
# log q − log p and 1 − r by the names that they have here, before kl_coef and the mask.
OF_A_TOKEN = re.compile(
    r"(?<!exp)(?:\(|sum\()(?:q|log_q|policy\w*) - (?:p|log_p|ref\w*)\b(?!\) ?\*\*)"
    r"|(?<![\w)] )-log_r\b"
    r"|\b1(?:\.0)? - (?:r\b|ratio\b|.*\bexp\()"
)


def test_a_leak_is_found(tmp_path):
    (tmp_path / "notes.txt").write_text(
        "I think it is\n    per_token = policy_log_probs - ref_log_probs  # simple\n"
    )
    (tmp_path / "book.ipynb").write_text(
        json.dumps({"cells": [{"source": ["per_token = 1 ", "- ratio"], "outputs": []}]})
    )
    (tmp_path / "fine.py").write_text("scores = get_sentiment_scores(completions)\n")
    penalty = "f = lambda q, p, mask, kl_coef: kl_coef * ((q - p) * mask).sum(1)\n"
    (tmp_path / "test_credit.py").write_text(penalty)
    (tmp_path / "grpo_from_scratch.py").write_text(penalty)  # it calls the student's own
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "stock.py").write_text(penalty)  # where it is meant to be found
    assert sorted(find_leaks(tmp_path)) == [
        ("book.ipynb", "per_token = 1 - ratio"),
        ("grpo_from_scratch.py", "kl_coef * ((q - p"),
        ("notes.txt", "per_token = policy_log_probs - ref_log_probs"),
        ("test_credit.py", "kl_coef * ((q - p"),
    ]


def test_a_copy_has_no_leaks(student_copy):
    """Its tests once had exercise 3b in them, by name."""
    assert find_leaks(student_copy) == []
    assert {name for name in handout.MEANT if not (student_copy / name).exists()} == set()


def test_who_takes_the_difference_of_both_models_is_listed(student_copy):
    """evaluate.py has 3b but for its coefficient, and the report did not say so; a test had both
    penalties with the right sign."""
    files = [path for top in LOOKED_AT for path in student_copy.glob(top)]
    found = {path for path in files if OF_A_TOKEN.search(path.read_text(encoding="utf-8"))}
    names = {path.relative_to(student_copy).as_posix() for path in found}
    assert {"evaluate.py", "tests/test_play.py"} <= names <= handout.MEANT.keys()


@pytest.mark.parametrize(
    "line, found",
    [
        ("penalty = (-log_r if kind else 0).sum(1)", True),
        ("penalty = (0 if kind else 1 - log_r.exp()).sum(1)", True),
        ("kl = sum(q - p for _, q, p in tokens)", True),
        ("cost = lambda q, p: (q - p).detach()", True),
        ("32 * (log_q.exp() * (log_q - reference)).sum()", True),
        ("per_token = 1.0 - ratio", True),
        ("per_token = 1 - torch.exp(p - q)", True),
        ("(r_minus_1 - log_r).sum(-1)", False),  # an estimate of the divergence
        ("cost = (log_q - log_p) ** 3", False),
        ("ratio = math.exp(q - p)", False),
    ],
)
def test_what_is_taken_for_a_penalty_of_one_token(line, found):
    assert bool(OF_A_TOKEN.search(line)) == found


def test_release_refuses_to_overwrite(tmp_path):
    (tmp_path / "out.zip").write_text("")
    with pytest.raises(SystemExit, match="out.zip exists. Give another name"):
        main([str(tmp_path / "out")])
    assert list(tmp_path.iterdir()) == [tmp_path / "out.zip"]


def test_a_leak_stops_the_release(tmp_path, monkeypatch):
    monkeypatch.setattr(handout, "WITHHELD", set())
    with pytest.raises(SystemExit, match="Lines of the solution stand in the copy"):
        main([str(tmp_path / "out")])
    assert list(tmp_path.iterdir()) == []


def test_student_readme_has_its_own_opening_and_nothing_for_instructors(student_copy):
    text = (student_copy / "README.md").read_text(encoding="utf-8")
    assert text.startswith("# Teach GPT-2 to like movies: your copy")
    assert text.count("\n# ") == 0 and "## The exercises" in text
    for name in ("For instructors", "instructor/", "rewards_solution", "exercise_solved"):
        assert name not in text
    opening = text.partition("\n## ")[0]
    assert "**KL**" in opening and "*nats*" in opening and "(docs/words.md)" in opening


def test_no_page_of_the_copy_tells_of_a_solution(student_copy):
    """There is none in it for the option to take."""
    pages = [*student_copy.rglob("*.md"), student_copy / "exercise.ipynb"]
    assert len(pages) > 10
    named = [path for path in pages if "--use_solution" in path.read_text(encoding="utf-8")]
    assert named == []


def test_pages_of_the_copy_name_only_what_is_there(student_copy):
    assert dead_references(student_copy) == []


def test_a_dead_reference_is_found(tmp_path):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_inputs.py").write_text("")
    (tmp_path / "README.md").write_text(
        "[a](https://example.org/x.md) [b](docs/gone.md#part) [c](tests/test_inputs.py) and "
        "`test_inputs.py`, `answers.md`, `run.json`\n\n```bash\npython away.py --out x\n```\n"
    )
    cells = [{"cell_type": "markdown", "source": ["see `docs/", "away.md`"]}]
    cells.append({"cell_type": "code", "source": ["`not_looked_at.py`"]})
    (tmp_path / "work.ipynb").write_text(json.dumps({"cells": cells}))
    assert dead_references(tmp_path) == [
        ("README.md", "docs/gone.md"),
        ("README.md", "answers.md"),
        ("README.md", "away.py"),
        ("work.ipynb", "docs/away.md"),
    ]


def test_what_is_for_instructors_is_cut_wherever_it_stands():
    text = "# Old\n\n## The exercises\n\na\n\n## For instructors\n\nb\n"
    page = student_page(text, opening=True)
    assert page.endswith("## The exercises\n\na\n\n") and "your copy" in page
    assert student_page(f"{text}\n## Next\n\nc\n").endswith("a\n\n## Next\n\nc\n")


def test_what_is_withheld_is_not_in_the_copy(student_copy):
    names = {path.relative_to(student_copy).as_posix() for path in student_copy.rglob("*")}
    assert {"rewards.py", "engine/common.py", "cases/__init__.py", "tiny/gpt2"} <= names
    assert {f"engine/pages/page/page.{kind}" for kind in ("html", "css", "js")} <= names
    assert {name for name in names if "solution" in name or "instructor" in name} == set()
    of_the_developers = {"CONTRIBUTING.md", "CHANGELOG.md", ".pre-commit-config.yaml", ".ci"}
    assert not {*of_the_developers, "exercise_solved.ipynb"} & names
    assert not {"docs/results.md", "docs/samples.md", "docs/optimum.png"} & names
    assert not [name for name in names if name.endswith(".pyc")]


def test_coding_assistants_are_asked_to_tutor(student_copy):
    """Whatever AGENTS.md says to those who develop this."""
    text = (student_copy / "AGENTS.md").read_text(encoding="utf-8")
    assert "do not solve" in text and "python rewards.py --hint 3b" in text


def test_the_address_of_the_copy_is_written_into_it(tmp_path, student_copy):
    handout.copy_files(tmp_path, repo="https://github.com/o/n")
    link = "https://colab.research.google.com/github/o/n/blob/main/exercise.ipynb"
    book = json.loads((tmp_path / "exercise.ipynb").read_text(encoding="utf-8"))
    sources = ["".join(cell["source"]) for cell in book["cells"]]
    assert link in sources[0] and 'REPO = "https://github.com/o/n"' in sources[1]
    opening, _, rest = (tmp_path / "README.md").read_text(encoding="utf-8").partition("\n## ")
    assert f"({link})" in opening and link not in rest
    assert "colab.research" not in (student_copy / "README.md").read_text(encoding="utf-8")
    without = (student_copy / "exercise.ipynb").read_bytes()
    assert without == (ROOT / "exercise.ipynb").read_bytes()


def test_an_address_that_is_none_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path / "out"), "--repo", "github.com/o/n"])
    assert (
        "--repo takes an address such as https://github.com/OWNER/NAME" in capsys.readouterr().err
    )
    assert list(tmp_path.iterdir()) == []


def steps_of_the_workflow(copy):
    """The commands of the copy's workflow: what installs, and then one for each exercise."""
    workflow = copy / ".github" / "workflows" / "exercise.yml"
    (job,) = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"].values()
    install, *tests = (step["run"] for step in job["steps"] if "run" in step)
    return install, tests


def test_the_workflow_of_the_copy_has_a_step_for_each_exercise(student_copy):
    install, tests = steps_of_the_workflow(student_copy)
    assert f"&& {install} &&" in (student_copy / "README.md").read_text(encoding="utf-8")
    labels = set(to_do(ROOT / "rewards.py").values()) - {"Bonus"}
    marks = [f"exercise{label.removeprefix('Exercise ')}" for label in sorted(labels)]
    assert tests == [f"python -m pytest --student -m {mark}" for mark in marks]


@pytest.mark.slow
def test_the_workflow_of_the_copy_shows_what_is_solved(tmp_path):
    handout.copy_files(tmp_path)
    _, tests = steps_of_the_workflow(tmp_path)
    assert run_step(tests[0], tmp_path) == 1
    shutil.copyfile(ROOT / "rewards_solution.py", tmp_path / "rewards.py")
    assert [run_step(test, tmp_path) for test in tests] == [0] * 7


def run_step(command, folder):
    words = shlex.split(command)
    assert words[0] == "python"
    return subprocess.run([sys.executable, *words[1:]], cwd=folder, capture_output=True).returncode


@pytest.mark.slow
def test_a_released_copy_is_red_at_the_exercises_and_green_when_they_are_solved(tmp_path, capsys):
    folder = tmp_path / "copy"
    main([str(folder)])
    assert "Red at 7 exercises, green elsewhere." in capsys.readouterr().out
    assert (tmp_path / "copy.zip").stat().st_size < 25e6
    exercises, others = run_tests(folder)  # the whole suite
    assert len(exercises) == 7 and others == []
    shutil.copyfile(ROOT / "rewards_solution.py", folder / "rewards.py")
    assert run_tests(folder, "--student") == (set(), [])


def test_what_the_tests_of_a_copy_find_and_leave_behind(tmp_path):
    (tmp_path / "test_broken.py").write_text("import gone\n")
    (tmp_path / "test_it.py").write_text(
        "import pytest\n\n\n"
        "@pytest.mark.parametrize('name', ['rewards-shaped_reward-case', 'fine'])\n"
        "def test_exercise(name):\n"
        "    open('left_behind', 'w').close()\n"
        "    assert name == 'fine'\n"
    )
    red = run_tests(tmp_path, "--continue-on-collection-errors")
    assert red.exercises == {"shaped_reward"} and "test_broken" in str(red.others)
    assert {path.name for path in tmp_path.iterdir()} == {"test_broken.py", "test_it.py"}


def test_a_pytest_that_does_not_start_is_shown(tmp_path):
    with pytest.raises(handout.Refused, match="(?s)did not run in the copy:.*no_such_option"):
        run_tests(tmp_path, "--no_such_option")
