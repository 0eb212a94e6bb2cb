"""The web page of a checkpoint: build a history, see what comes next and why, place a new product, compare, map."""

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import polars as pl
from starlette.middleware import Middleware

from ..data import Domain
from . import page_html
from .explorer import Explorer, load_recommender
from .page_events import PageEvents
from .page_gate import PageGate
from .side_by_side import Popularity, SideBySide, example_histories, training_counts


MAP_COLORS = {"catalogue": "#cbd5e1", "history": "#4f46e5", "results": "#f59e0b"}
MAX_WAITING = 500  # events in the queue
MAX_SESSIONS = 1_000  # visitors whose history and products are held; one more, and the oldest starts again
SYSTEM_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif"]


def theme() -> gr.themes.Base:
    """Gradio's own look on fonts of the visitor's machine: nothing is loaded from elsewhere."""
    mono = ["ui-monospace", "Menlo", "Consolas", "monospace"]
    return gr.themes.Default(primary_hue="indigo", neutral_hue="slate", font=SYSTEM_FONTS, font_mono=mono)


def _html(value: str = "", **options) -> gr.HTML:
    """A list of the page; its buttons send their `data-key` along with a click."""
    return gr.HTML(value, js_on_load=page_html.ON_CLICK, elem_classes="us-flat", **options)


def build_app(
    explorer: Explorer,
    side_by_side: SideBySide,
    name: str,
    examples: Sequence[Sequence[str]] = (),
) -> gr.Blocks:
    r"""
    The page. It keeps nothing of its visitors: history and own products live in their session.

    Args:
        explorer ([`Explorer`]): Checkpoint and catalogue.
        side_by_side ([`SideBySide`]): What to compare with; without anything there is no such tab.
        name (`str`): Of the checkpoint, for the head of the page.
        examples (`Sequence[Sequence[str]]`, *optional*): Histories of ids to show; made up where there are none.

    Returns:
        `gr.Blocks`: To be launched by [`launch`].
    """
    page = PageEvents(explorer, side_by_side, examples)
    subtitle = f"{name} · {explorer.kind.lower()} · {len(explorer.catalogue):,} products"
    hint = "Search, or type your own words" if explorer.reads_text else "Search by words or id"
    with gr.Blocks(title=f"{name}: what comes next?", analytics_enabled=False) as app:
        history, own = gr.State([]), gr.State({})
        _html(f'<header class="us-head"><h1>What comes next?</h1><p>{escape(subtitle)}</p></header>')
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=300):
                box = gr.Textbox(
                    label="Add a product", placeholder=hint, max_lines=1, elem_id="us-search", submit_btn="Add"
                )
                matches = _html(elem_id="us-matches")
                _html('<h2 class="us-h2">History <small>oldest first</small></h2>')
                shown = _html(page_html.history([], []), elem_id="us-history")
                with gr.Row():
                    example = gr.Button("Show an example", size="sm", min_width=120)
                    clear = gr.Button("Clear", size="sm", min_width=80)
                top_k = gr.Slider(3, 30, value=10, step=1, label="Products to recommend")
            with gr.Column(scale=3, min_width=300), gr.Tabs():
                with gr.Tab("Results"):
                    results = _html(elem_id="us-results")
                if side_by_side:
                    with gr.Tab("Compare"):
                        columns = _html(elem_id="us-compare")
                with gr.Tab("Map"):
                    _html('<p class="us-note">Each point is a product; near means alike to the model.</p>')
                    points = gr.ScatterPlot(
                        x="x",
                        y="y",
                        color="shown as",
                        color_map=MAP_COLORS,
                        tooltip=["product", "shown as"],
                        x_title=" ",
                        y_title=" ",
                        x_axis_labels_visible=False,
                        color_title=" ",
                        height=460,
                        show_label=False,
                        elem_id="us-map",
                    )
                if explorer.reads_text:
                    with gr.Tab("New"):
                        _html(
                            '<p class="us-note">The model has never seen it: its text is enough. Only you see what you '
                            "add.</p>"
                        )
                        with gr.Row():
                            new_id = gr.Textbox(label="Id", placeholder="new-1", max_lines=1, min_width=120)
                            new_text = gr.Textbox(
                                label="Text",
                                placeholder="Title, brand, what it is",
                                max_lines=4,
                                scale=3,
                                min_width=220,
                            )
                        place = gr.Button("Add and place it", variant="primary")
                        placed = _html(elem_id="us-placed")

        quiet = {"show_progress": "hidden"}
        # `change`, not `input`: the matches go when the box is emptied by an event.
        box.change(page.search, [box, own], matches, trigger_mode="always_last", api_name="search", **quiet)
        added = [history, box]
        box.submit(page.add_words, [box, history, own], added, api_name="add", **quiet)
        picks = [matches.click, results.click] + ([placed.click] if explorer.reads_text else [])
        gr.on(picks, page.pick, [history, own], added, api_visibility="private", **quiet)
        shown.click(page.remove, history, history, api_visibility="private", **quiet)
        example.click(page.example, None, history, api_visibility="private", **quiet)
        clear.click(lambda: [], None, history, api_name="clear", **quiet)
        if explorer.reads_text:
            new = [new_id, new_text]
            place.click(page.place, [*new, history, own], [own, placed, *new], api_name="place", **quiet)
        outputs = [shown, results, points] + ([columns] if side_by_side else [])
        changes = [app.load, history.change, own.change, top_k.release]
        gr.on(changes, page.show, [history, own, top_k], outputs, api_name="show", **quiet)
    return app


def load_app(
    model: str | os.PathLike,
    domain_dir: str | os.PathLike | None = None,
    compare: str | os.PathLike | None = None,
    popularity_file: str | os.PathLike | None = None,
    name: str | None = None,
) -> gr.Blocks:
    r"""
    The page of a checkpoint.

    Args:
        model (`str` or `os.PathLike`): Folder or Hub id.
        domain_dir (`str` or `os.PathLike`, *optional*):
            Domain folder: its items are ranked where the model knows items by text alone, its users give examples, its
            training interactions are the popularity.
        compare (`str` or `os.PathLike`, *optional*): A second checkpoint.
        popularity_file (`str` or `os.PathLike`, *optional*):
            Parquet of `item_id` and `count`, where the domain is not at hand.
        name (`str`, *optional*): What the page calls the checkpoint; defaults to its folder's name or Hub id.

    Raises:
        OSError: If a checkpoint or the domain cannot be loaded.
        ValueError: If there is no catalogue to recommend from.
    """
    domain = None if domain_dir is None else Domain.load_from_disk(domain_dir)
    explorer = Explorer(load_recommender(model, domain))
    other = None if compare is None else Explorer(load_recommender(compare, domain))
    texts = dict(zip(explorer.catalogue.item_ids, explorer.catalogue.texts, strict=True))
    popularity, examples = None, []
    if domain is not None:
        popularity = Popularity(training_counts(domain), texts)
        examples = [ids for ids in example_histories(domain) if all(item_id in texts for item_id in ids)]
    elif popularity_file is not None:
        popularity = Popularity(
            dict(pl.read_parquet(popularity_file, glob=False).select("item_id", "count").iter_rows()), texts
        )
    if name is None:
        name = Path(model).absolute().name if Path(model).is_dir() else str(model)
    return build_app(explorer, SideBySide(explorer, other, popularity), name, examples)


def launch(app: gr.Blocks, **options: Any) -> None:
    r"""
    Serves the page. Only the routes that it needs are open ([`PageGate`]): visitors upload nothing and read no file.

    Args:
        app (`gr.Blocks`): What [`build_app`] or [`load_app`] returned.
        **options: As `gr.Blocks.launch` takes them.
    """
    app.queue(default_concurrency_limit=4, max_size=MAX_WAITING)
    app_kwargs = dict(options.pop("app_kwargs", None) or {})
    app_kwargs["middleware"] = [Middleware(PageGate), *app_kwargs.get("middleware", ())]
    defaults = {
        "theme": theme(),
        "css_paths": Path(__file__).with_name("page.css"),
        "footer_links": [],
        "ssr_mode": False,
        "run_history": False,  # which would keep each visitor's events in the browser
        "enable_monitoring": False,
        "state_session_capacity": MAX_SESSIONS,
    }
    app.launch(**(defaults | options), app_kwargs=app_kwargs)


__all__ = ["build_app", "launch", "load_app"]
