"""What the end-to-end tests read out of logs, quantities and the guide; needs no cluster."""

import pathlib
import tempfile
import unittest

from grid import autoscaling, upgrade


class WhatAWorkerSaidWhenItEnded(unittest.TestCase):
    def read(self, text):
        with tempfile.TemporaryDirectory() as folder:
            log = pathlib.Path(folder) / "log"
            log.write_text(text)
            return upgrade.running_when_ended(log)

    def test_plain_coloured_and_json_lines_are_understood(self):
        coloured = "\x1b[2m2026-11-27T18:00:00Z\x1b[0m \x1b[32m INFO\x1b[0m draining \x1b[3mrunning\x1b[0m\x1b[2m=\x1b[0m3 \x1b[3mgrace\x1b[0m\x1b[2m=\x1b[0m25s"
        text = f'INFO xdc_grid::worker::run: draining running=0 grace=25s\n{coloured}\n{{"fields":{{"message":"draining","running":12,"grace":"25s"}}}}\n'
        self.assertEqual(self.read(text), [0, 3, 12])

    def test_other_lines_say_nothing(self):
        self.assertEqual(self.read("INFO serving running=2\nWARN stopping\n"), [])


class Quantities(unittest.TestCase):
    def test_metrics_are_read_in_every_form_that_the_api_uses(self):
        self.assertEqual([autoscaling.quantity(text) for text in ("0", "12", "12500m", "2k")], [0, 12, 12.5, 2000])


class Guide(unittest.TestCase):
    def test_the_adapters_rules_are_found_in_the_guide(self):
        rules = autoscaling.rules_of_the_guide()
        self.assertTrue(rules.startswith("externalRules:\n    - seriesQuery:"), rules)
        self.assertIn(autoscaling.METRIC, rules)


if __name__ == "__main__":
    unittest.main()
