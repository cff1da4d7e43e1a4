package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func inventoryOf(t *testing.T, count int) *inventory {
	t.Helper()
	i, err := newInventory(count)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func TestExactlyTheNamedDevicesAreLost(t *testing.T) {
	i := inventoryOf(t, 3)
	for _, step := range []struct {
		text string
		want [3]state
	}{
		{"gpu-1 unhealthy\n", [3]state{healthy, unhealthy, healthy}},
		{"gpu-0 gone\n\n  gpu-2   unhealthy", [3]state{gone, healthy, unhealthy}},
		{"", [3]state{healthy, healthy, healthy}},
	} {
		if err := i.apply(step.text); err != nil {
			t.Fatal(err)
		}
		for k, want := range step.want {
			devices, _ := i.snapshot()
			if devices[k].state != want {
				t.Errorf("%q: %s is %s, want %s", step.text, devices[k].name, devices[k].state, want)
			}
		}
	}
	if i.state("gpu-3") != gone {
		t.Error("a device that never was is not gone")
	}
}

func TestAChangeIsToldOnceAndNoChangeIsNot(t *testing.T) {
	i := inventoryOf(t, 1)
	_, changed := i.snapshot()
	told := func() bool {
		select {
		case <-changed:
			return true
		default:
			return false
		}
	}
	if err := i.apply(""); err != nil || told() {
		t.Fatalf("nothing changed, and it was told: %v", err)
	}
	if err := i.apply("gpu-0 gone"); err != nil || !told() {
		t.Fatalf("a lost device was not told: %v", err)
	}
	if _, changed = i.snapshot(); told() {
		t.Error("one change was told twice")
	}
}

func TestAMistakeInTheFaultsFileChangesNothingAndNamesTheLine(t *testing.T) {
	i := inventoryOf(t, 2)
	if err := i.apply("gpu-0 unhealthy"); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"\ngpu-0 broken", "\ngpu-2 gone", "\ngpu-1", "\ngpu-1 gone now"} {
		if err := i.apply(text); err == nil || !strings.Contains(err.Error(), "line 2") {
			t.Errorf("%q: %v", text, err)
		}
	}
	if i.state("gpu-0") != unhealthy || i.state("gpu-1") != healthy {
		t.Error("a text with a mistake changed something")
	}
}

func TestNoFaultsFileMeansThatNothingIsLost(t *testing.T) {
	i := inventoryOf(t, 1)
	file := filepath.Join(t.TempDir(), "faults")
	if err := os.WriteFile(file, []byte("gpu-0 gone"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := i.read(file); err != nil || i.state("gpu-0") != gone {
		t.Fatalf("%v", err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := i.read(file); err != nil || i.state("gpu-0") != healthy {
		t.Fatalf("%v", err)
	}
}

func TestTheNumberOfDevicesIsBounded(t *testing.T) {
	for _, count := range []int{-1, 0, maxDevices + 1} {
		if _, err := newInventory(count); err == nil {
			t.Errorf("%d devices were accepted", count)
		}
	}
}
