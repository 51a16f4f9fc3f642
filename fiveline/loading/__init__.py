"""What a task may call to load its data faster. Nothing else in the engine depends on it."""

from fiveline.loading.cache import cached_array, files_key
from fiveline.loading.placement import on_device, positions_on

__all__ = ["cached_array", "files_key", "on_device", "positions_on"]
