// Command devices gives a node GPUs that do not exist, twice: as the extended resource example.com/gpu through the
// kubelet's device plugin API, and as devices of DeviceClass gpu.example.com through dynamic resource allocation.
//
// Both have the same devices, gpu-0 and up, and both lose a device when the faults file says so. Nothing is put into
// the containers but, by the device plugin, an environment variable that names the devices.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"k8s.io/klog/v2"
)

func main() {
	var o options
	flag.StringVar(&o.node, "node", "", "name of the Kubernetes node")
	flag.IntVar(&o.count, "count", 2, "number of devices")
	flag.StringVar(&o.faults, "faults", "", "file with a line DEVICE unhealthy|gone for each device that is lost")
	flag.StringVar(&o.kubeconfig, "kubeconfig", "", "how to reach the API server")
	flag.StringVar(&o.root, "root", "/var/lib/kubelet", "the kubelet's folder")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "devices:", err)
		os.Exit(1)
	}
}

type options struct {
	node, faults, kubeconfig, root string
	count                          int
}

// pollFaults is how soon a change of the faults file is seen.
const pollFaults = 200 * time.Millisecond

func run(ctx context.Context, o options) error {
	if o.node == "" || o.faults == "" || o.kubeconfig == "" {
		return fmt.Errorf("--node, --faults and --kubeconfig are needed")
	}
	inventory, err := newInventory(o.count)
	if err != nil {
		return err
	}
	if err := inventory.read(o.faults); err != nil {
		return err
	}
	told := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	driver, err := startDriver(ctx, cancel, o, inventory)
	if err != nil {
		return fmt.Errorf("DRA driver: %w", err)
	}
	defer driver.stop()
	plugin, err := startPlugin(filepath.Join(o.root, "plugins_registry"), inventory, cancel)
	if err != nil {
		return fmt.Errorf("device plugin: %w", err)
	}
	defer plugin.stop()
	go driver.publishChanges(ctx)
	follow(ctx, inventory, o.faults)
	if told.Err() != nil {
		return nil
	}
	return context.Cause(ctx)
}

// follow takes over what the faults file says until the program is to end. A file that cannot be used changes nothing.
func follow(ctx context.Context, inventory *inventory, file string) {
	tick := time.NewTicker(pollFaults)
	defer tick.Stop()
	last := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		said := ""
		if err := inventory.read(file); err != nil {
			said = err.Error()
		}
		if said != "" && said != last {
			klog.Error(said)
		}
		last = said
	}
}
