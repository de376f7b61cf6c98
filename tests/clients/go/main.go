// A workload that uses go-spiffe. It finds the Workload API through SPIFFE_ENDPOINT_SOCKET, as any workload does.
//
//	probe                          calls the whole API, verifies the responses, and waits for one rotation
//	server PEER                    answers lines over mTLS, only to PEER; prints its address
//	client PEER ADDRESS REQUESTS   sends lines over mTLS, only to PEER; a new connection every 20 requests
//	stranger                       fetches for ever, and prints how long each takes
//	member                         answers and asks the peers that it reads from standard input, for ever
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, arguments []string) error {
	if arguments[0] == "stranger" {
		return beAStranger(ctx)
	}
	source, err := workloadapi.NewX509Source(ctx)
	if err != nil {
		return err
	}
	defer source.Close()
	if arguments[0] == "probe" {
		return probe(ctx, source)
	}
	if arguments[0] == "member" {
		return join(ctx, source)
	}
	peer, err := spiffeid.FromString(arguments[1])
	if err != nil {
		return err
	}
	if arguments[0] == "server" {
		return serve(ctx, source, peer)
	}
	requests, err := strconv.Atoi(arguments[3])
	if err != nil {
		return err
	}
	return ask(ctx, source, peer, arguments[2], requests)
}

func probe(ctx context.Context, source *workloadapi.X509Source) error {
	first, err := source.GetX509SVID()
	if err != nil {
		return err
	}
	if _, _, err := x509svid.Verify(first.Certificates, source); err != nil {
		return fmt.Errorf("the SVID does not verify: %w", err)
	}
	fmt.Println("x509", first.ID)

	tokens, err := workloadapi.NewJWTSource(ctx)
	if err != nil {
		return err
	}
	defer tokens.Close()
	token, err := tokens.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "ledger"})
	if err != nil {
		return err
	}
	if _, err := jwtsvid.ParseAndValidate(token.Marshal(), tokens, []string{"ledger"}); err != nil {
		return fmt.Errorf("the token does not verify: %w", err)
	}
	if _, err := workloadapi.ValidateJWTSVID(ctx, token.Marshal(), "ledger"); err != nil {
		return fmt.Errorf("the daemon does not validate its own token: %w", err)
	}
	if _, err := workloadapi.ValidateJWTSVID(ctx, token.Marshal(), "other"); err == nil {
		return fmt.Errorf("a token was validated for an audience that it does not have")
	}
	fmt.Println("jwt", token.ID)

	bundles, err := workloadapi.FetchX509Bundles(ctx)
	if err != nil {
		return err
	}
	if !bundles.Has(first.ID.TrustDomain()) {
		return fmt.Errorf("the bundles lack the workload's own trust domain")
	}

	select {
	case <-source.Updated():
	case <-time.After(9 * time.Second):
		return fmt.Errorf("no rotation within 9 s")
	}
	second, err := source.GetX509SVID()
	if err != nil {
		return err
	}
	if first.Certificates[0].SerialNumber.Cmp(second.Certificates[0].SerialNumber) == 0 {
		return fmt.Errorf("an update came with the old serial")
	}
	fmt.Println("rotated", second.ID)
	return nil
}

func serve(ctx context.Context, source *workloadapi.X509Source, peer spiffeid.ID) error {
	listener, err := spiffetls.ListenWithMode(ctx, "tcp", "127.0.0.1:0",
		spiffetls.MTLSServerWithSource(tlsconfig.AuthorizeID(peer), source))
	if err != nil {
		return err
	}
	fmt.Println("listens on", listener.Addr())
	for {
		connection, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			if err := answer(connection); err != nil {
				fmt.Println("failed:", err)
			}
		}()
	}
}

func answer(connection net.Conn) error {
	defer connection.Close()
	lines := bufio.NewScanner(connection)
	for lines.Scan() {
		serial, err := serialOf(connection)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(connection, "hello with serial %s: %s\n", serial, lines.Text()); err != nil {
			return err
		}
	}
	return lines.Err()
}

func serialOf(connection net.Conn) (string, error) {
	leaf, err := leafOf(connection)
	if err != nil {
		return "", err
	}
	return leaf.SerialNumber.Text(16), nil
}

func leafOf(connection net.Conn) (*x509.Certificate, error) {
	state, ok := connection.(interface{ ConnectionState() tls.ConnectionState })
	if !ok {
		return nil, fmt.Errorf("not a TLS connection: %T", connection)
	}
	return state.ConnectionState().PeerCertificates[0], nil
}

func ask(ctx context.Context, source *workloadapi.X509Source, peer spiffeid.ID, address string, requests int) error {
	mode := spiffetls.MTLSClientWithSource(tlsconfig.AuthorizeID(peer), source)
	var connection net.Conn
	var lines *bufio.Reader
	for request := range requests {
		if request%20 == 0 {
			if connection != nil {
				connection.Close()
			}
			var err error
			if connection, err = spiffetls.DialWithMode(ctx, "tcp", address, mode); err != nil {
				return err
			}
			lines = bufio.NewReader(connection)
		}
		if _, err := fmt.Fprintf(connection, "request %d\n", request); err != nil {
			return err
		}
		answer, err := lines.ReadString('\n')
		if err != nil {
			return err
		}
		fmt.Print(answer)
		time.Sleep(100 * time.Millisecond)
	}
	return connection.Close()
}
