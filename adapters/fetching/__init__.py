"""Files of a remote folder, fetched into a local one that processes share and that may be limited.

::

    remote          RemoteFolder: the files of a URL or a path, as local ones
    places          where they may be, by the folder's address
    http_file       one of them over HTTP, which goes on where it stopped
    object_store    ObjectFolder: the objects of a store
    part_file       what arrives of one, held to a length
    owner           whose files a local folder holds
"""

from jest_loader.adapters.fetching.object_store import SCHEMES, ObjectFolder
from jest_loader.adapters.fetching.owner import claim
from jest_loader.adapters.fetching.part_file import FileRange
from jest_loader.adapters.fetching.remote import MOST_INDEX_BYTES, RemoteFolder

__all__ = [
    "MOST_INDEX_BYTES",
    "SCHEMES",
    "FileRange",
    "ObjectFolder",
    "RemoteFolder",
    "claim",
]
