package grid

import (
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// Progress tells a person what happens: a line when a step starts and one when it is done.
type Progress struct {
	mu sync.Mutex
	w  io.Writer
}

// NewProgress writes to w.
func NewProgress(w io.Writer) *Progress { return &Progress{w: w} }

// Note writes one line.
func (p *Progress) Note(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.w, format+"\n", args...)
}

// Step runs do between its two lines. Steps that run together interleave, so both lines carry the label.
func (p *Progress) Step(label string, do func() error) error {
	p.Note("  …    %s", label)
	begin := time.Now()
	err := do()
	word := "ok"
	if err != nil {
		word = "fail"
	}
	p.Note("  %-5s%s  %.1f s", word, label, time.Since(begin).Seconds())
	return err
}

// together runs all functions at once and joins their errors.
func together(do ...func() error) error {
	errs := make([]error, len(do))
	var wg sync.WaitGroup
	for i, f := range do {
		wg.Go(func() { errs[i] = f() })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// until polls a condition and ends as soon as it holds; the error says what was waited for and what it last said.
func until(limit time.Duration, what string, check func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := check()
		var final permanent
		if err == nil || errors.As(err, &final) {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: not within %s: %w", what, limit, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// permanent is an error that waiting does not cure.
type permanent struct{ error }

// run executes a short command; its error holds the command line and what it said.
func run(argv ...string) error {
	_, err := output(argv...)
	return err
}

func output(argv ...string) (string, error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

func runInput(input string, argv ...string) error {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s\n  given:\n%s", strings.Join(argv, " "), err, strings.TrimSpace(string(out)), input)
	}
	return nil
}
