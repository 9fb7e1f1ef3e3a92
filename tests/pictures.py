"""Pictures, folders and tables for the tests of the data."""

import json
from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def encoded(picture, suffix="PNG", **options):
    buffer = BytesIO()
    picture.save(buffer, suffix, **options)
    return buffer.getvalue()


def plain(*colour, size=(4, 4)):
    return Image.new("RGB" if len(colour) == 3 else "L", size, colour if len(colour) == 3 else colour[0])


def picture_of(array):
    return Image.fromarray(np.asarray(array, dtype=np.uint8))


def write_folder(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else encoded(content))
    return str(root)


def write_parquet(path, columns, features=None):
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if features else None
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path, row_group_size=3)
    return str(path)


def stored(picture, path=None):
    return {"bytes": encoded(picture), "path": path}


def greys(data):
    """The value of every image that is of one grey."""
    images = data[range(len(data))].images
    assert (images == images[:, :1, :1, :1]).all()
    return images[:, 0, 0, 0].tolist()
