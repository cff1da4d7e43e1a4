"""What counts as a write of the operator, and to which job it belongs."""

import json
import pathlib
import tempfile
import unittest

from subjects.audit import Audit, of_job

USER = "system:serviceaccount:xdc-grid:xdc-grid-operator"


def line(verb, resource, name, user=USER, subresource=None):
    about = {"resource": resource, "namespace": "a", "name": name} | ({"subresource": subresource} if subresource else {})
    return json.dumps({"verb": verb, "user": {"username": user}, "objectRef": about, "requestReceivedTimestamp": "2026-01-01T00:00:00Z"}) + "\n"


class AuditTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.log = pathlib.Path(folder.name) / "audit.log"
        self.audit = Audit(self.log, USER)

    def write(self, *lines):
        with self.log.open("a") as log:
            log.writelines(lines)

    def test_only_writes_of_the_operator_count_and_no_leases(self):
        self.write(
            line("patch", "inferencejobs", "j", subresource="status"), line("get", "inferencejobs", "j"), line("update", "leases", "l"),
            line("create", "configmaps", "other", user="admin"), "half a li",
        )
        self.assertEqual(dict(self.audit.writes((0, 0))), {("a", "j", "patch inferencejobs/status"): 1})

    def test_a_mark_leaves_out_what_was_before_even_when_the_log_was_rotated(self):
        self.write(line("create", "configmaps", "before"))
        mark = self.audit.mark()
        self.write(line("create", "configmaps", "after"))
        self.log.rename(self.log.with_name("audit-1.log"))
        self.write(line("create", "configmaps", "later"))
        self.assertEqual({name for _, name, _ in self.audit.writes(mark)}, {"after", "later"})

    def test_a_job_has_its_own_name_and_those_made_from_it(self):
        self.write(line("patch", "inferencejobs", "j"), line("create", "configmaps", "j-results"), line("create", "events", "j.17"), line("create", "configmaps", "jj"))
        writes, events = of_job(self.audit.writes((0, 0)), "a", "j")
        self.assertEqual((dict(writes), dict(events)), ({"patch inferencejobs": 1, "create configmaps": 1}, {"create events": 1}))


if __name__ == "__main__":
    unittest.main()
