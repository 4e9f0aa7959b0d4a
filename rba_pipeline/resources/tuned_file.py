"""The file of the tuned preset: replaced as a whole, and read anew by every run."""

import posixpath

from rba_pipeline.core.errors import BadSetting, RecordFull
from rba_pipeline.core.tuned import TunedPreset
from rba_pipeline.resources.store_root import StoreRoot


def read_tuned(place: str) -> TunedPreset:
    """Return the preset in the file at ``place``, a local path or an fsspec URL.

    Raises:
        BadSetting: There is none, or it is damaged, or holds a value out of range.
    """
    root, name = _root_of(place)
    try:
        with root.read(name) as file:
            content = file.read()
    except FileNotFoundError:
        raise BadSetting(
            f"preset=tuned: {place} is not there. Run `rba-pipeline tune` to measure the service "
            "and write it, or choose another preset"
        ) from None
    except (OSError, ValueError) as error:
        raise BadSetting(f"preset=tuned: {place} cannot be read ({error})") from error
    return TunedPreset.from_json(content, place)


def require_place(place: str) -> None:
    """Make sure that a preset could be written at ``place``, before minutes are spent on one.

    Raises:
        BadSetting: It could not; the message says why, and where the place is set.
    """
    try:
        root, name = _root_of(place)
        if not name or root.is_folder(name):
            raise IsADirectoryError("it is a folder")
        aside = f"{name}.probe"
        with root.write(aside) as file:
            file.write(b"{}")
        root.remove(aside)
    except (OSError, ValueError, ImportError, RecordFull) as error:
        raise BadSetting(
            f"{place} cannot be written ({error}): name another file with --out or RBA_TUNED_PRESET"
        ) from None


def write_tuned(place: str, preset: TunedPreset) -> None:
    """Put ``preset`` in place of the file at ``place``; whoever reads sees the old or the new one.

    Raises:
        RecordFull: The disk takes no more, or may only be read.
    """
    root, name = _root_of(place)
    with root.write(name) as file:
        file.write(preset.to_json().encode())


def _root_of(place: str) -> tuple[StoreRoot, str]:
    folder, name = posixpath.split(place)
    return StoreRoot(folder or "."), name
