"""The example in the docstring of an exercise, as the student's file shows it."""

import doctest

from engine.course.student import TooSlow, is_to_do, source_of, student_code, too_slow

SECONDS = 10  # for one call, here and in the cases that students run


def example_report(rewards, name):
    """Run the examples of one function: None if they hold, else the text a tutor would say.

    Args:
        rewards: the module.
        name: of the function.

    Raises:
        NotImplementedError: the exercise is still to do.
    """
    finder = doctest.DocTestFinder(recurse=False)
    function = getattr(rewards, name)
    for test in finder.find(function, name, globs=dict(vars(rewards))):
        try:
            with student_code(source_of(function), SECONDS):
                doctest.DebugRunner().run(test)
        except doctest.UnexpectedException as error:
            raised = error.exc_info[1]
            if is_to_do(raised):
                raise raised from None
            said = f"raised {type(raised).__name__}: {raised}"
            if isinstance(raised, TooSlow):
                said = too_slow(SECONDS, raised, source_of(function))
            return _text(name, error.example, f"happened     it {said}")
        except doctest.DocTestFailure as error:
            printed = error.got.strip()[:200] or "nothing"
            return _text(name, error.example, f"came back    {printed}")
    return None


def _text(name, example, outcome):
    lines = [f"{name}: the example in its docstring"]
    lines += [f"  asked        {example.source.strip()}"]
    lines += [f"  expected     {example.want.strip()}"] if example.want else []
    return "\n".join([*lines, f"  {outcome}"])
