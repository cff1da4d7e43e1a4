#!/usr/bin/env python3
"""Writes schemas/ for kubeconform: the kinds that the chart renders, as a running API server describes them.

    KUBECONFIG=… tests/chart/schemas.py          # after `tests/cluster/cluster.sh control-plane`

Committed, so that `make lint` needs neither a cluster nor a network. Run it again for a new Kubernetes version or when the
chart renders a new kind. Unknown fields are errors (every object with properties is closed)."""

import json
import pathlib
import subprocess

KINDS = {
    "api/v1": ["Namespace", "ConfigMap", "Pod", "Secret", "Service", "ServiceAccount"],
    "apis/apps/v1": ["Deployment", "StatefulSet"],
    "apis/batch/v1": ["Job"],
    "apis/networking.k8s.io/v1": ["NetworkPolicy"],
    "apis/policy/v1": ["PodDisruptionBudget"],
    "apis/rbac.authorization.k8s.io/v1": ["ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"],
    "apis/apiextensions.k8s.io/v1": ["CustomResourceDefinition"],
}
OUT = pathlib.Path(__file__).parent / "schemas"
DEFINITIONS = "_definitions.json"


def raw(path):
    return json.loads(subprocess.check_output(["kubectl", "get", "--raw", path]))


def convert(node, wanted):
    """OpenAPI 3 to a closed JSON schema; collects the definitions that it refers to."""
    if isinstance(node, list):
        return [convert(item, wanted) for item in node]
    if not isinstance(node, dict):
        return node
    if "allOf" in node and len(node["allOf"]) == 1 and "$ref" in node["allOf"][0]:
        node = node["allOf"][0]
    if "$ref" in node:
        name = node["$ref"].rsplit("/", 1)[1]
        wanted.add(name)
        return {"$ref": f"{DEFINITIONS}#/definitions/{name}"}
    out = {}
    for key, value in node.items():
        # `properties` maps names to schemas: a property may itself be called "description".
        if key == "properties":
            out[key] = {name: convert(schema, wanted) for name, schema in value.items()}
        elif key in ("description", "default", "format", "example") or key.startswith("x-"):
            continue
        else:
            out[key] = convert(value, wanted)
    if "properties" in out and "additionalProperties" not in out:
        out["additionalProperties"] = False
    return out


def definition(schema, wanted):
    name, body = schema
    if name.endswith(".IntOrString"):
        return {"type": ["string", "integer"]}
    if name.endswith(".Quantity"):
        return {"type": ["string", "number"]}
    return convert(body, wanted)


def main():
    OUT.mkdir(exist_ok=True)
    for old in OUT.glob("*.json"):
        old.unlink()
    definitions = {}
    for path, kinds in KINDS.items():
        schemas = raw(f"/openapi/v3/{path}")["components"]["schemas"]
        wanted = set()
        for name, body in schemas.items():
            for gvk in body.get("x-kubernetes-group-version-kind", []):
                if gvk["kind"] in kinds and path.endswith("/".join(filter(None, [gvk["group"], gvk["version"]]))):
                    wanted.add(name)
                    write_kind(gvk, name)
        while wanted - definitions.keys():
            name = min(wanted - definitions.keys())
            definitions[name] = definition((name, schemas[name]), wanted)
    (OUT / DEFINITIONS).write_text(json.dumps({"definitions": definitions}, sort_keys=True, separators=(",", ":")) + "\n")
    version = raw("/version")["gitVersion"]
    (OUT / "README").write_text(f"Written by ../schemas.py from Kubernetes {version}. Do not edit.\n")


def write_kind(gvk, name):
    suffix = "-".join(filter(None, [gvk["group"].split(".")[0], gvk["version"]]))
    schema = {
        "properties": {"apiVersion": {"type": "string"}, "kind": {"type": "string"}},
        "required": ["apiVersion", "kind"],
        "allOf": [{"$ref": f"{DEFINITIONS}#/definitions/{name}"}],
    }
    (OUT / f"{gvk['kind'].lower()}-{suffix}.json").write_text(json.dumps(schema) + "\n")


if __name__ == "__main__":
    main()
