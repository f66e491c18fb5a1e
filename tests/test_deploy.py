"""What lies in `deploy/` is about metrics that the server has."""

import json
import re

import requests
from conftest import ROOT

DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "siglip.json").read_text(encoding="utf-8"))
METRIC = re.compile(r"\b(?:nv|siglip)_\w+")


def queries():
    yield from (variable["query"] for variable in DASHBOARD["templating"]["list"])
    yield from (target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"])


def series(server):
    """name -> the labels of its series, of all that the server exposes."""
    found = {}
    for line in requests.get(f"http://{server.metrics}/metrics").text.splitlines():
        if match := re.match(r"(\w+)(?:\{(.*)\})? ", line):
            found.setdefault(match[1], set()).update(re.findall(r'(\w+)="', match[2] or ""))
    return found


def test_every_metric_of_the_dashboard_is_exposed(server):
    exposed = series(server)
    named = {name for query in queries() for name in METRIC.findall(query)}
    assert len(named) > 15
    assert named <= exposed.keys(), named - exposed.keys()


def test_every_label_of_the_dashboard_is_there(server):
    exposed = series(server)
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            labels = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            labels |= set(re.findall(r"(\w+)=~?\"", target["expr"]))
            for listed in re.findall(r"by \(([^)]*)\)", target["expr"]):
                labels |= set(listed.split(", "))
            for name in METRIC.findall(target["expr"]):
                assert labels <= exposed[name], (panel["title"], name, labels - exposed[name])


def test_panels_have_places_and_names_of_their_own():
    panels = DASHBOARD["panels"]
    for field in ("id", "title"):
        assert len({panel[field] for panel in panels}) == len(panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)


def test_prometheus_scrapes_the_port_of_the_metrics(server):
    text = (ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text(encoding="utf-8")
    (port,) = re.findall(r"localhost:(\d+)", text)
    assert port == server.metrics.split(":")[1]
