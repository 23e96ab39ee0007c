"""What a late hand-in costs: `late` in the rubric says from when, and how much.

A late day is one that has begun after the deadline. Gradescope, Blackboard and Brightspace tell
when a file came. Canvas only tells that it was late: one day. Moodle and plain folders tell
nothing; there is corrections.csv.
"""

import datetime
import math

from instructor.grading.submission import GraderError

DAY = datetime.timedelta(days=1)
FORMS = ("%Y-%m-%d-%H-%M-%S", "%Y%m%d %H%M")  # Blackboard's, and `identity.time_of`'s


def local_time(text):
    """A time without its zone, as the clock of this machine shows it; None where text is none.

    >>> local_time("2026-11-20-10-32-05"), local_time("20261103 1334"), local_time("soon")
    (datetime.datetime(2026, 11, 20, 10, 32, 5), datetime.datetime(2026, 11, 3, 13, 34), None)
    """
    for form in FORMS:
        try:
            return datetime.datetime.strptime(str(text), form)
        except ValueError:
            pass
    try:
        found = datetime.datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return found.astimezone().replace(tzinfo=None) if found.tzinfo else found


def check_late(entry):
    """The rubric's `late` as {"due": text, "per_day": share}, empty and 0 where it says nothing.

    Raises:
        GraderError: it is of another form.
    """
    entry = {"due": None, "per_day": 0, **(entry or {})}
    due, per_day = entry["due"], entry["per_day"]
    if entry.keys() != {"due", "per_day"}:
        raise GraderError("rubric: late has due and per_day, nothing else")
    if due is not None and local_time(due) is None:
        raise GraderError(f"rubric: late: due: {due} is no time like 2026-12-01 23:59")
    if type(per_day) not in (int, float) or not 0 <= per_day <= 1:
        raise GraderError("rubric: late: per_day is a share of the points, from 0 to 1")
    return {"due": None if due is None else str(due), "per_day": per_day}


def deadline(due):
    """When the time for handing in ends; a day without a time counts to its end."""
    return local_time(due) + (DAY if len(due) <= len("2026-12-01") else 0 * DAY)


def days_late(submission, due):
    """Days begun after the deadline; 0 for what came in time, or without one."""
    came = local_time(submission.handed_in)
    if due is None or came is None:
        return int("late" in submission.flags)
    return max(0, math.ceil((came - deadline(due)) / DAY))


def with_late(results, submissions, late):
    """The results, late ones with a flag and without the share that this costs; where a platform
    tells the time in words that nobody here reads, only with a flag.

    Args:
        results: of the journal.
        submissions: of the run.
        late: of `check_late`.
    """
    days = {submission.path: days_late(submission, late["due"]) for submission in submissions}
    unread = {
        one.path for one in submissions if one.handed_in and local_time(one.handed_in) is None
    }
    for result in results:
        if late["due"] and result["path"] in unread and result["status"] != "duplicate":
            result["flags"] = [*result["flags"], "time not read: late or not?"]
        number = days.get(result["path"], 0)
        if not number or result["status"] == "duplicate":
            continue
        told = "late"  # by how much, Canvas does not say
        if told not in result["flags"]:
            told = f"late by {number} day{'s' * (number > 1)}"
            result["flags"] = [told, *result["flags"]]
        share = min(1.0, number * late["per_day"])
        if share and result["score"]:
            result["score"] = round(result["score"] * (1 - share), 2)
            result["corrections"] = [f"{told} (−{share:.0%} of the points)"]
    return results
