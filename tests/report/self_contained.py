"""What it means for a page to need nothing but itself."""

import re


def assert_self_contained(html: str) -> None:
    assert html.startswith("<!doctype html>")
    assert "://" not in html, "an address on a page that must load nothing"
    assert "<script" not in html
    assert "<link" not in html
    assert "@import" not in html
    sources = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert sources, "there is no picture"
    assert all(source.startswith("data:image/png;base64,") for source in sources)
