"""Where models lie that are not on this machine: how they are named, and how they get here."""

from __future__ import annotations

from submerge.sources.hub import download
from submerge.sources.names import Bucket, Hub, Local, Name, Web, read_name

__all__ = ["Bucket", "Hub", "Local", "Name", "Web", "download", "read_name"]
