package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
)

// maxEvent is the longest event of a watch: an object of etcd's largest size.
const maxEvent = 4 << 20

// api is an API server as an administrator reaches it.
type api struct {
	server, ca, cert, key string
	client                *http.Client
}

// connect makes a client with so many connections: HTTP/1.1, because one connection of HTTP/2 would be shared by all.
func (a *api) connect(connections int) error {
	ca, err := os.ReadFile(a.ca)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return fmt.Errorf("%s holds no certificate", a.ca)
	}
	pair, err := tls.LoadX509KeyPair(a.cert, a.key)
	if err != nil {
		return err
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	a.client = &http.Client{Transport: &http.Transport{
		TLSClientConfig:     &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}},
		MaxConnsPerHost:     connections + 1, // one watches
		MaxIdleConnsPerHost: connections + 1,
		Protocols:           protocols,
	}}
	return nil
}

func (a *api) send(ctx context.Context, method, path, contentType string, body []byte) error {
	response, err := a.open(ctx, method, path, contentType, body)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	return err
}

func (a *api) open(ctx context.Context, method, path, contentType string, body []byte) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, a.server+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", contentType)
	response, err := a.client.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode >= 300 {
		defer response.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(response.Body, 4<<10))
		return nil, fmt.Errorf("%s %s: HTTP %d: %s", method, path, response.StatusCode, strings.TrimSpace(string(text)))
	}
	return response, nil
}

// make creates an object and writes its status.
func (a *api) make(ctx context.Context, path string, o object) error {
	if err := a.send(ctx, http.MethodPost, path, "application/json", o.body); err != nil || o.status == nil {
		return err
	}
	return a.send(ctx, http.MethodPatch, path+"/"+o.name+"/status", "application/merge-patch+json", o.status)
}

// seen is what is read of a watched object.
type seen struct {
	Metadata struct {
		Name                string
		ResourceVersion     string
		Labels, Annotations map[string]string
	}
	Status struct {
		Conditions []struct{ Type, Status string }
	}
}

// standsFor is the name of the object that this one was made for.
func (s seen) standsFor(where string) string {
	kind, key, _ := strings.Cut(where, ":")
	switch kind {
	case "label":
		return s.Metadata.Labels[key]
	case "annotation":
		return s.Metadata.Annotations[key]
	}
	return s.Metadata.Name
}

func (s seen) is(until string) bool {
	for _, condition := range s.Status.Conditions {
		if condition.Type == until && condition.Status == "True" {
			return true
		}
	}
	return until == "exists"
}

// watch calls each for every object that comes or changes after now, until each says that it is enough.
func (a *api) watch(ctx context.Context, path, selector string, ready func(), each func(seen) bool) error {
	query := url.Values{"limit": {"1"}}
	if selector != "" {
		query.Set("labelSelector", selector)
	}
	response, err := a.open(ctx, http.MethodGet, path+"?"+query.Encode(), "application/json", nil)
	if err != nil {
		return err
	}
	var list seen
	err = json.NewDecoder(response.Body).Decode(&list)
	response.Body.Close()
	if err != nil {
		return err
	}
	query.Del("limit")
	query.Set("watch", "1")
	last := list.Metadata.ResourceVersion
	for ready := sync.OnceFunc(ready); ; {
		query.Set("resourceVersion", last)
		response, err := a.open(ctx, http.MethodGet, path+"?"+query.Encode(), "application/json", nil)
		if err != nil {
			return err
		}
		ready()
		enough, err := follow(response.Body, &last, each)
		response.Body.Close()
		if enough || err != nil {
			return err
		}
		// The API server may end a watch at any time, one that is slow to read above all: it goes on where it ended.
	}
}

// follow reads events until each says that it is enough, or the stream ends.
func follow(body io.Reader, last *string, each func(seen) bool) (bool, error) {
	lines := bufio.NewScanner(body)
	lines.Buffer(make([]byte, 64<<10), maxEvent)
	for lines.Scan() {
		var event struct {
			Type   string
			Object seen
		}
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
			return false, err
		}
		if event.Type == "ERROR" {
			return false, fmt.Errorf("the watch failed: %s", lines.Text())
		}
		*last = event.Object.Metadata.ResourceVersion
		if event.Type != "DELETED" && each(event.Object) {
			return true, nil
		}
	}
	return false, lines.Err()
}
