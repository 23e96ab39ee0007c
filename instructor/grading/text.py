"""Text of strangers, made harmless once, where it enters: answers, output, file names, rosters."""

import re

UNWANTED = re.compile(
    r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b\[[0-9;?]*[ -/]*[@-~]"  # terminal commands, colours
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f]"  # control characters, all but tab and line feed
    r"|[\u2028\u2029\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069\ufeff]"  # line ends, reversed text
)


def clean(text):
    r"""Text that every file, terminal and spreadsheet can hold and shows as it reads.

    Control characters, colours, other line ends than "\n" and reversed writing are left out. Half
    of a surrogate pair, which UTF-8 cannot hold, and bytes of a file name that are no UTF-8 become
    a question mark.

    >>> clean("\x1b[31mred\ud800\u2028 text\n")
    'red? text\n'
    """
    return UNWANTED.sub("", str(text).encode("utf-8", "replace").decode("utf-8"))


def one_line(text):
    r"""The same without tabs and ends of lines of any kind: a name, a path.

    >>> one_line("Ann\nLee\t"), one_line("Ann\u2028Lee")
    ('Ann Lee', 'Ann Lee')
    """
    return " ".join(clean(re.sub(r"\s", " ", str(text))).split())


def visible(path):
    r"""A path in which every such character is written out, so that two paths stay two.

    >>> visible("Ann\x1b/\udcff.py")
    'Ann\\x1b/\\udcff.py'
    """
    text = str(path).encode("utf-8", "backslashreplace").decode("utf-8")
    return re.sub(r"[\t\n\x1b]|" + UNWANTED.pattern, lambda m: ascii(m.group())[1:-1], text)
