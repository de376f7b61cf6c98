"""A workload that uses the PyPI packages spiffe, spiffe-tls and PyJWT. It finds the Workload API through
SPIFFE_ENDPOINT_SOCKET, as any workload does.

    probe                          calls the whole API, verifies the responses, and waits for one rotation
    federated                      prints its SPIFFE ID, and the trust domains of each kind of bundle that it gets
    token AUDIENCE                 prints a token that PyJWT has verified with the JWT bundle
    server PEER                    answers lines over mTLS, only to PEER; prints its address
    client PEER ADDRESS REQUESTS   sends lines over mTLS, only to PEER; a new connection every 20 requests
"""

import json
import logging
import socket
import sys
import threading
import time

import jwt
from OpenSSL import SSL
from spiffe import JwtSource, SpiffeId, WorkloadApiClient, X509Source
from spiffe.errors import PySpiffeError
from spiffetls import ClientTlsMode, create_ssl_context, dial
from spiffetls.tlsconfig.authorize import authorize_id


def probe():
    with WorkloadApiClient(default_timeout=5) as client:
        svid = client.fetch_x509_svid()
        context = client.fetch_x509_context()
        assert context.default_svid.spiffe_id == svid.spiffe_id
        trust_domain = svid.spiffe_id.trust_domain
        bundle = client.fetch_x509_bundles().get_bundle_for_trust_domain(trust_domain)
        assert len(bundle.x509_authorities) == 1, bundle.x509_authorities
        print("x509", svid.spiffe_id)

        token = client.fetch_jwt_svid(audience={"ledger"})
        assert client.validate_jwt_svid(token.token, "ledger").spiffe_id == token.spiffe_id
        try:
            client.validate_jwt_svid(token.token, "other")
            raise SystemExit("a token was validated for an audience that it does not have")
        except PySpiffeError:
            pass
        assert client.fetch_jwt_bundles().get_bundle_for_trust_domain(trust_domain).jwt_authorities
        print("jwt", token.spiffe_id)

    with JwtSource(timeout_in_seconds=5) as source:
        assert source.fetch_svid(audience={"ledger"}).audience == {"ledger"}

    with X509Source(timeout_in_seconds=5) as source:
        first = serial(source)
        updated = threading.Event()
        source.subscribe_for_updates(updated.set)
        assert updated.wait(9), "no rotation within 9 s"
        assert serial(source) != first, "an update came with the old serial"
        print("rotated", svid.spiffe_id)


def federated():
    with X509Source(timeout_in_seconds=5) as source, WorkloadApiClient(default_timeout=5) as client:
        print("id", source.svid.spiffe_id)
        print("svid", *names(source.bundles))
        print("x509", *names(client.fetch_x509_bundles().bundles))
        print("jwt", *names(client.fetch_jwt_bundles().bundles))


def names(bundles):
    return sorted(bundle.trust_domain.name for bundle in bundles)


def token(audience):
    with WorkloadApiClient(default_timeout=5) as client:
        svid = client.fetch_jwt_svid(audience={audience})
        bundle = client.fetch_jwt_bundles().get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
        header = jwt.get_unverified_header(svid.token)
        key = bundle.jwt_authorities[header["kid"]]
        claims = jwt.decode(
            svid.token, key, algorithms=["ES256"], audience=audience, options={"require": ["exp", "iat", "sub", "jti"]}
        )
        print(json.dumps({"header": header, "claims": claims}))


def serial(source):
    return source.get_x509_context().default_svid.leaf.serial_number


def serve(peer):
    source = X509Source(timeout_in_seconds=5)
    listener = socket.create_server(("127.0.0.1", 0))
    print("listens on 127.0.0.1:%d" % listener.getsockname()[1], flush=True)
    while True:
        stream, _ = listener.accept()
        # A context for each connection: pyOpenSSL refuses to change a context in use, so spiffe-tls's own listener
        # keeps its first certificate for ever.
        context = create_ssl_context(SSL.TLS_SERVER_METHOD, source, authorize_id(peer))
        threading.Thread(target=answer, args=(SSL.Connection(context, stream),), daemon=True).start()


def answer(connection):
    try:
        connection.set_accept_state()
        connection.do_handshake()
        certificate = connection.get_peer_certificate()
        buffer = b""
        while True:
            buffer += connection.recv(4096)
            *lines, buffer = buffer.split(b"\n")
            for line in lines:
                connection.sendall(b"hello with serial %x: %s\n" % (certificate.get_serial_number(), line))
    except (SSL.ZeroReturnError, SSL.SysCallError):
        pass
    except SSL.Error as error:
        print("failed:", error, flush=True)


def ask(peer, address, requests):
    source = X509Source(timeout_in_seconds=5)
    connection = None
    for request in range(requests):
        if request % 20 == 0:
            if connection:
                connection.shutdown()
                connection.close()
            connection = dial(address, source, ClientTlsMode.TLS, authorize_id(peer))
        connection.sendall(b"request %d\n" % request)
        answer = b""
        while not answer.endswith(b"\n"):
            answer += connection.recv(4096)
        print(answer.decode(), end="", flush=True)
        time.sleep(0.1)
    connection.shutdown()
    connection.close()


if __name__ == "__main__":
    # At every rotation spiffe-tls also updates the contexts in use, and logs an error because pyOpenSSL refuses.
    logging.disable(logging.CRITICAL)
    match sys.argv[1:]:
        case ["probe"]:
            probe()
        case ["federated"]:
            federated()
        case ["token", audience]:
            token(audience)
        case ["server", peer]:
            serve(SpiffeId(peer))
        case ["client", peer, address, requests]:
            ask(SpiffeId(peer), address, int(requests))
