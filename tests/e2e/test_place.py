"""Which cluster `make demo` uses, and what it says when it cannot."""

import json
import pathlib
import tempfile
import unittest

from grid import existing, place
from grid.report import StepFailed


class Choice(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.state = pathlib.Path(folder.name) / ".cluster"
        self.state.mkdir()
        self.theirs = {"KUBECONFIG": "/home/me/.kube/config", "IMAGE": "registry.example/xdc-grid:dev"}

    def choose(self, **environ):
        return place.choose(environ, self.state, outward=lambda: "192.168.1.7")

    def test_without_kubeconfig_it_is_the_local_cluster(self):
        chosen = self.choose()
        self.assertTrue(chosen.local)
        self.assertEqual((chosen.host, chosen.kubeconfig), ("10.84.0.1", str(self.state / "kubeconfig")))

    def test_our_own_kubeconfig_is_the_local_cluster_too(self):
        (self.state / "grid.json").touch()
        self.assertTrue(self.choose(KUBECONFIG=str(self.state / "kubeconfig")).local)

    def test_a_kubeconfig_of_the_user_is_their_cluster_with_their_image_and_this_machines_address(self):
        chosen = self.choose(**self.theirs)
        self.assertFalse(chosen.local)
        self.assertEqual((chosen.host, chosen.image), ("192.168.1.7", "registry.example/xdc-grid:dev"))
        self.assertEqual(self.choose(**self.theirs, HOST_ADDRESS="10.0.0.5").host, "10.0.0.5")

    def test_one_file_of_the_user_among_ours_is_enough(self):
        self.assertFalse(self.choose(**self.theirs | {"KUBECONFIG": f"{self.state}/kubeconfig:/home/me/.kube/config"}).local)

    def test_without_an_image_it_says_how_to_make_one_and_load_it(self):
        with self.assertRaisesRegex(StepFailed, r"(?s)IMAGE is not set.*make images.*kind load image-archive"):
            self.choose(KUBECONFIG="/home/me/.kube/config")

    def test_it_does_not_mix_with_a_local_cluster_that_is_up(self):
        (self.state / "grid.json").touch()
        with self.assertRaisesRegex(StepFailed, "make down"):
            self.choose(**self.theirs)

    def test_a_recorded_cluster_is_found_again_whatever_the_environment_says_and_no_other_is_taken(self):
        first = self.choose(**self.theirs)
        first.with_made("namespace/xdc-grid", self.state).save(self.state)
        for environ in ({}, self.theirs, {"KUBECONFIG": str(self.state / place.KUBECONFIG_COPY)}):
            found = self.choose(**environ)
            self.assertEqual((found.given, found.made), (first.given, ("namespace/xdc-grid",)))
        self.assertEqual(place.recorded(self.state), found)
        with self.assertRaisesRegex(StepFailed, "make down"):
            self.choose(**self.theirs | {"KUBECONFIG": "/home/me/other"})

    def test_what_was_made_is_on_disk_before_it_is_returned(self):
        self.choose(**self.theirs).with_made("crds", self.state)
        self.assertEqual(json.loads((self.state / place.RECORD).read_text())["made"], ["crds"])


class Image(unittest.TestCase):
    def test_a_reference_becomes_values_of_the_chart(self):
        digest = "sha256:" + "0" * 64
        for reference, wanted in {
            "registry.example/team/xdc-grid:v1": ("registry.example", "team/xdc-grid", "v1", ""),
            "localhost/xdc-grid:dev": ("localhost", "xdc-grid", "dev", ""),
            "registry:5000/xdc-grid:dev": ("registry:5000", "xdc-grid", "dev", ""),
            "team/xdc-grid:dev": ("", "team/xdc-grid", "dev", ""),
            f"ghcr.io/a/b@{digest}": ("ghcr.io", "a/b", "by-digest", digest),
        }.items():
            with self.subTest(reference):
                self.assertEqual(tuple(place.image_values(reference).values()), wanted)

    def test_what_a_node_could_not_pull_is_refused_in_words(self):
        for reference, words in {"xdc-grid": "no tag", "Registry/Up:1": "no image reference", "a b:1": "no image reference"}.items():
            with self.subTest(reference), self.assertRaisesRegex(StepFailed, words):
                place.image_values(reference)


class Nodes(unittest.TestCase):
    @staticmethod
    def node(ready, *addresses):
        conditions = [{"type": "Ready", "status": str(ready)}]
        return {"status": {"conditions": conditions, "addresses": [{"type": kind, "address": address} for kind, address in addresses]}}

    def test_ready_nodes_are_tried_at_their_internal_address_first(self):
        nodes = [
            self.node(True, ("Hostname", "a"), ("ExternalIP", "203.0.113.1"), ("InternalIP", "10.0.0.1")),
            self.node(False, ("InternalIP", "10.0.0.2")),
            self.node(True, ("InternalIP", "fd00::3"), ("InternalIP", "10.0.0.3")),
        ]
        self.assertEqual(existing.node_addresses(nodes), ["10.0.0.1", "10.0.0.3", "203.0.113.1"])


if __name__ == "__main__":
    unittest.main()
