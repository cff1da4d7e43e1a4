"""The API server's audit log: what the operator's account wrote."""

import collections
import json
import os

WRITES = {"create", "update", "patch", "delete", "deletecollection"}


class Audit:
    def __init__(self, log, user):
        self.log = log
        self.user = user

    def mark(self):
        """Where the log ends now, for `writes`."""
        found = os.stat(self.log) if self.log.exists() else None
        return (found.st_ino, found.st_size) if found else (0, 0)

    def writes(self, mark, until=None):
        """Counts of writes since `mark`, by (namespace, name, verb and resource); leases, which are kept all the time, are left out."""
        counts = collections.Counter()
        for line in self._lines(mark):
            if self.user not in line:
                continue
            try:
                event = json.loads(line)
            except ValueError:
                continue  # still being written
            about = event.get("objectRef", {})
            resource = about.get("resource", "")
            if event["verb"] not in WRITES or event["user"]["username"] != self.user or resource == "leases":
                continue
            if until is not None and event["requestReceivedTimestamp"] > until:
                continue
            whole = f"{resource}/{about['subresource']}" if about.get("subresource") else resource
            counts[(about.get("namespace", ""), about.get("name", ""), f"{event['verb']} {whole}")] += 1
        return counts

    def _lines(self, mark):
        """Lines after `mark`, from the file that was written then and those that took its place."""
        inode, offset = mark
        files = sorted(self.log.parent.glob("audit*.log"), key=os.path.getmtime)
        inodes = [os.stat(file).st_ino for file in files]
        if inode in inodes:
            files = files[inodes.index(inode):]
        for number, file in enumerate(files):
            with file.open(encoding="utf-8", errors="replace") as lines:
                if number == 0 and inode in inodes:
                    lines.seek(offset)
                yield from lines


def of_job(counts, namespace, name):
    """Of these writes, those to a job and to what was made for it: (writes, Events), each by verb and resource."""
    writes, events = collections.Counter(), collections.Counter()
    for (where, what, deed), count in counts.items():
        if where == namespace and (what == name or what.startswith((f"{name}-", f"{name}."))):
            (events if deed.endswith(" events") else writes)[deed] += count
    return writes, events
