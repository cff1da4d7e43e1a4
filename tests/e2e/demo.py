#!/usr/bin/env python3
"""`make up`, `make demo`, `make down`: the grid and the story it tells, on a local cluster or on the one that KUBECONFIG names.

With KUBECONFIG, IMAGE names the image as the cluster's nodes pull it, and HOST_ADDRESS the address of this machine that its pods reach."""

import argparse
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from grid import environment, place, story
from grid.report import StepFailed, die, elapsed, say

NEXT = """
Everything is still running. Try next:
  . .cluster/env                                   # kubeconfig, RPC_URL, CONTRACT, GATEWAY_URL, PATH
  kubectl get ij -A; kubectl get gn -o wide        # the job and the nodes
  kubectl grid results hello -n team-a             # the answers
  kubectl grid rewards show                        # who earned what
  curl $GATEWAY_URL/v1/chat/completions -H 'content-type: application/json' \\
    -d '{"model": "smollm2-135m-instruct", "messages": [{"role": "system", "content": "You are a helpful assistant."},
         {"role": "user", "content": "What is the capital of France?"}]}'
  make down                                        # removes all of it"""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("verb", choices=["up", "demo", "down", "image"])
    verb = parser.parse_args().verb
    try:
        if verb == "down":
            environment.down(story.OBJECTS)
            return
        if verb == "image":
            say(f"image {environment.IMAGE} is in {environment.pack_image()}")
            return
        environment.use(place.choose())
        if not environment.PLACE.local:
            environment.enter(story.OBJECTS, story.NAMESPACES)
        environment.up()
        if verb == "demo":
            story.tell()
            say(NEXT)
    except StepFailed as failure:
        die(f"failed: {failure}")
    say(f"done in {elapsed():.0f} s")


main()
