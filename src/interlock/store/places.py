"""Which adapter a location names: a folder, or ``s3://bucket/prefix``."""

from interlock.errors import SettingsError
from interlock.ports import Blobs
from interlock.settings import Settings
from interlock.store.blobs import LocalBlobs
from interlock.store.cache import Cache
from interlock.store.objects import ObjectBlobs
from interlock.store.patience import Patience
from interlock.units import seconds


def patience_of(settings: Settings) -> Patience:
    """How long ``store.timeout`` says to wait for an object store."""
    return Patience(request_s=seconds(settings.store.timeout))


def cache_of(settings: Settings) -> Cache:
    """Where this project keeps local copies of what lies in a bucket."""
    return Cache(settings.home / "cache", int(settings.store.cache_gb * 10**9))


def open_blobs(location: str, settings: Settings) -> Blobs:
    """Open ``s3://bucket/prefix``, or a folder relative to the project; raises SettingsError for another scheme."""
    scheme, separator, _ = location.partition("://")
    if not separator:
        return LocalBlobs(settings.path(location))
    if scheme == "s3":
        return ObjectBlobs(location, patience_of(settings))
    raise SettingsError(
        f"'{scheme}://' is not a kind of store that this version knows.",
        next_step="Use a folder, or s3://bucket/prefix.",
        location=location,
    )
