#!/usr/bin/env node
// Random trees as OpenZeppelin's own library builds them, for test/Trees.t.sol: one line each, the ABI encoding of
// (bytes32 root, address node, uint256 cumulative, uint256 total, bytes32[] proof). The same count and seed give the same trees.
//   tools/trees.cjs COUNT [SEED] > cache/trees.txt
'use strict';

const { StandardMerkleTree } = require('@openzeppelin/merkle-tree');
const crypto = require('node:crypto');

// Where test/Trees.t.sol puts the contract, and the chain id of forge's tests.
const CONTRACT = '0x00000000000000000000000000000000000C0de5';
const CHAIN_ID = 31337;
const TYPES = ['uint256', 'address', 'address', 'uint256'];
const LARGEST = 64;

const count = Number(process.argv[2]);
const seed = process.argv[3] ?? '1';
if (!Number.isInteger(count) || count < 1) {
  console.error('usage: trees.cjs COUNT [SEED]');
  process.exit(2);
}

const digest = (...parts) => crypto.createHash('sha256').update([seed, ...parts].join('/')).digest('hex');
const word = (value) => BigInt(value).toString(16).padStart(64, '0');

for (let tree = 0; tree < count; tree += 1) {
  const size = 1 + (parseInt(digest(tree, 'size').slice(0, 8), 16) % LARGEST);
  const leaves = [];
  let total = 0n;
  for (let leaf = 0; leaf < size; leaf += 1) {
    const hash = digest(tree, leaf);
    const cumulative = 1n + (BigInt(`0x${hash.slice(40)}`) % 10n ** 18n);
    total += cumulative;
    leaves.push([CHAIN_ID, CONTRACT, `0x${hash.slice(0, 40)}`, cumulative]);
  }
  const built = StandardMerkleTree.of(leaves, TYPES);
  const index = parseInt(digest(tree, 'payee').slice(0, 8), 16) % size;
  const proof = built.getProof(index).map((sibling) => sibling.slice(2));
  const head = [built.root, leaves[index][2], leaves[index][3], total, 0xa0, proof.length].map(word);
  console.log(`0x${head.join('')}${proof.join('')}`);
}
