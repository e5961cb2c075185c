"""Writers under migrations: what they do, what they note, and how it compares with the trails.

`revisions` generates a history of an audit. `Writers` write its tables at every isolation level,
while a test goes up and down; each notes what it committed, with values that occur once, and
whether there was a trail. `compare` holds the notes against the trails, and the trails against the
tables.
"""

from tests.storm.models import last, revisions
from tests.storm.notes import HOT, Transaction, compare, read, read_by
from tests.storm.writers import LEVELS, Writer, Writers, is_lost

__all__ = [
    "HOT",
    "LEVELS",
    "Transaction",
    "Writer",
    "Writers",
    "compare",
    "is_lost",
    "last",
    "read",
    "read_by",
    "revisions",
]
