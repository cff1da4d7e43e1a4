"""A control group with a CPU limit, of version 2 or 1, for a program that is started in it."""

import os
import pathlib
import time

ROOT = pathlib.Path("/sys/fs/cgroup")
PERIOD_US = 100_000


class GroupError(Exception):
    """No such group can be made here; says why."""


class LimitedGroup:
    def __init__(self, cores):
        self.parent, self.version = _parent()
        self.folder = self.parent / f"xdc-grid-bench-{os.getpid()}"
        self.cores = cores

    def __enter__(self):
        quota = self.cores * PERIOD_US
        limits = {"cpu.max": f"{quota} {PERIOD_US}"} if self.version == 2 else {"cpu.cfs_period_us": PERIOD_US, "cpu.cfs_quota_us": quota}
        try:
            self.folder.mkdir(exist_ok=True)
            for file, value in limits.items():
                (self.folder / file).write_text(str(value))
        except OSError as error:
            self.__exit__()
            raise GroupError(f"no CPU limit can be set in {self.parent}: {error.strerror}") from error
        return self

    def __exit__(self, *_):
        # The kernel lets go of a group a moment after its last process.
        for _ in range(100):
            try:
                self.folder.rmdir()
                return
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.05)

    def command(self):
        """What starts a program in the group."""
        return ("sh", "-c", 'echo $$ >"$0" && exec "$@"', self.folder / "cgroup.procs")

    def stat(self):
        """Periods so far in which something ran, those throttled, and the seconds of that."""
        fields = dict(line.split() for line in (self.folder / "cpu.stat").read_text().splitlines())
        lost = int(fields["throttled_usec"]) / 1e6 if self.version == 2 else int(fields["throttled_time"]) / 1e9
        return int(fields["nr_periods"]), int(fields["nr_throttled"]), lost


def _parent():
    """This process's group with the CPU controller, and the version."""
    for line in pathlib.Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "cpu" in controllers.split(","):
            found = next((ROOT / name for name in (controllers, "cpu") if (ROOT / name).is_dir()), None)
            if found:
                return found / path.strip("/"), 1
        elif not controllers and (ROOT / "cgroup.controllers").exists():
            folder = ROOT / path.strip("/")
            try:
                (folder / "cgroup.subtree_control").write_text("+cpu")
            except OSError as error:
                raise GroupError(f"groups below {folder} get no CPU controller: {error.strerror}") from error
            return folder, 2
    raise GroupError("there is no control group with the CPU controller")
