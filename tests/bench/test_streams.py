"""How tokens a second of streamed answers are counted."""

import pathlib
import socket
import sys
import threading
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

from subjects.engine.server import rate, tokens_a_second


class TokensASecondTest(unittest.TestCase):
    def test_what_comes_before_every_answer_has_begun_does_not_count(self):
        # The first answer is alone for two seconds; then both have four tokens in two seconds.
        self.assertEqual(tokens_a_second([([0, 1, 2.5, 3, 3.5, 4], 6), ([2, 2.5, 3, 3.5, 4], 5)]), 4.0)

    def test_tokens_without_an_event_of_their_own_count_in_proportion(self):
        self.assertEqual(tokens_a_second([([0, 1, 2], 6)]), 2.0)

    def test_an_answer_too_short_to_measure_is_an_error(self):
        with self.assertRaises(RuntimeError):
            tokens_a_second([([1.0], 1)])


class RateTest(unittest.TestCase):
    def serve(self, body):
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)

        def answer():
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 16)
                for part in body:
                    connection.sendall(part)

        thread = threading.Thread(target=answer)
        thread.start()
        self.addCleanup(thread.join)
        return listener.getsockname()[1]

    def test_a_refusal_is_an_error_with_its_text(self):
        port = self.serve([b"HTTP/1.1 429 Too Many Requests\r\n\r\nall places are taken"])
        with self.assertRaisesRegex(RuntimeError, "all places are taken"):
            rate(port, [b"GET / HTTP/1.1\r\n\r\n"])


if __name__ == "__main__":
    unittest.main()
