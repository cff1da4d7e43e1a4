"""The operator under load: real API server and etcd, real Job controller, real gateway and chain, the real operator binary.

One stage is set up by the first subject that needs it and taken down by `leave`. Pods are objects only: no kubelet runs. The
load generator writes their status, and where a worker is to work a real one runs as a process of this machine.
"""

from . import handover as _handover
from . import ready as _ready
from . import scale as _scale
from . import writes as _writes
from .stage import Stage

SUBJECTS = ("handover", "writes", "ready", "scale")
_stage = None


def _enter():
    global _stage
    if _stage is None:
        stage = Stage()
        stage.enter()
        _stage = stage
    return _stage


def leave():
    """Ends what the stage started. Again is no error."""
    global _stage
    if _stage is not None:
        stage, _stage = _stage, None
        stage.leave()


def handover():
    """Jobs a second from created to handed over, Grid and Local, beside the Job controller and bare creates."""
    _handover.measure(_enter())


def writes():
    """API writes of the operator over a job's life, on a reconcile without news, and after a restart."""
    _writes.measure(_enter())


def ready():
    """From a worker's pod being Ready to its GridNode being Ready."""
    _ready.measure(_enter())


def scale():
    """Memory, start-up and relist with 10,000 jobs, 1,000 nodes and 20,000 pods."""
    _scale.measure(_enter())
