"""The ``zarr.json`` of a cache, which holds its manifest."""

from dataclasses import fields
from typing import Any

from jest_loader.reference_cache.chunk_records import as_json
from jest_loader.reference_cache.format import ATTRIBUTE, Manifest
from jest_loader.state_digest import with_digest


def as_group(manifest: Manifest) -> bytes:
    """What it says of a whole cache."""
    values = {field.name: getattr(manifest, field.name) for field in fields(manifest)}
    return as_json(group_metadata({ATTRIBUTE: with_digest(values)}))


def group_metadata(attributes: dict[str, Any]) -> dict[str, Any]:
    """What Zarr keeps of a group in its ``zarr.json``."""
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}
