module xdc-grid/tests/cluster

go 1.26.0
