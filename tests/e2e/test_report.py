"""The demo's last table."""

import unittest

from grid import report


def line(node, prompt, output):
    body = {"usage": {"prompt_tokens": prompt, "completion_tokens": output}, "xdc_grid": {"node": node, "address": "0x00"}}
    return {"custom_id": "line-1", "response": {"body": body}}


class Table(unittest.TestCase):
    def test_tokens_are_summed_by_the_node_that_a_result_names(self):
        work = report.work_by_node([line("node-a", 5, 7), line("home", 3, 2), line("node-a", 1, 1)])
        self.assertEqual(work, {"node-a": {"answers": 2, "prompt": 6, "output": 8}, "home": {"answers": 1, "prompt": 3, "output": 2}})

    def test_a_node_is_shown_that_worked_or_earned(self):
        rewards = {"node-a": {"earnedWei": str(3 * 10**18), "claimableWei": "0"}, "idle": {"earnedWei": str(10**18), "claimableWei": str(10**18)}}
        shown = [row.split() for row in report.earnings_table(report.work_by_node([line("node-a", 5, 7), line("mallory", 2, 1)]), rewards)]
        self.assertEqual(shown[0], ["node", "answers", "prompt", "output", "earned", "share", "claimable"])
        self.assertEqual(shown[1:], [
            ["idle", "0", "0", "0", "1.000000", "XDC", "25.0%", "1.000000", "XDC"],
            ["mallory", "1", "2", "1", "0.000000", "XDC", "0.0%", "0.000000", "XDC"],
            ["node-a", "1", "5", "7", "3.000000", "XDC", "75.0%", "0.000000", "XDC"],
        ])

    def test_nothing_earned_yet_is_no_division_by_nothing(self):
        self.assertIn("0.0%", report.earnings_table({}, {"a": {"earnedWei": "0", "claimableWei": "0"}})[1])


if __name__ == "__main__":
    unittest.main()
