// Package kube is the small part of a Kubernetes client that setting up a cluster needs: readiness, reads, server-side
// apply and deletion, authenticated by the administrator's certificate.
package kube

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

// ErrNotFound is returned for an object that does not exist.
var ErrNotFound = errors.New("not found")

// Client speaks to one API server.
type Client struct {
	base string
	http *http.Client
}

// New reads the certificates and makes a client for a base URL.
func New(base, caFile, certFile, keyFile string) (*Client, error) {
	ca, err := os.ReadFile(caFile)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("%s holds no certificate", caFile)
	}
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2: true,
	}
	return &Client{base: base, http: &http.Client{Transport: transport, Timeout: 30 * time.Second}}, nil
}

// Ready says whether the API server answers and all its start-up hooks are done.
func (c *Client) Ready() error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	_, err := c.do(ctx, http.MethodGet, "/readyz", "", nil)
	return err
}

// Get reads an object or a list into out.
func (c *Client) Get(path string, out any) error {
	raw, err := c.do(context.Background(), http.MethodGet, path, "", nil)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, out)
}

// Apply creates or changes an object by server-side apply; body is YAML or JSON.
func (c *Client) Apply(path string, body []byte) error {
	_, err := c.do(context.Background(), http.MethodPatch, path+"?fieldManager=xdc-grid-cluster&force=true", "application/apply-patch+yaml", body)
	return err
}

// Delete removes an object; one that is gone already is no error.
func (c *Client) Delete(path string) error {
	_, err := c.do(context.Background(), http.MethodDelete, path, "", nil)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

func (c *Client) do(ctx context.Context, method, path, contentType string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return nil, err
	}
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return nil, fmt.Errorf("%s %s: %w", method, path, ErrNotFound)
	case resp.StatusCode >= 300:
		return nil, fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, message(raw))
	}
	return raw, nil
}

// message is the sentence in a Status object, or the body's end: /readyz lists its failing checks last.
func message(raw []byte) string {
	var status struct{ Message string }
	if json.Unmarshal(raw, &status) == nil && status.Message != "" {
		return status.Message
	}
	text := strings.TrimSpace(string(raw))
	if len(text) > 600 {
		text = "…" + text[len(text)-600:]
	}
	return text
}
