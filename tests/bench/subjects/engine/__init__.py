"""The engine as `grid-worker` has it: how fast beside others with the same file, and what serving with it costs.

A process a measurement, ours and the rival's in turns, because a shared machine is not as fast now as in a minute: what counts is the ratio of
the two of a pair. `grid-worker bench` measures ours, with sampling and scheduler; the rivals only compute.
"""

from .beside import depth, engine, larger, mistral, replay, together
from .masks import masks
from .serving import overhead, serve, throttled
