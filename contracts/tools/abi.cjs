#!/usr/bin/env node
// The Rust client is compiled against the committed abi/GridComputingRewards.json, so that `cargo build` needs no npm.
//   write   copies ABI and creation code out of what forge built
//   check   fails when the committed file is not what forge builds
'use strict';

const fs = require('node:fs');
const path = require('node:path');

const NAME = 'GridComputingRewards';
const root = path.join(__dirname, '..');
const built = path.join(root, 'out', `${NAME}.sol`, `${NAME}.json`);
const committed = path.join(root, 'abi', `${NAME}.json`);

if (!fs.existsSync(built)) {
  console.error(`${path.relative(root, built)} is missing: run forge build first`);
  process.exit(2);
}
const artefact = JSON.parse(fs.readFileSync(built, 'utf8'));
const abi = artefact.abi.map((entry) => `    ${JSON.stringify(entry)}`).join(',\n');
const wanted = `{\n  "abi": [\n${abi}\n  ],\n  "bytecode": "${artefact.bytecode.object}"\n}\n`;

const verb = process.argv[2];
if (verb === 'write') {
  fs.mkdirSync(path.dirname(committed), { recursive: true });
  fs.writeFileSync(committed, wanted);
} else if (verb === 'check') {
  const found = fs.existsSync(committed) ? fs.readFileSync(committed, 'utf8') : '';
  if (found !== wanted) {
    console.error('contracts/abi is not what forge builds: run `npm run abi` in contracts/ and commit the result');
    process.exit(1);
  }
  console.log('contracts/abi is what forge builds');
} else {
  console.error('usage: abi.cjs write | check');
  process.exit(2);
}
