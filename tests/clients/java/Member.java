import io.spiffe.provider.SpiffeSslContextFactory;
import io.spiffe.provider.SpiffeSslContextFactory.SslContextOptions;
import io.spiffe.spiffeid.SpiffeId;
import io.spiffe.svid.jwtsvid.JwtSvid;
import io.spiffe.workloadapi.DefaultJwtSource;
import io.spiffe.workloadapi.DefaultX509Source;
import io.spiffe.workloadapi.JwtSource;
import io.spiffe.workloadapi.X509Source;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.net.InetAddress;
import java.security.cert.X509Certificate;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Set;
import javax.net.ssl.SSLServerSocket;
import javax.net.ssl.SSLSocket;

/**
 * A member of a circle of services, with one source of X509-SVIDs and one of JWT bundles for its whole life. It prints its
 * address, reads its peers from standard input, a SPIFFE ID and an address on each line, and then asks each of them twice a
 * second, on a new connection each time.
 */
class Member {
    private static final long ROUND = 500_000_000L;
    private static final long NEW_TOKEN_AFTER_IN_MS = 5_000;
    private static final long NEARLY_OVER_IN_MS = 2_000;
    private static final int ANSWER_TIME_IN_MS = 5_000;
    private static final String AUDIENCE = "circle";
    private static final String AUTHORITY_KEY_IDENTIFIER = "2.5.29.35";

    private final X509Source source = DefaultX509Source.newSource();
    private final JwtSource tokens = DefaultJwtSource.newSource();
    private String token = "";
    private long newAt;
    private long end;

    Member() throws Exception {}

    void join() throws Exception {
        var options = SslContextOptions.builder().x509Source(source).acceptAnySpiffeId().build();
        var factory = SpiffeSslContextFactory.getSslContext(options).getServerSocketFactory();
        var listener = (SSLServerSocket) factory.createServerSocket(0, 50, InetAddress.getLoopbackAddress());
        listener.setNeedClientAuth(true);
        System.out.println("listens on 127.0.0.1:" + listener.getLocalPort());
        inBackground(() -> serve(listener));
        Map<SpiffeId, Integer> peers = new LinkedHashMap<>();
        for (var line : new BufferedReader(new InputStreamReader(System.in)).lines().toList()) {
            peers.put(SpiffeId.parse(line.split(" ")[0]), Integer.parseInt(line.substring(line.lastIndexOf(':') + 1)));
        }
        while (true) {
            var next = System.nanoTime() + ROUND;
            renewToken();
            for (var peer : peers.entrySet()) {
                ask(peer.getKey(), peer.getValue());
            }
            Thread.sleep(Math.max(0, (next - System.nanoTime()) / 1_000_000));
        }
    }

    /** Gets a new token now and then. Without a daemon the one before goes on, until its end. */
    private void renewToken() {
        if (System.currentTimeMillis() > Math.min(newAt, end - NEARLY_OVER_IN_MS)) {
            try {
                var svid = tokens.fetchJwtSvid(AUDIENCE);
                token = svid.getToken();
                newAt = System.currentTimeMillis() + NEW_TOKEN_AFTER_IN_MS;
                end = svid.getExpiry().getTime();
            } catch (Exception error) {
                say("no new token: " + error);
            }
        }
        if (System.currentTimeMillis() > end - NEARLY_OVER_IN_MS / 2) {
            token = "";
        }
    }

    private void ask(SpiffeId peer, int port) {
        try {
            // A context for each connection: a resumed session verifies nothing.
            var options = SslContextOptions.builder().x509Source(source).acceptedSpiffeIdsSupplier(() -> Set.of(peer)).build();
            var factory = SpiffeSslContextFactory.getSslContext(options).getSocketFactory();
            try (var socket = (SSLSocket) factory.createSocket(InetAddress.getLoopbackAddress(), port)) {
                socket.setSoTimeout(ANSWER_TIME_IN_MS);
                socket.startHandshake();
                var certificate = (X509Certificate) socket.getSession().getPeerCertificates()[0];
                new PrintStream(socket.getOutputStream(), true).println(token);
                var answer = new BufferedReader(new InputStreamReader(socket.getInputStream())).readLine();
                if (!"hello".equals(answer)) {
                    throw new IOException("it answered: " + answer);
                }
                say("asked " + peer + " under " + authorityOf(certificate));
            }
        } catch (Exception error) {
            say("failed to ask " + peer + ": " + error);
        }
    }

    private void serve(SSLServerSocket listener) {
        try {
            while (true) {
                var socket = (SSLSocket) listener.accept();
                inBackground(() -> answer(socket));
            }
        } catch (IOException error) {
            say("failed to accept: " + error);
        }
    }

    private void answer(SSLSocket socket) {
        try (socket) {
            socket.setSoTimeout(ANSWER_TIME_IN_MS);
            socket.startHandshake();
            var token = new BufferedReader(new InputStreamReader(socket.getInputStream())).readLine();
            if (token == null) {
                throw new IOException("the client closed before it asked");
            }
            if (!token.isEmpty()) {
                JwtSvid.parseAndValidate(token, tokens, Set.of(AUDIENCE));
            }
            new PrintStream(socket.getOutputStream(), true).println("hello");
        } catch (Exception error) {
            say("failed to answer: " + error);
        }
    }

    /** The first half of the key identifier, which follows six octets of tags and lengths. */
    private static String authorityOf(X509Certificate certificate) {
        return HexFormat.of().formatHex(certificate.getExtensionValue(AUTHORITY_KEY_IDENTIFIER), 6, 14);
    }

    private static void say(String line) {
        System.out.println(line.replace('\n', ' '));
    }

    private static void inBackground(Runnable work) {
        var thread = new Thread(work);
        thread.setDaemon(true);
        thread.start();
    }
}
