"""Holds manifests and gateways' configurations to schemas.

    manifests.py check FILE...      what is in the files, and what is wrong with it
    manifests.py unnoticed FILE...  the places where a field that does not exist would go unnoticed

Kubernetes' own kinds are checked by kubernetes-validate. All others have strict schemas in `tests/it/fixtures/schemas`, by
`apiVersion/kind`, or by the end of the path of a file that has no kind: there, an object with `properties` takes no others.
"""

import copy
import json
import sys
from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml

SCHEMAS = Path(__file__).parent.parent / "fixtures/schemas"
STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}
COMMON = {
    "labels": STRINGS,
    "metadata": {"required": ["name"], "properties": {
        "name": {"type": "string"}, "namespace": {"type": "string"}, "labels": STRINGS, "annotations": STRINGS}},
    "port": {"type": "integer", "minimum": 1, "maximum": 65535},
    "seconds": {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?s$"},
    "strings": {"type": "array", "items": {"type": "string"}, "minItems": 1},
}
KUBERNETES = ("v1/", "apps/", "networking.k8s.io/")
WRONG = "aFieldThatDoesNotExist"


def main(action, files):
    schemas = Schemas()
    documents = [found for file in files for found in read(file)]
    answers = {"check": check, "unnoticed": unnoticed}[action](schemas, documents)
    json.dump(answers, sys.stdout)


def read(file):
    with open(file, encoding="utf-8") as stream:
        documents = list(yaml.load_all(stream, Loader=UniqueKeys))
    return [{"file": file, "index": index, "document": document} for index, document in enumerate(documents)]


def check(schemas, documents):
    return [found | {"problems": schemas.problems(found["file"], found["document"])} for found in documents]


def unnoticed(schemas, documents):
    """The files are right; so whatever is found in one with a field too many is that field."""
    places = []
    for found in documents:
        for path in objects_in(found["document"]):
            changed = copy.deepcopy(found["document"])
            at(changed, path)[WRONG] = "wrong"
            if not schemas.problems(found["file"], changed):
                places.append({"file": found["file"], "kind": found["document"].get("kind"), "path": "/".join(map(str, path))})
    return places


class Schemas:
    def __init__(self):
        self.kinds, self.files, self.annotations, self.data = {}, {}, {}, {}
        for file in sorted(SCHEMAS.glob("*.yaml")):
            schema = yaml.safe_load(file.read_text(encoding="utf-8"))
            definitions = {name: closed(part) for name, part in (COMMON | schema.get("$defs", {})).items()}
            for section in ("kinds", "files", "annotations", "data"):
                for name, part in schema.get(section, {}).items():
                    whole = closed(part) | {"$defs": definitions}
                    jsonschema.Draft202012Validator.check_schema(whole)
                    getattr(self, section)[name] = jsonschema.Draft202012Validator(whole)

    def problems(self, file, document):
        if not isinstance(document, dict):
            return ["not an object"]
        if "kind" not in document:
            for name, validator in self.files.items():
                if Path(file).as_posix().endswith(name):
                    return listed(validator, document)
            return ["no schema for a file of this name"]
        kind = f"{document.get('apiVersion')}/{document['kind']}"
        if kind in self.kinds:
            return listed(self.kinds[kind], document)
        if kind.startswith(KUBERNETES):
            return built_in(document) + self.inside(document)
        return [f"no schema for {kind}"]

    def inside(self, document):
        """What Kubernetes takes as it is, and something else reads."""
        metadata = document.get("metadata", {})
        found = []
        if document["kind"] in self.annotations and "annotations" in metadata:
            found += listed(self.annotations[document["kind"]], metadata["annotations"])
        if document["kind"] == "ConfigMap" and metadata.get("name") in self.data:
            found += listed(self.data[metadata["name"]], document.get("data", {}))
        return found


def built_in(document):
    try:
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
        return [str(error)]
    return []


def listed(validator, document):
    errors = sorted(validator.iter_errors(document), key=lambda error: list(map(str, error.absolute_path)))
    return [f"{'/'.join(map(str, error.absolute_path))}: {error.message}" for error in errors]


def closed(schema):
    """The schema with every list of properties complete. Conditions stay as they are: they look at one property alone."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    result = {name: part if name in ("if", "then", "else", "oneOf") else closed(part) for name, part in schema.items()}
    if isinstance(result.get("properties"), dict):
        result.setdefault("type", "object")
        result.setdefault("additionalProperties", False)
    return result


class UniqueKeys(yaml.SafeLoader):
    """YAML as it has to be read: of a key that is there twice, some readers take the first and some the last."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {str(key) for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"twice: {', '.join(sorted(twice))}", node.start_mark)
        return super().construct_mapping(node, deep)


def objects_in(value, path=()):
    if isinstance(value, dict):
        yield path
        for key, part in value.items():
            yield from objects_in(part, (*path, key))
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from objects_in(part, (*path, index))


def at(value, path):
    for step in path:
        value = value[step]
    return value


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
