#!/usr/bin/env node
// The compiler that forge calls. No native solc is published to npm, so this puts solc-js (WebAssembly) behind the two
// command-line options forge uses: `--version` and `--standard-json` on stdin.
'use strict';

const fs = require('node:fs');
const path = require('node:path');

const manifest = require.resolve('solc/package.json');
const home = path.dirname(manifest);
const release = JSON.parse(fs.readFileSync(manifest, 'utf8')).version;

/** `0.8.37+commit.…`. Loading the WebAssembly takes seconds and forge asks on every run, so the answer is kept beside the package. */
function fullVersion() {
  const kept = path.join(home, '.full-version');
  if (fs.existsSync(kept)) {
    const line = fs.readFileSync(kept, 'utf8').trim();
    if (line.startsWith(release)) return line;
  }
  // forge parses the platform part and knows no Emscripten.
  const line = require('solc').version().replace('Emscripten.clang', 'Linux.g++');
  try {
    fs.writeFileSync(kept, line);
  } catch {
    // A read-only node_modules only costs the seconds again.
  }
  return line;
}

const option = process.argv.find((argument) => argument === '--version' || argument === '--standard-json');
if (option === '--version') {
  console.log(`solc, the solidity compiler commandline interface\nVersion: ${fullVersion()}`);
} else if (option === '--standard-json') {
  process.stdout.write(require('solc').compile(fs.readFileSync(0, 'utf8')));
} else {
  console.error('tools/solc.cjs understands only --version and --standard-json');
  process.exit(2);
}
