#!/usr/bin/env node
// OpenZeppelin's own library as the oracle for src/reward/tree.rs. Each line on stdin is a tree
//   {"chainId": 51, "contract": "0x…", "leaves": [["0x<node>", "<cumulative wei>"], …]}
// and each line on stdout what StandardMerkleTree makes of it
//   {"root": "0x…", "proofs": {"0x<node>": ["0x…", …], …}}
'use strict';

const { StandardMerkleTree } = require('@openzeppelin/merkle-tree');
const readline = require('node:readline');

const TYPES = ['uint256', 'address', 'address', 'uint256'];

readline.createInterface({ input: process.stdin }).on('line', (line) => {
  const { chainId, contract, leaves } = JSON.parse(line);
  const tree = StandardMerkleTree.of(
    leaves.map(([node, cumulative]) => [chainId, contract, node, cumulative]),
    TYPES,
  );
  const proofs = {};
  for (const [index, [, , node]] of tree.entries()) proofs[node] = tree.getProof(index);
  console.log(JSON.stringify({ root: tree.root, proofs }));
});
