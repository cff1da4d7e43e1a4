//! `kubectl grid`: the commands of a person at a shell.
