"""Raw files -> domain: readers, filters, splits, text features, synthetic domains; knows the model, not the trainer."""

from .amazon import read_amazon
from .domain import Domain
from .interactions import build_domain
from .official import read_official
from .online_retail import read_online_retail
from .recbole import read_recbole
from .splits import Split, leave_one_out
from .table import read_table


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
