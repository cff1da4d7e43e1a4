package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// result is what is printed. Times in milliseconds.
type result struct {
	Count         int     `json:"count"`
	CreatedPerSec float64 `json:"created_per_second"`
	PerSec        float64 `json:"per_second"`
	Seconds       float64 `json:"seconds"`
	P50           float64 `json:"p50_ms"`
	P99           float64 `json:"p99_ms"`
	Max           float64 `json:"max_ms"`
}

// clock holds when each object was asked for and when it was dealt with.
type clock struct {
	mu          sync.Mutex
	asked, done map[string]time.Time
}

func (c *clock) ask(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked[name] = time.Now()
}

// reach notes that an object was dealt with, and tells how many were.
func (c *clock) reach(name string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ours := c.asked[name]
	if _, known := c.done[name]; ours && !known {
		c.done[name] = time.Now()
	}
	return len(c.done)
}

func (o *options) measure(objects []object) (result, error) {
	if err := o.api.connect(o.clients); err != nil {
		return result{}, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), o.timeout)
	defer cancel()
	c := &clock{asked: map[string]time.Time{}, done: map[string]time.Time{}}
	watched := make(chan error, 1)
	if o.watch == "" {
		watched <- nil
	} else {
		ready := make(chan struct{})
		go func() {
			watched <- o.api.watch(ctx, o.watch, o.selector, func() { close(ready) }, func(s seen) bool {
				return s.is(o.until) && c.reach(s.standsFor(o.from)) == len(objects)
			})
		}()
		select {
		case <-ready:
		case err := <-watched:
			return result{}, err
		}
	}
	begin := time.Now()
	if err := o.makeAll(ctx, objects, c); err != nil {
		return result{}, err
	}
	made := time.Since(begin)
	if err := <-watched; err != nil {
		return result{}, fmt.Errorf("%d of %d were dealt with: %w", c.reach(""), len(objects), err)
	}
	return c.result(begin, made), nil
}

func (o *options) makeAll(ctx context.Context, objects []object, c *clock) error {
	todo := make(chan object)
	errs := make(chan error, o.clients)
	for range o.clients {
		go func() {
			for next := range todo {
				c.ask(next.name)
				if err := o.api.make(ctx, o.path, next); err != nil {
					errs <- err
					return
				}
				if o.watch == "" {
					c.reach(next.name)
				}
			}
			errs <- nil
		}()
	}
	var failed error
	ended := 0
feed:
	for _, next := range objects {
		select {
		case todo <- next:
		case failed = <-errs:
			ended++
			break feed
		}
	}
	close(todo)
	for ; ended < o.clients; ended++ {
		if err := <-errs; failed == nil {
			failed = err
		}
	}
	return failed
}

func (c *clock) result(begin time.Time, made time.Duration) result {
	c.mu.Lock()
	defer c.mu.Unlock()
	var took []time.Duration
	last := begin
	for name, done := range c.done {
		took = append(took, done.Sub(c.asked[name]))
		if done.After(last) {
			last = done
		}
	}
	slices.Sort(took)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	at := func(share float64) float64 { return ms(took[int(share*float64(len(took)-1))]) }
	n, seconds := float64(len(took)), last.Sub(begin).Seconds()
	return result{
		Count: len(took), CreatedPerSec: n / made.Seconds(), PerSec: n / seconds, Seconds: seconds,
		P50: at(0.5), P99: at(0.99), Max: at(1),
	}
}
