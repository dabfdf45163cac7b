"""A graph as a page to look at: one HTML file that opens anywhere and asks no network."""

from tl_circuits.page.card import Card
from tl_circuits.page.document import save_page
from tl_circuits.page.frame import show
from tl_circuits.page.labels import load_labels
from tl_circuits.page.widget import widget

__all__ = ["Card", "load_labels", "save_page", "show", "widget"]
