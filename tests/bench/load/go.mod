module xdc-grid/tests/bench/load

go 1.26.0
