"""Every transaction to the contract on the chain of `make demo`, by function, as XDC would charge it."""

import json

from grid import environment as env
from grid.shell import ROOT, run

from .table import row, table


def gas():
    """Gas of each function of the contract, from the chain that runs."""
    table("gas on XDC's schedule (receipt gas + 52 × non-zero calldata bytes)")
    chain, address = env.chain(), env.contract().lower()
    names = selectors()
    found = {}
    for number in range(int(chain.call("eth_blockNumber"), 16) + 1):
        for transaction in chain.call("eth_getBlockByNumber", hex(number), True)["transactions"]:
            if (transaction["to"] or "").lower() == address:
                name = names.get(transaction["input"][:10], "transfer")
                found.setdefault(name, []).append(chain.gas_on_xdc(transaction["hash"]))
    for name, values in sorted(found.items()):
        row(name, values, "gas")


def selectors():
    abi = json.loads((ROOT / "contracts/abi/GridComputingRewards.json").read_text())["abi"]
    functions = [entry for entry in abi if entry["type"] == "function" and "tuple" not in str(entry)]
    signatures = [f"{entry['name']}({','.join(part['type'] for part in entry['inputs'])})" for entry in functions]
    return {run("cast", "sig", signature).strip(): signature.split("(")[0] for signature in signatures}
