"""Where the grid is brought up: on the local cluster, or on one that the user has, named by KUBECONFIG.

Of an existing cluster a copy of the kubeconfig and a record of what was made there are kept in the state folder, so that `down` removes
exactly that, whatever KUBECONFIG or its current context is by then."""

import dataclasses
import json
import os
import pathlib
import re
import socket

from .report import StepFailed
from .shell import STATE

LOCAL_IMAGE = "localhost/xdc-grid:dev"
LOCAL_HOST = "10.84.0.1"
RECORD = "existing.json"
KUBECONFIG_COPY = "existing.kubeconfig"


@dataclasses.dataclass(frozen=True)
class Place:
    """What differs between clusters. `node_address` and the ports of the gateway are unknown (None) on an existing cluster until it runs."""

    local: bool
    kubeconfig: str
    host: str
    image: str
    node_address: str | None = None
    p2p_port: int | None = None
    api_port: int | None = None
    given: str = ""
    made: tuple[str, ...] = ()

    def save(self, state=STATE):
        """Remembers an existing cluster; before anything is made there, and again with each thing that was."""
        (state / RECORD).write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    def with_made(self, thing, state=STATE):
        if thing in self.made:
            return self
        place = dataclasses.replace(self, made=(*self.made, thing))
        place.save(state)
        return place


def local(state=STATE, environ=os.environ):
    return Place(
        local=True, kubeconfig=environ.get("GRID_KUBECONFIG", str(state / "kubeconfig")), host=LOCAL_HOST, image=LOCAL_IMAGE,
        node_address="10.84.0.11", p2p_port=30401, api_port=30480,
    )


def recorded(state=STATE):
    """The place of the grid that is up, or the local one."""
    try:
        record = json.loads((state / RECORD).read_text())
    except FileNotFoundError:
        return local(state)
    return Place(**record | {"made": tuple(record["made"])})


def choose(environ=os.environ, state=STATE, outward=None):
    """The place that the environment asks for. `outward` finds this machine's address on the way out; it is asked only where needed."""
    given = existing_kubeconfig(environ, state)
    if (state / RECORD).exists():
        place = recorded(state)
        if given and given != place.given:
            raise StepFailed(f"the grid is on the cluster of {place.given} already, and KUBECONFIG is {given}: run `make down` first")
        return place
    if not given:
        return local(state, environ)
    if (state / "grid.json").exists():
        raise StepFailed("KUBECONFIG names a cluster of yours, and the local cluster is up in .cluster: run `make down` first, or unset KUBECONFIG")
    return Place(
        local=False, given=given, kubeconfig=str(state / KUBECONFIG_COPY),
        host=environ.get("HOST_ADDRESS") or (outward or outward_address)(), image=image(environ),
    )


def existing_kubeconfig(environ, state):
    """KUBECONFIG, unless it is unset or names nothing but files of ours."""
    given = environ.get("KUBECONFIG", "")
    files = [pathlib.Path(part).absolute() for part in given.split(os.pathsep) if part]
    return given if any(not file.is_relative_to(state.absolute()) for file in files) else ""


def image(environ):
    found = environ.get("IMAGE", "")
    if not found:
        raise StepFailed(
            "IMAGE is not set. KUBECONFIG names a cluster of yours, whose nodes must be able to pull the grid's image:\n"
            "  `make images` packs it into .cluster/image.tar. Push it (crane push .cluster/image.tar registry.example/xdc-grid:dev), or put it\n"
            f"  into the nodes (kind load image-archive, minikube image load, k3s ctr images import: then it is {LOCAL_IMAGE}), and run again with\n"
            "  IMAGE=registry.example/xdc-grid:dev")
    image_values(found)
    return found


def image_values(reference):
    """Chart values for an image reference: [REGISTRY/]REPOSITORY[:TAG][@DIGEST]. A registry has a dot or a port, or is localhost."""
    form = re.fullmatch(r"(?:([^/@]*[.:][^/@]*|localhost)/)?([a-z0-9][a-z0-9._/-]*)(?::([\w][\w.-]{0,127}))?(?:@(sha256:[0-9a-f]{64}))?", reference)
    if not form:
        raise StepFailed(f"IMAGE={reference} is no image reference; one looks like registry.example/xdc-grid:dev")
    registry, repository, tag, digest = form.groups()
    if not tag and not digest:
        raise StepFailed(f"IMAGE={reference} has no tag; name one, and not latest: a node that has the image would never pull a newer one")
    return {"registry": registry or "", "repository": repository, "tag": tag or "by-digest", "digest": digest or ""}


def outward_address():
    """This machine's address on the way of its default route. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
        try:
            way.connect(("192.0.2.1", 9))
        except OSError as error:
            raise StepFailed("this machine has no default route: set HOST_ADDRESS to an address of it that the cluster's pods reach") from error
        return way.getsockname()[0]
