package grid

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"xdc-grid/tests/cluster/internal/proc"
	"xdc-grid/tests/cluster/internal/tools"
)

const (
	gpuResource    = "example.com/gpu"
	gpuDeviceClass = "gpu.example.com" // of the driver too
	maxGPUs        = 64
)

// deviceStates are the verbs that change devices, and what they make of one; the words are those of the devices program.
var deviceStates = map[string]string{"lose": "unhealthy", "remove": "gone", "restore": ""}

// Devices gives a node fake GPUs (start), takes them away (stop), or changes the named ones, or all: unhealthy (lose),
// gone (remove) or well again (restore). It returns when the API server shows it.
func Devices(o Options, words []string, count int) error {
	if len(words) < 2 {
		return errors.New("devices takes a verb and a node; see 'cluster help'")
	}
	verb, name, named := words[0], words[1], words[2:]
	if _, changes := deviceStates[verb]; !changes && verb != "start" && verb != "stop" {
		return fmt.Errorf("devices %s: want start, stop, lose, remove or restore", verb)
	}
	if count < 1 || count > maxGPUs {
		return fmt.Errorf("--count %d: want 1 to %d", count, maxGPUs)
	}
	return withGrid(o, func(c *Cluster) error {
		n, err := nodeByName(name, c.Nodes)
		if err != nil {
			return err
		}
		if err := c.connect(); err != nil {
			return err
		}
		return o.Say.Step(strings.Join(append([]string{verb, "fake GPUs of", n.name()}, named...), " "), func() error {
			switch verb {
			case "start":
				return c.startDevices(n, count)
			case "stop":
				return c.stopDevices(n)
			}
			return c.changeDevices(n, verb, named)
		})
	})
}

func (n node) devices() string { return n.name() + "-devices" }

func (c *Cluster) faultsFile(n node) string { return c.path(n.name(), "devices") }

func gpuNames(count int) []string {
	names := make([]string, count)
	for k := range names {
		names[k] = fmt.Sprintf("gpu-%d", k)
	}
	return names
}

func (c *Cluster) startDevices(n node, count int) error {
	class := fmt.Appendf(nil, `apiVersion: resource.k8s.io/v1
kind: DeviceClass
metadata: {name: %[1]s}
spec: {selectors: [{cel: {expression: "device.driver == '%[1]s'"}}]}
`, gpuDeviceClass)
	if err := c.api.Apply("/apis/resource.k8s.io/v1/deviceclasses/"+gpuDeviceClass, class); err != nil {
		return err
	}
	if err := writeFile(c.faultsFile(n), nil, 0o644); err != nil {
		return err
	}
	if c.Devices == nil {
		c.Devices = map[string]int{}
	}
	c.Devices[n.name()] = count
	if err := c.save(); err != nil {
		return err
	}
	if err := c.ensureDevices(n); err != nil {
		return err
	}
	return c.waitDevices(n)
}

// ensureDevices starts the devices of a node that is to have some.
func (c *Cluster) ensureDevices(n node) error {
	count := c.Devices[n.name()]
	if count == 0 {
		return nil
	}
	dir, err := c.builder.Ensure(tools.Devices)
	if err != nil {
		return err
	}
	argv := append(c.inNode(n), filepath.Join(dir, "devices"),
		"--node", n.name(), "--count", fmt.Sprint(count), "--faults", c.faultsFile(n), "--kubeconfig", c.Kubeconfig())
	return c.start(proc.Spec{Name: n.devices(), Part: n.name(), Argv: argv}, c.Kubeconfig())
}

// stopDevices ends the program by SIGTERM, so that it takes its sockets away and the kubelet notices at once.
func (c *Cluster) stopDevices(n node) error {
	if c.Devices[n.name()] == 0 {
		return fmt.Errorf("%s has no fake GPUs", n.name())
	}
	if pid := c.procs.PID(n.devices()); pid != 0 {
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
			return err
		}
		// One that does not end by itself is ended below.
		_ = until(10*time.Second, n.devices()+" ends", func() error {
			if c.procs.PID(n.devices()) != 0 {
				return errors.New("it runs")
			}
			return nil
		})
	}
	if err := c.procs.Kill(n.devices()); err != nil {
		return err
	}
	// The kubelet would take them away as well, half a minute later.
	if err := c.api.Delete(slicesOf(n)); err != nil {
		return err
	}
	delete(c.Devices, n.name())
	if err := errors.Join(c.save(), os.RemoveAll(c.faultsFile(n))); err != nil {
		return err
	}
	return c.waitDevices(n)
}

func (c *Cluster) changeDevices(n node, verb string, named []string) error {
	all := gpuNames(c.Devices[n.name()])
	if len(all) == 0 {
		return fmt.Errorf("%s has no fake GPUs; give it some: devices start %s", n.name(), n.name())
	}
	if len(named) == 0 {
		named = all
	}
	for _, name := range named {
		if !slices.Contains(all, name) {
			return fmt.Errorf("%s has no device %s: it has %s", n.name(), name, strings.Join(all, ", "))
		}
	}
	lost, err := c.lostDevices(n)
	if err != nil {
		return err
	}
	var text strings.Builder
	for _, name := range all {
		state := lost[name]
		if slices.Contains(named, name) {
			state = deviceStates[verb]
		}
		if state != "" {
			fmt.Fprintln(&text, name, state)
		}
	}
	if err := writeFile(c.faultsFile(n), []byte(text.String()), 0o644); err != nil {
		return err
	}
	return c.waitDevices(n)
}

// lostDevices reads what the node's faults file says.
func (c *Cluster) lostDevices(n node) (map[string]string, error) {
	raw, err := os.ReadFile(c.faultsFile(n))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	lost := map[string]string{}
	for line := range strings.Lines(string(raw)) {
		if name, state, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			lost[name] = state
		}
	}
	return lost, nil
}

func slicesOf(n node) string {
	return "/apis/resource.k8s.io/v1/resourceslices?fieldSelector=" +
		url.QueryEscape("spec.driver="+gpuDeviceClass+",spec.nodeName="+n.name())
}

// gpus is what the API server shows of a node's fake GPUs.
type gpus struct {
	allocatable string   // devices that the scheduler may give away as an extended resource; none reads as 0
	published   []string // names in the ResourceSlice
	tainted     []string // those of them that nothing new gets
}

// waitDevices waits until the API server shows a node's devices as they are to be.
func (c *Cluster) waitDevices(n node) error {
	lost, err := c.lostDevices(n)
	if err != nil {
		return err
	}
	want := wantedGPUs(c.Devices[n.name()], lost)
	// A kubelet writes its node's status every ten seconds.
	return until(180*time.Second, n.name()+" shows its devices", func() error {
		if c.Devices[n.name()] > 0 && c.procs.PID(n.devices()) == 0 {
			return permanent{errors.New(n.devices() + " ended" + c.procs.Tail(n.devices()))}
		}
		have, err := c.shownGPUs(n)
		if err != nil {
			return err
		}
		if have.allocatable != want.allocatable || !slices.Equal(have.published, want.published) || !slices.Equal(have.tainted, want.tainted) {
			return fmt.Errorf("it has %+v, want %+v; see %s", have, want, c.procs.Log(n.devices()))
		}
		return nil
	})
}

func wantedGPUs(count int, lost map[string]string) gpus {
	want, healthy := gpus{}, 0
	for _, name := range gpuNames(count) {
		switch lost[name] {
		case "":
			healthy++
			want.published = append(want.published, name)
		case deviceStates["lose"]:
			want.published = append(want.published, name)
			want.tainted = append(want.tainted, name)
		}
	}
	want.allocatable = fmt.Sprint(healthy)
	return want
}

func (c *Cluster) shownGPUs(n node) (gpus, error) {
	var object struct {
		Status struct{ Allocatable map[string]string }
	}
	if err := c.api.Get("/api/v1/nodes/"+n.name(), &object); err != nil {
		return gpus{}, err
	}
	var list struct {
		Items []struct {
			Spec struct {
				Devices []struct {
					Name   string
					Taints []struct{ Key string }
				}
			}
		}
	}
	if err := c.api.Get(slicesOf(n), &list); err != nil {
		return gpus{}, err
	}
	have := gpus{allocatable: object.Status.Allocatable[gpuResource]}
	if have.allocatable == "" {
		have.allocatable = "0"
	}
	for _, slice := range list.Items {
		for _, device := range slice.Spec.Devices {
			have.published = append(have.published, device.Name)
			if len(device.Taints) > 0 {
				have.tainted = append(have.tainted, device.Name)
			}
		}
	}
	return have, nil
}
