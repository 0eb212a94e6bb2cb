"""Columns of a shop's tables, recognised by their names and, where those say nothing, by their content."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import polars as pl

from .columns import names_of, to_times
from .table import Table
from .values import to_ids, to_texts


# Names without case, accents and all that is no letter or digit; the first ones are the surest. English, German, French,
# Spanish, Italian, Portuguese, Dutch, Polish, Swedish.
_NAMES = {
    "user": "userid user customerid customer kundennummer kundennr kundenid kunde clientid client visitorid visitor "
    "memberid member accountid account buyerid buyer shopperid sessionid session reviewerid personid uid "
    "idclient codeclient numclient numeroclient nclient idutilisateur utilisateur acheteur "
    "idcliente clienteid codigocliente codicecliente numerocliente cliente idusuario usuario comprador idutente utente "
    "klantid klantnummer klantnr klant gebruikerid gebruiker idklienta klientid klient uzytkownik kundid kund",
    "item": "itemid item sku productid product artikelnummer artikelnr artikelid artikel articleid article asin "
    "stockcode variantid variant ean gtin isbn produktid produkt movieid bookid trackid "
    "idproduit produitid codeproduit produit idarticle codearticle refarticle refproduit reference ref "
    "idproducto productoid codigoproducto producto idarticulo articulo referencia "
    "idprodotto codiceprodotto prodotto idarticolo codicearticolo articolo idproduto codigoproduto produto artigo "
    "productnummer artikelcode idproduktu idtowaru towar",
    "time": "timestamp datetime time eventtime createdat clickedat orderedat purchasedat orderdate purchasedate date ts "
    "zeitstempel zeitpunkt bestelldatum kaufdatum datum zeit unixtime invoicedate "
    "horodatage datedecommande datecommande datedachat dateachat dateheure fechapedido fechadepedido fechacompra fechahora "
    "fecha dataordine datadellordine dataacquisto datapedido datadopedido datacompra datahora "
    "tijdstip besteldatum orderdatum aankoopdatum tijd datazamowienia datazakupu tidpunkt kopdatum",
    "title": "title name productname itemname producttitle itemtitle titel bezeichnung produktname artikelname text "
    "description beschreibung label "
    "titre nomproduit nomduproduit libelle designation intitule nom titulo nombreproducto nombredelproducto nombre "
    "titolo nomeprodotto denominazione nomeproduto nomedoproduto nome titel productnaam omschrijving naam "
    "nazwaproduktu nazwa tytul produktnamn benamning namn descripcion descrizione descricao opis beskrivning",
    "category": "category categories kategorie kategorien warengruppe genre genres producttype type "
    "categorie rayon categoria kategoria kategori",
    "brand": "brand marke manufacturer hersteller maker "
    "marque fabricant marca fabricante produttore merk fabrikant marka producent varumarke",
}
NAMES = {role: words.split() for role, words in _NAMES.items()}
_SAMPLE = 2000
_LEAST_SHARE = 0.5  # of the sampled ids of one table that are in the other
_EPOCH = 100_000_000  # seconds: smaller numbers may be anything


@dataclass
class Columns:
    """
    Columns that a table of interactions and a table of items are read by, see [`read_table`].

    Args:
        user, item, time (`str`): Columns of the interactions.
        items_id (`str`, *optional*): Column of the item ids in the items; `None` without a table of items.
        texts (`list[str]`): Columns of the item text, in order.
        reasons (`list[str]`): A line for each column: what it holds, and how that was found; and one for those not used.
    """

    user: str
    item: str
    time: str
    items_id: str | None
    texts: list[str]
    reasons: list[str] = field(default_factory=list)


def guess_columns(
    interactions: Table,
    items: Table | None,
    *,
    user_column: str | None = None,
    item_column: str | None = None,
    time_column: str | None = None,
    items_id_column: str | None = None,
    text_columns: str | Sequence[str] | None = None,
) -> Columns:
    """
    Find the columns of users, items, times and item texts.

    Args:
        interactions ([`Table`]): Table of interactions.
        items ([`Table`], *optional*): Table of items; without one, the texts are sought in the interactions.
        user_column, item_column, time_column, items_id_column, text_columns (*optional*):
            What is known already, as for [`read_table`]; it is taken as it is.

    Returns:
        [`Columns`]

    Raises:
        ValueError: If one of them cannot be found; the message lists the columns and names the argument.
    """
    reasons: list[str] = []
    taken = [name for name in (user_column, item_column, time_column) if name is not None]

    def find(role: str, table: Table, given: str | None, by_content: Iterator[tuple[str, str]], argument: str) -> str:
        if given is not None:
            reasons.append(f"{role}: {given!r} of {table.source} (as given)")
            return given
        found, reason = _by_name(table, role.split()[0], taken), "by its name"
        if found is None:
            found, reason = next(by_content, (None, ""))
        if found is None:
            raise ValueError(
                f"{table.source}: no column of {role}s was recognised, the columns are {', '.join(table.frame.columns)}; "
                f"name it by `{argument}`"
            )
        reasons.append(f"{role}: {found!r} of {table.source} ({reason})")
        taken.append(found)
        return found

    time = find("time", interactions, time_column, _times(interactions, taken), "time_column")
    pairs = [] if items is None else list(_shared_ids(interactions, items, taken))
    item_by_content = ((mine, reason) for mine, _, reason in pairs)
    item = find("item", interactions, item_column, item_by_content, "item_column")
    user = find("user", interactions, user_column, _repeated_ids(interactions, taken), "user_column")
    texts_of, items_id, taken = interactions, None, [user, item, time]
    if items is not None:
        pairs = list(_shared_ids(interactions, items, [], only=item))
        taken = []
        if items_id_column is None and item in items.frame.columns and any(other == item for _, other, _ in pairs):
            items_id_column, pairs = None, [(item, item, "as in the interactions")]
        # The ids decide, not the name: a table of items may have several ids.
        if items_id_column is None and pairs:
            items_id, reason = pairs[0][1:]
            reasons.append(f"item of the items: {items_id!r} of {items.source} ({reason})")
        else:
            items_id = find("item", items, items_id_column, iter(()), "items_id_column")
        texts_of, taken = items, [items_id]
    if text_columns is not None:
        texts, reason = names_of(text_columns), "as given"
    else:
        texts = [_by_name(texts_of, role, taken) for role in ("title", "category", "brand")]
        texts, reason = [name for name in texts if name is not None], "by their names"
        if not texts:
            texts, reason = list(_longest_text(texts_of, taken)), "by its content: the longest texts"
            if texts and _distinct(_sample(texts_of, texts[0], to_texts)) <= 0.95:  # shared, such as a category
                names = list(_name_of_each(texts_of, [*taken, *texts]))
                if names:
                    texts, reason = [*names, *texts], "by their content: one for each item, and the longest texts"
    if not texts:
        raise ValueError(
            f"{texts_of.source}: no column with the texts of items was recognised, the columns are "
            f"{', '.join(texts_of.frame.columns)}; name them by `text_columns`"
        )
    reasons.append(f"text: {', '.join(map(repr, texts))} of {texts_of.source} ({reason})")
    return Columns(user, item, time, items_id, texts, reasons)


def column_by_name(columns: Sequence[str], role: str) -> str | None:
    """Returns the column whose name is one of those of a role in [`NAMES`], the surest first."""
    plain = {re.sub(r"[\W_]", "", unicodedata.normalize("NFKD", name.lower())): name for name in reversed(columns)}
    return next((plain[word] for word in NAMES[role] if word in plain), None)


def _by_name(table: Table, role: str, taken: Sequence[str]) -> str | None:
    return column_by_name([name for name in table.frame.columns if name not in taken], role)


def _sample(table: Table, name: str, convert: Callable[[pl.Series], pl.Series] = to_ids) -> pl.Series:
    """Ids, or texts, of the first rows of a column; empty if it cannot hold any."""
    try:
        return convert(table.frame[name].head(_SAMPLE)).drop_nulls()
    except ValueError:
        return pl.Series(name, [], dtype=pl.String)


def _times(table: Table, taken: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Columns in which every value is a date, or a number as large as seconds since 1970."""
    for name in table.frame.columns:
        values = table.frame[name].head(_SAMPLE)
        if name in taken or values.dtype == pl.Null:
            continue
        try:
            times = to_times(values).drop_nulls()
        except ValueError:
            continue
        if len(times) and times.min() >= _EPOCH and times.n_unique() > 1:
            yield name, "by its content: dates"


def _shared_ids(
    interactions: Table, items: Table, taken: Sequence[str], only: str | None = None
) -> Iterator[tuple[str, str, str]]:
    """Pairs of columns of which the first has ids of the second, where each comes once; the best first."""
    found = []
    for mine in interactions.frame.columns:
        ids = _sample(interactions, mine).unique()
        if mine in taken or len(ids) < 2 or only not in (None, mine):
            continue
        for other in items.frame.columns:
            try:
                known = to_ids(items.frame[other]).drop_nulls()
            except ValueError:
                continue
            if not len(known) or known.n_unique() < 0.9 * len(known):
                continue
            share = ids.is_in(known.implode()).mean()
            if share >= _LEAST_SHARE:
                found.append((share, len(ids), mine, other))
    for share, _, mine, other in sorted(found, key=lambda each: each[:2], reverse=True):
        yield mine, other, f"by its content: {share:.0%} of the ids are in the other table"


def _repeated_ids(table: Table, taken: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Columns of ids that come several times each; the one with most different ids first."""
    counts = {}
    for name in table.frame.columns:
        if name in taken:
            continue
        try:
            ids = to_ids(table.frame[name]).drop_nulls()
        except ValueError:
            continue
        if 2 <= ids.n_unique() <= len(ids) / 1.2:
            counts[name] = ids.n_unique()
    for name in sorted(counts, key=lambda each: -counts[each])[:1]:
        yield name, f"by its content: {counts[name]:,} ids, each several times"


def _longest_text(table: Table, taken: Sequence[str]) -> Iterator[str]:
    """The column with the longest texts on average, if they have several words."""
    lengths = {}
    for name in table.frame.columns:
        if name in taken:
            continue
        texts = _sample(table, name, to_texts)
        if len(texts) and texts.str.contains(r"\pL\S*\s+\S").mean() > 0.5:
            lengths[name] = texts.str.len_chars().mean()
    yield from sorted(lengths, key=lambda each: -lengths[each])[:1]


def _name_of_each(table: Table, taken: Sequence[str]) -> Iterator[str]:
    """The column with the longest texts on average that are almost all different, mostly letters and no addresses."""
    lengths = {}
    for name in table.frame.columns:
        if name in taken:
            continue
        texts = _sample(table, name, to_texts)
        if _distinct(texts) <= 0.9 or texts.str.contains("://", literal=True).any():
            continue
        length = texts.str.len_chars().mean()
        if texts.str.count_matches(r"[\pL\pM]").mean() > 0.6 * length:
            lengths[name] = length
    yield from sorted(lengths, key=lambda each: -lengths[each])[:1]


def _distinct(texts: pl.Series) -> float:
    """Share of different texts; 0 without any."""
    return texts.n_unique() / max(len(texts), 1)


__all__ = ["NAMES", "Columns", "column_by_name", "guess_columns"]
