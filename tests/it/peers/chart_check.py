"""Whether the API server would take manifests as they are: every field known, every value of its type.

    chart_check.py SCHEMAS VERSION...    reads a JSON array of manifests; prints a JSON array of complaints

Kubernetes' own kinds are checked against each VERSION of it, all others against SCHEMAS/KIND.json.
"""

import functools
import json
import pathlib
import sys

import jsonschema
import kubernetes_validate
import kubernetes_validate.utils

# It reads some megabytes of definitions for each manifest.
kubernetes_validate.utils.schema_contents = functools.cache(kubernetes_validate.utils.schema_contents)


def main(schemas, *versions):
    manifests = json.load(sys.stdin)
    print(json.dumps([complaint for manifest in manifests for complaint in complaints(manifest, pathlib.Path(schemas), versions)]))


def complaints(manifest, schemas, versions):
    name = f"{manifest['kind']} {manifest['metadata']['name']}"
    schema = schemas / f"{manifest['kind'].lower()}.json"
    if schema.exists():
        for error in jsonschema.Draft7Validator(json.loads(schema.read_text())).iter_errors(manifest):
            yield f"{name}: {error.json_path}: {error.message}"
        return
    for version in versions:
        try:
            kubernetes_validate.validate(manifest, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{name}: Kubernetes {version}: {error.json_path}: {error.message}"
        except kubernetes_validate.SchemaNotFoundError as error:
            yield f"{name}: Kubernetes {version}: {error.message}"


if __name__ == "__main__":
    main(*sys.argv[1:])
