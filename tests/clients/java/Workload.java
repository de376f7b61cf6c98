import io.spiffe.provider.SpiffeSslContextFactory;
import io.spiffe.provider.SpiffeSslContextFactory.SslContextOptions;
import io.spiffe.spiffeid.SpiffeId;
import io.spiffe.workloadapi.DefaultWorkloadApiClient;
import io.spiffe.workloadapi.DefaultX509Source;
import io.spiffe.workloadapi.X509Source;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.net.InetAddress;
import java.security.cert.X509Certificate;
import java.util.Set;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLException;
import javax.net.ssl.SSLServerSocket;
import javax.net.ssl.SSLSocket;

/**
 * A workload that uses java-spiffe. It finds the Workload API through SPIFFE_ENDPOINT_SOCKET, as any workload does.
 *
 * <pre>
 * probe                          calls the API, and waits for one rotation
 * server PEER                    answers lines over mTLS, only to PEER; prints its address
 * client PEER ADDRESS REQUESTS   sends lines over mTLS, only to PEER; a new connection every 20 requests
 * member                         answers and asks the peers that it reads from standard input, for ever
 * </pre>
 */
class Workload {
    public static void main(String[] arguments) {
        // The threads of gRPC are no daemons.
        try {
            run(arguments);
            System.exit(0);
        } catch (Exception error) {
            error.printStackTrace();
            System.exit(1);
        }
    }

    private static void run(String[] arguments) throws Exception {
        switch (arguments[0]) {
            case "probe" -> probe();
            case "server" -> serve(SpiffeId.parse(arguments[1]));
            case "client" -> ask(SpiffeId.parse(arguments[1]), arguments[2], Integer.parseInt(arguments[3]));
            case "member" -> new Member().join();
            default -> throw new IllegalArgumentException(arguments[0]);
        }
    }

    private static void probe() throws Exception {
        try (var client = DefaultWorkloadApiClient.newClient()) {
            var context = client.fetchX509Context();
            System.out.println("x509 " + context.getDefaultSvid().getSpiffeId());
            var token = client.fetchJwtSvid("ledger");
            client.validateJwtSvid(token.getToken(), "ledger");
            System.out.println("jwt " + token.getSpiffeId());
        }
        var source = DefaultX509Source.newSource();
        var first = source.getX509Svid();
        var end = System.nanoTime() + 9_000_000_000L;
        while (source.getX509Svid().getLeaf().equals(first.getLeaf())) {
            if (System.nanoTime() > end) {
                throw new IllegalStateException("no rotation within 9 s");
            }
            Thread.sleep(50);
        }
        System.out.println("rotated " + source.getX509Svid().getSpiffeId());
    }

    private static SSLContext context(X509Source source, SpiffeId peer) throws Exception {
        var options = SslContextOptions.builder().x509Source(source).acceptedSpiffeIdsSupplier(() -> Set.of(peer)).build();
        return SpiffeSslContextFactory.getSslContext(options);
    }

    private static void serve(SpiffeId peer) throws Exception {
        var source = DefaultX509Source.newSource();
        var factory = context(source, peer).getServerSocketFactory();
        var listener = (SSLServerSocket) factory.createServerSocket(0, 50, InetAddress.getLoopbackAddress());
        listener.setNeedClientAuth(true);
        System.out.println(source.getX509Svid().getSpiffeId() + " listens on 127.0.0.1:" + listener.getLocalPort());
        while (true) {
            var socket = (SSLSocket) listener.accept();
            var thread = new Thread(() -> answer(socket));
            thread.setDaemon(true);
            thread.start();
        }
    }

    private static void answer(SSLSocket socket) {
        try (socket) {
            socket.startHandshake();
            var certificate = (X509Certificate) socket.getSession().getPeerCertificates()[0];
            var serial = certificate.getSerialNumber().toString(16);
            var reader = new BufferedReader(new InputStreamReader(socket.getInputStream()));
            var writer = new PrintStream(socket.getOutputStream(), true);
            for (String line = reader.readLine(); line != null; line = reader.readLine()) {
                writer.println("hello with serial " + serial + ": " + line);
            }
        } catch (SSLException error) {
            System.out.println("failed: " + error);
        } catch (IOException error) {
            // The client has gone.
        }
    }

    private static void ask(SpiffeId peer, String address, int requests) throws Exception {
        var source = DefaultX509Source.newSource();
        int port = Integer.parseInt(address.substring(address.lastIndexOf(':') + 1));
        for (int request = 0; request < requests; ) {
            // A context for each connection: a resumed session would show the server an earlier certificate.
            var factory = context(source, peer).getSocketFactory();
            try (var socket = (SSLSocket) factory.createSocket(InetAddress.getLoopbackAddress(), port)) {
                socket.startHandshake();
                var reader = new BufferedReader(new InputStreamReader(socket.getInputStream()));
                var writer = new PrintStream(socket.getOutputStream(), true);
                for (int some = 0; some < 20 && request < requests; some++, request++) {
                    writer.println("request " + request);
                    var answer = reader.readLine();
                    if (answer == null) {
                        throw new IOException("request " + request + " was not answered");
                    }
                    System.out.println(answer);
                    Thread.sleep(100);
                }
            }
        }
    }
}
