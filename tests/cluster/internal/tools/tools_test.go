package tools

import (
	"os"
	"path/filepath"
	"testing"
)

func TestTheKeyFollowsSourcesAndFlagsOnly(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	key := func(tool Tool) string {
		t.Helper()
		k, err := tool.key(dir)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	write("go.mod", "module m")
	write("main.go", "package main")
	first := key(Tool{})
	write("README.md", "text")
	write("main_test.go", "package main")
	if key(Tool{}) != first {
		t.Error("a file that is not built changed the key")
	}
	if key(Tool{Flags: []string{"-race"}}) == first {
		t.Error("other flags gave the same key")
	}
	write("main.go", "package main // changed")
	if key(Tool{}) == first {
		t.Error("another source gave the same key")
	}
	if _, err := (Tool{}).key(t.TempDir()); err == nil {
		t.Error("an empty folder has a key")
	}
}
