"""Croissant metadata of an export: what its files are and hold, for programs that look for datasets.

JSON-LD by version 1.0 of MLCommons' specification (docs.mlcommons.org/croissant). Each Parquet file is a set
of records, whose fields are read off its schema; all other files of samples are named with their hashes.
Licence and creator are places to fill in, as in the card.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from factory.printable import printable
from factory.types import Json

NAME: Final = "croissant.json"
FORMATS: Final = {".jsonl": "application/jsonlines", ".parquet": "application/x-parquet"}
# As the specification has it, so that the words below mean what they mean there.
CONTEXT: Final = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def describe(run: Mapping[str, Any], dataset: Mapping[str, Any], folder: Path) -> dict[str, Json]:
    """What croissant.json holds, of the files that stand in `folder`, given the rows of run and dataset."""
    domain = (run["config"] or {}).get("domain", {})
    files = sorted(path for path in folder.rglob("*") if path.suffix in FORMATS)
    made_by = f"dataset-factory {run['version']}"
    title = printable(domain.get("title", run["recipe"]))
    about = domain.get("description") or "Conversations for fine-tuning."
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": title,
        "description": f"{printable(about)} Synthetic: generated and refined by {made_by}, recipe "
        f"{run['digest']}, dataset {dataset['id']}. How, and by which models, README.md tells.",
        "version": f"{dataset['round']}.0.0",
        "dateCreated": dataset["created_at"],
        "datePublished": dataset["created_at"],
        "license": "other",
        "citeAs": f"{title}. Dataset {dataset['id']}, made by {made_by}.",
        "creator": {"@type": "sc:Organization", "name": made_by},
        "keywords": ["synthetic", "dataset-factory"],
        "distribution": [_file(path, folder) for path in files],
        "recordSet": [_records(path, folder) for path in files if path.suffix == ".parquet"],
    }


def _file(path: Path, folder: Path) -> dict[str, Json]:
    name = path.relative_to(folder).as_posix()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "contentSize": f"{path.stat().st_size} B",
        "encodingFormat": FORMATS[path.suffix],
        "sha256": digest,
    }


def _records(path: Path, folder: Path) -> dict[str, Json]:
    import pyarrow.parquet as pq

    file = path.relative_to(folder).as_posix()
    name = {"data": "default"}.get(path.parent.name, path.parent.name)  # as the card calls them
    fields = [_field(column, name, {"fileObject": {"@id": file}}) for column in pq.read_schema(path)]
    return {"@type": "cr:RecordSet", "@id": name, "name": name, "field": fields}


def _field(column: Any, parent: str, source: Mapping[str, Json]) -> dict[str, Json]:
    """A field of a column of Parquet; one of a list of turns has a part for each key of a turn."""
    from pyarrow import types

    name = f"{parent}/{column.name}"
    field: dict[str, Json] = {"@type": "cr:Field", "@id": name, "name": name}
    of_column = {**source, "extract": {"column": column.name}}
    if not types.is_list(column.type):
        kind = "cr:Int32" if types.is_int32(column.type) else "sc:Text"
        return {**field, "dataType": kind, "source": of_column}
    inner = column.type.value_type
    if not types.is_struct(inner):
        return {**field, "repeated": True, "dataType": "sc:Text", "source": of_column}
    parts = [
        {
            "@type": "cr:Field",
            "@id": f"{name}/{part.name}",
            "name": f"{name}/{part.name}",
            "dataType": "sc:Text",
            "source": {**of_column, "transform": {"jsonPath": part.name}},
        }
        for part in inner
    ]
    return {**field, "repeated": True, "subField": parts}
