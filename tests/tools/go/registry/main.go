// Command registry is the OCI registry of the CNCF (distribution) for tests: what is pushed is gone when it ends, and one user may push.
//
// The stock build links the clients of every cloud's storage, and needs a token server beside it.
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/auth/token"
	"github.com/distribution/distribution/v3/registry/handlers"
	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/sirupsen/logrus"
	"golang.org/x/crypto/bcrypt"

	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
)

const usage = `registry: an OCI registry for tests, which forgets everything when it ends

  registry [--listen ADDRESS] [--auth HOW] [--user NAME --password SECRET]

  --listen ADDRESS    host and port (127.0.0.1:0); for port 0 it takes a free one
  --auth none         anybody pulls and pushes (the default)
  --auth basic        the user alone pulls and pushes, by HTTP Basic
  --auth token        likewise, by bearer tokens that a token server of its own gives out on another port;
                      anybody gets tokens to pull from repositories below public/
  --user NAME         (tester)
  --password SECRET   at most 72 bytes (secret)

It prints one line, "listening on ADDRESS", when it answers. It ends when its standard input is closed, so that it never
outlives who started it: from a terminal, end it with Ctrl-C or Ctrl-D. Then it removes its folder below $TMPDIR.
`

const (
	service = "registry" // as the challenge names it: the audience of tokens
	issuer  = "tests"

	tokenLifetime = 60 * time.Second

	openRepositories = "public/"
)

type options struct {
	listen, auth, user, password string
}

func main() {
	var o options
	flags := flag.NewFlagSet("registry", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&o.listen, "listen", "127.0.0.1:0", "")
	flags.StringVar(&o.auth, "auth", "none", "")
	flags.StringVar(&o.user, "user", "tester", "")
	flags.StringVar(&o.password, "password", "secret", "")
	err := flags.Parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		fmt.Print(usage)
		return
	}
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("what is %q?", flags.Arg(0))
	}
	if err == nil {
		err = run(o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "registry:", err)
		os.Exit(1)
	}
}

// run serves until standard input is closed or a signal ends it.
func run(o options) error {
	logrus.SetLevel(logrus.ErrorLevel)
	folder, err := os.MkdirTemp("", "registry-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	ctx, ended := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer ended()
	go func() {
		io.Copy(io.Discard, os.Stdin)
		ended()
	}()

	auth, err := authentication(o, folder)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", o.listen)
	if err != nil {
		return err
	}
	// Not in memory: that driver copies all of an upload at each read of it, so 120 MB take 38 s.
	storage := configuration.Storage{"filesystem": {"rootdirectory": filepath.Join(folder, "storage")}}
	config := &configuration.Configuration{Storage: storage, Auth: auth}
	// The app alone, not registry.NewRegistry around it, which starts the exporters of traces.
	app := handlers.NewApp(ctx, config)
	fmt.Println("listening on", listener.Addr())
	return serve(ctx, listener, app)
}

func serve(ctx context.Context, listener net.Listener, handler http.Handler) error {
	failed := make(chan error, 1)
	go func() { failed <- http.Serve(listener, handler) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

// authentication is the registry's part of the configuration; what it names is in the folder.
func authentication(o options, folder string) (configuration.Auth, error) {
	switch o.auth {
	case "none":
		return nil, nil
	case "basic":
		path := filepath.Join(folder, "htpasswd")
		return configuration.Auth{"htpasswd": {"realm": service, "path": path}}, writeHtpasswd(path, o)
	case "token":
		path := filepath.Join(folder, "jwks.json")
		tokens, err := newTokenServer(o, path)
		if err != nil {
			return nil, err
		}
		realm, err := tokens.start()
		if err != nil {
			return nil, err
		}
		return configuration.Auth{"token": {"realm": realm, "service": service, "issuer": issuer, "jwks": path}}, nil
	default:
		return nil, fmt.Errorf("--auth %q is none of none, basic, token", o.auth)
	}
}

func writeHtpasswd(path string, o options) error {
	// The cheapest hash: every request is checked against it.
	hash, err := bcrypt.GenerateFromPassword([]byte(o.password), bcrypt.MinCost)
	if err != nil {
		return err
	}
	return os.WriteFile(path, fmt.Appendf(nil, "%s:%s\n", o.user, hash), 0o600)
}

// tokenServer gives out what https://distribution.github.io/distribution/spec/auth/token/ describes.
type tokenServer struct {
	user, password string
	signer         jose.Signer
}

// newTokenServer makes a key for it and writes the public half to the path, where the registry reads it.
func newTokenServer(o options, path string) (*tokenServer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	private := jose.JSONWebKey{Key: key, KeyID: "1", Algorithm: string(jose.ES256), Use: "sig"}
	public, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{private.Public()}})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(path, public, 0o600); err != nil {
		return nil, err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: private}, nil)
	return &tokenServer{user: o.user, password: o.password, signer: signer}, err
}

// start serves on a free port and returns the URL that the registry's challenges name.
func (s *tokenServer) start() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	routes := http.NewServeMux()
	routes.HandleFunc("GET /token", s.answer)
	go http.Serve(listener, routes)
	return fmt.Sprintf("http://%s/token", listener.Addr()), nil
}

func (s *tokenServer) answer(w http.ResponseWriter, r *http.Request) {
	user, password, named := r.BasicAuth()
	if named && (user != s.user || password != s.password) {
		w.Header().Set("WWW-Authenticate", `Basic realm="token"`)
		http.Error(w, "wrong user or password", http.StatusUnauthorized)
		return
	}
	query := r.URL.Query()
	if query.Get("service") != service {
		http.Error(w, "no such service", http.StatusBadRequest)
		return
	}
	access, err := requested(query["scope"])
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if !named {
		access = open(access)
	}
	signed, err := s.sign(user, access)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{"token": signed, "expires_in": int(tokenLifetime.Seconds())})
}

func (s *tokenServer) sign(user string, access []*token.ResourceActions) (string, error) {
	now := time.Now()
	claims := token.ClaimSet{
		Issuer:     issuer,
		Subject:    user,
		Audience:   token.AudienceList{service},
		Expiration: now.Add(tokenLifetime).Unix(),
		NotBefore:  now.Unix(),
		IssuedAt:   now.Unix(),
		JWTID:      rand.Text(),
		Access:     access,
	}
	return jwt.Signed(s.signer).Claims(claims).Serialize()
}

// requested is what the scopes ask for. Each value is a list with spaces between, as containerd sends it, of TYPE:NAME:ACTION,ACTION.
func requested(scopes []string) ([]*token.ResourceActions, error) {
	var access []*token.ResourceActions
	for _, scope := range strings.Fields(strings.Join(scopes, " ")) {
		kind, rest, _ := strings.Cut(scope, ":")
		// A name may have a host with a port in front.
		last := strings.LastIndex(rest, ":")
		if last < 0 {
			return nil, fmt.Errorf("%q is no scope", scope)
		}
		actions := strings.Split(rest[last+1:], ",")
		access = append(access, &token.ResourceActions{Type: kind, Name: rest[:last], Actions: actions})
	}
	return access, nil
}

// open is the part of it that anybody gets: to pull from open repositories.
func open(access []*token.ResourceActions) []*token.ResourceActions {
	var granted []*token.ResourceActions
	for _, a := range access {
		if slices.Contains(a.Actions, "pull") && a.Type == "repository" && strings.HasPrefix(a.Name, openRepositories) {
			granted = append(granted, &token.ResourceActions{Type: a.Type, Name: a.Name, Actions: []string{"pull"}})
		}
	}
	return granted
}
