"""From raw files to domains: readers, filters, splits, text features and synthetic domains. Imports no trainer."""

from .domain import Domain
from .interactions import build_domain
from .readers.amazon import read_amazon
from .readers.official import read_official
from .readers.online_retail import read_online_retail
from .readers.recbole import read_recbole
from .readers.table import read_table
from .splits import Split, leave_one_out
from .time_splits import after_cut, before_cut, cut_at, domain_split, time_test


__all__ = [
    "Domain",
    "Split",
    "after_cut",
    "before_cut",
    "build_domain",
    "cut_at",
    "domain_split",
    "leave_one_out",
    "read_amazon",
    "read_official",
    "read_online_retail",
    "read_recbole",
    "read_table",
    "time_test",
]
