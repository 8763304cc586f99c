// A client of APIs behind Countersign, with the standard library alone. Copy this file; main.go only runs it.
package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	attempts = 3
	// Between two attempts; who has to wait longer is told so.
	longestWait = time.Minute
	// A token that is about to expire may do so on the way.
	expiryMargin = 30 * time.Second
)

var httpClient = &http.Client{
	Timeout: 10 * time.Second,
	// A redirect would send a spent token, or a good one to somebody else.
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// Signer signs a token of its own for every request. The private key stays here.
type Signer struct {
	// Bind makes tokens for the method and the URL of one request alone.
	Bind bool

	username string
	key      crypto.Signer
	header   []byte
}

// NewSigner signs in the name of username with an Ed25519 or RSA key in PEM.
func NewSigner(username string, privateKeyPEM []byte) (*Signer, error) {
	key, err := parseKey(privateKeyPEM)
	if err != nil {
		return nil, err
	}
	algorithm := "EdDSA"
	if _, isRSA := key.(*rsa.PrivateKey); isRSA {
		algorithm = "RS512"
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	kid := sha256.Sum256(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}))
	header, err := json.Marshal(map[string]string{"alg": algorithm, "typ": "JWT", "kid": hex.EncodeToString(kid[:])})
	if err != nil {
		return nil, err
	}
	return &Signer{username: username, key: key, header: header}, nil
}

// Do sends the request with a new token for every attempt.
func (s *Signer) Do(request *http.Request) (*http.Response, error) {
	return send(request, func() (string, error) { return s.authorization(request) })
}

// A new value for Authorization, which passes once.
func (s *Signer) authorization(request *http.Request) (string, error) {
	nonce := make([]byte, 16)
	if _, err := rand.Read(nonce); err != nil {
		return "", err
	}
	claims := map[string]any{
		"username": s.username,
		"time":     time.Now().Unix(),
		"nonce":    base64.RawURLEncoding.EncodeToString(nonce),
	}
	if s.Bind {
		url := *request.URL
		url.RawQuery, url.ForceQuery, url.Fragment, url.RawFragment = "", false, "", ""
		claims["htm"], claims["htu"] = request.Method, url.String()
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	signed := base64.RawURLEncoding.EncodeToString(s.header) + "." + base64.RawURLEncoding.EncodeToString(payload)
	// Ed25519 brings its own hash.
	message, hash := []byte(signed), crypto.Hash(0)
	if _, isRSA := s.key.(*rsa.PrivateKey); isRSA {
		digest := sha512.Sum512(message)
		message, hash = digest[:], crypto.SHA512
	}
	signature, err := s.key.Sign(rand.Reader, message, hash)
	return "JWT " + signed + "." + base64.RawURLEncoding.EncodeToString(signature), err
}

func parseKey(text []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("not a PEM file")
	}
	if block.Type == "RSA PRIVATE KEY" {
		return x509.ParsePKCS1PrivateKey(block.Bytes)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	switch key := parsed.(type) {
	case ed25519.PrivateKey:
		return key, nil
	case *rsa.PrivateKey:
		return key, nil
	default:
		return nil, errors.New("neither an Ed25519 nor an RSA key")
	}
}

// Session exchanges an API key for access tokens, and uses each until it is about to expire.
type Session struct {
	server, identifier, apiKey string

	// Of many goroutines that find the token expired, one fetches the next.
	mutex        sync.Mutex
	jwt          string
	expiresAt    time.Time
	refreshToken string
}

// NewSession asks the Countersign at that URL for tokens. The identifier is the UUID that the API key was issued for.
func NewSession(server, identifier, apiKey string) *Session {
	return &Session{server: strings.TrimRight(server, "/"), identifier: identifier, apiKey: apiKey}
}

// Do sends the request with an access token.
func (s *Session) Do(request *http.Request) (*http.Response, error) {
	token, err := s.token(request.Context(), "")
	if err != nil {
		return nil, err
	}
	bearer := func() (string, error) { return "Bearer " + token, nil }
	response, err := send(request, bearer)
	if err != nil || response.StatusCode != http.StatusUnauthorized || !isRepeatable(request) {
		return response, err
	}
	// Revoked, or this clock is wrong.
	response.Body.Close()
	if token, err = s.token(request.Context(), token); err != nil {
		return nil, err
	}
	return send(request, bearer)
}

// An access token that is good for a while, and another than insteadOf.
func (s *Session) token(ctx context.Context, insteadOf string) (string, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.jwt != "" && s.jwt != insteadOf && time.Now().Before(s.expiresAt.Add(-expiryMargin)) {
		return s.jwt, nil
	}
	err := s.renew(ctx)
	return s.jwt, err
}

type tokens struct {
	JWT          string `json:"jwt"`
	RefreshToken string `json:"refresh_token"`
}

func (s *Session) renew(ctx context.Context) error {
	var answer *tokens
	var err error
	if s.refreshToken != "" {
		answer, err = s.ask(ctx, "/refresh", map[string]string{"refresh_token": s.refreshToken})
	}
	if answer == nil && err == nil {
		answer, err = s.ask(ctx, "/authenticate", map[string]string{"key": s.apiKey})
	}
	if err != nil {
		return err
	}
	if answer == nil {
		return fmt.Errorf("%s does not take the API key for %s", s.server, s.identifier)
	}
	expiresAt, err := expiry(answer.JWT)
	if err != nil {
		return err
	}
	s.jwt, s.expiresAt = answer.JWT, expiresAt
	// A refresh brings no new refresh token: the one at hand stays good.
	if answer.RefreshToken != "" {
		s.refreshToken = answer.RefreshToken
	}
	return nil
}

// Answers nil where the service answers 401.
func (s *Session) ask(ctx context.Context, path string, members map[string]string) (*tokens, error) {
	members["identifier"] = s.identifier
	body, err := json.Marshal(members)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.server+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := send(request, nil)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusOK:
		var answer tokens
		return &answer, json.NewDecoder(response.Body).Decode(&answer)
	case http.StatusUnauthorized:
		return nil, nil
	default:
		return nil, fmt.Errorf("%s%s answered %d", s.server, path, response.StatusCode)
	}
}

// Whoever gets a token of the service itself need not verify it.
func expiry(jwt string) (time.Time, error) {
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		return time.Time{}, errors.New("the service's token is no JWT")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return time.Time{}, err
	}
	var claims struct {
		Exp int64 `json:"exp"`
	}
	err = json.Unmarshal(payload, &claims)
	return time.Unix(claims.Exp, 0), err
}

// Sends a request, later again if the server says when, and each time with a new authorization.
func send(request *http.Request, authorization func() (string, error)) (*http.Response, error) {
	for attempt := 1; ; attempt++ {
		// A copy: the transport may still be reading the last one, and the caller's stays as it is.
		copied := request.Clone(request.Context())
		if request.GetBody != nil {
			var err error
			if copied.Body, err = request.GetBody(); err != nil {
				return nil, err
			}
		}
		if authorization != nil {
			value, err := authorization()
			if err != nil {
				return nil, err
			}
			copied.Header.Set("Authorization", value)
		}
		response, err := httpClient.Do(copied)
		if err != nil {
			return nil, err
		}
		wait, mayTryAgain := retryAfter(response)
		if attempt == attempts || !mayTryAgain || !isRepeatable(request) {
			return response, nil
		}
		io.Copy(io.Discard, response.Body)
		response.Body.Close()
		select {
		case <-time.After(wait):
		case <-request.Context().Done():
			return nil, request.Context().Err()
		}
	}
}

func retryAfter(response *http.Response) (time.Duration, bool) {
	if response.StatusCode != http.StatusTooManyRequests && response.StatusCode != http.StatusServiceUnavailable {
		return 0, false
	}
	seconds, err := strconv.ParseUint(response.Header.Get("Retry-After"), 10, 16)
	wait := time.Duration(seconds) * time.Second
	return wait, err == nil && wait <= longestWait
}

// A body that comes from a stream can be sent once.
func isRepeatable(request *http.Request) bool {
	return request.Body == nil || request.Body == http.NoBody || request.GetBody != nil
}
