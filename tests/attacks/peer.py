"""A caller of the Workload API that can misbehave: HTTP/2 by hand, so that every step can be stood between."""
import ctypes, os, signal, socket, struct, sys, threading

libc = ctypes.CDLL(None)


def frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def request(stream=1):
    """A FetchX509SVID, whole."""
    headers = {
        ":method": "POST", ":scheme": "http", ":path": "/SpiffeWorkloadAPI/FetchX509SVID", ":authority": "localhost",
        "content-type": "application/grpc", "te": "trailers", "workload.spiffe.io": "true",
    }
    block = b"".join(b"\0" + bytes([len(n)]) + n.encode() + bytes([len(v)]) + v.encode() for n, v in headers.items())
    return frame(1, 4, stream, block) + frame(0, 1, stream, b"\0" * 5)


HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"")


def connect():
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(20)
    s.connect(sys.argv[1])
    return s


def say(s, data):
    """Sends what the daemon may have no ear for any more."""
    try:
        s.sendall(data)
    except ConnectionError:
        pass


def answer(s):
    """Prints what came back: an identity, or nothing."""
    found, data = "nothing", b""
    try:
        while True:
            while len(data) < 9 or len(data) < 9 + int.from_bytes(data[:3], "big"):
                more = s.recv(65536)
                if not more:
                    raise ConnectionError
                data += more
            size, kind, flags = int.from_bytes(data[:3], "big"), data[3], data[4]
            payload, data = data[9:9 + size], data[9 + size:]
            if kind == 0 and b"spiffe://" in payload:
                found = "identity"
                break
            if kind in (3, 7) or kind == 1 and flags & 1:
                break
    except ConnectionError:
        pass
    print(found, flush=True)


def accepted(s):
    """Returns once the daemon has accepted the connection: its first frame is there."""
    s.recv(1, socket.MSG_PEEK)


def become(uid):
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
