"""The probe before each run: outside the sandbox it must see that nothing is denied."""

import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")

# fchmodat2, setxattrat, removexattrat, file_setattr, open_tree_attr, FS_IOC_SETFLAGS (of the file
# system) and, for an ordinary user, fanotify_init.
NEWER_THAN_SOME_KERNELS = {"modes": {14, 15, 16, 17, 18, 19, 22}}


def test_each_attempt_succeeds_or_fails_otherwise_where_nothing_is_locked(tmp_path):
    """An attempt that failed for another reason than the sandbox would show nothing."""
    from instructor.grading import probing

    secret = tmp_path / "folder" / "secret"
    secret.parent.mkdir()
    secret.write_text("x")
    before = secret.stat()
    own = tmp_path / "own"
    own.mkdir()
    found = {
        "files": probing.files(str(own), str(secret))[:3],  # the others are of other folders
        "modes": probing.modes(str(secret)),
        "network": probing.network(),
        "processes": probing.processes()[4:-2],  # neither replaced, killed nor orphaned
    }
    for name, attempts in found.items():
        denied = [i for i, attempt in enumerate(attempts) if probing.denied(attempt)]
        assert set(denied) <= NEWER_THAN_SOME_KERNELS.get(name, set()), name
    after = secret.stat()
    assert (after.st_mode, after.st_uid, after.st_mtime_ns, after.st_size) == (
        *(before.st_mode, before.st_uid, before.st_mtime_ns, before.st_size),
    )


def test_what_is_denied_is_told_from_what_fails():
    from instructor.grading.probing import denied

    def fails(error):
        def attempt():
            raise error

        return attempt

    assert denied(fails(PermissionError(1, "no"))) and denied(fails(MemoryError()))
    assert not denied(fails(FileNotFoundError(2, "no"))) and not denied(lambda: None)
