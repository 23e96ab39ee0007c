"""The example in the docstring of an exercise, as the student's file shows it."""

import doctest


def example_report(rewards, name):
    """Run the examples of one function: None if they hold, else the text a tutor would say.

    Args:
        rewards: the module.
        name: of the function.

    Raises:
        NotImplementedError: the exercise is still to do.
    """
    finder = doctest.DocTestFinder(recurse=False)
    for test in finder.find(getattr(rewards, name), name, globs=dict(vars(rewards))):
        try:
            doctest.DebugRunner().run(test)
        except doctest.UnexpectedException as error:
            raised = error.exc_info[1]
            if isinstance(raised, NotImplementedError):
                raise raised from None
            return _text(name, error.example, f"it raised {type(raised).__name__}: {raised}")
        except doctest.DocTestFailure as error:
            return _text(name, error.example, f"it printed {error.got.strip()[:200] or 'nothing'}")
    return None


def _text(name, example, cause):
    lines = [f"{name}: the example in its docstring"]
    lines += [f"  asked        {example.source.strip()}"]
    lines += [f"  expected     {example.want.strip()}"] if example.want else []
    return "\n".join([*lines, f"  usual cause  {cause}"])
