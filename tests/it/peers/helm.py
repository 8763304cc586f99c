"""Helm 4, as a library: lints and renders a chart, offline.

    helm.py lint CHART           reads values as YAML; the findings
    helm.py render CHART         reads {"name": VALUES}; {"name": {"documents": [...], "notes": ...} or {"error": ...}}
    helm.py package CHART DIR    the archive's path

Values come on standard input, and answers are JSON.
"""

import json
import sys

import helm_python as helm
import yaml

RELEASE, NAMESPACE = "demo", "gateways"


def main(command, *arguments):
    print(json.dumps({"lint": lint, "render": render, "package": package}[command](*arguments)))


def lint(chart):
    return helm.lint(chart, yaml.safe_load(sys.stdin) or {}, strict=True, namespace=NAMESPACE)


def render(path):
    with helm.Chart.load(path) as chart:
        return {name: render_one(chart, values) for name, values in json.load(sys.stdin).items()}


def render_one(chart, values):
    values = yaml.safe_load(values) or {} if isinstance(values, str) else values
    try:
        chart.validate_schema(values)
        rendered = chart.render(values, name=RELEASE, namespace=NAMESPACE, is_install=True)
    except helm.HelmError as error:
        return {"error": str(error)}
    documents, notes = [], ""
    for name, text in sorted(rendered.items()):
        if name.endswith(".yaml"):
            documents += [document for document in yaml.load_all(text, StrictLoader) if document]
        elif name.endswith("NOTES.txt"):
            notes = text
    return {"documents": documents, "notes": notes}


def package(path, directory):
    return helm.package(path, destination=directory)


class StrictLoader(yaml.SafeLoader):
    """YAML whose maps name each key once: where there are two, the API server would take one of them."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"keys that are there twice: {sorted(twice)}", node.start_mark)
        return super().construct_mapping(node, deep)


if __name__ == "__main__":
    main(*sys.argv[1:])
