"""Helm 4, as a library: lints and renders a chart, offline.

    helm.py describe CHART       what is in Chart.yaml, values.yaml and values.schema.json
    helm.py lint CHART           reads values; the findings
    helm.py render CHART         reads values; {"documents": [...], "notes": "..."} for each, or {"error": "..."}
    helm.py package CHART DIR    the files in the archive that it makes

Values come on standard input, as a JSON array of texts in YAML, and answers are JSON.
"""

import json
import sys
import tarfile

import helm_python as helm
import yaml

RELEASE, NAMESPACE = "demo", "gateways"


def main(command, *arguments):
    print(json.dumps({"describe": describe, "lint": lint, "render": render, "package": package}[command](*arguments)))


def describe(path):
    with helm.Chart.load(path) as chart:
        return {"metadata": chart.metadata, "values": chart.values, "schema": chart.schema}


def lint(path):
    return [helm.lint(path, values, strict=True, namespace=NAMESPACE) for values in read_values()]


def render(path):
    with helm.Chart.load(path) as chart:
        return [render_one(chart, values) for values in read_values()]


def render_one(chart, values):
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
    with tarfile.open(helm.package(path, destination=directory)) as archive:
        return archive.getnames()


def read_values():
    return [yaml.load(text, StrictLoader) or {} for text in json.load(sys.stdin)]


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
