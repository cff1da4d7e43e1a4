"""The grid on a cluster, for `make demo` and the end-to-end tests.

environment, place, existing: bringing it up and down. story: the main job of the product. faults: what may go wrong meanwhile, and bad
input. upgrade: another version and back. person, embeddings, models, devices, metrics, autoscaling: a subject each. kube, chain, shell, report:
what all of these stand on.
"""
