"""Bodies of functions that swell, that mislead the grader, or that keep it waiting.

They stay within the process that runs them; what reaches outside is in tests/instructor/.
"""

THREADS = """
    import threading, time
    threading.stack_size(32768)
    for _ in range(1501):
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    time.sleep(60)
"""
FILES = """
    import time
    for i in range(20_000):
        open(str(i), 'w').close()
    time.sleep(60)
"""
DISK = """
    import time
    for i in range(400):
        open(str(i), 'wb').write(bytes(1_000_000))
    time.sleep(60)
"""
HELD_OPEN = """
    import os
    while True:
        with open('x', 'wb') as file:
            os.unlink('x')
            file.write(bytes(1_000_000))
"""
# Deleted files that stay on the disk, because they are mapped: neither written nor in the folder.
MAPPED = """
    import mmap, os, time
    kept = []
    for _ in range(1500):
        with open('x', 'wb+') as file:
            file.truncate(1_000_000)
            kept.append(mmap.mmap(file.fileno(), 1_000_000))
        kept[-1][::4096] = bytes(245)
        os.unlink('x')
    time.sleep(60)
"""
# The same of files that never had a name: the folder does not change.
NAMELESS = """
    import mmap, os, time
    kept = []
    for _ in range(1500):
        file = os.open('.', os.O_TMPFILE | os.O_RDWR)
        os.truncate(file, 1_000_000)
        kept.append(mmap.mmap(file, 1_000_000))
        os.close(file)
        kept[-1][::4096] = bytes(245)
    time.sleep(60)
"""
# Room that is asked for and never written, for files that are deleted and held open.
ALLOCATED = """
    import ctypes, os, time
    libc = ctypes.CDLL(None, use_errno=True)
    for _ in range(40):
        file = os.open('x', os.O_CREAT | os.O_RDWR)
        os.unlink('x')
        if libc.fallocate(file, 1, *map(ctypes.c_long, (0, 50_000_000))):
            raise OSError(ctypes.get_errno(), 'denied')
    time.sleep(60)
"""
NESTED = """
    import os
    for i in range(3000):
        os.mkdir('d', 0o300)
        os.chdir('d')
    return [0.0]
"""
# A tensor of half a million dimensions is a segmentation fault.
DIMENSIONS = """
    import os, time
    shape, number = ', '.join(['1'] * 20_000), 1
    while True:
        number += 1
        line = '{"number": %d, "answer": {"kind": "shape", "shape": [%s]}}\\n' % (number, shape)
        os.write(4, line.encode())
        time.sleep(0.02)
"""
# Answers, and leaves the questions in a pipe that it tries to shrink, until the pipe is full.
NEVER_READS = """
    import fcntl, os, time
    try:
        fcntl.fcntl(3, 1031, 4096)
    except OSError:
        pass
    number = 1
    while True:
        number += 1
        line = '{"number": %d, "answer": {"kind": "list", "value": [0.0]}}\\n' % number
        os.write(4, line.encode())
        time.sleep(0.02)
"""
# Takes its own bytes back out of the pipe between the grader's look and its read.
STEALS_ITS_ANSWER = """
    import os
    fd = os.open('/proc/self/fd/4', os.O_RDONLY)
    while True:
        os.write(4, b'{')
        os.read(fd, 1)
"""
# An answer without end.
FLOODS = """
    import os
    while True:
        os.write(4, b'1' * 65536)
"""
DIGITS = "return [10 ** 5000] * len(policy_log_probs)"
SURROGATE = "raise ValueError('\\ud800 \\x1b[31mred \\u2028 next')"
