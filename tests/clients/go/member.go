package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

const (
	round      = 500 * time.Millisecond
	answerTime = 5 * time.Second
	newTokenAt = 5 * time.Second
	nearlyOver = 2 * time.Second
	audience   = "circle"
)

// One member of a circle of services, with one source of SVIDs and one of JWT bundles for its whole life.
type member struct {
	source *workloadapi.X509Source
	tokens *workloadapi.JWTSource
	token  string
	newAt  time.Time
	end    time.Time
}

// Reads its peers from standard input, a SPIFFE ID and an address on each line, and then asks each of them twice a second, on
// a new connection each time.
func join(ctx context.Context, source *workloadapi.X509Source) error {
	tokens, err := workloadapi.NewJWTSource(ctx)
	if err != nil {
		return err
	}
	m := &member{source: source, tokens: tokens}
	svid, err := source.GetX509SVID()
	if err != nil {
		return err
	}
	authorizer := tlsconfig.AuthorizeMemberOf(svid.ID.TrustDomain())
	listener, err := spiffetls.ListenWithMode(ctx, "tcp", "127.0.0.1:0",
		spiffetls.MTLSServerWithSource(authorizer, source))
	if err != nil {
		return err
	}
	fmt.Println("listens on", listener.Addr())
	go m.serve(listener)
	peers := bufio.NewScanner(os.Stdin)
	addresses := map[spiffeid.ID]string{}
	for peers.Scan() {
		id, address, _ := strings.Cut(peers.Text(), " ")
		peer, err := spiffeid.FromString(id)
		if err != nil {
			return err
		}
		addresses[peer] = address
	}
	for {
		next := time.Now().Add(round)
		m.renewToken(ctx)
		for peer, address := range addresses {
			if authority, err := m.ask(ctx, peer, address); err != nil {
				fmt.Printf("failed to ask %s: %v\n", peer, err)
			} else {
				fmt.Printf("asked %s under %s\n", peer, authority)
			}
		}
		time.Sleep(time.Until(next))
	}
}

// Gets a new token now and then. Without a daemon the one before goes on, until its end.
func (m *member) renewToken(ctx context.Context) {
	if time.Now().After(m.newAt) || time.Until(m.end) < nearlyOver {
		ctx, cancel := context.WithTimeout(ctx, answerTime)
		defer cancel()
		token, err := m.tokens.FetchJWTSVID(ctx, jwtsvid.Params{Audience: audience})
		if err != nil {
			fmt.Println("no new token:", err)
		} else {
			m.token, m.newAt, m.end = token.Marshal(), time.Now().Add(newTokenAt), token.Expiry
		}
	}
	if time.Until(m.end) < nearlyOver/2 {
		m.token = ""
	}
}

func (m *member) ask(ctx context.Context, peer spiffeid.ID, address string) (string, error) {
	mode := spiffetls.MTLSClientWithSource(tlsconfig.AuthorizeID(peer), m.source)
	connection, err := spiffetls.DialWithMode(ctx, "tcp", address, mode)
	if err != nil {
		return "", err
	}
	defer connection.Close()
	if err := connection.SetDeadline(time.Now().Add(answerTime)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintf(connection, "%s\n", m.token); err != nil {
		return "", err
	}
	answer, err := bufio.NewReader(connection).ReadString('\n')
	if err != nil {
		return "", err
	}
	if answer != "hello\n" {
		return "", fmt.Errorf("it answered: %s", strings.TrimSpace(answer))
	}
	leaf, err := leafOf(connection)
	if err != nil {
		return "", err
	}
	return hex.EncodeToString(leaf.AuthorityKeyId)[:16], nil
}

func (m *member) serve(listener net.Listener) {
	for {
		connection, err := listener.Accept()
		if err != nil {
			fmt.Println("failed to accept:", err)
			return
		}
		go func() {
			defer connection.Close()
			if err := m.answer(connection); err != nil {
				fmt.Println("failed to answer:", err)
			}
		}()
	}
}

func (m *member) answer(connection net.Conn) error {
	token, err := bufio.NewReader(connection).ReadString('\n')
	if err != nil {
		return err
	}
	if token = strings.TrimSpace(token); token != "" {
		if _, err := jwtsvid.ParseAndValidate(token, m.tokens, []string{audience}); err != nil {
			_, _ = fmt.Fprintf(connection, "the token is refused: %v\n", err)
			return fmt.Errorf("the token is refused: %w", err)
		}
	}
	_, err = fmt.Fprintln(connection, "hello")
	return err
}
