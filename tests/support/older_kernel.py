"""Runs a program on a kernel that looks older: exactly the calls that it lacks get the answers an old kernel gives.

usage: older_kernel.py pinned|reduced|without-openat2 PROGRAM ARGUMENT..."""
import ctypes, errno, os, platform, struct, sys

GETSOCKOPT, IOCTL = {"x86_64": (55, 16), "aarch64": (209, 29)}[platform.machine()]
OPENAT2 = 437
SOL_SOCKET, SO_PEERPIDFD, PIDFD_GET_INFO = 1, 77, 0xC040FF0B
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, ERRNO = 0x7FFF0000, 0x00050000


def instruction(code, value, when_unequal=0):
    return struct.pack("=HBBI", code, 0, when_unequal, value)


def answer(call, arguments, error):
    """Where the call and the low words of these arguments are equal: the error. Else on to what follows."""
    checks = [(0, call)] + [(16 + 8 * number, value) for number, value in arguments.items()]
    code = b""
    for left, (offset, value) in zip(reversed(range(len(checks))), checks):
        code += instruction(LOAD, offset) + instruction(JUMP_IF_EQUAL, value, 2 * left + 1)
    return code + instruction(RETURN, ERRNO | error)


no_info = answer(IOCTL, {1: PIDFD_GET_INFO}, errno.ENOTTY)
no_pidfd = answer(GETSOCKOPT, {1: SOL_SOCKET, 2: SO_PEERPIDFD}, errno.ENOPROTOOPT)
no_openat2 = answer(OPENAT2, {}, errno.ENOSYS)
missing = {"pinned": no_info, "reduced": no_info + no_pidfd, "without-openat2": no_openat2}
code = missing[sys.argv[1]] + instruction(RETURN, ALLOW)

text = ctypes.create_string_buffer(code, len(code))
program = ctypes.create_string_buffer(struct.pack("@HP", len(code) // 8, ctypes.addressof(text)))
libc = ctypes.CDLL(None, use_errno=True)
for number, first, second in [(PR_SET_NO_NEW_PRIVS, 1, None), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program)]:
    if libc.prctl(number, ctypes.c_ulong(first), second, None, None) != 0:
        sys.exit(f"prctl({number}): {os.strerror(ctypes.get_errno())}")
os.execvp(sys.argv[2], sys.argv[2:])
