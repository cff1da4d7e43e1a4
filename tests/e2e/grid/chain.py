"""The development chain, seen through plain JSON-RPC: what a person with a block explorer would see."""

import json
import urllib.request


class Chain:
    def __init__(self, url):
        self.url = url

    def call(self, method, *params):
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}).encode()
        request = urllib.request.Request(self.url, body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            reply = json.load(answer)
        if "error" in reply:
            raise ValueError(f"{method}: {reply['error']}")
        return reply["result"]

    def chain_id(self):
        return int(self.call("eth_chainId"), 16)

    def balance(self, address):
        """Wei."""
        return int(self.call("eth_getBalance", address, "latest"), 16)

    def receipt(self, transaction):
        return self.call("eth_getTransactionReceipt", transaction)

    def logs(self, address, topic):
        """All events of a contract with this first topic, in chain order; XDC's nodes answer for 5,000 blocks at a time."""
        head = int(self.call("eth_blockNumber"), 16)
        ranges = ((first, min(first + 4_999, head)) for first in range(0, head + 1, 5_000))
        return [log for first, last in ranges for log in self.call(
            "eth_getLogs", {"address": address, "fromBlock": hex(first), "toBlock": hex(last), "topics": [topic]})]

    def gas_on_xdc(self, transaction):
        """Gas of a transaction as XDC charges it: calldata costs 68 a non-zero byte there, and 16 in the receipts of the
        development chain."""
        data = bytes.fromhex(self.call("eth_getTransactionByHash", transaction)["input"][2:])
        non_zero = sum(byte != 0 for byte in data)
        return int(self.receipt(transaction)["gasUsed"], 16) + 52 * non_zero


def xdc(wei):
    return f"{wei / 10**18:.6f} XDC"
