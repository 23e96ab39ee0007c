"""What a submission might try in order to reach outside: expressions for `locked_in.py`.

<file>, <process>, <socket>, <name>, <tools> and <around> stand for what lies around a submission:
a file that nobody may change, a process that must live, a datagram socket by path and one without,
the folder of the shared modules, and a folder where anybody may write.
"""

HELPERS = """
import ctypes, fcntl, os, signal, socket
libc = ctypes.CDLL(None, use_errno=True)

def raw(*arguments):  # a plain int would lose what is above its lower 32 bits
    libc_call(libc.syscall, *(ctypes.c_long(x) if isinstance(x, int) else x for x in arguments))

def libc_call(function, *arguments):
    if function(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "denied")
"""
MODULE = "__import__('reward_utils').__file__"
LOCK = "bytes(16) + (1).to_bytes(8, 'little') + bytes(8)"  # of the first byte, for readers
SIGNAL = "[signal.pthread_sigmask(0, [40])] + [raw(0xEA, os.getpid(), os.getpid(), 40)]"
ATTACKS = [
    # Modes, owners, times and attributes of a file; its content and its place.
    "os.chmod('<file>', 0)",
    "os.chmod('<tools>', 0)",
    f"os.chmod({MODULE}, 0)",
    f"os.chmod(os.path.dirname({MODULE}), 0)",
    f"os.fchmod(os.open({MODULE}, 0), 0)",
    "libc_call(libc.fchmodat, -100, '<file>'.encode(), 0, 0)",
    "os.chown('<file>', 65534, 65534)",
    "os.lchown('<file>', 65534, 65534)",
    f"os.fchown(os.open({MODULE}, 0), 65534, 65534)",
    "libc_call(libc.fchownat, -100, '<file>'.encode(), 65534, 65534, 0)",
    "os.utime('<file>', (0, 0))",
    f"os.utime({MODULE}, (0, 0))",
    "raw(132, '<file>'.encode(), bytes(16))",
    "raw(235, '<file>'.encode(), bytes(32))",
    "raw(261, -100, '<file>'.encode(), bytes(32))",
    "os.setxattr('<file>', 'user.x', b'x')",
    "os.setxattr('<file>', 'user.x', b'x', follow_symlinks=False)",
    f"os.setxattr(os.open({MODULE}, 0), 'user.x', b'x')",
    "os.removexattr('<file>', 'user.old')",
    "os.removexattr('<file>', 'user.old', follow_symlinks=False)",
    f"os.removexattr(os.open({MODULE}, 0), 'user.old')",
    "raw(452, -100, '<file>'.encode(), 0, 0)",
    "raw(463, -100, '<file>'.encode(), 0, b'user.x', ctypes.create_string_buffer(24), 16)",
    f"fcntl.ioctl(os.open({MODULE}, 0), 0x40086602, (0x40).to_bytes(8, 'little'))",
    "os.truncate('<file>', 0)",
    "os.open('<file>', os.O_RDONLY | os.O_TRUNC)",
    "os.rename('<file>', 'mine')",
    "os.unlink('<file>')",
    f"os.link({MODULE}, 'mine')",
    # Files of others, and places where anybody may write.
    "os.listdir(os.environ['HOME'] + '/..')",
    "open(os.environ['HOME'] + '/../x', 'w')",
    "open(os.environ['HOME'] + '/../tools/rewards.py', 'w')",
    f"open(os.path.dirname({MODULE}) + '/math.py', 'w')",
    "open('/proc/self/maps')",
    "open('<around>/x', 'w')",
    # Signals, also those that a file descriptor sends.
    "[fcntl.fcntl(0, fcntl.F_SETOWN, pid) for pid in (<process>, os.getppid())]",
    "fcntl.fcntl(os.pipe()[0], fcntl.F_SETSIG, 9)",
    "fcntl.fcntl(os.pipe()[0], 15, (1).to_bytes(4, 'little') + bytes(4))",
    "fcntl.fcntl(os.open('.', 0), fcntl.F_NOTIFY, 1)",
    "fcntl.fcntl(4, 1031, 4096)",
    "raw(72, os.pipe()[0], 8 + (1 << 32), <process>)",
    "raw(16, os.pipe()[0], 0x8901 + (1 << 32), (1).to_bytes(4, 'little'))",
    "fcntl.ioctl(os.pipe()[0], 0x5452, (1).to_bytes(4, 'little'))",
    "fcntl.ioctl(os.pipe()[0], 0x8902, (1).to_bytes(4, 'little'))",
    "os.kill(<process>, 9)",
    "os.kill(os.getppid(), 9)",
    "raw(129, <process>, 9, bytes(8) + b'\\xff' * 4 + bytes(116))",
    "raw(234, <process>, <process>, 9)",
    "raw(200, <process>, 9)",
    "signal.pidfd_send_signal(os.pidfd_open(<process>), 9)",
    # A process that outlives the grader.
    "raw(157, 1, 0, 0, 0, 0)",
    "raw(157, 1 + (1 << 32), 0, 0, 0, 0)",
    # Limits, its own and of others.
    "raw(160, 9, b'\\xff' * 16)",
    "raw(302, 0, 9, b'\\xff' * 16, 0)",
    "raw(302, <process>, 0, bytes(16), 0)",
    "os.sched_setaffinity(<process>, {0})",
    # Sockets.
    "socket.socketpair()",
    "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b'x', '<socket>')",
    "socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'x', '<socket>')",
    "socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).connect('\\0<name>')",
    # Watching files.
    "raw(294, 0)",
    "raw(253)",
    "raw(300, 0, 0)",
    # Talking to another submission by locks on a file that both may read.
    *(f"fcntl.fcntl(os.open({MODULE}, 0), {i}, {LOCK})" for i in (5, 6, 7, 36, 37, 38)),
    # What all processes of a user, or of the machine, share; further files, one table for a thread.
    "libc_call(libc.timer_create, 1, None, ctypes.byref(ctypes.c_ulong()))",
    "raw(206, 1, ctypes.byref(ctypes.c_ulong()))",
    f"[{SIGNAL} for _ in range(500)]",
    "raw(436, 999_999, 999_999, 2)",
    # Room on the disk that no folder shows.
    "os.open('.', os.O_TMPFILE | os.O_RDWR)",
    "raw(2, b'.', os.O_TMPFILE | os.O_RDWR, 0o600)",
    "raw(257, -100, b'.', (1 << 32) + (os.O_TMPFILE | os.O_RDWR), 0o600)",
    "raw(285, os.open('x', os.O_CREAT | os.O_RDWR), 1, 0, 4096)",
]
