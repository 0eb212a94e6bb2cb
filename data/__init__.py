"""From raw files to domains: readers, filters, splits, text features and synthetic domains. Imports no trainer."""

from .domain import Domain
from .interactions import build_domain
from .readers.amazon import read_amazon
from .readers.official import read_official
from .readers.online_retail import read_online_retail
from .readers.recbole import read_recbole
from .readers.table import read_table
from .splits import Split, leave_one_out


__all__ = [
    "Domain",
    "Split",
    "build_domain",
    "leave_one_out",
    "read_amazon",
    "read_official",
    "read_online_retail",
    "read_recbole",
    "read_table",
]
