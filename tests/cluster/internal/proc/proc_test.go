package proc

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func table(t *testing.T) Table {
	t.Helper()
	dir := t.TempDir()
	tab := Table{Dir: filepath.Join(dir, "run"), Logs: filepath.Join(dir, "log"), Token: filepath.Base(dir) + t.Name()}
	t.Cleanup(func() {
		if err := tab.KillPart(""); err != nil {
			t.Error(err)
		}
	})
	return tab
}

func TestARunningProcessIsNotStartedTwice(t *testing.T) {
	tab := table(t)
	spec := Spec{Name: "a", Part: "p", Argv: []string{"sleep", "60"}}
	if started, err := tab.Ensure(spec); err != nil || !started {
		t.Fatal(started, err)
	}
	first := tab.PID("a")
	if started, err := tab.Ensure(spec); err != nil || started {
		t.Fatal(started, err)
	}
	spec.Argv = []string{"sleep", "61"}
	if started, err := tab.Ensure(spec); err != nil || !started {
		t.Fatal("a changed command line did not restart it", started, err)
	}
	if tab.PID("a") == first || Running(first) {
		t.Error("the old process still runs")
	}
}

func TestAPartIsEndedWithItsChildrenAndNothingElse(t *testing.T) {
	tab := table(t)
	child := filepath.Join(t.TempDir(), "child")
	for _, s := range []Spec{
		{Name: "a", Part: "one", Argv: []string{"sh", "-c", "sleep 60 & echo $! >" + child + "; wait"}},
		{Name: "b", Part: "two", Argv: []string{"sleep", "60"}},
	} {
		if _, err := tab.Ensure(s); err != nil {
			t.Fatal(err)
		}
	}
	deadline := time.Now().Add(60 * time.Second)
	for len(tab.marked("one")) < 2 && time.Now().Before(deadline) {
		time.Sleep(5 * time.Millisecond)
	}
	// A child whose parent was lost still carries the marker.
	if err := KillPIDs([]int{tab.PID("a")}); err != nil {
		t.Fatal(err)
	}
	if err := tab.KillPart("one"); err != nil {
		t.Fatal(err)
	}
	if left := tab.marked("one"); len(left) > 0 {
		t.Errorf("%v are left", left)
	}
	if tab.PID("b") == 0 {
		t.Error("another part was ended")
	}
}

func TestARecycledPidIsNotTakenForOurs(t *testing.T) {
	tab := table(t)
	other := exec.Command("sleep", "60")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
	st, err := stat(other.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(record{PID: other.Process.Pid, Start: st.start - 1, Boot: bootID(), Part: "p"})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.MkdirAll(tab.Dir, 0o755), os.WriteFile(tab.path("a"), raw, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := tab.KillPart(""); err != nil {
		t.Fatal(err)
	}
	if !Running(other.Process.Pid) {
		t.Error("a stranger's process was ended")
	}
}

func TestAProcessNameWithParenthesesIsRead(t *testing.T) {
	line := "42 (a) b (c)) S 1 42 42 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 1 0 98765 1 1"
	st, err := parseStat(line)
	if err != nil || st.state != 'S' || st.start != 98765 {
		t.Errorf("%+v %v", st, err)
	}
	if _, err := parseStat("nonsense"); err == nil {
		t.Error("nonsense was read")
	}
}

func TestErrorsComeFirstInAnExcerpt(t *testing.T) {
	got := relevant([]string{"I0101 start", "E0101 port in use", "I0101 stop"}, 5)
	if !slices.Equal(got, []string{"E0101 port in use"}) {
		t.Error(got)
	}
	if got := relevant([]string{"a", "b", "c"}, 2); !slices.Equal(got, []string{"b", "c"}) {
		t.Error(got)
	}
}
