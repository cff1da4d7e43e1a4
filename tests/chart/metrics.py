#!/usr/bin/env python3
"""What rules, dashboards and the user guide say about metrics is true of docs/metrics.md, and that of the code. (Names are compared by tests/it/docs.rs.)

    tests/chart/metrics.py           ends with 0 or names what is wrong
"""

import json
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "xdc-grid"
# What Prometheus makes of a histogram.
SERIES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",), "gauge": ("",)}
# Labels that Prometheus and the PodMonitors add.
FOREIGN = {"namespace", "pod", "job", "le"}


def documented():
    """Labels by the names of all series."""
    found = {}
    for line in (ROOT / "docs" / "metrics.md").read_text().splitlines():
        row = re.fullmatch(r"\| `(grid_\w+)` \| (\w+) \| (.*?) \| .* \|", line)
        if row:
            name, kind, labels = row.groups()
            for ending in SERIES[kind]:
                found[name + ending] = set() if labels == "–" else {label.strip() for label in labels.split(",")}
    return found


def in_code():
    """Labels by the names of metrics, as the sources register them."""
    found = {}
    for file in sorted(ROOT.glob("src/*/metrics.rs")):
        text = file.read_text()
        # Of a file whose metrics all have the same ones.
        common = re.search(r'const LABELS: \[&str; \d+\] = \[((?:"\w+",?\s*)+)\]', text)
        for chunk in text.split('"grid_')[1:]:
            name = "grid_" + chunk.split('"')[0]
            labels = re.search(r'&\[((?:"\w+",?\s*)+)\]', chunk) or common
            found[name] = set(re.findall(r'"(\w+)"', labels.group(1))) if labels else set()
    return found


def mislabelled():
    code, documents = in_code(), {re.sub(r"_(bucket|sum|count)$", "", name): labels for name, labels in documented().items()}
    assert len(code) > 20, code
    return [f"docs/metrics.md: {name} has the labels {sorted(documents[name])}, in the code {sorted(labels)}"
            for name, labels in code.items() if name in documents and documents[name] != labels]


def rules():
    """(name of the rule, expression), and the names of the recorded series with their labels. Read as text: no YAML library is needed."""
    text = (CHART / "rules" / "xdc-grid.yaml").read_text()
    found = []
    for block in re.split(r"\n      - (?=alert:|record:)", text)[1:]:
        name = re.match(r"(?:alert|record): (\S+)", block).group(1)
        expression = re.search(r"expr: (>-\n(?:          .*\n)+|.*\n)", block).group(1)
        found.append((name, " ".join(expression.removeprefix(">-").split())))
    return found


def panels():
    for file in sorted((CHART / "dashboards").glob("*.json")):
        board = json.loads(file.read_text())
        ids = [panel["id"] for panel in board["panels"]]
        assert len(set(ids)) == len(ids), f"{file.name}: two panels have one id"
        for panel in board["panels"]:
            for target in panel.get("targets", []):
                yield f"{file.name}: {panel['title']}", target["expr"]


def series_of(expression):
    """(series, labels named in its selector) of a PromQL expression."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', expression)
    for name, selector in re.findall(r"\b(grid[_:][\w:]+)(?:\{([^}]*)\})?", bare):
        yield name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector))


def grouped(expression):
    return {label.strip() for labels in re.findall(r"\bby \(([^)]*)\)", expression) for label in labels.split(",") if label.strip()}


def wrong():
    known, faults, used = documented(), [], set()
    recorded = {name: grouped(expression) for name, expression in rules() if ":" in name}
    for place, expression in [*rules(), *panels()]:
        of_metrics = set()
        for name, labels in series_of(expression):
            used.add(name)
            if name not in known and name not in recorded:
                faults.append(f"{place}: {name} is no series of docs/metrics.md")
                continue
            has = known.get(name, recorded.get(name, set())) | FOREIGN
            of_metrics |= has
            faults += [f"{place}: {name} has no label {label}" for label in sorted(labels - has)]
        faults += [f"{place}: grouped by {label}, which none of its series has" for label in sorted(grouped(expression) - of_metrics)]
    unseen = {re.sub(r"_(bucket|sum|count)$", "", name) for name in known} - {re.sub(r"_(bucket|sum|count)$", "", name) for name in used}
    # `grid-worker serve` runs outside of every grid, and nobody's dashboard of one has it.
    faults += [f"{name} is on no dashboard and in no rule" for name in sorted(unseen) if not name.startswith("grid_serve_")]
    faults += untested() + (mislabelled() if (ROOT / 'src').exists() else [])
    return faults


def untested():
    """Alerts without a test, and tests of alerts that are gone."""
    alerts = {name for name, _ in rules() if ":" not in name}
    text = (ROOT / "tests" / "chart" / "rules" / "xdc-grid_test.yaml").read_text()
    fired = {name for name, rest in re.findall(r"alertname: (\w+)[,}]?([^-]*)", text) if "exp_alerts" in rest}
    explained = set(re.findall(r"\| `(Grid\w+)` \|", (ROOT / "docs" / "user-guide" / "admin.md").read_text()))
    return (
        [f"alert {name} is never seen firing in tests/chart/rules" for name in sorted(alerts - fired)]
        + [f"tests/chart/rules expects {name}, which is no alert" for name in sorted(fired - alerts)]
        + [f"alert {name} has no line in docs/user-guide/admin.md" for name in sorted(alerts - explained)]
        + [f"docs/user-guide/admin.md explains {name}, which is no alert" for name in sorted(explained - alerts)]
    )


def main():
    faults = wrong()
    print("\n".join(faults) or f"{len(rules())} rules and {len(list(panels()))} queries of dashboards name what exists")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
