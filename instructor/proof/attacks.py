"""A test of the grader: hostile and broken submissions, each with what it must get.

`tests/instructor/test_attacks.py` runs all of them for real, in one batch with right ones;
`known_files` is the part of them that grade.py grades before every run.
"""

import random
import re
import textwrap

from cases import CASES, Ask, report
from engine.common import ROOT
from instructor.handout.rewards_file import student_text
from instructor.proof import swelling
from instructor.proof.mutants import load, with_body
from instructor.proof.right import VALID
from instructor.proof.wrong import WRONG

SOLUTION = (ROOT / "rewards_solution.py").read_text(encoding="utf-8")
TEMPLATE = student_text(SOLUTION)
EXERCISES = [name for name, (exercise, _) in CASES.items() if exercise not in ("1", "bonus")]
ZEROS = """
    names = ("completions", "policy_log_probs", "rewards", "log_probs")
    rows = [v for k, v in sorted(locals().items()) if k in names][0]
    return [0.0] * len(rows)
"""


def on_import(code, source=SOLUTION):
    """The solution, with code that runs when it is imported."""
    return f"{source}\n\n{textwrap.dedent(code)}"


def everywhere(body, source=SOLUTION):
    """A file with the same body for every exercise; it may use `rows`, one for each reward."""
    rows = textwrap.dedent(ZEROS).replace("return [0.0] * len(rows)", "").strip()
    for name in EXERCISES:
        source = with_body(source, name, f"{rows}\n{textwrap.dedent(body).strip()}")
    return source


def in_penalty(body):
    """The solution, with another body for kl_penalty_forward."""
    return with_body(SOLUTION, "kl_penalty_forward", body)


def attempt(code):
    """A file that tries something in every function, leaves a note if it worked, answers zeros."""
    code = textwrap.indent(textwrap.dedent(code).strip(), "    ")
    return everywhere(
        f"try:\n{code}\n    print('IT WORKED')\nexcept Exception as error:\n"
        "    print('denied', type(error).__name__)\nreturn [0.0] * len(rows)"
    )


def without(function):
    """The solution without one function."""
    return re.sub(
        rf"^def {function}\(.*?(?=^def |\Z)", "", SOLUTION, flags=re.DOTALL | re.MULTILINE
    )


def hard_coded(models):
    """Right for what the public tests ask, and zeros for everything else."""
    module = load(SOLUTION, "rewards.py")
    keys = {}
    exec(KEY_OF, keys)
    public = []
    for name in EXERCISES:

        def noting(name=name, **arguments):
            public.append(keys["key_of"](name, arguments))
            return getattr(module, name)(**arguments)

        for case in CASES[name][1]:
            report(case, Ask(noting, models, name), random.Random(0))
    table = f"PUBLIC = set({' '.join(public)!r}.split())  # questions"
    return f"{SOLUTION}\n{table}\nNAMES = {EXERCISES}\n{KEY_OF}{BY_HEART}"


KEY_OF = """

def key_of(name, arguments):
    import hashlib

    given = {k: v for k, v in arguments.items() if k not in ("ref_model", "tokenizer")}
    values = [getattr(v, "tolist", lambda v=v: v)() for _, v in sorted(given.items())]
    return hashlib.sha256(f"{name}{values}".encode()).hexdigest()[:12]
"""
BY_HEART = """

import inspect


def by_heart(name):
    function = globals()[name]

    def known(*places, **arguments):
        arguments = inspect.signature(function).bind(*places, **arguments).arguments
        arguments |= arguments.pop("kwargs", {})
        if key_of(name, arguments) in PUBLIC:  # which stands for a table of answers
            return function(**arguments)
        names = ("completions", "policy_log_probs", "rewards", "log_probs")
        rows = next(v for k, v in arguments.items() if k in names)
        return [0.0] * len(rows)

    return known


for name in NAMES:
    globals()[name] = by_heart(name)
"""
FORGED = '{"number": %d, "answer": {"kind": "list", "value": [0.0, 0.0, 0.0]}}'
CRASH_AT_IMPORT = on_import("import os\nos._exit(0)")
EXIT_AT_IMPORT = on_import("import sys\nsys.exit(0)")
ALWAYS_EQUAL = everywhere(
    """
    class Number(float):
        __eq__ = lambda self, other: True
        __lt__ = __gt__ = __le__ = __ge__ = __eq__
        __hash__ = float.__hash__
    return [Number(0.0) for _ in rows]
    """
)
GARBAGE_ON_THE_PIPE = everywhere(
    """
    import os
    for fd in range(3, 64):
        try:
            os.write(fd, b"PASSED PASSED\\n")
        except OSError:
            pass
    return [0.0] * len(rows)
    """
)
GUESSED_ANSWERS = everywhere(
    f"""
    import os
    for number in range(1, 400):
        try:
            os.write(4, ({FORGED!r} % number).encode() + b"\\n")
        except OSError:
            pass
    return [0.0] * len(rows)
    """
)
PATCHES_JSON = on_import(
    """
    import json
    json.dumps = lambda *args, **kwargs: '{"passed": true, "score": 100}'
    """
)
PATCHES_TORCH = on_import(
    """
    torch.allclose = lambda *args, **kwargs: True
    torch.Tensor.__eq__ = lambda self, other: True
    """,
    everywhere("return [0.0] * len(rows)"),
)
ENDLESS = """
    import signal
    for number in range(1, 32):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            pass
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass
"""


def swells_and_misleads():
    """A file each of whose functions would take too much, or hang or crash a careless grader."""
    return with_bodies(
        shaped_reward_exponential=swelling.THREADS,
        shaped_reward=swelling.FILES,
        compute_ref_log_probs=swelling.DIMENSIONS,
        kl_penalty_forward=swelling.SURROGATE,
        kl_penalty_backward=swelling.NEVER_READS,
        group_advantages=swelling.NESTED,
        policy_loss=swelling.DIMENSIONS,
    )


def fills_and_floods():
    """Another such file."""
    return with_bodies(
        shaped_reward_exponential=swelling.DISK,
        shaped_reward=swelling.FLOODS,
        compute_ref_log_probs=swelling.HELD_OPEN,
        kl_penalty_forward=swelling.DIGITS,
        kl_penalty_backward=swelling.NESTED,
        group_advantages=swelling.DIMENSIONS,
        policy_loss=swelling.DIGITS,
    )


def with_bodies(**bodies):
    """The solution with other bodies for some of its functions."""
    source = SOLUTION
    for function, body in bodies.items():
        source = with_body(source, function, body)
    return source


def all_of(value):
    return dict.fromkeys(EXERCISES, value)


def known_files():
    """(title, source, {exercise: "all", "less" or "none"}) for the check before each run."""
    yield "the solution", SOLUTION.encode(), all_of("all")
    yield "the template", TEMPLATE.encode(), all_of("none")
    wrong = (
        ("wrong sign", "wrong sign", "off by one", "wrong sign", "sign", "sign"),
        (
            "the other penalty",
            "linear",
            "mean for sum",
            "pays for length",
            "undivided",
            "mean of means",
        ),
        (
            "mean over real tokens",
            "ignores the temperature",
            "with the prompt",
            "the score itself",
            "biased deviation",
            "no clip",
        ),
        (
            "missing kl_coef",
            "multiplies",
            "negative",
            "blind to the score",
            "own sample left out",
            "mask forgotten",
        ),
        (
            "ignored mask",
            "forgets the - 1",
            "base two",
            "scaled and shifted",
            "groups across",
            "the clipped term alone",
        ),
        (
            "a value, r log r",
            "divides outside",
            "raw logits",
            "fails on empty text",
            "0 / 0",
            "ratio of sums",
        ),
    )
    for penalty, exponential, log_probs, shaped, advantages, loss in wrong:
        bodies = {
            "shaped_reward_exponential": exponential,
            "shaped_reward": shaped,
            "compute_ref_log_probs": log_probs,
            "kl_penalty_forward": penalty,
            "kl_penalty_backward": penalty,
            "group_advantages": advantages,
            "policy_loss": loss,
        }
        source = with_bodies(**{name: WRONG[name][title] for name, title in bodies.items()})
        yield ", ".join(dict.fromkeys(bodies.values())), source.encode(), all_of("less")
    yield "ends at import", EXIT_AT_IMPORT.encode(), all_of("none")
    yield "garbage on the pipe", GARBAGE_ON_THE_PIPE.encode(), all_of("none")
    yield "numbers that equal everything", ALWAYS_EQUAL.encode(), all_of("none")
    yield "patches json", PATCHES_JSON.encode(), all_of("none")
    yield "swells and misleads", swells_and_misleads().encode(), all_of("none")
    yield "fills and floods", fills_and_floods().encode(), all_of("none")


def valid_files():
    """{name: source}: files that are right, each function in another style in each of them."""
    most = max(map(len, VALID.values()))
    return {
        f"valid {i}": with_bodies(
            **{name: [*bodies.values()][i % len(bodies)] for name, bodies in VALID.items()}
        )
        for i in range(most)
    }
