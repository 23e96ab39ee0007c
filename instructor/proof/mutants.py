"""A test of the tests: wrong solutions that must fail, unusual right ones that must pass.

    python -m instructor.proof.mutants

prints which case catches each wrong solution of `wrong.py` and what the student reads; nothing may
catch those of `right.py`. Each entry is the body of one function, put in the place of the
solution's. The exit status is 0 only if every verdict is right.
"""

import functools
import random
import sys
import textwrap
import types

from engine.common import ROOT, quiet_libraries
from engine.options import OneLineParser
from instructor.handout.rewards_file import BODY, FUNCTION
from instructor.proof.right import VALID
from instructor.proof.wrong import WRONG


def with_body(source, function, body):
    """The text of a rewards file with another body for one function."""
    for match in BODY.finditer(source):
        if FUNCTION.findall(source[: match.start()])[-1] == function:
            body = textwrap.indent(textwrap.dedent(body).strip("\n"), match.group(1))
            return f"{source[: match.start()]}{body.rstrip()}\n{source[match.end() :]}"
    raise KeyError(function)


def load(source, name):
    """A rewards file from its text, as a module; errors in it name the file `name`."""
    module = types.ModuleType(name)
    exec(compile(source, name, "exec"), module.__dict__)
    return module


@functools.cache
def reports(function, body, models):
    """{case: what the student reads} for the cases that one body fails. Never change it."""
    return reports_of(module_with(function, body), function, models)


def reports_of(rewards, function, models):
    """The same for a module."""
    from cases import CASES, Ask, report
    from engine.course.student import as_in_training

    answer = as_in_training(getattr(rewards, function), function)
    texts = {
        case.__name__: report(case, Ask(answer, models, function), random.Random(0))
        for case in CASES[function][1]
    }
    return {case: text for case, text in texts.items() if text}


def module_with(function, body):
    """The solution with another body for one function, as a module."""
    source = (ROOT / "rewards_solution.py").read_text(encoding="utf-8")
    return load(with_body(source, function, body), "rewards.py")


def main(argv=None):
    parser = OneLineParser(
        prog="mutants", description="Try the tests on wrong solutions and on unusual right ones."
    )
    parser.parse_args(argv)
    from engine.model.loading import load_model
    from engine.options import PRESETS
    from sentiment import load_sentiment_model

    quiet_libraries()
    load_sentiment_model(PRESETS["tiny"]["sentiment_model"], "cpu")
    models = load_model(PRESETS["tiny"]["model_name"], "cpu")
    misjudged = 0
    for kind, table in (("wrong", WRONG), ("valid", VALID)):
        for function, bodies in table.items():
            for name, body in bodies.items():
                failed = reports(function, body, models)
                if bool(failed) != (kind == "wrong"):
                    misjudged += 1
                if failed:
                    last_line = next(iter(failed.values())).splitlines()[-1]
                    cause = last_line[len("  usual cause  ") :]
                else:
                    cause = "passes"
                print(f"{kind} | {function} | {name} | {', '.join(failed) or '-'} | {cause}")
    unneeded = without_proof(models)
    for function, case in unneeded:
        print(f"no wrong solution of {function} needs {case}")
    print(f"{misjudged} wrong verdicts")
    return misjudged > 0 or bool(unneeded)


# Cases whose wrong solutions others catch too: they are there for what they say.
EXPLAIN = {
    "equals_the_score",
    "pulls_the_policy_back",
    "sums_the_completion",
    "takes_the_groups_as_they_stand",
    "pulls_by_the_advantage",
    "ignores_padding_in_the_loss",
    "compares_each_token_with_its_own_past",
}


def without_proof(models):
    """[(function, case)] for the cases that no wrong solution needs: others catch all of theirs."""
    from cases import CASES

    needed = {
        (function, *failed)
        for function, bodies in WRONG.items()
        for failed in (reports(function, body, models) for body in bodies.values())
        if len(failed) == 1
    }
    every = [(name, case.__name__) for name in WRONG for case in CASES[name][1]]
    return [pair for pair in every if pair not in needed and pair[1] not in EXPLAIN]


if __name__ == "__main__":
    sys.exit(main())
