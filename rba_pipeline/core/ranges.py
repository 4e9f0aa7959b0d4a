"""Which partitions a range of keys names."""

from collections.abc import Sequence

from rba_pipeline.core.errors import BadSetting


def keys_in(range_text: str, keys: Sequence[str]) -> list[str]:
    """Return the keys that ``KEY`` or ``KEY...KEY`` names, both ends included, in order.

    Args:
        range_text: As Dagster writes a range.
        keys: All there are, in order; n ≥ 1.

    Raises:
        BadSetting: An end is no key, or the range runs backwards.
    """
    first, dots, last = (part.strip() for part in range_text.partition("..."))
    ends = [first, last if dots else first]
    for key in ends:
        if key not in keys:
            raise BadSetting(
                f"partitions={range_text!r}: {key!r} is no partition; allowed are {keys[0]} to "
                f"{keys[-1]}, as KEY or KEY...KEY"
            )
    begin, end = (keys.index(key) for key in ends)
    if begin > end:
        raise BadSetting(
            f"partitions={range_text!r}: it runs backwards; write {ends[1]}...{ends[0]}"
        )
    return list(keys[begin : end + 1])
