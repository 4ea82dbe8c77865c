"""What a store says of itself and of what was done to it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StoreInfo:
    """What a store holds.

    Attributes:
        path: Its folder.
        num_entries: Encoded chunks.
        num_bytes: Size of the entries.
        file_bytes: Size of its files on disk.
        max_bytes: Limit on the entries' size; None for none.
        last_used: Seconds since 1970 at which the least and the most recently used entry was used, to the
            hour; None for an empty store.
    """

    path: str
    num_entries: int
    num_bytes: int
    file_bytes: int
    max_bytes: int | None
    last_used: tuple[float, float] | None


@dataclass(frozen=True)
class MergeReport:
    """What a store took from another.

    Attributes:
        num_added: Entries taken over.
        num_present: Entries that were there already.
        num_corrupt: Damaged entries of the other store, which were left out.
    """

    num_added: int
    num_present: int
    num_corrupt: int


@dataclass(frozen=True)
class VerifyReport:
    """What a check of all entries found.

    Attributes:
        num_checked: Entries read.
        num_corrupt: Entries that are damaged.
        num_removed: Damaged entries that were removed, to be read again when they are next needed.
    """

    num_checked: int
    num_corrupt: int
    num_removed: int
