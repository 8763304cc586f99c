package main

import (
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
)

const usage = `go run . signed    URL -username NAME -key FILE [-bind]
COUNTERSIGN_API_KEY=... go run . exchanged URL -server URL -identifier UUID

It prints the answer's status on the first line and its body after it.`

func main() {
	status, err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "countersign client:", err)
	}
	if err != nil || status < 200 || status > 299 {
		os.Exit(1)
	}
}

func run() (int, error) {
	flags := flag.NewFlagSet("client", flag.ExitOnError)
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), usage)
		flags.PrintDefaults()
	}
	username := flags.String("username", "", "whose key it is")
	key := flags.String("key", "", "a private key, PEM")
	bind := flags.Bool("bind", false, "make tokens for this method and URL alone")
	server := flags.String("server", "", "Countersign's URL")
	identifier := flags.String("identifier", "", "the UUID that the API key was issued for")
	method := flags.String("method", http.MethodGet, "")
	times := flags.Int("times", 1, "ask again and again, until something is refused")
	if len(os.Args) < 3 {
		flags.Usage()
		os.Exit(2)
	}
	mode, url := os.Args[1], os.Args[2]
	flags.Parse(os.Args[3:])

	var client interface {
		Do(*http.Request) (*http.Response, error)
	}
	switch mode {
	case "signed":
		text, err := os.ReadFile(*key)
		if err != nil {
			return 0, err
		}
		signer, err := NewSigner(*username, text)
		if err != nil {
			return 0, err
		}
		signer.Bind = *bind
		client = signer
	case "exchanged":
		client = NewSession(*server, *identifier, os.Getenv("COUNTERSIGN_API_KEY"))
	default:
		flags.Usage()
		os.Exit(2)
	}

	var status int
	var body []byte
	for i := 0; i < *times; i++ {
		request, err := http.NewRequest(*method, url, nil)
		if err != nil {
			return 0, err
		}
		response, err := client.Do(request)
		if err != nil {
			return 0, err
		}
		body, err = io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil {
			return 0, err
		}
		if status = response.StatusCode; status < 200 || status > 299 {
			break
		}
	}
	fmt.Printf("%d\n%s\n", status, body)
	return status, nil
}
