"""Links in Markdown, as GitHub resolves them."""

from __future__ import annotations

import re


def headings(text: str) -> list[str]:
    """The texts of all headings outside code blocks."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [h.strip() for h in re.findall(r"^#{1,6} (.*)$", prose, flags=re.MULTILINE)]


def anchors(text: str) -> set[str]:
    """The anchors of a page: lower case, punctuation dropped, blanks as hyphens."""
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings(text)}


def relative_links(text: str) -> list[tuple[str, str]]:
    """File (empty for the page itself) and anchor of each link that names no host."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", prose)
    return [
        (t.partition("#")[0], t.partition("#")[2]) for t in targets if "://" not in t and not t.startswith("mailto:")
    ]
