"""The grader's side of a question: a child that does anything must not hang, crash or mislead it.

The worker here is a thread of the test that plays its part: nothing is forked.
"""

import json
import os
import random
import socket
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import torch

from cases import Wrong
from instructor.grading import course, examining, process
from instructor.grading.command import RUBRIC
from instructor.grading.course import Grader, grade_all
from instructor.grading.examining import decode, examine
from instructor.grading.journal import results_of
from instructor.grading.points import read_rubric
from instructor.grading.process import (
    Allowance,
    Child,
    Control,
    Dead,
    WorkerGone,
    Workshop,
    flat,
    read_reply,
)
from instructor.grading.submission import GraderError, Submission

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")


class FakeWorker:
    """Hands the three pipes of each child to `play(questions, answers, shown)`, in a thread."""

    def __init__(self, folder, play, orders=10**6):
        ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control = Control(ours, folder, unsafe=False)
        self.controls = [self.control]
        threading.Thread(target=self.serve, args=(play, orders), daemon=True).start()

    def serve(self, play, orders):
        for _ in range(orders):
            data, fds, _, _ = socket.recv_fds(self.theirs, 65536, 3)
            if not data:
                break
            if "folder" in json.loads(data):
                threading.Thread(target=play, args=fds, daemon=True).start()
                self.theirs.send(b"{}")
            else:
                self.theirs.send(b'{"signal": 9}')
        self.theirs.close()


def silent(questions, answers, shown):
    """Keeps its pipes open, reads nothing, says nothing."""


def saying(*lines):
    """A child that answers each question with the next of these lines."""

    def play(questions, answers, shown):
        with open(questions, "rb") as incoming:
            for _, line in zip(incoming, lines):
                os.write(answers, line)

    return play


def child_of(tmp_path, play, seconds=5.0, allowance=None):
    return Child(FakeWorker(tmp_path, play).control, b"", seconds, allowance)


def test_a_question_that_nobody_reads_is_late(tmp_path):
    """1 MB does not fit into a pipe: a write without a deadline never returned."""
    with child_of(tmp_path, silent, 0.3) as child:
        started = time.monotonic()
        with pytest.raises(Dead, match="no answer within 0 seconds"):
            child.ask("call", arguments="x" * (1 << 20))
        assert time.monotonic() - started < 3
        with pytest.raises(Dead, match="no answer"):
            child.ask("call")
    assert list(tmp_path.iterdir()) == []


def test_an_answer_of_half_a_line_is_late_and_an_endless_one_is_too_large(tmp_path):
    with child_of(tmp_path, saying(b'{"number": 1'), 0.3) as child:
        with pytest.raises(Dead, match="no answer within"):
            child.ask("load")

    def endless(questions, answers, shown):
        while True:
            os.write(answers, b"1" * 65536)

    with child_of(tmp_path, endless) as child:
        with pytest.raises(Dead, match="larger than 64 KB"):
            child.ask("load")


def test_all_answers_together_have_a_limit(tmp_path):
    def slow(questions, answers, shown):
        with open(questions, "rb") as incoming:
            for number, _ in enumerate(incoming, 1):
                time.sleep(0.2)  # just below the limit for one
                os.write(answers, b'{"number": %d, "answer": null}\n' % number)

    with child_of(tmp_path, slow, 0.5, Allowance(0.9)) as child:
        with pytest.raises(Dead, match="all its answers together took longer than 1 seconds"):
            for _ in range(10):
                child.ask("load")
        assert 3 <= child.number <= 5


def test_printing_without_end_does_not_delay_an_answer_for_ever(tmp_path):
    def chatter(questions, answers, shown):
        os.write(shown, b"x" * 65536)
        os.write(answers, b'{"number": 1, "answer": null}\n')
        while True:
            os.write(shown, b"x" * 65536)

    with child_of(tmp_path, chatter, 0.5) as child:
        assert child.ask("load") is None
        assert child.output == b"x" * 2000


NESTED = b'{"number": 1, "answer": ' + b"[" * 30_000 + b"]" * 30_000 + b"}\n"
MALFORMED = {
    "no json": (b"PASSED\n", "no JSON"),
    "nested": (NESTED, "protocol error"),
    "a list": (b"[1]\n", "not asked"),
    "another number": (b'{"number": 2, "answer": 1}\n', "not asked"),
    "two kinds": (b'{"number": 1, "answer": 1, "todo": "x"}\n', "unknown form"),
    "no kind": (b'{"number": 1}\n', "unknown form"),
    "raised no text": (b'{"number": 1, "raised": [1]}\n', "unknown form"),
    "lists in lists": (b'{"number": 1, "answer": {"value": [[1.0]]}}\n', "unknown form"),
    "long number": (b'{"number": 1, "answer": ' + b"9" * 5000 + b"}\n", "no JSON"),
    "two lines": (b'{"number": 1, "answer": 1}\n{"number": 2}\n', "more than one"),
    "no text": (b'\xff{"number": 1, "answer": 1}\n', "no JSON"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_what_is_no_answer_is_a_protocol_error(tmp_path, case):
    line, words = MALFORMED[case]
    with child_of(tmp_path, saying(line)) as child:
        with pytest.raises(Dead, match=f"protocol error.*{words}|{words}.*protocol error|{words}"):
            child.ask("load")


def test_only_what_the_handed_out_file_raises_is_a_todo(tmp_path):
    with child_of(tmp_path, saying(b'{"number": 1, "todo": "Bonus: implement it"}\n')) as child:
        with pytest.raises(NotImplementedError, match="Bonus: implement it"):
            child.ask("load")
    with child_of(tmp_path, saying(b'{"number": 1, "todo": "forged"}\n')) as child:
        with pytest.raises(Wrong, match="it raised forged"):
            child.ask("load")


def test_text_of_a_submission_is_harmless_where_it_enters():
    line = json.dumps({"number": 1, "raised": "ValueError: \ud800\x1b[31m\u2028red\x00"}).encode()
    assert read_reply(line, 1) == ("raised", "ValueError: ?red")
    line = json.dumps({"number": 1, "answer": {"value": ["\udfff\x9b"], "\x1bkind": 1}}).encode()
    assert read_reply(line, 1) == ("answer", {"value": ["?"], "kind": 1})
    assert len(flat("x" * 10**6)) == 1000


THREE = ["a", "b", "c"]


@pytest.mark.parametrize(
    "answer",
    [
        {"kind": "shape", "shape": [1] * 500_000},  # a tensor of them is a segmentation fault
        {"kind": "tensor", "shape": [1] * 500_000, "value": [0.0]},
        {"kind": "shape", "shape": [10**18]},
        {"kind": "shape", "shape": "x"},
        {"kind": "shape"},
        {"kind": "list", "value": [0.0] * 4},
        {"kind": "list", "value": {"0": 1.0}},
        {"kind": "list"},
        {"kind": ["list"], "value": [0.0]},
        {"kind": "plain", "value": [0.0]},
        {"kind": "length", "length": "many"},
        {"kind": "item", "index": None, "type": "x"},
        {"kind": "other", "type": 5},
        {"kind": "spam"},
        {},
        [0.0, 0.0, 0.0],
        0.0,
        None,
        "list",
    ],
    ids=lambda answer: str(answer)[:40],
)
def test_a_forged_answer_is_wrong_and_nothing_is_built_of_it(answer):
    with pytest.raises(Wrong, match="returned") as wrong:
        decode(answer, "shaped_reward", THREE)
    assert len(str(wrong.value)) < 200


def test_answers_that_are_some():
    assert decode({"kind": "list", "value": [1.0, 2.0, 3.0]}, "f", THREE) == [1.0, 2.0, 3.0]
    given = torch.zeros(2, 3)
    assert decode({"kind": "shape", "shape": [2, 3]}, "f", given).shape == (2, 3)
    with pytest.raises(Wrong, match=r"a tensor of shape \[2, 1\]; expected 2 numbers"):
        decode({"kind": "shape", "shape": [2, 1]}, "f", given)
    with pytest.raises(Wrong, match="returned 5000000 values for 3 completions"):
        decode({"kind": "length", "length": 5_000_000}, "f", THREE)


def test_a_dead_worker_is_no_fault_of_a_submission(tmp_path):
    worker = FakeWorker(tmp_path, saying(), orders=1)
    with pytest.raises(WorkerGone, match="--resume goes on"):
        with Child(worker.control, b"") as child:
            os.close(child.questions)
            child.questions = child.fds[0] = os.open(os.devnull, os.O_WRONLY)
            child.seconds = 0.1
            child.ask("load")
    with pytest.raises(WorkerGone):
        Child(worker.control, b"")
    assert list(tmp_path.iterdir()) == []


def grader_with(models):
    return Grader({"rubric": read_rubric(RUBRIC), "seeds": [0, 1], "timeout": 1}, models, "x")


def test_a_dead_worker_ends_the_run_and_is_journaled_for_nobody(tmp_path, policy):
    """Its OSError once became "the grader failed" in the row of everybody who was left."""
    (tmp_path / "tmp").mkdir()
    worker = FakeWorker(tmp_path / "tmp", saying(), orders=0)
    people = [Submission(name, name, b"a = 1") for name in ("Ann", "Ben", "Cid")]
    rejected = Submission("Dan", "Dan", rejected="a symbolic link")
    journal = tmp_path / "results.jsonl"
    with pytest.raises(WorkerGone):
        grade_all(worker, [rejected, *people], grader_with(policy), journal, lambda: None)
    assert {result["student"] for result in results_of(journal)} <= {"Dan"}


def test_an_error_in_the_grader_is_one_row(tmp_path, policy, monkeypatch):
    whole = course.grade_one

    def breaks(control, submission, grader):
        if submission.student == "Ben":
            raise OSError("no space left")
        return whole(control, submission, grader)

    monkeypatch.setattr(course, "grade_one", breaks)
    people = [Submission(name, name, rejected="a link") for name in ("Ann", "Ben", "Cid")]
    journal = tmp_path / "results.jsonl"
    worker = SimpleNamespace(controls=[None])
    grade_all(worker, people, grader_with(policy), journal, lambda: None)
    found = {
        result["student"]: (result["status"], result["score"]) for result in results_of(journal)
    }
    rejected = ("rejected", None)
    assert found == {"Ann": rejected, "Ben": ("grader error", None), "Cid": rejected}


def asks(ask, rng):
    """It asks."""
    for _ in range(40):
        ask(completions=THREE)


def answering(seconds=0.0, noted=None):
    """A child that prints, and answers after some time; it notes what it is asked."""

    def play(questions, answers, shown):
        with open(questions, "rb") as incoming:
            for number, line in enumerate(incoming, 1):
                question = json.loads(line)
                operation = question["operation"]
                printed = {"imports": b"", "load": b"hello\x1b[31m\n", "call": b"hidden input\n"}
                os.write(shown, printed[operation])
                time.sleep(seconds)
                given = b'{"kind": "list", "value": [1.0, 2.0, 3.0]}'
                given = {"imports": b'["os"]', "load": b"null", "call": given}[operation]
                if noted is not None:
                    noted.append(question)
                os.write(answers, b'{"number": %d, "answer": %s}\n' % (number, given))

    return play


def test_a_worker_that_dies_in_the_middle_of_a_case_is_no_fault_either(
    tmp_path, policy, monkeypatch
):
    """Though the case takes that for an error of the function that it asks."""
    monkeypatch.setattr(examining, "CASES", {"shaped_reward": ("2b", (asks,))})
    load_alone = saying(*(b'{"number": %d, "answer": null}\n' % number for number in (1, 2)))
    worker = FakeWorker(tmp_path, load_alone, orders=3)  # start, end, start
    with pytest.raises(WorkerGone):
        examine(worker.control, b"", [0], policy, 0.3)
    assert list(tmp_path.iterdir()) == []


def test_a_submission_has_one_allowance_for_all_its_functions(tmp_path, policy, monkeypatch):
    """370 seconds of answers were seen, each just below the limit for one."""
    names = ("shaped_reward", "kl_penalty_forward", "kl_penalty_backward")
    monkeypatch.setattr(examining, "CASES", {name: ("2b", (asks,)) for name in names})
    worker = FakeWorker(tmp_path, answering(0.15))
    started = time.monotonic()
    found = examine(worker.control, b"", [0], policy, 0.3)
    assert time.monotonic() - started < 8  # 6 · 0.3 seconds, and what else there is to do
    words = "all its answers together took longer than 2 seconds"
    assert len(found.outcomes) == 3 and all(words in each.message for each in found.outcomes)


def test_only_what_the_import_printed_is_for_the_student(tmp_path, policy, monkeypatch):
    monkeypatch.setattr(examining, "CASES", {"shaped_reward": ("2b", (asks,))})
    worker = FakeWorker(tmp_path, answering())
    found = examine(worker.control, b"", [0], policy, 5.0)
    assert found.printed == "hello\n" and found.output.startswith("hello\nhello\nhidden input\n")
    assert "\x1b" not in found.output


def asks_at_random(ask, rng):
    """It asks what only its seed tells."""
    ask(completions=THREE, scores=rng.random())


def test_nothing_is_told_in_words_after_the_first_hidden_input(tmp_path, policy, monkeypatch):
    """A hidden text of 2a once came out in an error of 3b, by way of files' times of access."""
    names = ("shaped_reward", "kl_penalty_forward")
    monkeypatch.setattr(examining, "CASES", {name: ("2b", (asks_at_random,)) for name in names})
    noted = []
    worker = FakeWorker(tmp_path, answering(noted=noted))
    found = examine(worker.control, b"", [0, 1, 2], policy, 5.0)
    public = random.Random(0).random()
    asked = [
        (each["function"], each["arguments"]["scores"] == public)
        for each in noted
        if each["operation"] == "call"
    ]
    first, second = names
    assert asked[:2] == [(first, True), (second, True)]
    again = [[(name, False), (name, False), (name, True)] for name in names]
    assert asked[2:] == again[0] + again[1]
    assert found.flags == {"imports os"}


def test_hidden_inputs_are_a_files_own(tmp_path, policy, monkeypatch):
    """So they are no use to another submission that comes to know them; asked again, they are the
    same, also on another machine."""
    monkeypatch.setattr(examining, "CASES", {"shaped_reward": ("2b", (asks_at_random,))})
    told = []
    for source in (b"a = 1", b"a = 2", b"a = 1"):
        noted = []
        worker = FakeWorker(tmp_path, answering(noted=noted))
        examine(worker.control, source, [0, 7], policy, 5.0)
        calls = [each["arguments"]["scores"] for each in noted if each["operation"] == "call"]
        told.append(calls)
    mine, other, again = told
    public = random.Random(0).random()
    assert mine == again == [public, mine[1], public] and other == [public, other[1], public]
    assert len({public, mine[1], other[1], random.Random(7).random()}) == 4


@pytest.mark.parametrize("how", ["raises", "ends"])
def test_what_one_function_leaves_behind_costs_no_other_one(tmp_path, policy, monkeypatch, how):
    """They share a process, so what fails there is asked again in one of its own."""
    names = ("shaped_reward", "kl_penalty_forward")
    monkeypatch.setattr(examining, "CASES", {name: ("2b", (asks_at_random,)) for name in names})
    right = b'"answer": {"kind": "list", "value": [1.0, 2.0, 3.0]}'
    wrong = {"raises": b'"raised": "MemoryError"', "ends": b"spoilt"}[how]

    def play(questions, answers, shown):
        spoilt = False
        with open(questions, "rb") as incoming:
            for number, line in enumerate(incoming, 1):
                function = json.loads(line).get("function")
                given = wrong if spoilt and function == names[1] else right
                os.write(answers, b'{"number": %d, %s}\n' % (number, given))
                spoilt = spoilt or function == names[0]

    worker = FakeWorker(tmp_path, play)
    found = examine(worker.control, b"", [0, 1], policy, 5.0)
    assert [outcome.passed for outcome in found.outcomes] == [True, True] and not found.flags


def asks_the_same(ask, rng):
    """Its inputs are the same with every seed."""
    ask(completions=THREE)


def test_what_no_seed_changes_is_asked_twice(tmp_path, policy, monkeypatch):
    cases = (asks_the_same, asks_at_random)
    monkeypatch.setattr(examining, "CASES", {"shaped_reward": ("2b", cases)})
    noted = []
    worker = FakeWorker(tmp_path, answering(noted=noted))
    examine(worker.control, b"", [0, 1, 2], policy, 5.0)
    asked = ["scores" in each["arguments"] for each in noted if each["operation"] == "call"]
    assert asked.count(False) == 2 and asked.count(True) == 4


@pytest.mark.parametrize("how", ["raises", "ends"])
def test_how_a_hidden_question_failed_is_not_told(tmp_path, policy, monkeypatch, how):
    """The status of exit has eight bits, and an error as many as it likes."""
    monkeypatch.setattr(examining, "CASES", {"shaped_reward": ("2b", (asks_at_random,))})
    public = random.Random(0).random()

    def play(questions, answers, shown):
        with open(questions, "rb") as incoming:
            for number, line in enumerate(incoming, 1):
                score = json.loads(line).get("arguments", {}).get("scores", public)
                if score == public:
                    given = b'"answer": {"kind": "list", "value": [1.0, 2.0, 3.0]}'
                elif how == "raises":
                    given = b'"raised": "ValueError: hidden"'
                else:
                    given = b"hidden"
                os.write(answers, b'{"number": %d, %s}\n' % (number, given))

    worker = FakeWorker(tmp_path, play)
    (outcome,) = examine(worker.control, b"", [0, 1], policy, 5.0).outcomes
    assert outcome.message == {"raises": examining.HIDDEN, "ends": examining.ENDED}[how]


def test_a_disk_without_room_is_refused(monkeypatch):
    """One submission filled a small TMPDIR, and its neighbours were "grader error"."""
    monkeypatch.setattr(process.shutil, "disk_usage", lambda path: SimpleNamespace(free=300 << 20))
    with pytest.raises(GraderError, match="has 300 MB left; 2 submissions .* may need 512"):
        Workshop(2)


def test_a_machine_without_room_for_a_process_is_one_row(tmp_path, policy):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.send(b'{"failed": "Resource temporarily unavailable"}')
    with pytest.raises(RuntimeError, match="no process could be started"):
        examine(Control(ours, tmp_path, unsafe=False), b"", [0], policy)
    assert list(tmp_path.iterdir()) == []


def test_a_case_that_fails_on_odd_numbers_is_the_submissions_failure(tmp_path, policy, monkeypatch):
    """Whatever numbers come: "the grader failed, not the submission" is not for them to cause."""

    def breaks(ask, rng):
        """It breaks."""
        ask(completions=THREE)
        raise OverflowError("math range error")

    monkeypatch.setattr(examining, "CASES", {"shaped_reward": ("2b", (breaks,))})
    play = saying(
        *(
            b'{"number": %d, "answer": {"kind": "list", "value": [3e38, 1.0, 2.0]}}\n' % number
            for number in range(1, 9)
        )
    )
    worker = FakeWorker(tmp_path, play)
    found = examine(worker.control, b"", [0], policy, 5.0)
    (outcome,) = found.outcomes
    assert not outcome.passed and "could not be judged (OverflowError)" in outcome.message
    assert any("no verdict, OverflowError" in flag for flag in found.flags)
