// Command cluster is the local Kubernetes that the demo, the end-to-end tests and the benchmarks run on.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"xdc-grid/tests/cluster/internal/grid"
	"xdc-grid/tests/cluster/internal/tools"
)

const usage = `cluster: a real Kubernetes on this machine

  up [--nodes N]          bring the cluster up, or repair it (3 nodes)
  down                    remove everything it made
  status                  tell what runs
  control-plane [--port P] [--controllers]
                          etcd and an API server only, on the loopback interface; prints its kubeconfig. With the Job
                          controller and the garbage collector where --controllers is given
  load IMAGE.tar          put an image archive into every node
  tag IMAGE NAME          give an image that the nodes have another name as well
  image --out FILE --ref REF --binary PATH [--binary PATH...]
                          pack programs of this machine into an image archive
  node stop|start|cut|heal NAME
                          lose a node, boot it again, take its network away, give it back
  devices start|stop NODE [--count N]
                          give a node fake GPUs (2), or take them away: extended resource example.com/gpu and
                          DeviceClass gpu.example.com
  devices lose|remove|restore NODE [DEVICE...]
                          make devices unhealthy, make them vanish, or make them well again; all where none is named
  nat NAME, nat-down NAME make or remove a home network behind a NAT router
  build                   build what the verbs above need

Every verb takes --state DIR (.cluster): kubeconfig, logs and data.
`

func main() {
	if err := command(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "cluster: %v\n", err)
		os.Exit(1)
	}
}

type list []string

func (l *list) String() string     { return strings.Join(*l, " ") }
func (l *list) Set(v string) error { *l = append(*l, v); return nil }

type flags struct {
	*flag.FlagSet
	state, out, ref string
	nodes, port     int
	count           int
	controllers     bool
	binaries        list
}

func command(args []string) error {
	if len(args) == 0 || args[0] == "help" || args[0] == "-h" || args[0] == "--help" {
		fmt.Print(usage)
		return nil
	}
	verb := args[0]
	f := flags{FlagSet: flag.NewFlagSet(verb, flag.ContinueOnError)}
	f.Usage = func() { fmt.Fprint(os.Stderr, usage) }
	f.StringVar(&f.state, "state", ".cluster", "")
	switch verb {
	case "up":
		f.IntVar(&f.nodes, "nodes", 3, "")
	case "control-plane":
		f.IntVar(&f.port, "port", 0, "")
		f.BoolVar(&f.controllers, "controllers", false, "")
	case "devices":
		f.IntVar(&f.count, "count", 2, "")
	case "image":
		f.StringVar(&f.out, "out", "", "")
		f.StringVar(&f.ref, "ref", "", "")
		f.Var(&f.binaries, "binary", "")
	}
	words, err := parse(f.FlagSet, args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	o, err := options(f.state)
	if err != nil {
		return err
	}
	return dispatch(verb, words, f, o)
}

// parse takes flags before, between and after the words.
func parse(f *flag.FlagSet, args []string) ([]string, error) {
	var words []string
	for {
		if err := f.Parse(args); err != nil {
			return nil, err
		}
		if f.NArg() == 0 {
			return words, nil
		}
		words = append(words, f.Arg(0))
		args = f.Args()[1:]
	}
}

func options(state string) (grid.Options, error) {
	abs, err := filepath.Abs(state)
	if err != nil {
		return grid.Options{}, err
	}
	if strings.ContainsAny(abs, "'\"\n\\,: ") {
		return grid.Options{}, fmt.Errorf("--state %s: the path must not hold spaces, quotes, commas or colons", abs)
	}
	cache, err := tools.DefaultCache()
	if err != nil {
		return grid.Options{}, err
	}
	source := os.Getenv("XDC_GRID_CLUSTER_SOURCE")
	if source == "" {
		return grid.Options{}, errors.New("run it as tests/cluster/cluster.sh, which tells where the sources are")
	}
	return grid.Options{State: abs, Source: source, Cache: cache, Say: grid.NewProgress(os.Stderr)}, nil
}

func dispatch(verb string, words []string, f flags, o grid.Options) error {
	want := map[string]int{"load": 1, "tag": 2, "node": 2, "nat": 1, "nat-down": 1}[verb]
	if verb == "image" {
		f.binaries = append(f.binaries, words...)
	} else if verb != "devices" && len(words) != want {
		return fmt.Errorf("%s takes %d words, not %d; see 'cluster help'", verb, want, len(words))
	}
	switch verb {
	case "up":
		return grid.Up(o, f.nodes)
	case "down":
		return grid.Down(o)
	case "status":
		return grid.Status(o)
	case "build":
		return grid.Build(o)
	case "control-plane":
		kubeconfig, err := grid.ControlPlane(o, f.port, f.controllers)
		if err == nil {
			fmt.Println(kubeconfig)
		}
		return err
	case "load":
		return grid.Load(o, words[0])
	case "tag":
		return grid.Tag(o, words[0], words[1])
	case "image":
		if f.out == "" || f.ref == "" {
			return errors.New("image needs --out FILE, --ref REF and at least one --binary PATH")
		}
		return grid.Pack(o, f.out, f.ref, f.binaries)
	case "node":
		return grid.Node(o, words[0], words[1])
	case "devices":
		return grid.Devices(o, words, f.count)
	case "nat":
		return grid.NAT(o, words[0])
	case "nat-down":
		return grid.NATDown(o, words[0])
	}
	return fmt.Errorf("no verb %q; see 'cluster help'", verb)
}
