"""Requests that no client library sends, over the gRPC C-core of PyPI grpcio. After each, an ordinary request of the same
user on another connection must be served. The messages are plain bytes, so no generated code is needed.
"""

import os

import grpc

HEADER = [("workload.spiffe.io", "true")]
INVALID, INTERNAL, TOO_MUCH, RANGE = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.OUT_OF_RANGE,
)


def field(number, text):
    """A field of a protobuf message that holds text shorter than 128 bytes."""
    return bytes([number << 3 | 2, len(text)]) + text.encode()


def channel(**options):
    return grpc.insecure_channel(
        os.environ["SPIFFE_ENDPOINT_SOCKET"], options=[(f"grpc.{key}", value) for key, value in options.items()]
    )


def stream(at, method="FetchX509SVID", message=b"", metadata=HEADER, timeout=5):
    call = at.unary_stream(f"/SpiffeWorkloadAPI/{method}")
    return call(message, metadata=metadata, timeout=timeout)


def code(name, at=None, **request):
    """The status code of the stream, or None if a message arrives first."""
    with at or channel(use_local_subchannel_pool=1) as at:
        try:
            next(stream(at, **request))
            return None
        except grpc.RpcError as error:
            return error.code()


def served(at):
    """The first message to a client whose connection the daemon may just have closed for its stream resets. The channel
    reconnects, and it must be served within five tries.
    """
    for _ in range(5):
        try:
            return next(stream(at))
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.UNAVAILABLE, error
    raise AssertionError("not served again")


def check(name, expected, **request):
    got = code(name, **request)
    assert got in expected, f"{name}: {got}, not one of {expected}"
    assert code("honest") is None, f"after {name} an ordinary request failed"
    print("ok", name, got)


JWT = "FetchJWTSVID"
LEDGER = field(1, "ledger")

check("an ordinary stream", {None})
check("no security header", {INVALID}, metadata=[])
for value in ["", "True", "1", "true ", "false"]:
    check(f"security header {value!r}", {INVALID} if value != "true " else {INVALID, None}, metadata=[(HEADER[0][0], value)])
check("a security header twice, once wrong", {INVALID}, metadata=[*HEADER, (HEADER[0][0], "false")])
check("16 KiB of metadata", {TOO_MUCH, INTERNAL, grpc.StatusCode.UNAVAILABLE}, metadata=[*HEADER, ("x", "y" * 16384)])
check("an unknown method", {grpc.StatusCode.UNIMPLEMENTED}, method="FetchEverything")
check("a method of an incubating profile", {grpc.StatusCode.UNIMPLEMENTED}, method="FetchWITSVID")
check("an ordinary token", {None}, method=JWT, message=LEDGER)
check("a token without audience", {INVALID}, method=JWT)
check("a token for an empty audience", {INVALID}, method=JWT, message=field(1, ""))
check("a token for a SPIFFE ID that is none", {INVALID}, method=JWT, message=LEDGER + field(2, "spiffe://Example.org/x"))
check(
    "a token for another's SPIFFE ID",
    {grpc.StatusCode.PERMISSION_DENIED},
    method=JWT,
    message=LEDGER + field(2, "spiffe://example.org/nobody-has-this"),
)
check("a message that is no message", {INTERNAL, INVALID}, method=JWT, message=b"\xff" * 64)
check("text that is not UTF-8", {INTERNAL, INVALID}, method=JWT, message=bytes([10, 2, 0xC3, 0x28]))
check("a message of 5 MiB", {RANGE, TOO_MUCH, INTERNAL, INVALID}, method=JWT, message=b"\0" * (5 << 20))

for authority in ["localhost", "a%2Fb.sock", "tmp%2Fx%2Fagent.sock", "example.org:1", "[::]:0"]:
    check(f"authority {authority}", {None}, at=channel(default_authority=authority, use_local_subchannel_pool=1))

with channel(use_local_subchannel_pool=1) as at:
    received = 0
    try:
        for _ in stream(at, timeout=1):
            received += 1
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
    assert received == 1, received
    print("ok a stream ends at the client's deadline")
    for _ in range(200):
        stream(at).cancel()
    assert code("another client") is None, "another client was disturbed"
    assert served(at)
    print("ok 200 streams begun and cancelled at once")
