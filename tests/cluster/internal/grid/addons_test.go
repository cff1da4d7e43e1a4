package grid

import (
	"strings"
	"testing"
	"time"
)

func TestAnOldReadyDoesNotCountAfterARestart(t *testing.T) {
	start := time.Date(2026, 1, 1, 12, 0, 0, 500, time.UTC)
	for _, c := range []struct {
		state nodeState
		ready bool
	}{
		{nodeState{"Ready", start.Add(-time.Minute)}, false},
		{nodeState{"Ready", start.Truncate(time.Second)}, true},
		{nodeState{"runtime is down", start.Add(time.Minute)}, false},
		{nodeState{}, false},
	} {
		if got := c.state.since(start); (got == "Ready") != c.ready || got == "" {
			t.Errorf("%+v: %q", c.state, got)
		}
	}
}

func TestEveryAddonNamesItsPathAndItself(t *testing.T) {
	for doc := range strings.SplitSeq(addons, "---\n") {
		path, body, _ := strings.Cut(doc, "\n")
		name := path[strings.LastIndex(path, "/")+1:]
		if !strings.HasPrefix(path, "# /api") || !strings.Contains(body, name) {
			t.Errorf("%q does not belong to its document", path)
		}
	}
}
