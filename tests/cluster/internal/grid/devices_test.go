package grid

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestLostDevicesAreNotGivenAwayAndGoneOnesAreNotPublished(t *testing.T) {
	got := wantedGPUs(4, map[string]string{"gpu-1": "unhealthy", "gpu-3": "gone"})
	if got.allocatable != "2" || !slices.Equal(got.published, []string{"gpu-0", "gpu-1", "gpu-2"}) || !slices.Equal(got.tainted, []string{"gpu-1"}) {
		t.Errorf("%+v", got)
	}
	if none := wantedGPUs(0, nil); none.allocatable != "0" || len(none.published) != 0 {
		t.Errorf("%+v", none)
	}
}

func TestTheFaultsFileIsReadAsItIsWritten(t *testing.T) {
	c := &Cluster{instance: instance{State: t.TempDir()}}
	if lost, err := c.lostDevices(1); err != nil || len(lost) != 0 {
		t.Fatalf("%v %v", lost, err)
	}
	if err := writeFile(c.faultsFile(1), []byte("gpu-0 gone\ngpu-2 unhealthy\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	lost, err := c.lostDevices(1)
	if err != nil || len(lost) != 2 || lost["gpu-0"] != "gone" || lost["gpu-2"] != "unhealthy" {
		t.Errorf("%v %v", lost, err)
	}
}

// The program in ../../devices and the verbs share words over a file; they are modules of their own, so no compiler
// compares them.
func TestTheDevicesProgramKnowsTheSameWords(t *testing.T) {
	source, err := os.ReadFile(filepath.Join("..", "..", "devices", "inventory.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, state := range deviceStates {
		if state != "" && !strings.Contains(string(source), `"`+state+`"`) {
			t.Errorf("the devices program does not know %q", state)
		}
	}
}

func TestDeviceVerbsAreCheckedBeforeAnythingIsDone(t *testing.T) {
	for _, words := range [][]string{nil, {"start"}, {"break", "node-1"}} {
		if err := Devices(Options{}, words, 2); err == nil {
			t.Errorf("%v was accepted", words)
		}
	}
	for _, count := range []int{0, maxGPUs + 1} {
		if err := Devices(Options{}, []string{"start", "node-1"}, count); err == nil {
			t.Errorf("%d devices were accepted", count)
		}
	}
}
