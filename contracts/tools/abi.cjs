#!/usr/bin/env node
// The Rust client is compiled against the committed abi/*.json, so that `cargo build` needs no npm.
//   write   copies ABI and creation code out of what forge built
//   check   fails when a committed file is not what forge builds
'use strict';

const fs = require('node:fs');
const path = require('node:path');

const NAMES = ['GridComputingRewards', 'GridJobEscrow', 'GridSlashing'];
const root = path.join(__dirname, '..');

/** What abi/NAME.json must hold. */
function wanted(name) {
  const built = path.join(root, 'out', `${name}.sol`, `${name}.json`);
  if (!fs.existsSync(built)) {
    console.error(`${path.relative(root, built)} is missing: run forge build first`);
    process.exit(2);
  }
  const artefact = JSON.parse(fs.readFileSync(built, 'utf8'));
  const abi = artefact.abi.map((entry) => `    ${JSON.stringify(entry)}`).join(',\n');
  return `{\n  "abi": [\n${abi}\n  ],\n  "bytecode": "${artefact.bytecode.object}"\n}\n`;
}

const committed = (name) => path.join(root, 'abi', `${name}.json`);

const verb = process.argv[2];
if (verb === 'write') {
  fs.mkdirSync(path.join(root, 'abi'), { recursive: true });
  for (const name of NAMES) fs.writeFileSync(committed(name), wanted(name));
} else if (verb === 'check') {
  const stale = NAMES.filter(
    (name) => !fs.existsSync(committed(name)) || fs.readFileSync(committed(name), 'utf8') !== wanted(name),
  );
  if (stale.length > 0) {
    console.error(`contracts/abi is stale (${stale.join(', ')}): run \`npm run abi\` in contracts/ and commit the result`);
    process.exit(1);
  }
  console.log('contracts/abi is what forge builds');
} else {
  console.error('usage: abi.cjs write | check');
  process.exit(2);
}
