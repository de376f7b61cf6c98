package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// Fetches X509-SVIDs for ever, each on a new connection. Prints the start and the duration of each in nanoseconds, or
// the error.
func beAStranger(ctx context.Context) error {
	for {
		begin := time.Now()
		err := fetchOnce(ctx)
		if err != nil {
			fmt.Println(begin.UnixNano(), strings.ReplaceAll(err.Error(), "\n", " "))
		} else {
			fmt.Println(begin.UnixNano(), time.Since(begin).Nanoseconds())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func fetchOnce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	client, err := workloadapi.New(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	_, err = client.FetchX509SVID(ctx)
	return err
}
