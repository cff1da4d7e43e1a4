// Command load makes thousands of objects through an API server and tells how long it took until each was dealt with. It is the
// part of the benchmarks that must not be what limits them.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"
)

const usage = `load: creates objects and waits until something has dealt with each

  load --server URL --ca FILE --cert FILE --key FILE --path PATH --template FILE --count N [flags]

  --path /api/v1/namespaces/a/configmaps   where the objects are created
  --template FILE     an object as JSON; {{i}} becomes its number
  --from N            the first number (0)
  --status FILE       a status as JSON, written to each object right after it was made
  --clients N         connections (16)
  --watch PATH        what is watched meanwhile; without it the program ends when everything is made
  --selector LABELS   which of it
  --until WHAT        exists, or the type of a condition that is True (exists)
  --name-from WHERE   how a watched object names the object that it stands for: name, label:KEY or annotation:KEY (name)
  --timeout DURATION  of all of it (2m)

It prints one line of JSON: objects a second from the first request to the last object that was dealt with, and quantiles of the
time that each took.
`

type options struct {
	api                          api
	path, template, status       string
	watch, selector, until, from string
	count, first, clients        int
	timeout                      time.Duration
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintf(os.Stderr, "load: %v\n", err)
		os.Exit(1)
	}
}

func run() error {
	o, err := parse(os.Args[1:])
	if err != nil || o == nil {
		return err
	}
	objects, err := readObjects(o)
	if err != nil {
		return err
	}
	result, err := o.measure(objects)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

func parse(args []string) (*options, error) {
	var o options
	f := flag.NewFlagSet("load", flag.ContinueOnError)
	f.Usage = func() { fmt.Fprint(os.Stderr, usage) }
	f.StringVar(&o.api.server, "server", "", "")
	f.StringVar(&o.api.ca, "ca", "", "")
	f.StringVar(&o.api.cert, "cert", "", "")
	f.StringVar(&o.api.key, "key", "", "")
	f.StringVar(&o.path, "path", "", "")
	f.StringVar(&o.template, "template", "", "")
	f.StringVar(&o.status, "status", "", "")
	f.StringVar(&o.watch, "watch", "", "")
	f.StringVar(&o.selector, "selector", "", "")
	f.StringVar(&o.until, "until", "exists", "")
	f.StringVar(&o.from, "name-from", "name", "")
	f.IntVar(&o.count, "count", 0, "")
	f.IntVar(&o.first, "from", 0, "")
	f.IntVar(&o.clients, "clients", 16, "")
	f.DurationVar(&o.timeout, "timeout", 2*time.Minute, "")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil, nil
		}
		return nil, err
	}
	if o.api.server == "" || o.path == "" || o.template == "" || o.count < 1 || o.clients < 1 {
		return nil, errors.New("--server, --path, --template, --count and --clients are needed; see --help")
	}
	return &o, nil
}

// object is one to be made.
type object struct {
	name         string
	body, status []byte
}

func readObjects(o *options) ([]object, error) {
	template, err := os.ReadFile(o.template)
	if err != nil {
		return nil, err
	}
	var status []byte
	if o.status != "" {
		if status, err = os.ReadFile(o.status); err != nil {
			return nil, err
		}
	}
	objects := make([]object, o.count)
	for i := range objects {
		number := fmt.Sprintf("%06d", o.first+i)
		fill := func(text []byte) []byte { return []byte(strings.ReplaceAll(string(text), "{{i}}", number)) }
		objects[i].body = fill(template)
		if status != nil {
			objects[i].status = fill(status)
		}
		var named struct{ Metadata struct{ Name string } }
		if err := json.Unmarshal(objects[i].body, &named); err != nil {
			return nil, fmt.Errorf("%s: %w", o.template, err)
		}
		objects[i].name = named.Metadata.Name
	}
	return objects, nil
}
