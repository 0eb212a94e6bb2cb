"""Columns of a shop's tables, recognised by their names and, where those say nothing, by their content."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from .column_content import (
    SAMPLE,
    columns_of_items,
    customers,
    distinct,
    longest_text,
    name_of_each,
    sample,
    shared_ids,
    times,
)
from .columns import names_of, to_times
from .table import Table, is_anonymous
from .values import to_ids, to_texts


# Names without case, accents and all that is no letter or digit; the first ones are the surest. English, German, French,
# Spanish, Italian, Portuguese, Dutch, Polish, Swedish; for customers also Turkish, Russian, Greek, Japanese, Chinese, Korean.
_NAMES = {
    "user": "userid user customerid customer kundennummer kundennr kundenid kunde clientid client visitorid visitor "
    "memberid member accountid account buyerid buyer shopperid sessionid session reviewerid personid uid "
    "idclient codeclient numclient numeroclient nclient idutilisateur utilisateur acheteur "
    "idcliente clienteid codigocliente codicecliente numerocliente cliente idusuario usuario comprador idutente utente "
    "klantid klantnummer klantnr klant gebruikerid gebruiker idklienta klientid nrklienta numerklienta klient uzytkownik "
    "kundid kund musterino musteriid musteri kullanici клиент покупатель пользователь πελάτης 顧客id 会員id 用户id 고객id "
    "customeruserid userpseudoid customeremail useremail billingemail email emailaddress",
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
    "brand": "brand marke vendor manufacturer hersteller maker "
    "marque fabricant marca fabricante produttore merk fabrikant marka producent varumarke",
}


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", unicodedata.normalize("NFKD", name.lower()))


CONVERT = {"user": to_ids, "item": to_ids, "time": to_times}  # other columns are texts
NAMES = {role: [_plain(word) for word in words.split()] for role, words in _NAMES.items()}


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

    def find(
        role: str,
        table: Table,
        given: str | None,
        by_content: Iterator[tuple[str, str]],
        argument: str,
        by_name: bool = True,
    ) -> str:
        if given is not None:
            reasons.append(f"{role}: {given!r} of {table.source} (as given)")
            return given
        found, reason = _by_name(table, role.split()[0], taken) if by_name else None, "by its name"
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

    time = find("time", interactions, time_column, times(interactions, taken), "time_column")
    others = [*taken, _by_name(interactions, "user", taken)]  # numbers of users and of items may be the same
    pairs = [] if items is None else list(shared_ids(interactions, items, others))
    named = _by_name(interactions, "item", taken)
    # The ids decide, not the name, if none of a column with such a name is known.
    is_named = (
        not pairs or named is None or any(True for _ in shared_ids(interactions, items, [], only=named, least=0))
    )
    item_by_content = ((mine, reason) for mine, _, reason in pairs)
    item = find("item", interactions, item_column, item_by_content, "item_column", is_named)
    user = find("user", interactions, user_column, customers(interactions, taken, time, item), "user_column")
    items_id, taken = None, [user, item, time]
    if items is not None:
        pairs = list(shared_ids(interactions, items, [], only=item))
        taken = []
        # A namesake may come several times, as in a table with a row for each language.
        namesakes = shared_ids(interactions, items, [], only=item, least_different=0)
        if items_id_column is None and any(other == item for _, other, _ in namesakes):
            items_id_column, pairs = None, [(item, item, "as in the interactions")]
        # The ids decide, not the name: a table of items may have several ids.
        if items_id_column is None and pairs:
            items_id, reason = pairs[0][1:]
            reasons.append(f"item of the items: {items_id!r} of {items.source} ({reason})")
        else:
            items_id = find("item", items, items_id_column, iter(()), "items_id_column")
        taken = [items_id]
    texts_of = interactions if items is None else items
    if text_columns is not None:
        texts, reason = names_of(text_columns), "as given"
    else:
        texts, reason = _find_texts(columns_of_items(interactions, item) if items is None else items, taken)
    if not texts:
        raise ValueError(
            f"{texts_of.source}: no column with the texts of items was recognised, the columns are "
            f"{', '.join(texts_of.frame.columns)}; name them by `text_columns`"
        )
    reasons.append(f"text: {', '.join(map(repr, texts))} of {texts_of.source} ({reason})")
    return Columns(user, item, time, items_id, texts, reasons)


def _find_texts(items: Table, taken: Sequence[str]) -> tuple[list[str], str]:
    """The columns of the item text, and how they were found."""
    title, *others = (_by_name(items, role, taken) for role in ("title", "category", "brand"))
    others = [name for name in others if name is not None]
    if title is not None:
        return [title, *others], "by their names"
    taken = [*taken, *others]
    longest = list(longest_text(items, taken))
    if others or not longest:  # not enough alone: many items have the same
        titles = list(name_of_each(items, taken)) or longest
        reason = "by content and by names" if others else "by its content: one for each item"
        return [*titles, *others], reason if titles else "by their names; no title was recognised"
    if distinct(sample(items, longest[0], to_texts)) <= 0.95:  # shared, such as a category
        titles = list(name_of_each(items, [*taken, *longest]))
        if titles:
            return [*titles, *longest], "by their content: one for each item, and the longest texts"
    return longest, "by its content: the longest texts"


def column_by_name(columns: Sequence[str], role: str) -> str | None:
    """Returns the column whose name is one of those of a role in [`NAMES`], the surest first."""
    plain = {_plain(name): name for name in reversed(columns)}
    return next((plain[word] for word in NAMES[role] if word in plain), None)


def _by_name(table: Table, role: str, taken: Sequence[str]) -> str | None:
    """The column with one of the names of a role, the surest first; one that says little only if there is no other, and none
    that is empty."""
    columns, ranks = [name for name in table.frame.columns if name not in taken], {}
    while (name := column_by_name(columns, role)) is not None:
        columns.remove(name)
        try:
            values = CONVERT.get(role, to_texts)(table.frame[name].head(SAMPLE)).drop_nulls()
        except ValueError:  # which reading the table explains
            ranks[name] = False, 0
            continue
        if role == "user":
            values = values.filter(~is_anonymous(values))
        says_something = values.n_unique() > 1
        if says_something and len(values) >= 0.5 * min(table.frame.height, SAMPLE):
            return name
        if len(values) and (says_something or role != "title" or table.frame.height == 1):
            ranks[name] = says_something, len(values)
    return max(ranks, key=ranks.__getitem__, default=None)


__all__ = ["NAMES", "Columns", "column_by_name", "guess_columns"]
