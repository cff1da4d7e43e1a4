package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
)

// state is what is the matter with a device.
type state string

const (
	healthy   state = "healthy"
	unhealthy state = "unhealthy" // the node has it, and it does not work
	gone      state = "gone"      // the node does not have it any more
)

// maxDevices is what fits into one ResourceSlice.
const maxDevices = 64

type device struct {
	name  string
	state state
}

// inventory is what the node has, and tells whoever waits when it changes.
type inventory struct {
	mu      sync.Mutex
	devices []device
	changed chan struct{} // closed at the next change
}

func newInventory(count int) (*inventory, error) {
	if count < 1 || count > maxDevices {
		return nil, fmt.Errorf("--count %d: want 1 to %d", count, maxDevices)
	}
	i := &inventory{changed: make(chan struct{})}
	for k := range count {
		i.devices = append(i.devices, device{name: fmt.Sprintf("gpu-%d", k), state: healthy})
	}
	return i, nil
}

// snapshot gives the devices of now and a channel that is closed when they are no longer right.
func (i *inventory) snapshot() ([]device, <-chan struct{}) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clone(i.devices), i.changed
}

// state of a device; one that was never there is gone.
func (i *inventory) state(name string) state {
	devices, _ := i.snapshot()
	for _, d := range devices {
		if d.name == name {
			return d.state
		}
	}
	return gone
}

// read takes over a faults file; none means that nothing is lost.
func (i *inventory) read(file string) error {
	text, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	if err := i.apply(string(text)); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

// apply makes exactly the devices lost that the text names. A text with a mistake changes nothing.
func (i *inventory) apply(text string) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	next := slices.Clone(i.devices)
	for k := range next {
		next[k].state = healthy
	}
	for number, line := range strings.Split(text, "\n") {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if len(words) != 2 || state(words[1]) != unhealthy && state(words[1]) != gone {
			return fmt.Errorf("line %d: %q is not DEVICE unhealthy or DEVICE gone", number+1, line)
		}
		k := slices.IndexFunc(next, func(d device) bool { return d.name == words[0] })
		if k < 0 {
			return fmt.Errorf("line %d: no device %s; there are gpu-0 to gpu-%d", number+1, words[0], len(next)-1)
		}
		next[k].state = state(words[1])
	}
	if slices.Equal(next, i.devices) {
		return nil
	}
	i.devices = next
	close(i.changed)
	i.changed = make(chan struct{})
	return nil
}
