"""A member of a circle of services, with one source of X509-SVIDs and one of JWT bundles for its whole life. It prints its
address, reads its peers from standard input, a SPIFFE ID and an address on each line, and then asks each of them twice a
second, on a new connection each time.
"""

import logging
import socket
import sys
import threading
import time

from cryptography.x509 import AuthorityKeyIdentifier
from OpenSSL import SSL
from spiffe import JwtSource, JwtSvid, SpiffeId, X509Source
from spiffe.errors import PySpiffeError
from spiffetls import ClientTlsMode, create_ssl_context, dial
from spiffetls.tlsconfig.authorize import authorize_id, authorize_member_of

ROUND = 0.5
NEW_TOKEN_AFTER = 5
NEARLY_OVER = 2
AUDIENCE = "circle"


def say(*words):
    # In one write: the threads print whole lines.
    sys.stdout.write(" ".join(str(word) for word in words).replace("\n", " ") + "\n")
    sys.stdout.flush()


class Snapshot:
    """What a source holds now, for the context of one connection. spiffe-tls subscribes each context to the updates of
    its source for ever, although pyOpenSSL refuses to change a context in use: each update of a source would take longer.
    """

    def __init__(self, source):
        context = source.get_x509_context()
        self.svid = context.default_svid
        self.bundles = context.x509_bundle_set.bundles

    def subscribe_for_updates(self, _callback):
        pass


class Member:
    def __init__(self):
        self.source = X509Source(timeout_in_seconds=10)
        self.tokens = JwtSource(timeout_in_seconds=10)
        self.trust_domain = self.source.get_x509_context().default_svid.spiffe_id.trust_domain
        self.token, self.new_at, self.end = "", 0, 0

    def serve(self, listener):
        while True:
            stream, _ = listener.accept()
            threading.Thread(target=self.answer, args=(stream,), daemon=True).start()

    def answer(self, stream):
        try:
            context = create_ssl_context(
                SSL.TLS_SERVER_METHOD, Snapshot(self.source), authorize_member_of(self.trust_domain)
            )
            connection = SSL.Connection(context, stream)
            connection.set_accept_state()
            connection.do_handshake()
            token = read_line(connection)
            if token:
                bundle = self.tokens.get_bundle_for_trust_domain(self.trust_domain)
                JwtSvid.parse_and_validate(token, bundle, {AUDIENCE})
            connection.sendall(b"hello\n")
        except Exception as error:
            say("failed to answer:", repr(error), repr(error.__cause__))
        finally:
            stream.close()

    def renew_token(self):
        """Gets a new token now and then. Without a daemon the one before goes on, until its end."""
        if time.time() > min(self.new_at, self.end - NEARLY_OVER):
            try:
                svid = self.tokens.fetch_svid(audience={AUDIENCE}, timeout=5)
                self.token, self.new_at, self.end = svid.token, time.time() + NEW_TOKEN_AFTER, svid.expiry
            except PySpiffeError as error:
                say("no new token:", error)
        if time.time() > self.end - NEARLY_OVER / 2:
            self.token = ""

    def ask(self, peer, address):
        try:
            connection = dial(address, Snapshot(self.source), ClientTlsMode.TLS, authorize_id(peer))
            connection.sendall(self.token.encode() + b"\n")
            answer = read_line(connection)
            certificate = connection.get_peer_certificate().to_cryptography()
            connection.close()
            if answer != "hello":
                raise RuntimeError("it answered: " + answer)
            authority = certificate.extensions.get_extension_for_class(AuthorityKeyIdentifier).value.key_identifier
            say("asked", peer, "under", authority.hex()[:16])
        except Exception as error:
            say("failed to ask", str(peer) + ":", repr(error), repr(error.__cause__))


def read_line(connection):
    line = b""
    while not line.endswith(b"\n"):
        line += connection.recv(4096)
    return line.decode().strip()


def main():
    member = Member()
    listener = socket.create_server(("127.0.0.1", 0))
    say("listens on 127.0.0.1:%d" % listener.getsockname()[1])
    threading.Thread(target=member.serve, args=(listener,), daemon=True).start()
    peers = [line.split() for line in sys.stdin]
    while True:
        begun = time.monotonic()
        member.renew_token()
        for peer, address in peers:
            member.ask(SpiffeId(peer), address)
        time.sleep(max(0, begun + ROUND - time.monotonic()))


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    main()
